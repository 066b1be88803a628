/* A shard: everything that one thread of the data plane works on, and the order of its turn. */
#ifndef PASTA_PLANE_SHARD_H
#define PASTA_PLANE_SHARD_H

#include "core/flood_limit.h"
#include "io/io.h"
#include "plane/demux.h"
#include "plane/held_frames.h"
#include "plane/host_state.h"
#include "plane/flow_list.h"
#include "plane/link_state.h"
#include "plane/messages.h"
#include "proto/splice.h"

#define PUNT_MAX_BYTES 2048 /* no slow-path protocol needs larger frames */

/* The one frame that waits for Python. */
struct slow_path {
	struct flood_limit rate;
	uint32_t len;    /* 0: no frame waits */
	uint32_t udp_at; /* of a DNS query; 0: the frame is none */
	uint8_t frame[PUNT_MAX_BYTES];
};

struct shard {
	uint32_t index; /* 0: the shard that Python runs */
	struct loop loop;
	struct link link;
	struct io io;
	struct log log;
	struct counters counters;
	struct address_mapping mapping;
	struct tcp tcp;
	struct udp udp;
	struct icmp icmp;
	struct splice splice;
	struct demux demux;
	struct messages messages;
	struct link_state *link_state; /* one for all shards */
	uint32_t link_known;           /* link_state->changes at the last refresh */
	struct host_state *host_state; /* one for all shards */
	uint32_t host_known;           /* host_state->changes when they were last taken */
	struct held_frames held;       /* of the guest */
	uint32_t answers_known;        /* egress_answers() when they were last looked at */
	uint32_t rules_known;          /* egress_changes() when the flows were last judged */
	struct slow_path slow;         /* used by shard 0 only */
	struct event_ring events;
	bool events_told;      /* shard 0 knows that there are some */
	struct flow_list list; /* the piece that was asked for last */
	_Atomic bool listed;   /* it is made, and Python has not taken it yet */
	bool out_wanted;       /* the loop reports when the link takes frames again */
	bool more;             /* the last turn left work: do not sleep */
	int end;               /* errno that ended the tap, or 0 */
	bool end_sent;         /* shard 0 knows of it */
	uint8_t scratch[SCRATCH_BYTES];
};

enum shard_step {
	SHARD_BUSY,     /* an event was handled; call shard_turn() again */
	SHARD_EVENT,    /* *event is for Python */
	SHARD_LISTENER, /* a listening socket is ready: event->id its listener, ->len its index there, ->kind epoll's events */
	SHARD_IDLE,     /* no event is left: call shard_wait() */
};

/* 0 or -errno. The caller calls shard_free() in both cases. */
int shard_init(struct shard *s, const struct plane_config *config, int tap_fd, uint32_t index);
void shard_free(struct shard *s);
/* Makes the shard one of several that share the flows. Only before its first flow. 0 or -errno. */
int shard_join(struct shard *s, const struct flow_steering *steering);
/* Gives the shard a queue of its own of the first shard's peer, where that has several. 0 or -errno. */
int shard_join_link(struct shard *s, struct shard *first);

/* Handles the next event. If none is left: messages, service, timers. */
enum shard_step shard_turn(struct shard *s, struct plane_event *event);
/* Waits for events, until_ms at most. 0 or -errno. */
int shard_wait(struct shard *s, int64_t until_ms);
/* The link's peer comes (link_attach()) and goes. */
int shard_attach(struct shard *s, int fd);
void shard_detach(struct shard *s);
/* When the next timer of the shard is due. */
int64_t shard_next_ms(const struct shard *s);
/* Makes the piece of the list of flows that begins at `from`. */
void shard_list(struct shard *s, uint32_t from);
/* Sends log lines and the end of the tap to shard 0. */
void shard_report(struct shard *s);
/* At the end: passes on a batch of what the guest has sent. False: there was nothing. */
bool shard_drain(struct shard *s);

#endif
