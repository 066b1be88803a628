/* Forwarded TCP ports: listening sockets in either namespace. */
#ifndef PASTA_PLANE_LISTEN_H
#define PASTA_PLANE_LISTEN_H

#include <stdbool.h>

#include "base/addr.h"

struct plane;

/* Ports of consecutive numbers whose sockets are consecutive descriptors: thousands of them take no more memory than one. */
struct listener {
	int fd;			/* the first; -1: a free place */
	uint32_t count;
	bool to_host;		/* it listens on the guest's loopback, for something on the host's */
	struct endpoint target; /* of the first; none: the guest's own address, or the loopback one that the client has asked for */
};

struct listeners {
	struct listener *at;
	uint32_t count, space;
	uint32_t sockets; /* of all of them; never more than space */
	uint32_t removed; /* free places among count */
	int64_t resume_ms;   /* 0: none rests */
	bool hosts_only;     /* those of the guest's namespace do not rest */
	int64_t logged_ms;   /* when the share of clients was last written to the log */
};

/* A listener of one socket. 0 or -errno. */
int listen_add(struct plane *p, const struct listener *l);
/* Needs no memory. -ENOENT: it is not listened at. */
int listen_remove(struct plane *p, int fd);
/* Takes the connections that wait at one socket of a listener. */
void listen_accept(struct plane *p, uint32_t index, uint32_t offset, uint32_t events);
/* Ends a rest when there is room again. */
void listen_timers(struct plane *p);

#endif
