/* Purpose: the timers of one protocol's flows: a heap of deadlines, in milliseconds of the loop's clock.
 *
 * How: each acknowledgement moves a deadline back. That only writes the timer; the heap learns of it when the old deadline is due.
 * So a busy flow costs the heap one step per timeout, not one per segment.
 *
 * Rejected: a timerfd per flow (a descriptor and two system calls each); a timer wheel (it ticks while idle).
 */
#ifndef PASTA_CORE_TIMER_H
#define PASTA_CORE_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#define TIMER_NEVER INT64_MAX

/* Embedded in a flow. All zero: stopped. */
struct timer {
	int64_t deadline_ms; /* when it is due; meaningless while stopped */
	uint32_t slot;       /* 1 + index in the heap; 0: stopped */
};

struct timer_slot {
	int64_t at_ms; /* not later than the timer's own deadline */
	struct timer *timer;
};

struct timer_heap {
	struct timer_slot *slots;
	uint32_t count, space;
};

void timer_heap_free(struct timer_heap *h);
/* Makes room for count timers, so that timer_set() cannot fail. 0 or -ENOMEM. */
int timer_heap_reserve(struct timer_heap *h, uint32_t count);
/* Starts the timer or changes its deadline. There must be room. */
void timer_set(struct timer_heap *h, struct timer *t, int64_t deadline_ms);
void timer_stop(struct timer_heap *h, struct timer *t);
static inline bool timer_running(const struct timer *t)
{
	return t->slot != 0;
}
/* Stops a timer that is due and returns it; NULL: there is none. */
struct timer *timer_due(struct timer_heap *h, int64_t now_ms);
/* Before this moment timer_due() finds none; TIMER_NEVER: there is no timer. */
static inline int64_t timer_next_ms(const struct timer_heap *h)
{
	return h->count ? h->slots[0].at_ms : TIMER_NEVER;
}

#endif
