/* Purpose: sockets of the guest's namespace, from the helper process in it. */
#ifndef PASTA_IO_HELPER_H
#define PASTA_IO_HELPER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define HELPER_POOL 32

/* The core's side. Arrays are by family: 0 IPv4, 1 IPv6. */
struct helper {
	int fd;              /* -1: there is no helper */
	bool late;           /* the next answer comes too late, and is dropped */
	bool silent;         /* the last answer did not come in time */
	uint32_t ready[2];   /* TCP sockets in the pool */
	uint32_t ordered[2]; /* TCP sockets on the way */
	int pool[2][HELPER_POOL];
};

void helper_init(struct helper *h, int fd);
void helper_free(struct helper *h);
/* All sockets are non-blocking and in the guest's namespace. The functions return a descriptor or -errno. */

/* A TCP socket to connect. Waits for the helper only when the pool is empty. */
int helper_stream_socket(struct helper *h, bool v4);
/* A UDP socket. */
int helper_datagram_socket(struct helper *h, bool v4);
/* A sock_diag(7) socket. */
int helper_diag_socket(struct helper *h);
/* A socket bound to addr and port; SOCK_STREAM: it listens. With the unspecified address it is bound to the loopback interface. */
int helper_listen(struct helper *h, int type, const struct addr *addr, uint16_t port);

#endif
