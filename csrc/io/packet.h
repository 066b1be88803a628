/* Purpose: send packets to the guest, as fragments where they exceed its MTU. */
#ifndef PASTA_IO_PACKET_H
#define PASTA_IO_PACKET_H

#include "io/io.h"

struct packet {
	struct addr src, dst;
	uint8_t proto, ttl, tos;
	const uint8_t *header; /* the transport header, with checksum 0 */
	uint16_t header_len;   /* even, at most 32 */
	uint16_t csum_offset;  /* of the checksum in header */
	const uint8_t *body;
	uint32_t body_len;
	uint16_t gso_size; /* UDP only: bytes of each datagram in body, of which the last may be shorter; 0: one datagram */
};

/* Completes the checksum and sends. Fragments (RFC 791, 2.3; RFC 8200, 4.5) go out in order. The link counts frames that it does
 * not take. */
void packet_send(struct io *io, const struct packet *p);

#endif
