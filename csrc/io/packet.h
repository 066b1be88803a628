/* Whole packets to the guest, cut into fragments where they exceed its MTU. */
#ifndef PASTA_IO_PACKET_H
#define PASTA_IO_PACKET_H

#include "io/io.h"

struct packet {
	struct addr src, dst;
	uint8_t proto, ttl, tos;
	const uint8_t *header; /* transport header, checksum field 0, at most 32 bytes, an even number */
	uint16_t header_len;
	uint16_t csum_offset; /* of the checksum in it */
	const uint8_t *body;
	uint32_t body_len;
	uint16_t gso_size; /* UDP only: the body is several datagrams of this size, the last may be shorter; 0: one */
};

/* Completes the checksum and sends. Fragments (RFC 791, 2.3; RFC 8200, 4.5) go out in order; what the tap does not take is
 * counted there. */
void packet_send(struct io *io, const struct packet *p);

#endif
