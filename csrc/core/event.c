/* How: one thread adds to a ring, one takes. Each owns one position and reads the other's, so no lock is needed. */
#include "core/event.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int event_want(struct event_ring *r, bool wanted)
{
	if (wanted && !r->at) {
		r->at = malloc(EVENT_RING * sizeof(*r->at)); /* takes memory as it is used */
		if (!r->at)
			return -ENOMEM;
	}
	atomic_store_explicit(&r->wanted, wanted, memory_order_release);
	return 0;
}

void event_ring_free(struct event_ring *r)
{
	free(r->at);
	r->at = NULL;
}

static struct flow_event *place(struct event_ring *r, uint32_t number)
{
	return &r->at[(number - atomic_load_explicit(&r->base, memory_order_relaxed)) % EVENT_RING];
}

static void add(struct event_ring *r, const struct flow_event *e)
{
	uint32_t added = atomic_load_explicit(&r->added, memory_order_relaxed);
	uint32_t taken = atomic_load_explicit(&r->taken, memory_order_acquire);
	struct flow_event *at;

	if (added - taken == EVENT_RING) {
		atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
		return;
	}
	if (added == taken) /* the other thread reads this only after the next `added` */
		atomic_store_explicit(&r->base, added, memory_order_relaxed);
	at = place(r, added);
	*at = *e;
	at->shard = r->shard;
	atomic_store_explicit(&r->added, added + 1, memory_order_release);
}

bool event_take(struct event_ring *r, struct flow_event *out)
{
	uint32_t taken = atomic_load_explicit(&r->taken, memory_order_relaxed);

	if (atomic_load_explicit(&r->added, memory_order_acquire) == taken)
		return false;
	*out = *place(r, taken);
	atomic_store_explicit(&r->taken, taken + 1, memory_order_release);
	return true;
}

/* Whether the same was told a moment ago. FNV-1a: a guest that makes hashes collide only hides its own refusals.
 * All are looked at: at a place of its own by hash, half of 50 destinations would push each other out. */
static bool is_repeated(struct event_ring *r, const struct flow_event *e)
{
	const uint8_t *parts[] = {e->guest, e->dest, (const uint8_t *)&e->dest_port, &e->protocol, &e->reason};
	const size_t bytes[] = {sizeof(e->guest), sizeof(e->dest), sizeof(e->dest_port), 1, 1};
	uint64_t hash = 0xcbf29ce484222325;
	struct event_recent *oldest = r->recent;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		for (size_t k = 0; k < bytes[i]; k++)
			hash = (hash ^ parts[i][k]) * 0x100000001b3;
	for (uint32_t i = 0; i < EVENT_RECENT; i++) {
		if (r->recent[i].hash == hash && e->at_ms < r->recent[i].until_ms)
			return true;
		if (r->recent[i].until_ms < oldest->until_ms)
			oldest = &r->recent[i];
	}
	*oldest = (struct event_recent){hash, e->at_ms + EVENT_REPEAT_MS};
	return false;
}

static void fill_ends(struct flow_event *e, const struct flow_key *key, const struct endpoint *peer)
{
	memcpy(e->guest, key->guest.b, sizeof(e->guest));
	memcpy(e->dest, key->dest.b, sizeof(e->dest));
	e->guest_port = key->guest_port;
	e->dest_port = key->dest_port;
	if (!peer)
		return;
	memcpy(e->peer, peer->addr.b, sizeof(e->peer));
	e->peer_port = peer->port;
}

void event_refused(struct event_ring *r, int64_t now_ms, uint32_t protocol, const struct flow_key *key, const struct endpoint *peer,
		   enum flow_reason reason, int error, uint16_t rule, bool repeats)
{
	struct flow_event e;

	if (!event_wanted(r))
		return;
	e = (struct flow_event){.at_ms = now_ms,
				.opened_ms = now_ms,
				.kind = FLOW_REFUSED,
				.protocol = (uint8_t)protocol,
				.reason = (uint8_t)reason,
				.error = (uint16_t)error,
				.rule = rule,
				.index = FLOW_NONE};
	fill_ends(&e, key, peer);
	if (!repeats || !is_repeated(r, &e))
		add(r, &e);
}

void event_report(struct event_ring *r, int64_t now_ms, event_describe *describe, const struct flow *f, uint8_t kind,
		  enum flow_reason reason, int error)
{
	struct flow_event e;

	if (!event_wanted(r))
		return;
	describe(f, &e);
	e.at_ms = now_ms;
	e.kind = kind;
	e.reason = (uint8_t)reason;
	e.error = (uint16_t)error;
	add(r, &e);
}

void event_fill(struct flow_event *e, uint32_t protocol, const struct flow *f, const struct flow_account *a,
		const struct endpoint *peer, uint16_t rule)
{
	*e = (struct flow_event){.opened_ms = account_opened_ms(a),
				 .sent_bytes = a->sent_bytes,
				 .received_bytes = a->received_bytes,
				 .sent_packets = a->sent_packets,
				 .received_packets = a->received_packets,
				 .from_host = a->from_host,
				 .protocol = (uint8_t)protocol,
				 .rule = rule,
				 .index = f->index,
				 .generation = f->generation};
	fill_ends(e, &f->key, peer);
}

enum flow_reason event_reason_of(int error)
{
	switch (error) {
	case 0:
		return REASON_none;
	case ECONNREFUSED:
		return REASON_refused;
	case ECONNRESET:
	case EPIPE:
		return REASON_peer_reset;
	case ETIMEDOUT:
		return REASON_timed_out;
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EHOSTDOWN:
	case ENETDOWN:
	case EADDRNOTAVAIL:
		return REASON_unreachable;
	case EACCES:
	case EPERM:
		return REASON_not_permitted;
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOBUFS:
	case EAGAIN:
		return REASON_no_room;
	default:
		return REASON_error;
	}
}

const char *flow_reason_name(uint32_t reason)
{
	static const char *const names[] = {
#define FLOW_REASON_NAME(name) #name,
		FLOW_REASONS(FLOW_REASON_NAME)
#undef FLOW_REASON_NAME
	};

	_Static_assert(REASON_end == FLOW_REASON_END, "what Python knows");
	return reason < ARRAY_LEN(names) ? names[reason] : NULL;
}

const char *flow_state_name(uint32_t state)
{
	static const char *const names[] = {
#define FLOW_STATE_NAME(name) #name,
		FLOW_STATES(FLOW_STATE_NAME)
#undef FLOW_STATE_NAME
	};

	return state < ARRAY_LEN(names) ? names[state] : NULL;
}

const char *flow_protocol_name(uint32_t protocol)
{
	static const char *const names[] = {"tcp", "udp", "ping", "tcp-splice", "udp-splice"};

	return protocol < ARRAY_LEN(names) ? names[protocol] : NULL;
}
