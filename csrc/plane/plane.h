/* What there is once, whatever the number of shards: the configuration, the capture, the listeners, the helper. */
#ifndef PASTA_PLANE_PLANE_H
#define PASTA_PLANE_PLANE_H

#include "io/capture.h"
#include "plane/listen.h"
#include "plane/shard.h"

/* What a shard needs to run in a thread of its own. Python runs shard 0. */
struct shard_thread {
	struct plane *plane;
	struct shard *shard;
	pthread_t thread;
	bool started;              /* this and the counters: under plane->lock */
	struct counters published; /* as of the last turn */
	_Atomic bool stop;
};

struct plane {
	struct plane_config config;
	struct capture *capture;
	struct listeners listeners;
	struct helper helper;
	struct link_state link_state;
	int64_t tick_ms, next_tick_ms;

	uint32_t shard_count; /* 1 or more */
	struct shard *shard[SHARDS_MAX];
	bool open; /* what the guest sends is read */

	pthread_mutex_t lock;
	pthread_cond_t started;
	struct shard_thread thread[SHARDS_MAX]; /* [0] is unused */
};

/* threads.c: the shards beside shard 0. */
/* Lets all shards have what the guest sends. */
void threads_open(struct plane *p);
/* Ends the threads. */
void threads_stop(struct plane *p);
/* The sum of all shards. */
uint64_t threads_counter(const struct plane *p, uint32_t index);
/* Passes on what the guest has sent by now, also on spliced connections: a command that ends may have had last words. */
void threads_drain(struct plane *p);

#endif
