/* How: the list is made piece by piece. A position in it is a protocol's table and an index in that table. A flow keeps its index, so
 * a flow that stays open until the list is complete is in exactly one piece, while others open and close. A piece ends at a number of
 * flows, because each costs two system calls, or at a number of places that were looked at, because most of a table may be empty. */
#include "plane/flow_list.h"

#include <stdlib.h>

#define PIECE_FLOWS 256 /* about a millisecond, with their JSON */
#define PIECE_PLACES 8192
#define TABLE_SHIFT 24 /* no table has more than 2^24 places */

void flow_list_fill(struct flow_list *l, const struct flow_tables *t, int64_t now_ms, uint32_t from)
{
	uint32_t table = from >> TABLE_SHIFT, index = from & ((1u << TABLE_SHIFT) - 1);

	l->count = l->next = 0;
	if (!l->at)
		l->at = malloc(PIECE_FLOWS * sizeof(*l->at));
	if (!l->at)
		return;
	for (uint32_t looked = 0; table < ARRAY_LEN(t->of); table++, index = 0)
		for (uint32_t end = t->of[table].flows->made; index < end; index++) {
			const struct flow *f;

			if (l->count == PIECE_FLOWS || looked++ == PIECE_PLACES) {
				l->next = table << TABLE_SHIFT | index;
				return;
			}
			f = flow_at(t->of[table].flows, index);
			if (!f)
				continue;
			t->of[table].describe(f, &l->at[l->count]);
			l->at[l->count].at_ms = now_ms;
			l->at[l->count++].shard = t->shard;
		}
}

void flow_list_free(struct flow_list *l)
{
	free(l->at);
	l->at = NULL;
}
