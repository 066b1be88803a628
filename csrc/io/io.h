/* What a protocol needs from the outside: narrow, and the same for all of them. */
#ifndef PASTA_IO_IO_H
#define PASTA_IO_IO_H

#include "base/log.h"
#include "core/counters.h"
#include "core/policy.h"
#include "io/descriptors.h"
#include "io/loop.h"
#include "io/tap.h"

struct io {
	struct tap *tap;
	struct loop *loop;
	struct log *log;
	struct counters *counters;
	const struct policy *policy;
	struct descriptors descriptors;
	uint32_t mtu;	   /* of the guest's interface */
	uint32_t link_mtu; /* of the host's outbound interface */
	uint32_t fragment_id;
	uint8_t *scratch;  /* SCRATCH_BYTES, for the duration of one call */
	int64_t short_message_ms;  /* when somebody last had a short message, see io_enter_latency_mode() */
	bool wakeup_pending;	   /* and nobody has made way for its reader since */
};

#define SCRATCH_BYTES 524288 /* eight frames */
#define IO_LATENCY_MODE_MS 20 /* that long after a short message the next one is expected */

/* A short message has passed, of somebody who may be waiting for its answer: those who move much do it in small turns. */
static inline void io_enter_latency_mode(struct io *io)
{
	io->short_message_ms = io->loop->now_ms;
	io->wakeup_pending = true;
}

static inline bool io_in_latency_mode(const struct io *io)
{
	return io->loop->now_ms - io->short_message_ms < IO_LATENCY_MODE_MS;
}

#endif
