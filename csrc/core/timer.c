/* Invariants: slots[i].at_ms <= its children's; slots[i].timer->slot == i + 1; at_ms <= deadline_ms. */
#include "core/timer.h"

#include <errno.h>
#include <stdlib.h>

void timer_heap_free(struct timer_heap *h)
{
	free(h->slots);
	*h = (struct timer_heap){0};
}

int timer_heap_reserve(struct timer_heap *h, uint32_t count)
{
	struct timer_slot *slots;
	uint32_t space = h->space ? h->space : 64;

	if (count <= h->space)
		return 0;
	while (space < count)
		space *= 2;
	slots = realloc(h->slots, space * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	h->slots = slots;
	h->space = space;
	return 0;
}

static void put(struct timer_heap *h, uint32_t i, struct timer_slot slot)
{
	h->slots[i] = slot;
	slot.timer->slot = i + 1;
}

static void sift_up(struct timer_heap *h, uint32_t i, struct timer_slot slot)
{
	while (i && h->slots[(i - 1) / 2].at_ms > slot.at_ms) {
		put(h, i, h->slots[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	put(h, i, slot);
}

static void sift_down(struct timer_heap *h, uint32_t i, struct timer_slot slot)
{
	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child >= h->count)
			break;
		if (child + 1 < h->count && h->slots[child + 1].at_ms < h->slots[child].at_ms)
			child++;
		if (h->slots[child].at_ms >= slot.at_ms)
			break;
		put(h, i, h->slots[child]);
		i = child;
	}
	put(h, i, slot);
}

void timer_set(struct timer_heap *h, struct timer *t, int64_t deadline_ms)
{
	struct timer_slot slot = {deadline_ms, t};

	t->deadline_ms = deadline_ms;
	if (!t->slot)
		sift_up(h, h->count++, slot);
	else if (deadline_ms < h->slots[t->slot - 1].at_ms)
		sift_up(h, t->slot - 1, slot);
}

void timer_stop(struct timer_heap *h, struct timer *t)
{
	struct timer_slot last;
	uint32_t i;

	if (!t->slot)
		return;
	i = t->slot - 1;
	t->slot = 0;
	last = h->slots[--h->count];
	if (i == h->count)
		return;
	if (i && h->slots[(i - 1) / 2].at_ms > last.at_ms)
		sift_up(h, i, last);
	else
		sift_down(h, i, last);
}

struct timer *timer_due(struct timer_heap *h, int64_t now_ms)
{
	while (h->count && h->slots[0].at_ms <= now_ms) {
		struct timer *t = h->slots[0].timer;

		if (t->deadline_ms <= now_ms) {
			timer_stop(h, t);
			return t;
		}
		sift_down(h, 0, (struct timer_slot){t->deadline_ms, t});
	}
	return NULL;
}
