/* Purpose: ICMP (RFC 792) and ICMPv6 (RFC 4443): echo messages, and errors that quote a packet. */
#ifndef PASTA_WIRE_ICMP_H
#define PASTA_WIRE_ICMP_H

#include <stdbool.h>

#include "base/addr.h"
#include "base/bytes.h"

#define ICMP_HLEN 8
#define ICMP_CSUM_OFFSET 2

/* Linux's headers for the two families cannot be included together, so the numbers stand here. */

/* Types of ICMP: RFC 792. */
#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACHABLE 3
#define ICMP4_ECHO_REQUEST 8
#define ICMP4_PARAMETER 12

/* Codes of ICMP4_UNREACHABLE: RFC 792, unless another is named. */
#define ICMP4_NET_UNREACHABLE 0
#define ICMP4_HOST_UNREACHABLE 1
#define ICMP4_PROTOCOL_UNREACHABLE 2
#define ICMP4_PORT_UNREACHABLE 3
#define ICMP4_FRAG_NEEDED 4
#define ICMP4_SOURCE_ROUTE_FAILED 5
#define ICMP4_HOST_UNKNOWN 7      /* RFC 1122, 3.2.2.1 */
#define ICMP4_HOST_ISOLATED 8     /* RFC 1122, 3.2.2.1 */
#define ICMP4_ADMIN_PROHIBITED 13 /* RFC 1812, 5.2.7.1 */

/* Types of ICMPv6: RFC 4443, 2.1, unless another is named. */
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_PARAMETER 4
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ROUTER_SOLICITATION 133 /* RFC 4861, 4.1 */
#define ICMP6_REDIRECT 137            /* RFC 4861, 4.5 */

/* Codes of ICMP6_UNREACHABLE: RFC 4443, 3.1. */
#define ICMP6_NO_ROUTE 0
#define ICMP6_ADMIN_PROHIBITED 1
#define ICMP6_ADDR_UNREACHABLE 3
#define ICMP6_PORT_UNREACHABLE 4

struct icmp_view {
	const uint8_t *payload;
	uint32_t payload_len;
	uint16_t id, sequence; /* of an echo */
	uint8_t type, code;
};

static inline bool icmp_parse(const uint8_t *message, uint32_t len, struct icmp_view *v)
{
	if (len < ICMP_HLEN)
		return false;
	v->type = message[0];
	v->code = message[1];
	v->id = load_be16(message + 4);
	v->sequence = load_be16(message + 6);
	v->payload = message + ICMP_HLEN;
	v->payload_len = len - ICMP_HLEN;
	return true;
}

/* An error, in the numbers of one family. */
struct icmp_error {
	uint8_t type, code;
	uint32_t info; /* the MTU of a "too big", the pointer of a parameter problem */
};

/* Bytes that are quoted of a packet. With them the error fits into 576 bytes (RFC 1812, 4.3.2.3) or 1280 (RFC 4443, 2.4). */
#define ICMP_QUOTE_MAX_V4 548
#define ICMP_QUOTE_MAX_V6 1232

/* Writes an ICMP error with a complete checksum, for an IP header from src to dst. quote: the packet that it is about, from its IP
 * header on. Returns the length of the ICMP message. */
uint16_t icmp_emit_error(uint8_t *message, const struct addr *src, const struct addr *dst, const struct icmp_error *error,
			 const uint8_t *quote, uint32_t quote_len);

#endif
