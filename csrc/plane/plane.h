/* What plane/ shares: everything. Only this folder sees all modules at once. */
#ifndef PASTA_PLANE_PLANE_H
#define PASTA_PLANE_PLANE_H

#include "base/log.h"
#include "core/bucket.h"
#include "core/counters.h"
#include "core/policy.h"
#include "core/reassembly.h"
#include "io/capture.h"
#include "io/io.h"
#include "io/loop.h"
#include "io/helper.h"
#include "io/sink.h"
#include "io/tap.h"
#include "plane_api.h"
#include "plane/shard.h"
#include "plane/listen.h"
#include "proto/icmp.h"
#include "proto/splice.h"
#include "proto/tcp.h"
#include "proto/udp.h"

#define PUNT_MAX_BYTES 2048   /* larger slow-path frames have no use */
#define PUNT_RATE_PER_S 1000  /* a flood of ARP slows down its own ARP only */
#define PUNT_BURST 100
#define FINISH_BATCHES 64

struct plane {
	struct plane_config config;
	struct log log;
	struct counters counters;
	struct policy policy;
	struct reassembly reassembly;
	struct loop loop;
	struct tap tap;
	struct io io;
	struct tcp tcp;
	struct udp udp;
	struct icmp icmp;
	struct splice splice;
	struct capture *capture;
	struct listeners listeners;
	struct helper helper;
	int64_t tick_ms, next_tick_ms;
	bool more; /* the last turn left something that can be done at once */
	struct bucket punts;
	uint8_t tap_single_turns; /* turns in which the guest had one frame: loop_expects_one() */
	uint32_t punt_len; /* 0: no frame waits for Python */
	bool complete;	   /* plane_new() has succeeded */
	struct shard *shard; /* NULL: this is the only one */
	int end;	   /* errno that ended the tap */
	uint8_t punt[PUNT_MAX_BYTES];
	uint8_t scratch[SCRATCH_BYTES];
};

/* demux.c: one frame of the guest to where it belongs. */
void demux_frame(struct plane *p, struct tap_frame *frame);
/* The same for one that another shard has handed over; reassembled_here: it was put together there. */
void demux_handed(struct plane *p, struct tap_frame *frame, bool reassembled_here);

/* plane.c: the next event, or without one all that is left to be done, and a wait. 1: event is Python's; 0; or -errno. */
int plane_turn(struct plane *p, struct plane_event *event);
/* Passes on a batch of what the guest has sent; false if there is nothing. */
bool plane_drain(struct plane *p);

#endif
