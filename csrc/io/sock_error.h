/* The error queue of datagram sockets (IP_RECVERR, ip(7)): what came back, and from whom. */
#ifndef PASTA_IO_SOCK_ERROR_H
#define PASTA_IO_SOCK_ERROR_H

#include <stdbool.h>

#include "base/addr.h"
#include "wire/icmp.h"

struct sock_error {
	struct endpoint to;             /* where the failed datagram went */
	struct addr reporter;           /* none: our own kernel */
	struct icmp_error icmp4, icmp6; /* as each family says it */
	bool known4, known6;            /* whether it can be said at all */
	uint32_t len;                   /* of the datagram's beginning */
	uint8_t data[ICMP_QUOTE_MAX_V6];
};

/* Switches the queue on, and the reception of TTL and class; v6 sockets may carry IPv4 too. */
void sock_receive_errors(int fd, bool v6);
/* Takes the next error; false: there is none. */
bool sock_next_error(int fd, struct sock_error *out);

#endif
