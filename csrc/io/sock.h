/* Purpose: host sockets: non-blocking, close-on-exec, bound as --outbound and --outbound-if4/6 say. */
#ifndef PASTA_IO_SOCK_H
#define PASTA_IO_SOCK_H

#include "core/mapping.h"

struct sock_options {
	/* By family: 0 IPv4, 1 IPv6. None or empty: the kernel chooses. */
	struct addr outbound[2];
	char outbound_if[2][16];
	/* Indices of host interfaces; 0: none. */
	uint32_t scope6; /* for link-local destinations and IPv6 multicast */
	uint32_t link4;  /* for IPv4 multicast and broadcast */
};

/* A socket for traffic to host_peer, of which family and loopback matter. The descriptor or -errno. */
int sock_open(const struct sock_options *o, const struct addr *host_peer, int type, int protocol, uint16_t local_port);
/* scope6: the interface for a link-local address. 0 or -errno. */
int sock_connect(int fd, const struct endpoint *to, uint32_t scope6);
/* Whether the host's routes say that this is a broadcast address. One of a network that the host is not in is none. */
bool sock_is_broadcast(const struct sock_options *o, const struct endpoint *host_peer);
/* Whether the socket has one of these addresses as its own. */
bool sock_is_bound(int fd, const struct addr_list *addrs);
/* The other end of a connected socket, also after the connection has ended; ADDR_NONE, port 0 if there is none. like: an address of
 * the family that it probably has, which saves a system call. */
struct endpoint sock_peer(int fd, const struct addr *like);
/* setsockopt() of an int; 0 or -errno. */
int sock_set(int fd, int level, int name, int value);
/* abort: the host peer of a TCP connection gets a reset. */
void sock_close(int fd, bool abort);

#endif
