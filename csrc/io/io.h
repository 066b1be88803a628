/* Purpose: what protocols need from outside, the same for all. */
#ifndef PASTA_IO_IO_H
#define PASTA_IO_IO_H

#include "base/log.h"
#include "core/flood_limit.h"
#include "core/counters.h"
#include "core/detour.h"
#include "core/dns_copies.h"
#include "core/egress.h"
#include "core/event.h"
#include "core/mapping.h"
#include "core/rate.h"
#include "core/scheduling.h"
#include "io/descriptors.h"
#include "io/loop.h"
#include "io/link.h"

struct io {
	struct link *link;
	struct loop *loop;
	struct log *log;
	struct counters *counters;
	struct event_ring *events;
	struct dns_copies *answers; /* for readers that show names */
	const struct address_mapping *mapping;
	struct egress *egress;   /* one for all shards; NULL: the guest may open any flow that `mapping` translates */
	bool may_wait;           /* a frame that opens a flow may wait until a name is asked again */
	bool frame_waits;        /* the frame that is handled does */
	struct detours *detours; /* one for all shards, only beside `egress`; NULL: every flow goes straight to its destination */
	int64_t detour_logged_ms, names_logged_ms, only_tcp_logged_ms;
	struct flood_limit denials; /* answers to what `egress` denies */
	struct flood_limit queries; /* DNS queries for names that it does not allow */
	struct rate *rate_in;       /* of what goes to the guest; one for all shards; NULL: no limit */
	struct rate *rate_out;      /* of what leaves it */
	struct descriptors descriptors;
	uint32_t mtu;      /* of the guest's interface */
	uint32_t link_mtu; /* of the host's outbound interface */
	uint32_t fragment_id;
	uint8_t *scratch; /* SCRATCH_BYTES, valid during one call */
	struct sched sched;
};

#define SCRATCH_BYTES (512u << 10) /* about eight frames */

#endif
