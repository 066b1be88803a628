/* Purpose: what a network card does for a kernel: complete checksums, segment large frames. */
#ifndef PASTA_WIRE_OFFLOAD_H
#define PASTA_WIRE_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>

/* Completes the checksum at start + offset of head, over head from start on and body. Until then the field holds the folded sum of
 * the pseudo-header. start + offset + 2 <= head_len; with a body, head_len - start is even. */
void checksum_complete(uint8_t *head, uint32_t head_len, uint32_t start, uint32_t offset, const uint8_t *body, uint32_t body_len);

/* All headers of a segment: Ethernet, IP, TCP or UDP; before these a tunnel's, that of Geneve (RFC 8926, 3.4) with all options
 * too. */
#define SEGMENT_HEAD_MAX 512

struct segmenter {
	/* Headers of the current segment. Their transport checksum holds the folded sum of the pseudo-header. */
	uint8_t head[SEGMENT_HEAD_MAX];
	uint32_t head_len;
	/* Where the IP header and the transport header begin in head. */
	uint32_t network, transport;
	bool v4, udp;

	uint32_t size;          /* payload bytes of every segment but the last */
	uint32_t left;          /* payload bytes of the segments to come */
	uint16_t number;        /* of the next segment, from 0 */
	uint16_t transport_len; /* what the pseudo-header sum in head counts as the length */
	uint8_t tcp_flags;      /* of the whole frame */
};

/* Begins with the headers of the whole frame, whose payload has body_len bytes. network < transport; the transport header is in
 * head; head_len <= SEGMENT_HEAD_MAX. */
void segment_begin(struct segmenter *s, const uint8_t *head, uint32_t head_len, uint32_t network, uint32_t transport, bool udp,
		   uint32_t body_len, uint32_t size);
/* The same for an Ethernet frame of len bytes, checked, of which the first `linear` are at frame; udp: offset of the UDP header.
 * False: the frame is not UDP, is no longer than one datagram, or has more than UDP_SEGMENTS_MAX. */
bool segment_udp(struct segmenter *s, const uint8_t *frame, uint32_t linear, uint32_t len, uint32_t udp, uint32_t size);
/* Makes head that of the next segment. Returns its payload bytes, which follow those of the segment before; -1: there is none. */
int32_t segment_next(struct segmenter *s);

#endif
