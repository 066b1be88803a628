/* What a network card does for a kernel, done here: a checksum completed, a large segment cut into those that it stands for. */
#ifndef PASTA_WIRE_OFFLOAD_H
#define PASTA_WIRE_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>

#define SEGMENT_HEAD_MAX 192

/* Completes the checksum at start + offset of head, which holds the folded sum of the pseudo-header, over head from start on and
 * body. start + offset + 2 <= head_len, an even number where there is a body. */
void checksum_complete(uint8_t *head, uint32_t head_len, uint32_t start, uint32_t offset, const uint8_t *body, uint32_t body_len);

struct segmenter {
	uint8_t head[SEGMENT_HEAD_MAX]; /* of the present segment: Ethernet, IP, TCP or UDP; its checksum is to be completed */
	uint32_t head_len;
	uint32_t transport;     /* where TCP's or UDP's header begins in it */
	uint32_t size;          /* bytes of each segment but the last */
	uint32_t left;          /* bytes that are in no segment yet */
	uint16_t number;        /* of the next segment */
	uint16_t transport_len; /* as the checksum of the present head counts it */
	uint8_t tcp_flags;
	bool udp;
};

/* frame: len bytes from the Ethernet header on, of which at least the first linear are there; udp: where UDP's header begins,
 * whose checksum field holds the folded sum of the pseudo-header. False: this is no such frame, or has too many datagrams. */
bool segment_udp(struct segmenter *s, const uint8_t *frame, uint32_t linear, uint32_t len, uint32_t udp, uint32_t size);
/* The same for a frame of TCP that was built here: head, and body_len bytes behind it. */
void segment_tcp(struct segmenter *s, const uint8_t *head, uint32_t head_len, uint32_t tcp, uint32_t body_len, uint32_t size);
/* Turns head into that of the next segment: bytes of its payload, which follows that of the one before; -1: there is no more. */
int32_t segment_next(struct segmenter *s);

#endif
