/* How: a guest without segmentation offload sends a stream as frames that differ in length, identification, sequence number,
 * checksums and PSH only. Each such frame's payload is moved behind the payload before it. All checksums are verified first, so the
 * whole has the same standing as a frame that a guest with offloads sends.
 *
 * Invariants: the frame stays within IP_MAX_BYTES; bytes are moved towards the front only.
 *
 * Rejected: a list of the payloads, which saves the move, and makes all that reads a frame know about lists.
 */
#include "wire/coalesce.h"

#include <netinet/in.h>

#include "base/checksum.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#define IP4_TOTAL 2 /* offsets in the IPv4 header: total length, identification, checksum */
#define IP4_ID 4
#define IP4_CSUM 10
#define IP6_PAYLOAD 4 /* offset of the payload length in the IPv6 header */
#define TCP_SEQ 4     /* offsets in the TCP header */
#define TCP_DATA_OFFSET 12
#define TCP_FLAGS 13

static uint32_t tcp_header_bytes(const uint8_t *tcp)
{
	return (uint32_t)(tcp[TCP_DATA_OFFSET] >> 4) * 4;
}

/* IPv4 without options or fragments, or IPv6 without extension headers, that fills its frame. */
static bool plain_tcp(const uint8_t *frame, uint32_t len, bool v4)
{
	const uint8_t *ip = frame + ETH_HLEN;

	if (len < ETH_HLEN + (v4 ? IP4_HLEN : IP6_HLEN) + TCP_HLEN)
		return false;
	if (v4)
		return ip[0] == (4 << 4 | IP4_HLEN / 4) && load_be16(ip + IP4_TOTAL) == len - ETH_HLEN &&
		       !(load_be16(ip + 6) & IP4_FRAGMENT) && ip[9] == IPPROTO_TCP;
	return ip[0] >> 4 == 6 && load_be16(ip + IP6_PAYLOAD) == len - ETH_HLEN - IP6_HLEN && ip[6] == IPPROTO_TCP;
}

static bool checksums_ok(const uint8_t *frame, uint32_t len, bool v4)
{
	struct ip_view view;

	return ip_parse(frame + ETH_HLEN, len - ETH_HLEN, v4, &view) && ip_transport_checksum_ok(&view);
}

bool coalesce_begin(struct coalesced *c, uint8_t *frame, uint32_t len)
{
	bool v4 = eth_type(frame) == ETH_TYPE_IPV4;
	uint32_t transport = ETH_HLEN + (v4 ? IP4_HLEN : IP6_HLEN), head_len;
	const uint8_t *tcp = frame + transport;

	if ((!v4 && eth_type(frame) != ETH_TYPE_IPV6) || !plain_tcp(frame, len, v4))
		return false;
	head_len = transport + tcp_header_bytes(tcp);
	if (tcp[TCP_FLAGS] != TCP_ACK || head_len < transport + TCP_HLEN || head_len >= len)
		return false;
	*c = (struct coalesced){.frame = frame,
				.len = len,
				.transport = transport,
				.head_len = head_len,
				.size = len - head_len,
				.next = load_be32(tcp + TCP_SEQ) + len - head_len,
				.v4 = v4};
	return true;
}

static bool same(const uint8_t *a, const uint8_t *b, uint32_t from, uint32_t to)
{
	return memcmp(a + from, b + from, to - from) == 0;
}

/* Whether the headers are those of one stream, with nothing between. */
static bool follows(const struct coalesced *c, const uint8_t *frame, uint32_t len)
{
	uint32_t ip = ETH_HLEN, tcp = c->transport;

	if (len <= c->head_len || len - c->head_len > c->size || c->len + len - c->head_len > ETH_HLEN + IP_MAX_BYTES)
		return false;
	if (!plain_tcp(frame, len, c->v4) || !same(c->frame, frame, 0, ip + (c->v4 ? IP4_TOTAL : IP6_PAYLOAD)))
		return false;
	if (c->v4 ? !same(c->frame, frame, ip + IP4_ID + 2, ip + IP4_CSUM) || !same(c->frame, frame, ip + IP4_CSUM + 2, tcp)
		  : !same(c->frame, frame, ip + IP6_PAYLOAD + 2, tcp))
		return false;
	return same(c->frame, frame, tcp, tcp + TCP_SEQ) && load_be32(frame + tcp + TCP_SEQ) == c->next &&
	       same(c->frame, frame, tcp + TCP_SEQ + 4, tcp + TCP_FLAGS) && !(frame[tcp + TCP_FLAGS] & ~(TCP_ACK | TCP_PSH)) &&
	       frame[tcp + TCP_FLAGS] & TCP_ACK && same(c->frame, frame, tcp + TCP_FLAGS + 1, tcp + TCP_CSUM_OFFSET) &&
	       same(c->frame, frame, tcp + TCP_CSUM_OFFSET + 2, c->head_len);
}

bool coalesce_add(struct coalesced *c, const uint8_t *frame, uint32_t len)
{
	uint32_t bytes = len - c->head_len;

	if (c->ended || !follows(c, frame, len) || !checksums_ok(frame, len, c->v4) ||
	    (!c->grown && !checksums_ok(c->frame, c->len, c->v4)))
		return false;
	c->grown = true;
	c->ended = bytes < c->size || frame[c->transport + TCP_FLAGS] & TCP_PSH;
	/* The last segment's identification and PSH stay unknown to segmentation, which counts up from the first. */
	c->frame[c->transport + TCP_FLAGS] |= frame[c->transport + TCP_FLAGS] & TCP_PSH;
	memmove(c->frame + c->len, frame + c->head_len, bytes);
	c->len += bytes;
	c->next += bytes;
	return true;
}

void coalesce_end(struct coalesced *c)
{
	uint8_t *ip = c->frame + ETH_HLEN;
	struct ip_view view;
	uint16_t sum;

	if (c->v4) {
		store_be16(ip + IP4_TOTAL, (uint16_t)(c->len - ETH_HLEN));
		memset(ip + IP4_CSUM, 0, sizeof(sum));
		sum = (uint16_t)~csum_fold(csum_add(ip, IP4_HLEN, 0));
		memcpy(ip + IP4_CSUM, &sum, sizeof(sum));
	} else {
		store_be16(ip + IP6_PAYLOAD, (uint16_t)(c->len - ETH_HLEN - IP6_HLEN));
	}
	if (!ip_parse(ip, c->len - ETH_HLEN, c->v4, &view))
		return; /* cannot be: its first segment passed */
	sum = csum_fold(ip_pseudo_sum(&view.src, &view.dst, IPPROTO_TCP, view.payload_len));
	memcpy(c->frame + c->transport + TCP_CSUM_OFFSET, &sum, sizeof(sum));
}
