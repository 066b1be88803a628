/* Purpose: the out-of-order queue, which keeps bytes behind a hole until the guest repeats what was lost.
 *
 * How: our own tap loses and reorders frames only if its queue overflows. Frames that come by a descriptor that we were given
 * (--fd; tapfd and bess of slirp4netns) may be lost anywhere on their way. With this queue a loss costs one segment and one
 * round trip. Without it, a loss costs all that was in flight behind it. A flow has a ring as long as it has a hole. A byte's
 * place in the ring is its sequence number modulo the size. A FIN is not kept.
 *
 * SACK (RFC 2018) is offered only with such a descriptor, where losses are likely. With SACK, Linux also probes for lost tails
 * (RFC 8985, 7) some milliseconds after we paused: on a busy machine every upload through our tap repeated segments that were
 * not lost.
 *
 * Invariants: ranges are in order, do not touch, and lie within OOO_BYTES from rcv_nxt on.
 *
 * Limits: bytes and ranges of a flow, and the number of queues (TCP_OOO_QUEUES). Bytes that exceed them are dropped and
 * counted.
 */
#include <stdlib.h>

#include "proto/tcp_private.h"

#define OOO_BYTES (256u << 10) /* a power of two */
#define OOO_RANGES 32

struct ooo_queue {
	uint32_t count;
	seq_t newest; /* first byte of the segment that came last */
	struct tcp_range range[OOO_RANGES];
	uint8_t bytes[OOO_BYTES];
};

static void copy_in(struct ooo_queue *q, seq_t at, const uint8_t *bytes, uint32_t len)
{
	uint32_t place = at.v % OOO_BYTES, first = u32_min(len, OOO_BYTES - place);

	memcpy(q->bytes + place, bytes, first);
	memcpy(q->bytes, bytes + first, len - first);
}

static void remove_range(struct ooo_queue *q, uint32_t i)
{
	q->count--;
	memmove(&q->range[i], &q->range[i + 1], (q->count - i) * sizeof(q->range[0]));
}

/* Merges the new range with those that it touches. False: there are too many ranges. */
static bool add_range(struct ooo_queue *q, struct tcp_range new)
{
	uint32_t i = 0;

	while (i < q->count && seq_lt(q->range[i].to, new.from))
		i++;
	while (i < q->count && seq_le(q->range[i].from, new.to)) {
		if (seq_lt(q->range[i].from, new.from))
			new.from = q->range[i].from;
		new.to = seq_max(q->range[i].to, new.to);
		remove_range(q, i);
	}
	if (q->count == OOO_RANGES)
		return false;
	memmove(&q->range[i + 1], &q->range[i], (q->count - i) * sizeof(q->range[0]));
	q->range[i] = new;
	q->count++;
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
	struct ooo_queue *q = f->ooo;

	while (q->count && seq_le(q->range[0].from, f->rcv_nxt)) {
		uint32_t place = f->rcv_nxt.v % OOO_BYTES, len, kept;

		if (seq_le(q->range[0].to, f->rcv_nxt)) {
			remove_range(q, 0);
			continue;
		}
		len = u32_min(seq_diff(q->range[0].to, f->rcv_nxt), OOO_BYTES - place);
		kept = tcp_deliver(t, io, f, q->bytes + place, len);
		f->rcv_nxt = seq_add(f->rcv_nxt, kept);
		account_sent(&f->account, 0, kept);
		f->flags |= TCPF_WINDOW_STALE;
		if (kept < len)
			return;
	}
	if (!q->count)
		tcp_ooo_free(t, f);
}

uint32_t tcp_ooo_ranges(const struct tcp_flow *f, struct tcp_range out[TCP_SACK_RANGES_MAX])
{
	const struct ooo_queue *q = f->ooo;
	uint32_t count = 0;

	/* The range with the newest bytes goes first (RFC 2018, 4). */
	for (uint32_t i = 0; i < q->count; i++)
		if (seq_le(q->range[i].from, q->newest) && seq_lt(q->newest, q->range[i].to))
			out[count++] = q->range[i];
	for (uint32_t i = q->count; i-- && count < TCP_SACK_RANGES_MAX;)
		if (!count || !seq_eq(q->range[i].from, out[0].from))
			out[count++] = q->range[i];
	return count;
}

void tcp_ooo_free(struct tcp *t, struct tcp_flow *f)
{
	t->ooo_queues -= f->ooo != NULL;
	free(f->ooo);
	f->ooo = NULL;
}
