/* A UDP segmentation offload frame, as the datagrams that it stands for (what Linux does in __udp_gso_segment()). */
#ifndef PASTA_WIRE_UDP_SEGMENT_H
#define PASTA_WIRE_UDP_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#define UDP_SEGMENT_HEAD_MAX 192

struct udp_segmenter {
	uint8_t head[UDP_SEGMENT_HEAD_MAX]; /* of the present datagram: Ethernet, IP and UDP */
	uint32_t head_len;
	uint32_t size;	 /* bytes of each but the last */
	uint32_t left;	 /* bytes that no datagram was made of yet */
	uint16_t number; /* of the next */
};

/* frame: len bytes from the Ethernet header on, of which at least the first linear are there; udp: where UDP's header begins,
 * whose checksum field holds the folded pseudo-header sum. False: this is no such frame, or one of too many datagrams. */
bool udp_segment_begin(struct udp_segmenter *c, const uint8_t *frame, uint32_t linear, uint32_t len, uint32_t udp, uint32_t size);
/* Turns head into that of the next datagram: bytes of its payload, which follows that of the one before; -1: there is no more. */
int32_t udp_segment_next(struct udp_segmenter *c);

#endif
