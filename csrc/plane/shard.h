/* Shards: what one thread of the data plane owns. plane_new() makes the one that Python runs; plane_add_shards() the others. */
#ifndef PASTA_PLANE_SHARD_H
#define PASTA_PLANE_SHARD_H

#include <pthread.h>

#include "core/counters.h"
#include "core/steering.h"
#include "core/neighbour.h"
#include "io/message_queue.h"
#include "io/tap.h"
#include "plane_api.h"

struct plane;

/* What all shards share. */
struct shards {
	uint32_t count;
	struct plane *at[SHARDS_MAX]; /* [0] is Python's; never changes while there are threads */
	bool open;		     /* guests are served: the first shard's only */
	uint32_t next_splice_shard;	     /* the same */
	pthread_mutex_t lock;	     /* of all that follows */
	pthread_cond_t started;
	_Atomic uint32_t changes; /* of the two after it; may be read without the lock */
	struct addr guest_seen[3];
	struct neighbour_table neighbours;
};

struct shard {
	struct shards *all;
	uint32_t index;
	struct message_queue box;
	struct message *inbox; /* taken from it, not yet looked at */
	struct outbox {
		struct message *head, *last;
	} out[SHARDS_MAX];      /* frames for the others, since shard_flush() */
	uint32_t out_to; /* bits: for whom */
	uint64_t opened;    /* messages, ever */
	uint32_t known;	    /* all->changes as of when they were last looked at */
	bool end_told;
	/* Shards of a thread of their own */
	pthread_t thread;
	bool started;		   /* under all->lock */
	struct counters published; /* the same: as of the last turn */
	_Atomic bool stop;
};

/* shard.c: life */
/* Lets the shards have what the guest sends. */
void shards_open(struct plane *p);
/* Ends the threads, hands out what still waits, and frees the shards but the first. */
void shards_stop(struct plane *p);
uint64_t shards_counter(const struct plane *p, uint32_t index);
/* Shows the counters to the first shard, of any other. */
void shard_publish(struct plane *p);

/* messages.c: what shards tell each other */
/* Deals with what others have left here, as far as Python need not see something first. */
void shard_attend(struct plane *p);
/* A frame that has to be seen by another, after the next shard_flush(). */
void shard_send_frame(struct plane *p, uint32_t to, const struct tap_frame *f, bool reassembled_here, bool first_class);
/* Lets others have the frames of a batch; counted if they have no room. */
void shard_flush(struct plane *p);
/* An accepted client of endpoint target in the guest. False: it is this shard's own. */
bool shard_send_client(struct plane *p, int fd, const struct endpoint *peer, const struct endpoint *target);
/* Two sockets to be joined. False: this shard should do that. */
bool shard_send_splice(struct plane *p, int accepted, int connecting);
/* Log lines and the end of the tap, to the first shard. */
void shard_report(struct plane *p);
/* What the guest's link looks like: heard from the MAC address neighbours.last, a source address on it, the guest's own address. */
void shard_tell_neighbour(struct plane *p, const struct addr *from);
void shard_tell_address(struct plane *p, const struct addr *seen);
/* Frees a message that will not be opened, with all that it carries. */
void message_discard(struct message *message);

#endif
