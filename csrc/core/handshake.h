/* Purpose: what is said on a connection to an inspector or a proxy before it carries the guest's bytes. Pure: bytes in, bytes out.
 *
 * Invariants: the bytes that handshake_take() has not taken belong to the guest. What the other end says is hostile: it is held to its
 * form and to HANDSHAKE_ANSWER_BYTES, and nothing of it is kept but numbers.
 */
#ifndef PASTA_CORE_HANDSHAKE_H
#define PASTA_CORE_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

enum handshake_kind {
	HANDSHAKE_NONE,     /* nothing is said */
	HANDSHAKE_PROXY_V2, /* a header of the PROXY protocol, version 2 */
	HANDSHAKE_SOCKS5,   /* RFC 1928, with RFC 1929 */
	HANDSHAKE_HTTP,     /* CONNECT (RFC 9110, 9.3.6) */
};

#define HANDSHAKE_NAME_MAX 253
#define HANDSHAKE_AUTH_MAX 255       /* of user and of password (RFC 1929, 2) */
#define HANDSHAKE_ANSWER_BYTES 16384 /* of an HTTP answer's head */
#define HANDSHAKE_SAID_BYTES 1536    /* the longest: CONNECT with a name twice and with credentials in base64 */

/* Where the guest's connection comes from and goes to. name: of the destination, without a final dot; len 0: there is none. */
struct handshake_ends {
	struct endpoint from, to;
	const char *name;
	uint32_t name_len;
};

/* Credentials; user_len 0: none. */
struct handshake_auth {
	uint8_t user_len, password_len;
	char user[HANDSHAKE_AUTH_MAX], password[HANDSHAKE_AUTH_MAX];
};

enum handshake_state { HANDSHAKE_GOES_ON, HANDSHAKE_DONE, HANDSHAKE_REFUSED };

struct handshake {
	uint8_t kind;     /* enum handshake_kind */
	uint8_t state;    /* enum handshake_state */
	uint8_t step;     /* of the kind */
	uint8_t want;     /* SOCKS: bytes of the present answer's part */
	uint8_t got[8];   /* SOCKS: its first bytes; HTTP: the last line's first bytes */
	uint32_t got_len; /* bytes of the part, or of the line */
	uint32_t taken;   /* HTTP: of the whole answer */
	uint16_t code;    /* REFUSED: SOCKS reply, HTTP status; 0: the answer has no form */
	uint16_t said_at; /* what of `said` has been sent */
	uint16_t said_len;
	uint16_t request_len; /* SOCKS: of what follows the greeting, at the end of `said` */
	uint16_t auth_len;    /* SOCKS: of the credentials in front of that */
	uint8_t said[HANDSHAKE_SAID_BYTES];
};

/* auth: or NULL. */
void handshake_begin(struct handshake *h, enum handshake_kind kind, const struct handshake_ends *ends,
		     const struct handshake_auth *auth);
/* What is to be sent now, *len bytes; handshake_sent() says how many were. */
const uint8_t *handshake_says(const struct handshake *h, uint32_t *len);
void handshake_sent(struct handshake *h, uint32_t len);
/* Takes bytes of the other end; returns how many. The rest is the guest's, or there was too much said. */
uint32_t handshake_take(struct handshake *h, const uint8_t *bytes, uint32_t len);
/* The errno with which a direct connection would have failed. */
int handshake_error(const struct handshake *h);

#endif
