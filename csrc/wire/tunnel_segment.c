/* Purpose: check the headers inside a tunnel once; the segmenter of wire/offload.c then works on them. */
#include "wire/tunnel_segment.h"

#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

bool tunnel_segment_begin(struct tunnel_segmenter *t, const uint8_t *data, uint32_t len, uint32_t inner_ip,
			  uint32_t inner_transport, bool udp, uint32_t size)
{
	uint32_t ip_len, head_len, transport_len = udp ? UDP_HLEN : TCP_HLEN;

	if (!size || inner_ip >= inner_transport || inner_transport + transport_len > len)
		return false;
	ip_len = inner_transport - inner_ip;
	if (data[inner_ip] >> 4 == 4 ? (data[inner_ip] & 15u) * 4 != ip_len || ip_len < IP4_HLEN
				     : data[inner_ip] >> 4 != 6 || ip_len < IP6_HLEN)
		return false;
	if (!udp)
		transport_len = (uint32_t)(data[inner_transport + 12] >> 4) * 4;
	head_len = inner_transport + transport_len;
	if ((!udp && transport_len < TCP_HLEN) || head_len > SEGMENT_HEAD_MAX || head_len >= len)
		return false;
	segment_begin(&t->headers, data, head_len, inner_ip, inner_transport, udp, len - head_len, size);
	t->body = data + head_len;
	return len - head_len <= size * TUNNEL_SEGMENTS_MAX;
}

uint32_t tunnel_segment_next(struct tunnel_segmenter *t, uint8_t *out)
{
	const struct segmenter *s = &t->headers;
	int32_t part = segment_next(&t->headers);
	uint32_t len = s->head_len + (uint32_t)part;

	if (part < 0)
		return 0;
	memcpy(out, s->head, s->head_len);
	memcpy(out + s->head_len, t->body, (size_t)part);
	checksum_complete(out, len, s->transport, s->udp ? UDP_CSUM_OFFSET : TCP_CSUM_OFFSET, NULL, 0);
	t->body += part;
	return len;
}
