/* The open flows of one shard as records (core/event.h), in pieces: a long list must not delay traffic. */
#ifndef PASTA_PLANE_FLOW_LIST_H
#define PASTA_PLANE_FLOW_LIST_H

#include "core/event.h"

struct flow_list {
	struct flow_event *at; /* NULL before the first piece */
	uint32_t count;
	uint32_t next; /* where the next piece begins; 0: this was the last */
};

struct flow_tables {
	uint32_t shard;
	struct {
		const struct flow_table *flows;
		event_describe *describe;
	} of[FLOW_SPLICE_UDP + 1];
};

/* Makes the piece that begins at `from`; 0: the first. Without memory it is empty and the last. */
void flow_list_fill(struct flow_list *l, const struct flow_tables *t, int64_t now_ms, uint32_t from);
void flow_list_free(struct flow_list *l);

#endif
