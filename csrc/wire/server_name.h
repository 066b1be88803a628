/* Purpose: which server the first bytes of a client name: in a TLS ClientHello, or in the head of an HTTP/1 request. Pure.
 *
 * How: a caller gives all bytes that have come so far, each time. Nothing is kept between two calls, and nothing is copied but the name.
 * What two readers could understand in two ways names no server: a second name, a folded line, a bare CR or LF.
 *
 * Invariant: a name is lower-case, has no final dot, and only letters, digits, '-', '_' and '.' in it.
 */
#ifndef PASTA_WIRE_SERVER_NAME_H
#define PASTA_WIRE_SERVER_NAME_H

#include <stdint.h>

#define SERVER_NAME_MAX 253 /* characters without a final dot (RFC 1035, 2.3.4) */

enum server_name_found {
	SERVER_NAME_MORE,  /* so far it is well-formed: more bytes are needed */
	SERVER_NAME_FOUND, /* server_name is set */
	SERVER_NAME_NONE,  /* it is well-formed and names no server, or not by a name */
	SERVER_NAME_WRONG, /* it is no ClientHello, or no request */
};

struct server_name {
	char text[SERVER_NAME_MAX];
	uint8_t len;
};

/* The server_name extension of a ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), in as many records as the client likes. Of an encrypted
 * ClientHello it is the name of the outer one. */
enum server_name_found server_name_in_hello(const uint8_t *bytes, uint32_t len, struct server_name *out);
/* The Host field of a request without its port (RFC 9112, 3.2). A request for a tunnel (CONNECT) is none. */
enum server_name_found server_name_in_request(const uint8_t *bytes, uint32_t len, struct server_name *out);

#endif
