/* What datagram sockets tell and take beside the bytes: TTL, traffic class, addresses, whether the path may fragment. */
#ifndef PASTA_IO_DATAGRAM_H
#define PASTA_IO_DATAGRAM_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/addr.h"
#include "wire/ip.h"

/* Room for every control message that may come with a datagram. */
#define DATAGRAM_CONTROL_BYTES 256
#define DATAGRAM_DISCOVER_UNKNOWN 255

/* What came along with a datagram. */
struct datagram_info {
	struct addr local; /* which of our addresses it was sent to; none: not known, or one that cannot be a source */
	uint32_t ifindex;  /* where it came in; 0: not known */
	uint16_t gso_size; /* several datagrams of that many bytes, UDP_GRO; 0: one */
	uint8_t ttl, tos;
};

/* What one system call reads from a socket. */
#define DATAGRAM_BATCH 32
#define DATAGRAM_SLOT_BYTES \
	(IP_MAX_BYTES + 2113) /* no whole pages: the beginnings do not all share the same few lines of the cache */

struct datagram_batch {
	int used; /* messages to be set up again */
	struct mmsghdr message[DATAGRAM_BATCH];
	struct iovec iov[DATAGRAM_BATCH];
	struct sockaddr_storage from[DATAGRAM_BATCH];
	_Alignas(struct cmsghdr) uint8_t control[DATAGRAM_BATCH][DATAGRAM_CONTROL_BYTES];
	uint8_t data[DATAGRAM_BATCH][DATAGRAM_SLOT_BYTES]; /* takes memory where it is used */
};

/* One of them, valid until the next call. */
struct datagram {
	const uint8_t *data;
	uint32_t len;
	struct endpoint from;
	struct datagram_info info;
};

struct datagram_info datagram_read_info(struct msghdr *msg);

/* Reads what waits, most datagrams of it (at most DATAGRAM_BATCH), without blocking: how many, or -errno. */
int datagram_receive(struct datagram_batch *b, int fd, int most);
struct datagram datagram_at(struct datagram_batch *b, int index);

/* Appends a control message; msg->msg_control has room and is zeroed, msg_controllen counts what is there. */
void datagram_add_control(struct msghdr *msg, int level, int type, const void *data, size_t len);

/* Says how the next packet may travel (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER): df: not fragmented; oversize: larger than the
 * host's own link, so fragmented by the host as far as the path MTU is known. *current is what the socket is set to. */
void datagram_set_discover(int fd, bool v4, bool df, bool oversize, uint8_t *current);

#endif
