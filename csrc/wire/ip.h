/* Purpose: IPv4 (RFC 791) and IPv6 (RFC 8200) packets, both families as one view. */
#ifndef PASTA_WIRE_IP_H
#define PASTA_WIRE_IP_H

#include <stdbool.h>

#include "base/addr.h"
#include "base/bytes.h"

#define IP4_HLEN 20
#define IP6_HLEN 40
#define IP4_DF 0x4000
#define IP4_MF 0x2000
#define IP4_FRAGMENT 0x3fff /* "more fragments" and the offset: zero for a whole packet */
#define IP_MAX_BYTES 65535
#define IP_TTL_DEFAULT 64

/* A checked packet. The pointers stay inside the bytes that were checked. */
struct ip_view {
	struct addr src, dst;
	const uint8_t *header; /* first byte of the IP header */
	const uint8_t *payload;
	uint32_t payload_len; /* without extension headers and Ethernet's padding */
	uint32_t header_len;  /* with options or extension headers */
	uint8_t proto;
	uint8_t ttl;
	uint8_t tos;
	bool v4;
	bool df;       /* "don't fragment"; always true for IPv6 */
	bool fragment; /* a fragment: its payload is not to be parsed */
};

/* Checks version, lengths, header checksum (IPv4) and extension headers (IPv6). False: the packet is malformed. */
bool ip_parse(const uint8_t *packet, size_t len, bool v4, struct ip_view *view);

static inline uint16_t ip_header_bytes(bool v4)
{
	return v4 ? IP4_HLEN : IP6_HLEN;
}

/* The TTL with which a host socket sends the packet's payload on. A destination accepts TTL 0 like 1 (RFC 1122, 3.2.1.7; RFC 8200,
 * 3), and a router forwards neither, but an IPv4 socket refuses to send with 0. */
static inline uint8_t ip_ttl_onward(const struct ip_view *view)
{
	return view->ttl ? view->ttl : 1;
}

/* Writes a header without options, for payload_len bytes after it. Returns its length. */
uint16_t ip_emit(uint8_t *packet, const struct addr *src, const struct addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bool df,
		 uint32_t payload_len);

/* The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1), to which the transport header and data are then added. */
uint64_t ip_pseudo_sum(const struct addr *src, const struct addr *dst, uint8_t proto, uint32_t payload_len);

/* Whether the transport checksum in the view's payload is right. */
bool ip_transport_checksum_ok(const struct ip_view *view);

#endif
