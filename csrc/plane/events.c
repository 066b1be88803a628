/* Purpose: events of flows, and lists of them, from all shards to Python.
 *
 * How: Python takes events EVENT_DELAY_MS after the first of them, or sooner when there are many. So a busy guest costs a few calls
 * a second, and an idle one none. A shard makes its list itself: no lock, and no wait here. Between two pieces of a list a shard has a
 * whole turn, so traffic waits for one piece at most.
 */
#include <errno.h>
#include <stdatomic.h>

#include "plane/plane.h"

#define EVENT_DELAY_MS 50
#define EVENT_MANY 256 /* which take Python less than a quarter of a millisecond, and stay in the processor's cache until then */
#define LIST_TURNS 2   /* what was there before Python asked is collected in the first and handled in the second */

int plane_want_events(struct plane *p, int wanted)
{
	struct flow_event e;

	for (uint32_t i = 0; i < p->shard_count; i++) {
		struct event_ring *r = &p->shard[i]->events;
		int rc = event_want(r, wanted);

		if (rc < 0)
			return rc;
		while (!wanted && event_take(r, &e))
			;
	}
	p->events_wanted = wanted;
	p->events_due_ms = 0;
	return 0;
}

void events_note(struct plane *p)
{
	int64_t now_ms = p->shard[0]->loop.now_ms;

	if (UNLIKELY(dns_copies_full(&p->shard[0]->udp.answers)))
		p->events_due_ms = now_ms;
	if (p->list_turns && !--p->list_turns)
		shard_list(p->shard[0], p->list_from);
	if (!p->events_wanted)
		return;
	for (uint32_t i = 0; i < p->shard_count; i++) {
		uint32_t waiting = event_waiting(&p->shard[i]->events);

		if (waiting && !p->events_due_ms)
			p->events_due_ms = now_ms + EVENT_DELAY_MS;
		if (waiting >= EVENT_MANY)
			p->events_due_ms = now_ms;
	}
}

static bool is_listed(const struct plane *p)
{
	return p->listing && atomic_load(&p->shard[p->listing - 1]->listed);
}

bool events_listing(const struct plane *p)
{
	return p->list_turns || is_listed(p);
}

bool events_pending(struct plane *p, struct plane_event *event)
{
	if (is_listed(p)) {
		struct shard *s = p->shard[p->listing - 1];

		*event = (struct plane_event){PLANE_LIST, s->list.next, (uint32_t)(s->list.count * sizeof(*s->list.at)),
					      (const uint8_t *)s->list.at};
		atomic_store(&s->listed, false);
		p->listing = 0;
		return true;
	}
	if (UNLIKELY(p->captures.naming) && p->shard[0]->udp.answers.used)
		p->events_due_ms = p->shard[0]->loop.now_ms; /* the next frame may open a flow to the name */
	if (!p->events_due_ms || p->events_due_ms > p->shard[0]->loop.now_ms)
		return false;
	p->events_due_ms = 0;
	*event = (struct plane_event){.kind = PLANE_EVENTS};
	return true;
}

uint32_t plane_take_events(struct plane *p, struct flow_event *out, uint32_t room)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < p->shard_count; i++)
		while (count < room && event_take(&p->shard[i]->events, &out[count]))
			count++;
	return count;
}

int plane_want_names(struct plane *p, int wanted)
{
	return dns_copies_want(&p->shard[0]->udp.answers, wanted);
}

uint32_t plane_take_answers(struct plane *p, uint8_t *out)
{
	_Static_assert(PLANE_ANSWERS_BYTES == DNS_COPIES_BYTES, "what Python knows");
	return dns_copies_take(&p->shard[0]->udp.answers, out);
}

uint64_t plane_lost_events(struct plane *p)
{
	uint64_t lost = 0;

	for (uint32_t i = 0; i < p->shard_count; i++)
		lost += atomic_load_explicit(&p->shard[i]->events.lost, memory_order_relaxed);
	return lost;
}

int plane_list_flows(struct plane *p, uint32_t shard, uint32_t from)
{
	if (shard >= p->shard_count)
		return -ENOENT;
	if (p->listing)
		return -EBUSY;
	if (p->finished) {
		shard_list(p->shard[shard], from); /* there are no turns any more */
	} else if (!shard) {
		p->list_from = from;
		p->list_turns = LIST_TURNS;
	} else if (!messages_ask_list(&p->shard[0]->messages, shard, from)) {
		return -ENOMEM;
	}
	p->listing = shard + 1;
	return 0;
}
