/* Forwarded TCP ports: listening sockets in either namespace. */
#ifndef PASTA_PLANE_LISTEN_H
#define PASTA_PLANE_LISTEN_H

#include "io/helper.h"
#include "plane/messages.h"
#include "proto/splice.h"
#include "proto/tcp.h"

/* Ports of consecutive numbers whose sockets are consecutive descriptors: thousands of them take no more memory than one. */
struct listener {
	int fd; /* the first; -1: a free place */
	uint32_t count;
	bool to_host;           /* it listens on the guest's loopback, for something on the host's */
	struct endpoint target; /* of the first; none: the guest's own address, or the loopback one that the client has asked for */
};

/* All listening sockets, and what a client needs: shard 0's. */
struct listeners {
	struct listener *at;
	uint32_t count, space;
	uint32_t sockets;  /* of all of them; never more than space */
	uint32_t removed;  /* free places among count */
	int64_t resume_ms; /* 0: none rests */
	bool hosts_only;   /* those of the guest's namespace do not rest */
	int64_t logged_ms; /* when the share of clients was last written to the log */
	uint32_t flags;    /* PLANE_SPLICE, PLANE_LO_TO_LO */
	uint32_t next_splice_shard;
	struct io *io;
	struct tcp *tcp;
	struct splice *splice;
	struct helper *helper;
	struct messages *messages;
};

/* A listener of one socket. 0 or -errno. */
int listen_add(struct listeners *ls, const struct listener *l);
/* Needs no memory. -ENOENT: it is not listened at. */
int listen_remove(struct listeners *ls, int fd);
/* Takes the connections that wait at one socket of a listener. */
void listen_accept(struct listeners *ls, uint32_t index, uint32_t offset, uint32_t events);
/* Ends a rest when there is room again. */
void listen_timers(struct listeners *ls);

#endif
