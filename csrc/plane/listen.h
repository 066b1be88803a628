/* Forwarded TCP ports: listening sockets in either namespace. */
#ifndef PASTA_PLANE_LISTEN_H
#define PASTA_PLANE_LISTEN_H

#include <stdbool.h>

#include "base/addr.h"

struct plane;

struct listener {
	int fd;			/* -1: a free place */
	bool to_host;		/* it listens in the guest's namespace, for something on the host's loopback */
	struct endpoint target; /* none: the guest's own address, or the host's loopback, of the client's family */
};

struct listeners {
	struct listener *at;
	uint32_t count, space;
	uint32_t removed; /* free places among count */
	int64_t resume_ms; /* 0: not paused */
};

int listen_add(struct plane *p, const struct listener *l);
int listen_remove(struct plane *p, int fd);
/* Takes the connections that wait at a listener. */
void listen_accept(struct plane *p, uint32_t index);
/* Ends a pause that lack of descriptors has brought. */
void listen_timers(struct plane *p);

#endif
