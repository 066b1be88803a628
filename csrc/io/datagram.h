/* What datagram sockets tell and take beside the bytes: TTL, traffic class, addresses, whether the path may fragment. */
#ifndef PASTA_IO_DATAGRAM_H
#define PASTA_IO_DATAGRAM_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/addr.h"

/* Room for every control message that may come with a datagram. */
#define DATAGRAM_CONTROL_BYTES 256
#define DATAGRAM_DISCOVER_UNKNOWN 255

/* What came along with a datagram. */
struct datagram_info {
	struct addr local;   /* which of our addresses it was sent to; none: not known, or one that cannot be a source */
	uint32_t ifindex;    /* where it came in; 0: not known */
	uint16_t gso_size;   /* several datagrams of that many bytes, UDP_GRO; 0: one */
	uint8_t ttl, tos;
};

struct datagram_info datagram_read_info(struct msghdr *msg);

/* Appends a control message; msg->msg_control has room and is zeroed, msg_controllen counts what is there. */
void datagram_add_control(struct msghdr *msg, int level, int type, const void *data, size_t len);

/* Says how the next packet may travel (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER): df: not fragmented; oversize: larger than the
 * host's own link, so fragmented by the host as far as the path MTU is known. *current is what the socket is set to. */
void datagram_set_discover(int fd, bool v4, bool df, bool oversize, uint8_t *current);

#endif
