/* Purpose: what a network card does for a kernel that receives: joins consecutive TCP segments into one. */
#ifndef PASTA_WIRE_COALESCE_H
#define PASTA_WIRE_COALESCE_H

#include <stdbool.h>
#include <stdint.h>

/* A segment that grows. */
struct coalesced {
	uint8_t *frame; /* begins with the Ethernet header */
	uint32_t len;
	uint32_t transport, head_len; /* offsets of the TCP header and of its payload */
	uint32_t size;                /* payload bytes of each segment but the last */
	uint32_t next;                /* the sequence number that has to follow */
	bool v4;
	bool ended; /* nothing may follow */
	bool grown; /* more than one segment, all with right checksums */
};

/* Whether a frame may be the first of several: TCP data of one whole IP packet, without a flag but ACK and PSH. */
bool coalesce_begin(struct coalesced *c, uint8_t *frame, uint32_t len);
/* Appends the payload of the next frame, whose bytes may lie behind the frame's own. False: it does not follow, differs in more than
 * what segmentation makes different, or has a wrong checksum; then nothing has changed. */
bool coalesce_add(struct coalesced *c, const uint8_t *frame, uint32_t len);
/* Sets lengths, header checksum and flags of a frame that has grown. Its TCP checksum becomes the folded sum of the pseudo-header. */
void coalesce_end(struct coalesced *c);

#endif
