/* Purpose: what comes and goes with a datagram beside its bytes: TTL, traffic class, addresses, "don't fragment". */
#ifndef PASTA_IO_DATAGRAM_H
#define PASTA_IO_DATAGRAM_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/addr.h"
#include "wire/ip.h"

#define DATAGRAM_CONTROL_BYTES 256    /* for all control messages of a datagram */
#define DATAGRAM_DISCOVER_UNKNOWN 255 /* for datagram_set_discover(): nothing is set yet */

/* What comes with a datagram. */
struct datagram_info {
	struct addr local; /* our address that it was sent to; none: not known, or one that cannot be a source */
	uint32_t ifindex;  /* the interface that received it; 0: not known */
	uint16_t gso_size; /* bytes of each datagram where UDP_GRO gives several; 0: one datagram */
	uint8_t ttl, tos;
};

#define DATAGRAM_BATCH 32
/* Not a multiple of the page size: else the first bytes of all slots would share a few cache sets. */
#define DATAGRAM_SLOT_BYTES (IP_MAX_BYTES + 2113)

/* What one system call reads from a socket. */
struct datagram_batch {
	int used; /* messages to set up again */
	struct mmsghdr message[DATAGRAM_BATCH];
	struct iovec iov[DATAGRAM_BATCH];
	struct sockaddr_storage from[DATAGRAM_BATCH];
	_Alignas(struct cmsghdr) uint8_t control[DATAGRAM_BATCH][DATAGRAM_CONTROL_BYTES];
	uint8_t data[DATAGRAM_BATCH][DATAGRAM_SLOT_BYTES]; /* memory is allocated where it is used */
};

/* One datagram of a batch, valid until the next call. */
struct datagram {
	const uint8_t *data;
	uint32_t len;
	struct endpoint from;
	struct datagram_info info;
};

struct datagram_info datagram_read_info(struct msghdr *msg);

/* Reads up to DATAGRAM_BATCH datagrams without blocking. Returns their number, or -errno. */
int datagram_receive(struct datagram_batch *b, int fd);
struct datagram datagram_at(struct datagram_batch *b, int index);

/* Appends a control message. msg->msg_control has room and is zeroed; msg_controllen is the length so far. */
void datagram_add_control(struct msghdr *msg, int level, int type, const void *data, size_t len);

/* Sets whether the next datagram, a packet of `bytes`, may be fragmented (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER). df: the guest forbids
 * it. link_bytes: what the host's own link carries; the host fragments more than that all the same, to the path MTU that it knows.
 * *current: the socket's setting. */
void datagram_set_discover(int fd, bool v4, bool df, uint32_t bytes, uint32_t link_bytes, uint8_t *current);

#endif
