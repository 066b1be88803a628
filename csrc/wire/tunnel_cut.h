/* A segmentation offload frame inside a UDP tunnel (VXLAN and its like), as the datagrams that it stands for (what Linux does in
 * skb_udp_tunnel_segment()): each has the tunnel's header, and in it one segment of TCP or datagram of UDP. */
#ifndef PASTA_WIRE_TUNNEL_CUT_H
#define PASTA_WIRE_TUNNEL_CUT_H

#include <stdbool.h>
#include <stdint.h>

#define TUNNEL_HEAD_MAX 512 /* the tunnel's header and those inside, of Geneve (RFC 8926, 3.4) with all options too */
#define TUNNEL_SEGMENTS_MAX 128

struct tunnel_cut {
	const uint8_t *head; /* what all begin with: the tunnel's header and those inside */
	const uint8_t *body;
	uint32_t head_len, left, done;
	uint32_t size;            /* bytes of body in each but the last */
	uint32_t inner, inner_l4; /* offsets of the headers inside, in head */
	bool v4, udp;
};

/* data: the payload of the outer datagram; inner, inner_l4: where the IP header and the transport header inside begin, whose
 * checksum field holds the folded pseudo-header sum. False: this is no such frame, or one of too many segments. */
bool tunnel_cut_begin(struct tunnel_cut *cut, const uint8_t *data, uint32_t len, uint32_t inner, uint32_t inner_l4, bool udp,
		      uint32_t size);
/* Writes the next payload, at most TUNNEL_HEAD_MAX and size bytes; its length, or 0: there is no more. */
uint32_t tunnel_cut_next(struct tunnel_cut *cut, uint8_t *out);

#endif
