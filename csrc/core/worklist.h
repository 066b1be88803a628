/* Whose turn it is: flows that have something to do, and among them those that have more than one turn's share.
 *
 * A worklist is a queue of flows, each in it at most once. A line is a queue whose head has some steps each turn, until it has
 * had its quantum: then it goes to the end. A flow is served for some time before the next one, because the guest's program
 * that reads it is then awake; but after each turn the loop looks for other work, so nobody waits longer than one turn for a
 * flow that always has more; where somebody is known to come back soon, turns are shorter. The quantum shrinks as the line
 * grows, so that going round it takes no longer.
 */
#ifndef PASTA_CORE_WORKLIST_H
#define PASTA_CORE_WORKLIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in a flow. All zero is in no list. */
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

#define RUN_QUEUE_STEPS_PER_TURN 8
#define RUN_QUEUE_STEPS_LATENCY_MODE 1 /* while others have short messages */
#define RUN_QUEUE_QUANTUM_MAX 32
#define RUN_QUEUE_QUANTUM_MIN 4
#define RUN_QUEUE_ROUND 2048 /* steps for going round, as long as quantums are not at their least */

struct run_queue {
	struct worklist list;
	struct work *served; /* who has had `used` steps of its quantum; only compared */
	uint32_t used;
};

static inline uint32_t run_queue_quantum(const struct run_queue *l)
{
	uint32_t share = l->list.count ? RUN_QUEUE_ROUND / l->list.count : RUN_QUEUE_QUANTUM_MAX;

	return share > RUN_QUEUE_QUANTUM_MAX ? RUN_QUEUE_QUANTUM_MAX : share < RUN_QUEUE_QUANTUM_MIN ? RUN_QUEUE_QUANTUM_MIN : share;
}

/* Who is next, and how many steps it has, per_turn at most, which count as used; NULL: nobody. It stays in the line. */
static inline struct work *run_queue_next(struct run_queue *l, uint32_t per_turn, uint32_t *steps)
{
	uint32_t quantum = run_queue_quantum(l), left;
	struct work *w = l->list.head;

	if (w && w == l->served && l->used >= quantum) {
		worklist_remove(&l->list, w);
		worklist_add(&l->list, w);
		w = l->list.head;
		l->used = 0;
	}
	if (w != l->served)
		l->used = 0;
	l->served = w;
	left = quantum - l->used;
	*steps = left < per_turn ? left : per_turn;
	l->used += *steps;
	return w;
}

static inline void run_queue_add(struct run_queue *l, struct work *w)
{
	worklist_add(&l->list, w);
}

static inline void run_queue_remove(struct run_queue *l, struct work *w)
{
	worklist_remove(&l->list, w);
	if (l->served == w)
		l->served = NULL;
}

#endif
