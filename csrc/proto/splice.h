/* Spliced connections: two TCP sockets joined in the kernel, one in the host's namespace and one in the guest's. */
#ifndef PASTA_PROTO_SPLICE_H
#define PASTA_PROTO_SPLICE_H

#include "core/flow.h"
#include "core/worklist.h"
#include "io/gate.h"
#include "io/io.h"

#define SPLICE_POOL 16

struct splice_pipe {
	int in, out;    /* -1: none */
	uint32_t bytes; /* inside */
};

struct splice_flow;

struct splice {
	struct flow_table flows; /* found by index only: for a moment two can have the same ends */
	uint32_t pooled;
	struct splice_pipe pool[SPLICE_POOL]; /* empty pipes for the next flows that have bytes to move */
	struct worklist work;
	int64_t limit_logged_ms;
};

/* 0 or -errno. limit: flows at most. */
int splice_init(struct splice *s, uint32_t limit, const struct siphash_key *key);
void splice_free(struct splice *s);
/* Makes s the splice of one of `shards` shards, with its part of the limit. Call it before the first flow. */
void splice_share(struct splice *s, uint32_t shards);
/* Joins an accepted socket with one whose connect() is under way or done. Takes both over, also when it fails (counted). ends: those
 * of the connection, for readers of events; from_host: the accepted one is the host's. */
void splice_join(struct splice *s, struct io *io, int accepted, int connecting, const struct flow_key *ends, bool from_host);
event_describe splice_describe;
/* side: 0 the accepted socket, 1 the other. */
void splice_event(struct splice *s, struct io *io, uint32_t index, uint32_t generation, int side, uint32_t events);
/* Gives each flow on the work list a turn. True: call again without waiting. */
bool splice_service(struct splice *s, struct io *io);
/* Before the end: moves what can be moved without waiting, also where no event was reported. True: there may be more. */
bool splice_drain(struct splice *s, struct io *io);
/* The egress policy's rules have changed: ends the guest's flows that they deny. */
void splice_judge_again(struct splice *s, struct io *io, struct gate_again *counts);

#endif
