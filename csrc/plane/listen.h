/* Forwarded TCP ports: listening sockets in either namespace. */
#ifndef PASTA_PLANE_LISTEN_H
#define PASTA_PLANE_LISTEN_H

#include "io/helper.h"
#include "plane/messages.h"
#include "proto/splice.h"
#include "proto/tcp.h"

/* Consecutive ports whose sockets are consecutive descriptors: a range takes no more memory than one port. */
struct listener {
	int fd; /* of the first port; -1: a free place */
	uint32_t count;
	bool to_host;     /* listens in the guest's namespace, for a target on the host's loopback */
	uint16_t skipped; /* how many sockets were taken out before the first: the tags of the others stay as they are */
	/* Of the first port. No address: the guest's own, or the loopback address that the client connected to. */
	struct endpoint target;
};

/* All listening sockets, and the parts of shard 0 that serve their clients. */
struct listeners {
	struct listener *at;
	uint32_t count, space;
	uint32_t sockets;  /* of all listeners; at most `space` */
	uint32_t removed;  /* free places among `count` */
	int64_t resume_ms; /* until then listeners rest; 0: none rests */
	bool hosts_only;   /* only the host's listeners rest */
	int64_t logged_ms; /* when the log last said that clients have to wait */
	uint32_t flags;    /* PLANE_SPLICE, PLANE_LO_TO_LO */
	uint32_t next_splice_shard;
	struct io *io;
	struct tcp *tcp;
	struct splice *splice;
	struct helper *helper;
	struct messages *messages;
};

/* Adds a listener with one socket. 0 or -errno. */
int listen_add(struct listeners *ls, const struct listener *l);
/* Needs no memory. -ENOENT: fd is no listener's. */
int listen_remove(struct listeners *ls, int fd);
/* Accepts the clients that wait at one socket of a listener. */
void listen_accept(struct listeners *ls, uint32_t index, uint32_t offset, uint32_t events);
/* Ends the rest when there is room again. */
void listen_timers(struct listeners *ls);

#endif
