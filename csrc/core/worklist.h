/* Purpose: a queue of flows that have something to do. A flow is in it at most once. */
#ifndef PASTA_CORE_WORKLIST_H
#define PASTA_CORE_WORKLIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in a flow. All zero: in no list. */
struct work {
	struct work *prev, *next;
	bool queued;
};

struct worklist {
	struct work *head, *tail;
	uint32_t count;
};

static inline void worklist_add(struct worklist *l, struct work *w)
{
	if (w->queued)
		return;
	*w = (struct work){.prev = l->tail, .queued = true};
	*(l->tail ? &l->tail->next : &l->head) = w;
	l->tail = w;
	l->count++;
}

static inline void worklist_remove(struct worklist *l, struct work *w)
{
	if (!w->queued)
		return;
	*(w->prev ? &w->prev->next : &l->head) = w->next;
	*(w->next ? &w->next->prev : &l->tail) = w->prev;
	*w = (struct work){0};
	l->count--;
}

#endif
