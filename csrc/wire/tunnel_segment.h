/* Purpose: segment a large frame inside a UDP tunnel (VXLAN, Geneve) into the datagrams that it stands for, as Linux does in
 * skb_udp_tunnel_segment(). Each datagram has the tunnel's header, and behind it one TCP segment or UDP datagram. */
#ifndef PASTA_WIRE_TUNNEL_SEGMENT_H
#define PASTA_WIRE_TUNNEL_SEGMENT_H

#include "wire/offload.h"

#define TUNNEL_SEGMENTS_MAX 128

struct tunnel_segmenter {
	struct segmenter headers;
	const uint8_t *body; /* payload of the next segment */
};

/* data: the payload of the outer datagram; inner_ip, inner_transport: where the headers inside begin, the second with the folded
 * sum of the pseudo-header as its checksum. False: the headers are malformed or too long, or there are too many segments. */
bool tunnel_segment_begin(struct tunnel_segmenter *t, const uint8_t *data, uint32_t len, uint32_t inner_ip,
			  uint32_t inner_transport, bool udp, uint32_t size);
/* Writes the payload of the next outer datagram, at most SEGMENT_HEAD_MAX + size bytes. Returns its length; 0: there is none. */
uint32_t tunnel_segment_next(struct tunnel_segmenter *t, uint8_t *out);

#endif
