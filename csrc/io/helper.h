/* Sockets of the guest's namespace, from the helper process that lives there. */
#ifndef PASTA_IO_HELPER_H
#define PASTA_IO_HELPER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define HELPER_POOL 32

/* The core's side. fd -1: there is no helper. */
struct helper {
	int fd;
	uint32_t ready[2];   /* by family: connectable TCP sockets waiting */
	uint32_t ordered[2]; /* asked for, not yet come */
	bool late;           /* an answer that nobody waits for any more is to come, before any other */
	bool silent;         /* the last answer did not come in time */
	int pool[2][HELPER_POOL];
};

void helper_init(struct helper *n, int fd);
void helper_free(struct helper *n);
/* A non-blocking TCP socket of the guest's namespace, or -errno. Waits for the helper only when the pool is empty. */
int helper_stream_socket(struct helper *n, bool v4);
/* A non-blocking UDP socket of the guest's namespace, or -errno. */
int helper_datagram_socket(struct helper *n, bool v4);
/* A sock_diag(7) socket of the guest's namespace, or -errno. */
int helper_diag_socket(struct helper *n);
/* A bound socket of the guest's namespace, listening if it is TCP: SOCK_STREAM or SOCK_DGRAM at addr and port; at any address: of
 * the loopback interface. -errno. */
int helper_listen(struct helper *n, int type, const struct addr *addr, uint16_t port);

#endif
