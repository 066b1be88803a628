/* Purpose: a connection that has to name a server which the egress policy allows, in TLS or HTTP, before anything passes.
 *
 * How: connect() has succeeded and the guest is connected, so it speaks first. What it sends waits in the send backlog, and is looked at
 * when more of it has come. Then the backlog leaves, or the guest gets a reset. What the host peer sends stays in the socket. A flow
 * that needs no name, or has given it, costs one test when it is served. The name is kept, because other rules may not allow it.
 *
 * Invariant: while tcp_flow.verify is not 0 nothing is sent to the socket, and no byte of it to the guest. Its timer is the limit of
 * time, set once: nothing that the guest sends moves it.
 *
 * Rejected: looking at the first segment alone. A ClientHello with a post-quantum key share has two segments, and a guest can make any
 * number of them.
 */
#include <stdlib.h>
#include <string.h>

#include "io/gate.h"
#include "proto/tcp_private.h"

/* The flow needs no name any more and goes on with `flags`. */
static void settle(struct tcp *t, struct io *io, struct tcp_flow *f, uint16_t flags)
{
	f->verify = 0;
	f->flags |= flags | TCPF_PROGRESS;
	timer_stop(&t->timers, &f->timer);
	event_report(io->events, io->loop->now_ms, tcp_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
}

static void deny(struct tcp *t, struct io *io, struct tcp_flow *f, enum flow_reason reason)
{
	COUNT(io->counters, drop_egress);
	tcp_reset(t, io, f, reason, 0);
}

struct tcp_proof {
	uint8_t verify, len;
	char name[];
};

/* Without memory the flow passes, and ends when rules change that want a name. */
static void keep_proof(struct tcp *t, const struct tcp_flow *f, const struct server_name *name)
{
	struct tcp_proof *proof;

	if (!t->proofs)
		t->proofs = calloc(t->flows.limit, sizeof(struct tcp_proof *)); /* the kernel gives memory where it is used */
	proof = t->proofs ? malloc(sizeof(*proof) + name->len) : NULL;
	if (!proof)
		return;
	proof->verify = f->verify & (uint8_t)~TCP_VERIFY_TIMED;
	proof->len = name->len;
	memcpy(proof->name, name->text, name->len);
	t->proofs[f->flow.index] = proof;
}

void tcp_forget_proof(struct tcp *t, const struct tcp_flow *f)
{
	if (LIKELY(!t->proofs))
		return;
	free(t->proofs[f->flow.index]);
	t->proofs[f->flow.index] = NULL;
}

bool tcp_verify_keeps(struct tcp *t, struct io *io, struct tcp_flow *f, struct gate_again *counts)
{
	const struct tcp_proof *named = t->proofs ? t->proofs[f->flow.index] : NULL;
	struct gate_proof proof = {.verify = f->verify};

	if (named)
		proof = (struct gate_proof){named->name, named->len, named->verify};
	return gate_keeps(io, tcp_describe_to_gate, &f->flow, named || f->verify ? &proof : NULL, &f->rule, counts);
}

/* Whether it is decided: *reason is why it may not go on, or REASON_none. */
static bool look(struct io *io, const struct tcp_flow *f, struct server_name *name, enum flow_reason *reason)
{
	const struct send_backlog *b = &f->backlog;
	uint8_t verify = f->verify & (uint8_t)~TCP_VERIFY_TIMED;

	if (!b->len)
		return false;
	if (gate_verify(io, verify, tcp_describe_to_gate, &f->flow, b->bytes + b->from, u32_min(b->len, TCP_VERIFY_BYTES), name,
			reason))
		return true;
	*reason = f->flags & TCPF_GUEST_FIN ? REASON_not_verified : REASON_name_late;
	return f->flags & TCPF_GUEST_FIN || b->len >= TCP_VERIFY_BYTES;
}

bool tcp_verify(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	const struct send_backlog *b = &f->backlog;
	struct server_name name;
	enum flow_reason reason;

	if (f->error) {
		tcp_reset(t, io, f, event_reason_of(f->error), f->error);
		return false;
	}
	if (f->flags & TCPF_GUEST_FIN && !b->len) {
		/* The guest leaves without a byte, as a port scan does: that tells the host peer nothing, and the guest gets nothing. */
		settle(t, io, f, TCPF_SOCK_EOF);
		return true;
	}
	if (look(io, f, &name, &reason)) {
		if (reason != REASON_none) {
			deny(t, io, f, reason);
			return false;
		}
		keep_proof(t, f, &name);
		if (tcp_is_held(io, f))
			tcp_wait_for_rate(t, f);
		settle(t, io, f, TCPF_WINDOW_STALE | TCPF_READABLE);
		return true;
	}
	if (f->flags & TCPF_WINDOW_STALE && tcp_update_window(t, io, f))
		f->flags |= TCPF_ACK_NOW;
	if (f->flags & TCPF_ACK_NOW)
		tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
	tcp_arm_timer(t, io, f);
	return false;
}

void tcp_verify_late(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	deny(t, io, f, REASON_name_late);
}
