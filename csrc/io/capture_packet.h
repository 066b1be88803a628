/* Purpose: from a frame of the link to the packets that a capture records: divided, chosen by a filter, cut, with checksums. Pure, but
 * for the clock.
 */
#ifndef PASTA_IO_CAPTURE_PACKET_H
#define PASTA_IO_CAPTURE_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/packet_filter.h"
#include "io/pcap_format.h"

/* What a frame leaves to be done, as in VIRTIO 1.2, 5.1.6.2. */
struct capture_offload {
	bool needs_csum; /* the field at csum_start + csum_offset holds the folded sum of the pseudo-header only */
	uint16_t csum_start, csum_offset;
	uint16_t udp_size; /* payload bytes of each datagram where there are several behind one header; 0: one packet */
};

struct capture_packet {
	uint64_t time_ns; /* since 1970 */
	enum capture_direction direction;
	bool needs_csum;
	uint16_t csum_start, csum_offset;
};

/* Which packets are taken, and how much of each. */
struct capture_choice {
	uint32_t snaplen;
	struct packet_filter_insn *filter; /* NULL: all packets */
};

/* snaplen 0: all of each packet. filter: copied, if it is a program; filter_len 0: all packets. Returns 0 or -errno. */
int capture_choose(struct capture_choice *c, uint32_t snaplen, const struct packet_filter_insn *filter, uint32_t filter_len);
void capture_choice_free(struct capture_choice *c);

/* Calls put with each packet of the frame, which has the time of the call. */
typedef void capture_put_fn(void *to, const struct capture_packet *packet, const struct iovec *iov, int iovcnt);
void capture_split(enum capture_direction direction, const struct iovec *iov, int iovcnt, const struct capture_offload *offload,
		   capture_put_fn *put, void *to);

/* Whether the packet is taken. Sets len and full_len of *frame. */
bool capture_takes(const struct capture_choice *c, const struct iovec *iov, int iovcnt, struct pcap_frame *frame);

/* Copies the first len bytes of a packet. */
void capture_gather(uint8_t *to, size_t len, const struct iovec *iov, int iovcnt);

/* Offsets beyond the packet come from the guest: the packet stays as it is. */
void capture_complete_checksum(uint8_t *data, uint32_t len, uint16_t csum_start, uint16_t csum_offset);

#endif
