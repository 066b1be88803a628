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
 * Invariants: ranges are in order, do not touch, and lie within OOO_BYTES from rcv_nxt on. Limits: bytes and ranges of a flow,
 * and rings (TCP_OOO_QUEUES): what exceeds them is lost as before, and counted.
 */
#include <stdlib.h>

#include "proto/tcp_private.h"

#define OOO_BYTES (256u << 10) /* a power of two */
#define OOO_RANGES 32

struct ooo_queue {
	uint32_t count;
	seq_t newest; /* in the range that the last segment went to */
	struct tcp_range range[OOO_RANGES];
	uint8_t bytes[OOO_BYTES];
};

static void copy_in(struct ooo_queue *h, seq_t at, const uint8_t *bytes, uint32_t len)
{
	uint32_t place = at.v % OOO_BYTES, first = u32_min(len, OOO_BYTES - place);

	memcpy(h->bytes + place, bytes, first);
	memcpy(h->bytes, bytes + first, len - first);
}

/* Takes range i out of the list. */
static void remove_range(struct ooo_queue *h, uint32_t i)
{
	h->count--;
	memmove(&h->range[i], &h->range[i + 1], (h->count - i) * sizeof(h->range[0]));
}

/* False: there are too many holes. */
static bool add_range(struct ooo_queue *h, struct tcp_range new)
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
	if (h->count == OOO_RANGES)
		return false;
	memmove(&h->range[i + 1], &h->range[i], (h->count - i) * sizeof(h->range[0]));
	h->range[i] = new;
	h->count++;
	return true;
}

void tcp_ooo_add(struct tcp *t, struct io *io, struct tcp_flow *f, seq_t at, const uint8_t *bytes, uint32_t len)
{
	uint32_t offset = seq_diff(at, f->rcv_nxt), window = u32_min(seq_diff(f->rcv_edge, f->rcv_nxt), OOO_BYTES);

	len = offset < window ? u32_min(len, window - offset) : 0;
	if (len && !f->ooo && t->ooo_queues < t->ooo_queues_max) {
		f->ooo = malloc(sizeof(*f->ooo));
		if (f->ooo) {
			f->ooo->count = 0;
			t->ooo_queues++;
		}
	}
	if (len && f->ooo && add_range(f->ooo, (struct tcp_range){at, seq_add(at, len)}))
		copy_in(f->ooo, f->ooo->newest = at, bytes, len);
	else
		COUNT(io->counters, tcp_ooo_limit);
}

void tcp_ooo_deliver(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	struct ooo_queue *h = f->ooo;

	while (h->count && seq_le(h->range[0].from, f->rcv_nxt)) {
		uint32_t place = f->rcv_nxt.v % OOO_BYTES, len, kept;

		if (seq_le(h->range[0].to, f->rcv_nxt)) {
			remove_range(h, 0);
			continue;
		}
		len = u32_min(seq_diff(h->range[0].to, f->rcv_nxt), OOO_BYTES - place);
		kept = tcp_deliver(t, io, f, h->bytes + place, len);
		f->rcv_nxt = seq_add(f->rcv_nxt, kept);
		f->flags |= TCPF_WINDOW_STALE;
		if (kept < len)
			return;
	}
	if (!h->count)
		tcp_ooo_free(t, f);
}

uint32_t tcp_ooo_ranges(const struct tcp_flow *f, struct tcp_range out[TCP_SACK_RANGES_MAX])
{
	const struct ooo_queue *h = f->ooo;
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

void tcp_ooo_free(struct tcp *t, struct tcp_flow *f)
{
	t->ooo_queues -= f->ooo != NULL;
	free(f->ooo);
	f->ooo = NULL;
}
