/* Host sockets: made non-blocking and close-on-exec, bound as --outbound and --outbound-if4/6 say. */
#ifndef PASTA_IO_SOCK_H
#define PASTA_IO_SOCK_H

#include "base/addr.h"

struct sock_options {
	struct addr outbound[2]; /* by family: 0 IPv4, 1 IPv6; none: the kernel chooses */
	char outbound_if[2][16];
	uint32_t scope6; /* interface for link-local destinations, and for multicast; 0: none */
	uint32_t link4;  /* for multicast and broadcast; 0: none */
};

/* A socket for traffic to remote (its family and whether it is loopback decide). The descriptor or -errno. */
int sock_open(const struct sock_options *o, const struct addr *remote, int type, int protocol, uint16_t local_port);
/* scope6: interface of a link-local remote. 0 or -errno. */
int sock_connect(int fd, const struct endpoint *remote, uint32_t scope6);
/* Whether this is a broadcast address to the host's routes: not so for one of a network that the host is not in. */
bool sock_is_broadcast(const struct sock_options *o, const struct endpoint *remote);
/* setsockopt() of an int; 0 or -errno. */
int sock_set(int fd, int level, int name, int value);
/* abort: the peer of a TCP connection gets a reset. */
void sock_close(int fd, bool abort);

#endif
