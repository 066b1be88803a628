/* Purpose: read the error queue of datagram sockets (IP_RECVERR, ip(7)). */
#ifndef PASTA_IO_SOCK_ERROR_H
#define PASTA_IO_SOCK_ERROR_H

#include <stdbool.h>

#include "base/addr.h"
#include "wire/icmp.h"

struct sock_error {
	struct endpoint to;              /* destination of the failed datagram */
	struct addr reporter;            /* none: the host's own kernel */
	struct icmp_error icmp4, icmp6;  /* the error in each family's numbers */
	bool known4, known6;             /* whether the family has numbers for it */
	uint32_t len;                    /* of data */
	uint8_t data[ICMP_QUOTE_MAX_V6]; /* the beginning of the datagram */
};

/* Enables the queue, and the reception of TTL and class, for the families that the socket carries. */
void sock_receive_errors(int fd, bool v4, bool v6);
/* Takes the next error. False: there is none. */
bool sock_next_error(int fd, struct sock_error *out);

#endif
