/* IPv4 (RFC 791) and IPv6 (RFC 8200) packets, both families through one view. */
#ifndef PASTA_WIRE_IP_H
#define PASTA_WIRE_IP_H

#include <stdbool.h>

#include "base/addr.h"
#include "base/bytes.h"

#define IP4_HLEN 20
#define IP6_HLEN 40
#define IP4_DF 0x4000
#define IP4_MF 0x2000
#define IP4_FRAGMENT 0x3fff /* more fragments, and the offset */
#define IP_MAX_BYTES 65535
#define IP_TTL_DEFAULT 64

/* A checked packet. The pointers stay inside the bytes that were checked. */
struct ip_view {
	struct addr src, dst;
	const uint8_t *header; /* first byte of the IP header */
	const uint8_t *payload;
	uint32_t payload_len; /* after all extension headers, without link padding */
	uint32_t header_len;  /* including options or extension headers */
	uint8_t proto;
	uint8_t ttl;
	uint8_t tos;
	bool v4;
	bool df;       /* must not be fragmented on the way; always so for IPv6 */
	bool fragment; /* only a piece: no transport header can be read */
};

/* Checks lengths, version, header checksum (IPv4), extension header chain (IPv6); false for anything malformed. */
bool ip_parse(const uint8_t *packet, size_t len, bool v4, struct ip_view *view);

static inline uint16_t ip_header_bytes(bool v4)
{
	return v4 ? IP4_HLEN : IP6_HLEN;
}

/* The TTL to send what it carries with. A host takes 0 like 1 (RFC 1122, 3.2.1.7; RFC 8200, 3), and a router passes neither on; but
 * sockets of IPv4 refuse to send 0. */
static inline uint8_t ip_ttl_onward(const struct ip_view *view)
{
	return view->ttl ? view->ttl : 1;
}

/* Writes a header without options for payload_len bytes to come; returns its length. */
uint16_t ip_emit(uint8_t *packet, const struct addr *src, const struct addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bool df,
		 uint32_t payload_len);

/* Sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1), to be continued over the transport header and data. */
uint64_t ip_pseudo_sum(const struct addr *src, const struct addr *dst, uint8_t proto, uint32_t payload_len);

/* Whether the transport checksum of a view's payload is right; the field is inside the payload. */
bool ip_transport_checksum_ok(const struct ip_view *view);

#endif
