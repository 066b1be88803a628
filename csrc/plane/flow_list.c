/* How: a place in the list is the protocol's table and an index in it. A flow keeps its index, so each flow that is open all the
 * while is in exactly one piece, whatever opens and closes meanwhile. A piece is bounded by the flows in it, each of which costs two
 * system calls, and by the places it looks at. */
#include "plane/flow_list.h"

#include <stdlib.h>

#define PIECE_FLOWS 128
#define PIECE_PLACES 8192
#define TABLE_SHIFT 24 /* no table has more than 2^24 places */

static uint32_t places(const struct flow_tables *t, uint32_t table)
{
	switch (table) {
	case FLOW_TCP:
		return t->tcp->flows.made;
	case FLOW_UDP:
		return t->udp->flows.made;
	case FLOW_PING:
		return t->icmp->flows.made;
	case FLOW_SPLICE_TCP:
		return t->splice->flows.made;
	default:
		return t->udp->splices.made;
	}
}

static bool describe(const struct flow_tables *t, uint32_t table, uint32_t index, struct flow_event *e)
{
	switch (table) {
	case FLOW_TCP:
		return tcp_describe(t->tcp, t->io, index, e);
	case FLOW_UDP:
		return udp_describe(t->udp, t->io, index, e);
	case FLOW_PING:
		return icmp_describe(t->icmp, t->io, index, e);
	case FLOW_SPLICE_TCP:
		return splice_describe(t->splice, t->io, index, e);
	default:
		return udp_splice_describe(t->udp, t->io, index, e);
	}
}

void flow_list_fill(struct flow_list *l, const struct flow_tables *t, uint32_t from)
{
	uint32_t table = from >> TABLE_SHIFT, index = from & ((1u << TABLE_SHIFT) - 1);

	l->count = l->next = 0;
	if (!l->at)
		l->at = malloc(PIECE_FLOWS * sizeof(*l->at));
	if (!l->at)
		return;
	for (uint32_t looked = 0; table <= FLOW_SPLICE_UDP; table++, index = 0)
		for (uint32_t end = places(t, table); index < end; index++) {
			if (l->count == PIECE_FLOWS || looked++ == PIECE_PLACES) {
				l->next = table << TABLE_SHIFT | index;
				return;
			}
			if (describe(t, table, index, &l->at[l->count]))
				l->at[l->count++].shard = t->shard;
		}
}

void flow_list_free(struct flow_list *l)
{
	free(l->at);
	l->at = NULL;
}
