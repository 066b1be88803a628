/* How: segments are those that Linux makes in __udp_gso_segment() and tcp_gso_segment(). The checksum of the IPv4 header and the
 * sum of the pseudo-header are updated (RFC 1624), not computed anew: one that was wrong in the whole frame stays wrong in each
 * segment.
 */
#include "wire/offload.h"

#include <netinet/in.h>

#include "base/checksum.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define IP4_HLEN_MAX 60
#define IP4_CSUM 10
#define TCP_SEQ 4
#define TCP_FLAGS 13
#define TCP_CWR 0x80 /* RFC 3168, 6.1.2 */

void checksum_complete(uint8_t *head, uint32_t head_len, uint32_t start, uint32_t offset, const uint8_t *body, uint32_t body_len)
{
	/* head_len - start is even, so the body begins on a 16-bit boundary of the sum. */
	uint64_t sum = csum_add(body, body_len, csum_add(head + start, head_len - start, 0));
	uint16_t folded = (uint16_t)~csum_fold(sum);

	if (offset == UDP_CSUM_OFFSET && !folded)
		folded = 0xffff; /* 0 would mean that there is none (RFC 768) */
	memcpy(head + start + offset, &folded, sizeof(folded));
}

static bool is_udp4(const uint8_t *ip, uint32_t ip_len)
{
	return ip_len >= IP4_HLEN && ip_len <= IP4_HLEN_MAX && ip[0] == (4 << 4 | ip_len / 4) && ip_len % 4 == 0 &&
	       ip[9] == IPPROTO_UDP && !(load_be16(ip + 6) & IP4_FRAGMENT);
}

/* Extension headers are not walked: they stay as they are, and only the length in the fixed header changes. */
static bool is_udp6(const uint8_t *ip, uint32_t ip_len)
{
	return ip_len >= IP6_HLEN && ip[0] >> 4 == 6 && (ip_len > IP6_HLEN || ip[6] == IPPROTO_UDP);
}

void segment_begin(struct segmenter *s, const uint8_t *head, uint32_t head_len, uint32_t network, uint32_t transport, bool udp,
		   uint32_t body_len, uint32_t size)
{
	memcpy(s->head, head, head_len);
	s->head_len = head_len;
	s->network = network;
	s->transport = transport;
	s->v4 = head[network] >> 4 == 4;
	s->udp = udp;
	s->size = size;
	s->left = body_len;
	s->number = 0;
	s->transport_len = (uint16_t)(head_len - transport + body_len);
	if (!udp)
		s->tcp_flags = head[transport + TCP_FLAGS];
}

bool segment_udp(struct segmenter *s, const uint8_t *frame, uint32_t linear, uint32_t len, uint32_t udp, uint32_t size)
{
	uint32_t ip_len = udp - ETH_HLEN, head_len = udp + UDP_HLEN;

	if (udp < ETH_HLEN + IP4_HLEN || head_len > linear || head_len > len || head_len > sizeof(s->head))
		return false;
	if (eth_type(frame) == ETH_TYPE_IPV4 ? !is_udp4(frame + ETH_HLEN, ip_len)
					     : eth_type(frame) != ETH_TYPE_IPV6 || !is_udp6(frame + ETH_HLEN, ip_len))
		return false;
	if (!size || len - head_len <= size || len - head_len > size * UDP_SEGMENTS_MAX)
		return false;
	segment_begin(s, frame, head_len, ETH_HLEN, udp, true, len - head_len, size);
	/* The sum of the pseudo-header counts the length that the UDP header has, which may not be the frame's. */
	s->transport_len = load_be16(frame + udp + 4);
	return true;
}

/* A sum, not complemented, after a 16-bit number in it has changed (RFC 1624, 3). */
static uint64_t replace(uint64_t sum, uint16_t was, uint16_t is)
{
	uint8_t a[2], b[2];
	uint16_t x, y;

	store_be16(a, was);
	store_be16(b, is);
	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return sum + (uint16_t)~x + y;
}

static uint64_t store_replaced(uint8_t *p, uint16_t value, uint64_t sum)
{
	sum = replace(sum, load_be16(p), value);
	store_be16(p, value);
	return sum;
}

static void segment_ip4(uint8_t *ip, uint32_t total, uint16_t number)
{
	uint16_t csum;
	uint64_t sum;

	memcpy(&csum, ip + IP4_CSUM, sizeof(csum));
	sum = store_replaced(ip + 2, (uint16_t)total, (uint16_t)~csum);
	sum = store_replaced(ip + 4, (uint16_t)(load_be16(ip + 4) + (number ? 1 : 0)), sum);
	csum = (uint16_t)~csum_fold(sum);
	memcpy(ip + IP4_CSUM, &csum, sizeof(csum));
}

/* CWR belongs to the first segment, FIN and PSH to the last. */
static void segment_tcp_header(uint8_t *tcp, const struct segmenter *s)
{
	uint8_t flags = s->tcp_flags;

	if (s->number) {
		store_be32(tcp + TCP_SEQ, load_be32(tcp + TCP_SEQ) + s->size);
		flags &= (uint8_t)~TCP_CWR;
	}
	if (s->left)
		flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	tcp[TCP_FLAGS] = flags;
}

int32_t segment_next(struct segmenter *s)
{
	uint32_t part = u32_min(s->size, s->left), ip_len = s->transport - s->network, len = s->head_len - s->transport + part;
	uint8_t *ip = s->head + s->network, *transport = s->head + s->transport;
	uint8_t *csum = transport + (s->udp ? UDP_CSUM_OFFSET : TCP_CSUM_OFFSET);
	uint16_t pseudo;

	if (!s->left)
		return -1;
	s->left -= part;
	memcpy(&pseudo, csum, sizeof(pseudo));
	pseudo = csum_fold(replace(pseudo, s->transport_len, (uint16_t)len));
	memcpy(csum, &pseudo, sizeof(pseudo));
	s->transport_len = (uint16_t)len;
	if (s->udp)
		store_be16(transport + 4, (uint16_t)len);
	else
		segment_tcp_header(transport, s);
	if (s->v4)
		segment_ip4(ip, ip_len + len, s->number);
	else
		store_be16(ip + 4, (uint16_t)(ip_len - IP6_HLEN + len));
	s->number++;
	return (int32_t)part;
}
