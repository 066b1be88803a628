/* Sockets of the guest's namespace, from the helper process that lives there. */
#ifndef PASTA_IO_NSOCK_H
#define PASTA_IO_NSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define NSOCK_POOL 32

/* The core's side. fd -1: there is no helper. */
struct nsock {
	int fd;
	uint32_t ready[2];   /* by family: connectable TCP sockets waiting */
	uint32_t ordered[2]; /* asked for, not yet come */
	bool late;	     /* an answer that nobody waits for any more is to come, before any other */
	bool silent;	     /* the last answer did not come in time */
	int pool[2][NSOCK_POOL];
};

void nsock_init(struct nsock *n, int fd);
void nsock_free(struct nsock *n);
/* A non-blocking TCP socket of the guest's namespace, or -errno. Waits for the helper only when the pool is empty. */
int nsock_stream(struct nsock *n, bool v4);
/* A non-blocking UDP socket of the guest's namespace, or -errno. */
int nsock_datagram(struct nsock *n, bool v4);
/* A sock_diag(7) socket of the guest's namespace, or -errno. */
int nsock_diag(struct nsock *n);
/* A bound socket of the guest's namespace, listening if it is TCP: SOCK_STREAM or SOCK_DGRAM at addr and port; at any address: of
 * the loopback interface. -errno. */
int nsock_listen(struct nsock *n, int type, const struct addr *addr, uint16_t port);

#endif
