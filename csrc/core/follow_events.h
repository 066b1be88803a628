/* Purpose: which of rtnetlink's events can matter to the process that follows the host. */
#ifndef PASTA_CORE_FOLLOW_EVENTS_H
#define PASTA_CORE_FOLLOW_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/siphash.h"

#define FOLLOW_SEEN_MAX 512

/* Hashes of events, without what differs each time. `overrun`: there were more. */
struct follow_seen {
	uint64_t hashes[FOLLOW_SEEN_MAX];
	uint32_t count;
	bool overrun;
};

struct follow_events {
	struct siphash_key key;
	struct follow_seen seen;     /* since the last plan */
	struct follow_seen harmless; /* before the last plan, if that found nothing different */
};

/* Notes an event: one message of rtnetlink in `data`, which this changes, or if len is 0 one that was lost. Whether it may matter. */
bool follow_events_note(struct follow_events *e, uint8_t *data, size_t len);
/* The plan has been made again, after the events so far; whether it found something different. */
void follow_events_planned(struct follow_events *e, bool changed);

#endif
