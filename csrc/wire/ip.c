/* Invariants: payload_len bytes of a parsed view are readable at payload, because frame >= total >= header >= minimum. A frame may
 * be longer than its packet: Ethernet pads short ones.
 */
#include "wire/ip.h"

#include <netinet/in.h>

#include "base/checksum.h"

static bool ip4_parse(const uint8_t *p, size_t len, struct ip_view *v)
{
	if (len < IP4_HLEN || p[0] >> 4 != 4)
		return false;

	uint16_t header_len = (uint16_t)((p[0] & 15) * 4), total = load_be16(p + 2), fragment = load_be16(p + 6);

	if (header_len < IP4_HLEN || total < header_len || total > len)
		return false;
	if (csum_fold(csum_add(p, header_len, 0)) != 0xffff)
		return false;
	v->src = addr_from_v4(p + 12);
	v->dst = addr_from_v4(p + 16);
	v->header_len = header_len;
	v->payload = p + header_len;
	v->payload_len = (uint32_t)(total - header_len);
	v->proto = p[9];
	v->ttl = p[8];
	v->tos = p[1];
	v->df = fragment & IP4_DF;
	v->fragment = fragment & IP4_FRAGMENT;
	return true;
}

/* Skips extension headers (RFC 8200, 4) up to the transport header. It needs no limit: each has at least 8 bytes. False: the chain
 * is truncated, or one that Linux refuses too. */
static bool ip6_extensions(struct ip_view *v)
{
	for (bool first = true;; first = false) {
		uint32_t size;

		switch (v->proto) {
		case IPPROTO_HOPOPTS:
			if (!first) /* RFC 8200, 4.1 */
				return false;
			/* fall through */
		case IPPROTO_DSTOPTS:
		case IPPROTO_ROUTING:
			if (v->payload_len < 8)
				return false;
			size = (uint32_t)(v->payload[1] + 1) * 8;
			if (v->proto == IPPROTO_ROUTING && v->payload[3] != 0) /* segments left: not there yet */
				return false;
			break;
		case IPPROTO_FRAGMENT:
			if (v->payload_len < 8)
				return false;
			size = 8;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (load_be16(v->payload + 2) & 0xfff9)
				v->fragment = true;
			break;
		default:
			return true;
		}
		if (size > v->payload_len)
			return false;
		v->proto = v->payload[0];
		v->payload += size;
		v->payload_len -= size;
		v->header_len += size;
		if (v->fragment)
			return true;
	}
}

static bool ip6_parse(const uint8_t *p, size_t len, struct ip_view *v)
{
	if (len < IP6_HLEN || p[0] >> 4 != 6)
		return false;

	uint16_t payload_len = load_be16(p + 4);

	if ((size_t)payload_len + IP6_HLEN > len)
		return false;
	v->src = addr_from_v6(p + 8);
	v->dst = addr_from_v6(p + 24);
	/* All other code would take a v4-mapped address for IPv4. It does not belong on the wire (RFC 4291, 2.5.5.2). */
	if (addr_is_v4(&v->src) || addr_is_v4(&v->dst))
		return false;
	v->header_len = IP6_HLEN;
	v->payload = p + IP6_HLEN;
	v->payload_len = payload_len;
	v->proto = p[6];
	v->ttl = p[7];
	v->tos = (uint8_t)(load_be16(p) >> 4);
	v->df = true;
	v->fragment = false;
	return ip6_extensions(v);
}

bool ip_parse(const uint8_t *packet, size_t len, bool v4, struct ip_view *view)
{
	view->header = packet;
	view->v4 = v4;
	return v4 ? ip4_parse(packet, len, view) : ip6_parse(packet, len, view);
}

uint16_t ip_emit(uint8_t *p, const struct addr *src, const struct addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bool df,
		 uint32_t payload_len)
{
	if (addr_is_v4(src)) {
		p[0] = 0x45;
		p[1] = tos;
		store_be16(p + 2, (uint16_t)(IP4_HLEN + payload_len));
		store_be16(p + 4, 0); /* the identification of a whole packet has no meaning (RFC 6864, 4.1) */
		store_be16(p + 6, df ? IP4_DF : 0);
		p[8] = ttl;
		p[9] = proto;
		memset(p + 10, 0, 2);
		memcpy(p + 12, src->b + 12, 4);
		memcpy(p + 16, dst->b + 12, 4);

		uint16_t sum = (uint16_t)~csum_fold(csum_add(p, IP4_HLEN, 0));

		memcpy(p + 10, &sum, 2);
		return IP4_HLEN;
	}
	store_be32(p, 6u << 28 | (uint32_t)tos << 20);
	store_be16(p + 4, (uint16_t)payload_len);
	p[6] = proto;
	p[7] = ttl;
	memcpy(p + 8, src->b, 16);
	memcpy(p + 24, dst->b, 16);
	return IP6_HLEN;
}

uint64_t ip_pseudo_sum(const struct addr *src, const struct addr *dst, uint8_t proto, uint32_t payload_len)
{
	uint8_t tail[8] = {0, 0, 0, 0, 0, 0, 0, proto};
	size_t from = addr_is_v4(src) ? 12 : 0;

	store_be32(tail, payload_len);
	return csum_add(src->b + from, 16 - from, csum_add(dst->b + from, 16 - from, csum_add(tail, sizeof(tail), 0)));
}

bool ip_transport_checksum_ok(const struct ip_view *v)
{
	uint64_t sum = 0;

	if (v->proto != IPPROTO_ICMP)
		sum = ip_pseudo_sum(&v->src, &v->dst, v->proto, v->payload_len);
	return csum_fold(csum_add(v->payload, v->payload_len, sum)) == 0xffff;
}
