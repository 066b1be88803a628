/* What exists once for all shards: the configuration, the capture, the listeners, the helper. */
#ifndef PASTA_PLANE_PLANE_H
#define PASTA_PLANE_PLANE_H

#include "io/captures.h"
#include "plane/listen.h"
#include "plane/shard.h"

/* The thread of a shard. Shard 0 has none: Python runs it. */
struct shard_thread {
	struct plane *plane;
	struct shard *shard;
	pthread_t thread;
	bool started;              /* plane->lock guards this and `published` */
	struct counters published; /* after the last turn */
	_Atomic bool stop;
};

struct plane {
	struct plane_config config;
	struct captures captures;
	struct listeners listeners;
	struct helper helper;
	struct link_state link_state;
	struct host_state host_state;
	struct rate rate_in, rate_out; /* without bytes_per_s: there is none */
	int64_t tick_ms, next_tick_ms;
	uint8_t question[sizeof(struct addr) + EGRESS_NAME_MAX]; /* of PLANE_ASK */
	bool events_wanted;
	bool finished;         /* plane_finish() */
	int64_t events_due_ms; /* when Python is to take the events that wait; 0: none do */
	uint32_t listing;      /* one more than the shard that makes a piece of a list of flows; 0: none does */
	uint32_t list_turns;   /* after which shard 0 makes its piece; 0: none is asked for */
	uint32_t list_from;    /* where that begins */

	uint32_t shard_count; /* 1 or more */
	struct shard *shard[SHARDS_MAX];
	bool open; /* the shards read the tap */

	pthread_mutex_t lock;
	pthread_cond_t started;
	struct shard_thread thread[SHARDS_MAX]; /* [0] is unused */
};

/* Has the shards in threads look at what has changed, if they sleep. */
void plane_wake_shards(struct plane *p);

/* Gives a shard the limits of bytes a second. */
void plane_add_rates(struct plane *p, struct shard *s);

/* events.c: what Python learns of flows. */

/* Notes that events wait, and makes the piece of a list that shard 0 owes. Between the turns. */
void events_note(struct plane *p);
/* Whether a piece of the list of flows is made, or is shard 0's to make: there is no time to sleep. */
bool events_listing(const struct plane *p);
/* Whether Python is to take events, or a piece of the list of flows, and which. */
bool events_pending(struct plane *p, struct plane_event *event);

/* threads.c: the shards beside shard 0. */

/* Lets all shards read the tap. */
void threads_open(struct plane *p);
/* Ends the threads. */
void threads_stop(struct plane *p);
/* A counter's sum over all shards. */
uint64_t threads_counter(const struct plane *p, uint32_t index);
/* Passes on what the guest has sent by now, on spliced connections too: a command may write just before it ends. */
void threads_drain(struct plane *p);

#endif
