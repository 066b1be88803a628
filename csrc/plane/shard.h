/* A shard: everything that one thread of the data plane works on, and the order of its turn. */
#ifndef PASTA_PLANE_SHARD_H
#define PASTA_PLANE_SHARD_H

#include "core/bucket.h"
#include "io/io.h"
#include "plane/demux.h"
#include "plane/link_state.h"
#include "plane/messages.h"
#include "proto/splice.h"

#define PUNT_MAX_BYTES 2048 /* larger slow-path frames have no use */

/* The one frame that waits for Python. */
struct slow_path {
	struct bucket rate;
	uint32_t len; /* 0: none waits */
	uint8_t frame[PUNT_MAX_BYTES];
};

struct shard {
	uint32_t index; /* 0: the one that Python runs */
	struct loop loop;
	struct link link;
	struct io io;
	struct log log;
	struct counters counters;
	struct policy policy;
	struct tcp tcp;
	struct udp udp;
	struct icmp icmp;
	struct splice splice;
	struct demux demux;
	struct messages messages;
	struct link_state *link_state; /* of all shards */
	uint32_t link_known;           /* link_state->changes as of the last look */
	struct slow_path slow;         /* shard 0 alone gets frames for it */
	struct sched_batching tap_batching;
	bool more; /* the last turn left something that can be done at once */
	int end;   /* errno that ended the tap */
	bool end_sent;
	uint8_t scratch[SCRATCH_BYTES];
};

enum shard_step {
	SHARD_BUSY,     /* an event was dealt with */
	SHARD_EVENT,    /* *event is Python's */
	SHARD_LISTENER, /* a socket is ready: event->id is its listener, event->len its place in that, event->kind epoll's events */
	SHARD_IDLE,     /* no event is left: shard_wait() */
};

/* 0 or -errno; shard_free() is due either way. All that is pointed to outlives the shard. */
int shard_init(struct shard *s, const struct plane_config *config, int tap_fd, uint32_t index);
void shard_free(struct shard *s);
/* One of `steering->shards` that have the flows among them. Before the first flow. 0 or -errno. */
int shard_join(struct shard *s, const struct flow_steering *steering);

/* The next event, or all that events have made necessary. */
enum shard_step shard_turn(struct shard *s, struct plane_event *event);
/* Waits for events, until_ms at most. 0 or -errno. */
int shard_wait(struct shard *s, int64_t until_ms);
/* When the shard's own timers are due. */
int64_t shard_next_ms(const struct shard *s);
/* Log lines and the end of the tap, to shard 0. */
void shard_report(struct shard *s);
/* At the end: passes on a batch of what the guest has sent; false if there was nothing. */
bool shard_drain(struct shard *s);

#endif
