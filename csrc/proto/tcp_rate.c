/* Purpose: the bytes of the guest's streams that wait for --rate-out.
 *
 * How: what the rate does not let through goes to the flow's send backlog, and the window promises no more than that has room for. So
 * the guest's own TCP sends at the rate, and nothing is dropped. Flows with a backlog stand in one list. Each sends its share and goes
 * to the end, so they get equal parts of the rate. A flow whose socket is full leaves the list until the socket takes more.
 *
 * The entries of the list are not in the flows: without a rate they would only cost memory.
 *
 * Rejected: shaping by the window alone. Then the rate is spent when a window opens, and a guest that does not send takes it from
 * those that would.
 */
#include <errno.h>
#include <stdlib.h>

#include "proto/tcp_private.h"

#define WINDOWS_PER_S 8 /* a window is what passes in 125 ms, within these: */
#define WINDOW_MIN_BYTES (32u << 10)
#define WINDOW_MAX_BYTES (1u << 20)

int tcp_keep_rate(struct tcp *t)
{
	t->held_entries = calloc(t->flows.limit, sizeof(*t->held_entries)); /* the kernel gives memory where it is used */
	return t->held_entries ? 0 : -ENOMEM;
}

uint32_t tcp_rate_room(struct tcp *t, struct io *io, uint32_t len)
{
	if (t->held.count || !rate_passes(io->rate_out, io->loop->now_us))
		return 0;
	return u32_min(len, rate_share_bytes(io->rate_out));
}

uint32_t tcp_rate_window(const struct io *io)
{
	uint64_t bytes = io->rate_out->bytes_per_s / WINDOWS_PER_S;

	return bytes < WINDOW_MIN_BYTES ? WINDOW_MIN_BYTES : bytes > WINDOW_MAX_BYTES ? WINDOW_MAX_BYTES : (uint32_t)bytes;
}

void tcp_wait_for_rate(struct tcp *t, struct tcp_flow *f)
{
	worklist_add(&t->held, &t->held_entries[f->flow.index]);
}

void tcp_release(struct tcp *t, struct tcp_flow *f)
{
	if (t->held_entries)
		worklist_remove(&t->held, &t->held_entries[f->flow.index]);
}

void tcp_serve_held(struct tcp *t, struct io *io)
{
	while (t->held.head && (!io->rate_out || rate_passes(io->rate_out, io->loop->now_us))) {
		struct tcp_flow *f = (struct tcp_flow *)flow_at(&t->flows, (uint32_t)(t->held.head - t->held_entries));
		uint32_t share = io->rate_out ? u32_min(rate_share_bytes(io->rate_out), f->backlog.len) : f->backlog.len, sent;

		tcp_release(t, f);
		sent = tcp_drain_backlog(t, f, share);
		if (io->rate_out)
			rate_took(io->rate_out, io->loop->now_us, sent);
		if (sent == share && f->backlog.len)
			tcp_wait_for_rate(t, f);
		tcp_add_work(t, f);
	}
}

void tcp_note_rate(struct tcp *t, const struct io *io, bool queue_held)
{
	int64_t out_ms = t->held.count ? rate_next_ms(io->rate_out) : TIMER_NEVER;
	int64_t in_ms = queue_held ? rate_next_ms(io->rate_in) : TIMER_NEVER;

	t->rate_ms = in_ms < out_ms ? in_ms : out_ms;
}
