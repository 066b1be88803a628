/* Owns what the guest has sent behind a hole: bytes that are inside the window, kept until the guest repeats what was lost.
 *
 * The tap neither loses nor reorders unless its queue overflows, or the frames came another way (--fd). Then a loss costs one
 * segment and one round trip; without this it would cost all that was in flight behind it. There is one ring for each flow
 * that has a hole, where a byte's place is its sequence number; it goes with the last hole. An end (FIN) is not kept.
 *
 * The guest is told what is kept (SACK, RFC 2018) where frames may well be lost: where they come another way than from a tap of
 * ours. Elsewhere it is not, since with SACK Linux also probes for lost tails (RFC 8985, 7), milliseconds after a pause of ours:
 * on a busy machine every upload repeated segments that had not been lost.
 *
 * Invariants: ranges are in order, do not touch, and lie within HELD_BYTES from rcv_nxt on. Limits: bytes and ranges of a flow,
 * and rings (TCP_HELD_RINGS): what exceeds them is lost as before, and counted.
 */
#include <stdlib.h>

#include "proto/tcp_private.h"

#define HELD_BYTES (256u << 10) /* a power of two */
#define HELD_RANGES 32

struct held {
	uint32_t count;
	seq_t newest; /* in the range that the last segment went to */
	struct tcp_range range[HELD_RANGES];
	uint8_t bytes[HELD_BYTES];
};

static void copy_in(struct held *h, seq_t at, const uint8_t *bytes, uint32_t len)
{
	uint32_t place = at.v % HELD_BYTES, first = u32_min(len, HELD_BYTES - place);

	memcpy(h->bytes + place, bytes, first);
	memcpy(h->bytes, bytes + first, len - first);
}

/* Takes range i out of the list. */
static void remove_range(struct held *h, uint32_t i)
{
	h->count--;
	memmove(&h->range[i], &h->range[i + 1], (h->count - i) * sizeof(h->range[0]));
}

/* False: there are too many holes. */
static bool add_range(struct held *h, struct tcp_range new)
{
	uint32_t i = 0;

	while (i < h->count && seq_lt(h->range[i].to, new.from))
		i++;
	while (i < h->count && seq_le(h->range[i].from, new.to)) {
		if (seq_lt(h->range[i].from, new.from))
			new.from = h->range[i].from;
		new.to = seq_max(h->range[i].to, new.to);
		remove_range(h, i);
	}
	if (h->count == HELD_RANGES)
		return false;
	memmove(&h->range[i + 1], &h->range[i], (h->count - i) * sizeof(h->range[0]));
	h->range[i] = new;
	h->count++;
	return true;
}

void tcp_hold(struct tcp *t, struct io *io, struct tcp_flow *f, seq_t at, const uint8_t *bytes, uint32_t len)
{
	uint32_t offset = seq_diff(at, f->rcv_nxt), window = u32_min(seq_diff(f->rcv_adv, f->rcv_nxt), HELD_BYTES);

	len = offset < window ? u32_min(len, window - offset) : 0;
	if (len && !f->held && t->held_rings < t->held_max) {
		f->held = malloc(sizeof(*f->held));
		if (f->held) {
			f->held->count = 0;
			t->held_rings++;
		}
	}
	if (len && f->held && add_range(f->held, (struct tcp_range){at, seq_add(at, len)}))
		copy_in(f->held, f->held->newest = at, bytes, len);
	else
		COUNT(io->counters, tcp_held_limit);
}

void tcp_deliver_held(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	struct held *h = f->held;

	while (h->count && seq_le(h->range[0].from, f->rcv_nxt)) {
		uint32_t place = f->rcv_nxt.v % HELD_BYTES, len, kept;

		if (seq_le(h->range[0].to, f->rcv_nxt)) {
			remove_range(h, 0);
			continue;
		}
		len = u32_min(seq_diff(h->range[0].to, f->rcv_nxt), HELD_BYTES - place);
		kept = tcp_deliver(t, io, f, h->bytes + place, len);
		f->rcv_nxt = seq_add(f->rcv_nxt, kept);
		f->flags |= TCPF_WINDOW_OLD;
		if (kept < len)
			return;
	}
	if (!h->count)
		tcp_free_held(t, f);
}

uint32_t tcp_held_ranges(const struct tcp_flow *f, struct tcp_range out[TCP_SACK_RANGES_MAX])
{
	const struct held *h = f->held;
	uint32_t count = 0;

	/* The one with the newest bytes first (RFC 2018, 4). */
	for (uint32_t i = 0; i < h->count; i++)
		if (seq_le(h->range[i].from, h->newest) && seq_lt(h->newest, h->range[i].to))
			out[count++] = h->range[i];
	for (uint32_t i = h->count; i-- && count < TCP_SACK_RANGES_MAX;)
		if (!count || !seq_eq(h->range[i].from, out[0].from))
			out[count++] = h->range[i];
	return count;
}

void tcp_free_held(struct tcp *t, struct tcp_flow *f)
{
	t->held_rings -= f->held != NULL;
	free(f->held);
	f->held = NULL;
}
