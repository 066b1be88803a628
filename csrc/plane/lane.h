/* Lanes: what one thread of the data plane owns. plane_new() makes the one that Python runs; plane_add_lanes() the others. */
#ifndef PASTA_PLANE_LANE_H
#define PASTA_PLANE_LANE_H

#include <pthread.h>

#include "core/counters.h"
#include "core/ownership.h"
#include "core/neighbour.h"
#include "io/message_queue.h"
#include "io/tap.h"
#include "plane_api.h"

struct plane;

/* What all lanes share. */
struct lanes {
	uint32_t count;
	struct plane *at[LANES_MAX]; /* [0] is Python's; never changes while there are threads */
	bool open;		     /* guests are served: the first lane's only */
	uint32_t next_pair;	     /* the same */
	pthread_mutex_t lock;	     /* of all that follows */
	pthread_cond_t started;
	_Atomic uint32_t changes; /* of the two after it; may be read without the lock */
	struct addr guest_seen[3];
	struct neighbour_table neighbours;
};

struct lane {
	struct lanes *all;
	uint32_t index;
	struct message_queue box;
	struct message *inbox; /* taken from it, not yet looked at */
	struct outbox {
		struct message *head, *last;
	} out[LANES_MAX];      /* frames for the others, since lane_flush() */
	uint32_t out_to; /* bits: for whom */
	uint64_t opened;    /* messages, ever */
	uint32_t known;	    /* all->changes as of when they were last looked at */
	bool end_told;
	/* Lanes of a thread of their own */
	pthread_t thread;
	bool started;		   /* under all->lock */
	struct counters published; /* the same: as of the last turn */
	_Atomic bool stop;
};

/* lane.c: life */
/* Lets the lanes have what the guest sends. */
void lanes_open(struct plane *p);
/* Ends the threads, hands out what still waits, and frees the lanes but the first. */
void lanes_stop(struct plane *p);
uint64_t lanes_counter(const struct plane *p, uint32_t index);
/* Shows the counters to the first lane, of any other. */
void lane_publish(struct plane *p);

/* handover.c: what lanes tell each other */
/* Deals with what others have left here, as far as Python need not see something first. */
void lane_attend(struct plane *p);
/* A frame that has to be seen by another, after the next lane_flush(). */
void lane_hand_frame(struct plane *p, uint32_t to, const struct tap_frame *f, bool was_cut, bool first_class);
/* Lets others have the frames of a batch; counted if they have no room. */
void lane_flush(struct plane *p);
/* An accepted client of endpoint target in the guest. False: it is this lane's own. */
bool lane_hand_client(struct plane *p, int fd, const struct endpoint *peer, const struct endpoint *target);
/* Two sockets to be joined. False: this lane should do that. */
bool lane_hand_pair(struct plane *p, int accepted, int connecting);
/* Log lines and the end of the tap, to the first lane. */
void lane_report(struct plane *p);
/* What the guest's link looks like: heard from the MAC address neighbours.last, a source address on it, the guest's own address. */
void lane_tell_neighbour(struct plane *p, const struct addr *from);
void lane_tell_address(struct plane *p, const struct addr *seen);
/* Frees a message that will not be opened, with all that it carries. */
void message_discard(struct message *message);

#endif
