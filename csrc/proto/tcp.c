/* Purpose: how flows of TCP begin and end, the work list, the timers.
 *
 * How: a packet or an event only changes a flow's state and puts the flow on the work list. tcp_service(), called once per
 * batch, does the rest in one order: it drains the send backlog, drops acknowledged bytes, computes the window, sends what the
 * socket has, passes on ends, acknowledges. So a batch of segments costs one ACK, and a flow moves in one place. A flow whose
 * socket has more for the guest than a turn's share waits in the run queue (core/scheduling.h).
 *
 * What the guest sends behind a hole waits in the out-of-order queue (tcp_out_of_order.c). Towards the guest, losses are
 * repaired by NewReno without SACK (RFC 6582): the tap loses nothing unless the guest's own queues overflow. snd_nxt never goes
 * back. After a timeout, too, each (partial) acknowledgement repairs one frame.
 *
 * Limits: flows (tcp_limit counts refused ones), where a connect() without an answer gives way (tcp_displaced); each flow's
 * window; the memory of all send backlogs (tcp_backlog_limit).
 *
 * Rejected: acting at each segment, which costs an ACK and a getsockopt() each.
 */
#include "proto/tcp.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "proto/tcp_private.h"

#define PORT_TRIES 64

static const char *const state_names[] = {
#define TCP_STATE_NAME(name) [TCPS_##name] = #name,
	TCP_STATES(TCP_STATE_NAME)
#undef TCP_STATE_NAME
};

/* Linux 6.9 has it for IPv4 only. A family that the kernel lacks counts as having it. */
static bool kernel_has_peek_offset(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool has = fd < 0 || !sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, 0);

	if (fd >= 0)
		close(fd);
	return has;
}

int tcp_init(struct tcp *t, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key, bool peek_offset)
{
	int rc;

	*t = (struct tcp){.sock = *sock,
			  .steering.shards = 1,
			  .isn_key = {{key->k[1], key->k[0]}},
			  .backlog_max_bytes = TCP_BACKLOG_TOTAL_BYTES,
			  .rate_ms = TIMER_NEVER,
			  .ooo_queues_max = TCP_OOO_QUEUES};
	t->peek_offset = peek_offset && kernel_has_peek_offset(AF_INET) && kernel_has_peek_offset(AF_INET6);
	rc = flow_table_init(&t->flows, sizeof(struct tcp_flow), limit, key);
	if (!rc && !t->peek_offset) {
		t->discard = malloc(TCP_DISCARD_BYTES);
		rc = t->discard ? 0 : -ENOMEM;
	}
	return rc;
}

void tcp_share(struct tcp *t, const struct flow_steering *steering)
{
	t->steering = *steering;
	t->flows.limit /= steering->shards;
	t->backlog_max_bytes /= steering->shards;
	t->ooo_queues_max /= steering->shards;
}

void tcp_free(struct tcp *t)
{
	struct tcp_flow *f;

	for (uint32_t at = 0; (f = (struct tcp_flow *)flow_next(&t->flows, &at));) {
		sock_close(f->fd, !(f->flags & TCPF_SOCK_SHUT)); /* a stream that ends early must not look complete */
		free(f->backlog.bytes);
		free(f->ooo); /* or the handshake */
		tcp_forget_proof(t, f);
	}
	while (t->served.count)
		close(t->served.at[--t->served.count].fd);
	free(t->discard);
	free(t->held_entries);
	free(t->proofs);
	flow_table_free(&t->flows);
	timer_heap_free(&t->timers);
}

const char *tcp_flow_str(const struct io *io, const struct tcp_flow *f, char out[TCP_FLOW_STR_BYTES])
{
	char guest[ADDR_STR_LEN], dest[ADDR_STR_LEN];

	snprintf(out, TCP_FLOW_STR_BYTES, "%s:%u > %s:%u %s [flow %u.%u.%u.%u]", addr_str(&f->flow.key.guest, guest),
		 f->flow.key.guest_port, addr_str(&f->flow.key.dest, dest), f->flow.key.dest_port, state_names[f->state],
		 io->events->shard, FLOW_TCP, f->flow.index, f->flow.generation / 2);
	return out;
}

/* --- beginning and end --- */

/* RFC 6528, 3: a clock of 4 µs plus a keyed hash of the endpoints. */
static seq_t initial_seq(const struct tcp *t, const struct io *io, const struct flow_key *key)
{
	return seq((uint32_t)(io->loop->now_ms * 250) + (uint32_t)siphash(&t->isn_key, key, sizeof(*key)));
}

void tcp_limit_reached(struct tcp *t, struct io *io, int error)
{
	COUNT(io->counters, tcp_limit);
	log_refused(io->log, &t->limit_logged_ms, io->loop->now_ms,
		    t->steering.shards > 1 ? "TCP connection of one thread" : "TCP connection", t->flows.used,
		    t->flows.used == t->flows.limit ? 0 : error);
}

struct tcp_flow *tcp_new_flow(struct tcp *t, struct io *io, const struct flow_key *key, int fd, enum tcp_state state)
{
	struct tcp_flow *f;

	if (t->flows.used == t->flows.limit)
		tcp_displace(t, io);
	if (timer_heap_reserve(&t->timers, t->flows.used + 1) < 0)
		return NULL;
	f = (struct tcp_flow *)flow_add(&t->flows, key);
	if (!f)
		return NULL;
	f->fd = fd;
	f->state = (uint8_t)state;
	f->peek_offset = TCP_PEEK_OFF;
	f->rule = FLOW_NO_RULE;
	account_open(&f->account, io->loop->now_ms, state == TCPS_SYN_SENT);
	f->sack = t->sack;
	f->snd_una = f->snd_nxt = seq_add(initial_seq(t, io, key), 1);
	if (loop_add(io->loop, fd, TCP_EVENTS, loop_tag(OWNER_TCP, f->flow.index, f->flow.generation)) < 0) {
		flow_remove(&t->flows, &f->flow);
		return NULL;
	}
	sock_set(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* the guest's kernel has applied Nagle's algorithm already */
	sock_set(fd, SOL_SOCKET, SO_OOBINLINE, 1); /* without the urgent byte all offsets would shift (RFC 6093, 4) */
	COUNT(io->counters, tcp_opened);
	COUNT(io->counters, tcp_flows);
	return f;
}

void tcp_refresh_connect(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	uint32_t now_ms = (uint32_t)io->loop->now_ms;
	uint32_t gap_ms = timer_running(&f->timer) ? u32_max(now_ms - f->waiting_ms, TCP_SYN_RTO_MS) : TCP_SYN_RTO_MS;
	int64_t late_ms = io->loop->now_ms + (int64_t)gap_ms * TCP_SYN_LATE_FACTOR + TCP_SYN_LATE_MS;

	f->waiting_ms = now_ms;
	if (!timer_running(&f->timer) || f->timer.deadline_ms < late_ms)
		timer_set(&t->timers, &f->timer, late_ms);
	worklist_remove(&t->connecting, &f->run_entry);
	worklist_add(&t->connecting, &f->run_entry);
}

int tcp_displace(struct tcp *t, struct io *io)
{
	struct work *oldest = t->connecting.head;
	struct tcp_flow *f;
	char text[TCP_FLOW_STR_BYTES];

	if (!oldest)
		return -ENOENT;
	f = CONTAINER_OF(oldest, struct tcp_flow, run_entry);
	if ((uint32_t)io->loop->now_ms - f->waiting_ms < TCP_SYN_FRESH_MS)
		return -EAGAIN;
	COUNT(io->counters, tcp_displaced);
	log_debug(io->log, "TCP %s: makes room", tcp_flow_str(io, f, text));
	tcp_close(t, io, f, false, REASON_no_room, 0);
	return 0;
}

void tcp_add_work(struct tcp *t, struct tcp_flow *f)
{
	/* A flow in the run queue takes acknowledgements into account at its turn. What the guest sends cannot wait that long. */
	if (!f->run_entry.queued || f->flags & (TCPF_ACK_NOW | TCPF_WINDOW_STALE) ||
	    (f->flags & (TCPF_GUEST_FIN | TCPF_SOCK_SHUT)) == TCPF_GUEST_FIN)
		worklist_add(&t->work, &f->work);
}

void tcp_close(struct tcp *t, struct io *io, struct tcp_flow *f, bool abort, enum flow_reason reason, int error)
{
	bool was_open = f->state != TCPS_CONNECTING && f->state != TCPS_SYN_SENT && !f->verify;

	event_report(io->events, io->loop->now_ms, tcp_describe, &f->flow, was_open ? FLOW_CLOSED : FLOW_REFUSED, reason, error);
	sock_close(f->fd, abort);
	tcp_free_backlog(t, f);
	tcp_forget_proof(t, f);
	worklist_remove(&t->work, &f->work);
	tcp_release(t, f);
	if (f->state == TCPS_CONNECTING) {
		free(f->handshake);
		worklist_remove(&t->connecting, &f->run_entry);
	} else {
		tcp_ooo_free(t, f);
		run_queue_remove(&t->run_queue, &f->run_entry);
	}
	timer_stop(&t->timers, &f->timer);
	COUNT_SUB(io->counters, tcp_flows, 1);
	flow_remove(&t->flows, &f->flow);
}

void tcp_reset(struct tcp *t, struct io *io, struct tcp_flow *f, enum flow_reason reason, int error)
{
	if (f->state == TCPS_ESTABLISHED || f->state == TCPS_SYN_RECEIVED) {
		COUNT(io->counters, tcp_resets_sent);
		tcp_send(io, f, TCP_RST | TCP_ACK, f->snd_nxt, NULL, 0);
	}
	tcp_close(t, io, f, true, reason, error);
}

void tcp_end_bound(struct tcp *t, struct io *io, const struct addr_list *addrs)
{
	struct tcp_flow *f;

	for (uint32_t at = 0; (f = (struct tcp_flow *)flow_next(&t->flows, &at));) {
		if (!sock_is_bound(f->fd, addrs))
			continue;
		if (f->state == TCPS_CONNECTING)
			tcp_connect_failed(t, io, f, EADDRNOTAVAIL);
		else
			tcp_reset(t, io, f, REASON_address_gone, 0);
	}
}

void tcp_judge_again(struct tcp *t, struct io *io, struct gate_again *counts)
{
	struct tcp_flow *f;

	for (uint32_t at = 0; (f = (struct tcp_flow *)flow_next(&t->flows, &at));) {
		if (f->served || tcp_verify_keeps(t, io, f, counts))
			continue;
		if (f->state == TCPS_CONNECTING)
			tcp_connect_denied(t, io, f);
		else
			tcp_reset(t, io, f, REASON_rule, 0);
	}
}

/* --- from the host --- */

/* Two host peers may have the same address and port after mapping: the later one gets another port. */
static bool find_free_port(const struct tcp *t, struct flow_key *key)
{
	for (uint32_t i = 0; i < PORT_TRIES * t->steering.shards; i++) {
		if (steering_is_own(&t->steering, key) && !flow_find(&t->flows, key))
			return true;
		key->dest_port = key->dest_port == 65535 ? 1024 : (uint16_t)(key->dest_port + 1);
	}
	return false;
}

bool tcp_client_key(const struct io *io, const struct endpoint *host_peer, const struct endpoint *target, struct flow_key *key)
{
	*key = (struct flow_key){.guest = target->addr, .guest_port = target->port, .dest_port = host_peer->port};
	if (!mapping_inbound_source(io->mapping, &host_peer->addr, &key->dest))
		return false;
	if (addr_is_none(&key->guest))
		key->guest = *mapping_guest_addr(io->mapping, &key->dest);
	return !addr_is_none(&key->guest) && addr_is_v4(&key->guest) == addr_is_v4(&host_peer->addr);
}

void tcp_accepted(struct tcp *t, struct io *io, int fd, const struct endpoint *host_peer, const struct endpoint *target)
{
	bool v4 = addr_is_v4(&host_peer->addr);
	struct tcp_flow *f = NULL;
	struct flow_key key;

	if (tcp_client_key(io, host_peer, target, &key) && find_free_port(t, &key)) {
		f = tcp_new_flow(t, io, &key, fd, TCPS_SYN_SENT);
		if (!f)
			tcp_limit_reached(t, io, ENOMEM);
	}
	if (!f) {
		sock_close(fd, true);
		return;
	}
	f->mss = v4 ? TCP_MSS_DEFAULT_V4 : TCP_MSS_DEFAULT_V6;
	tcp_note_peer(f, host_peer);
	tcp_send_syn(io, f);
	tcp_arm_timer(t, io, f);
}

static void connect_event(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t events)
{
	int error = 0;
	socklen_t len = sizeof(error);

	/* epoll reports every failed connect() as EPOLLERR or EPOLLHUP, so success costs no getsockopt(). */
	if (events & (EPOLLERR | EPOLLHUP) && getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error && f->handshake)
		tcp_detour_failed(t, io, f, error);
	else if (error)
		tcp_connect_failed(t, io, f, error);
	else if (f->handshake && events & (EPOLLOUT | EPOLLIN | EPOLLRDHUP | EPOLLHUP))
		tcp_detour_reached(t, io, f);
	else if (events & EPOLLOUT)
		tcp_connected(t, io, f);
}

void tcp_event(struct tcp *t, struct io *io, uint32_t index, uint32_t generation, uint32_t events)
{
	struct tcp_flow *f = (struct tcp_flow *)flow_at_generation(&t->flows, index, generation);

	if (!f)
		return;
	if (events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		f->flags |= TCPF_READABLE;
	if (events & EPOLLPRI)
		f->flags |= TCPF_URGENT;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		f->flags |= TCPF_RDHUP;
	if (f->state == TCPS_CONNECTING) {
		connect_event(t, io, f, events);
		return;
	}
	/* EPOLLOUT comes along with every other event, too. */
	if (events & EPOLLOUT && f->flags & TCPF_OUT_ARMED) {
		f->flags &= (uint16_t)~TCPF_OUT_ARMED;
		f->flags |= TCPF_WINDOW_STALE;
	}
	if (events & EPOLLOUT && f->backlog.len && tcp_is_held(io, f))
		tcp_wait_for_rate(t, f);
	if (events & EPOLLERR && !f->error) {
		int error = 0;
		socklen_t len = sizeof(error);

		f->error = (int16_t)(getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? errno : error);
	}
	if (f->error && f->state == TCPS_SYN_SENT)
		tcp_reset(t, io, f, REASON_peer_reset,
			  f->error); /* the host client left before the guest answered: there is no data */
	else
		tcp_add_work(t, f);
}

static void serve_flow(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t frames)
{
	uint32_t index = f->flow.index, generation = f->flow.generation;
	bool more = tcp_service_flow(t, io, f, frames);

	if (!flow_at_generation(&t->flows, index, generation))
		return;
	if (more)
		run_queue_add(&t->run_queue, &f->run_entry);
	else
		run_queue_remove(&t->run_queue, &f->run_entry);
}

/* The flow needs nothing but an ACK, the ACK may wait, and the guest can go on sending without it. */
static bool may_delay_ack(const struct io *io, const struct tcp_flow *f)
{
	return sched_may_delay_ack(&io->sched, seq_diff(f->rcv_nxt, f->rcv_computed)) && f->state == TCPS_ESTABLISHED &&
	       seq_lt(seq_add(f->rcv_nxt, SCHED_DELAYED_ACK_MAX_BYTES), f->rcv_advertised) && !f->acked_bytes && !f->backlog.len &&
	       !f->ooo && !f->error && !(f->flags & (TCPF_READABLE | TCPF_RDHUP | TCPF_PROGRESS | TCPF_GUEST_FIN));
}

bool tcp_service(struct tcp *t, struct io *io)
{
	struct sched *sched = &io->sched;
	bool waiting = false, held;
	struct work *w, *next;
	uint32_t first, frames;

	if (UNLIKELY(t->held.count))
		tcp_serve_held(t, io);
	if (!io->loop->ready) /* no event has come: delayed ACKs wait no longer */
		sched->delayed_ack_turns = SCHED_DELAYED_ACK_TURNS;
	/* Serving a flow adds no flow to this list and removes no other one. */
	for (w = t->work.head; w; w = next) {
		struct tcp_flow *f = CONTAINER_OF(w, struct tcp_flow, work);

		next = w->next;
		if (may_delay_ack(io, f)) {
			waiting = true;
			continue;
		}
		worklist_remove(&t->work, w);
		first = sched_first_frames(sched, &t->run_queue, io->loop->now_ms);
		/* Where a rate makes flows wait, one that has just become ready waits too. */
		serve_flow(t, io, f, f->run_entry.queued || (io->rate_in && t->run_queue.list.count) ? 0 : first);
	}
	sched->delayed_ack_turns = waiting ? sched->delayed_ack_turns + 1 : 0;
	held = UNLIKELY(io->rate_in) && t->run_queue.list.count && !rate_passes(io->rate_in, io->loop->now_us);
	w = io->link->blocked || held ? NULL : run_queue_next(&t->run_queue, sched_turn_frames(sched, io->loop->now_ms), &frames);
	if (w && io->rate_in) {
		serve_flow(t, io, CONTAINER_OF(w, struct tcp_flow, run_entry), 1);
		run_queue_end_turn(&t->run_queue);
		held = !rate_passes(io->rate_in, io->loop->now_us);
	} else if (w) {
		serve_flow(t, io, CONTAINER_OF(w, struct tcp_flow, run_entry), frames);
	}
	if (UNLIKELY(io->rate_in || io->rate_out))
		tcp_note_rate(t, io, held);
	return waiting || (t->run_queue.list.count && !io->link->blocked && !held);
}

/* --- timers --- */

static int64_t backoff_ms(int64_t first_ms, uint8_t tries)
{
	int64_t ms = first_ms << (tries < 8 ? tries : 8);

	return ms < TCP_RTO_MAX_MS ? ms : TCP_RTO_MAX_MS;
}

/* The socket has bytes that the guest's window does not allow. */
static bool window_blocked(const struct tcp_flow *f)
{
	return f->flags & TCPF_READABLE && !(f->flags & TCPF_SOCK_EOF);
}

void tcp_arm_timer(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	int64_t ms;

	if (UNLIKELY(f->verify) && f->state == TCPS_ESTABLISHED) {
		if (!(f->verify & TCP_VERIFY_TIMED))
			timer_set(&t->timers, &f->timer, io->loop->now_ms + TCP_VERIFY_MS);
		f->verify |= TCP_VERIFY_TIMED;
		return;
	}
	if (f->state != TCPS_ESTABLISHED)
		ms = backoff_ms(TCP_SYN_RTO_MS, f->tries);
	else if (f->flags & TCPF_PROBED)
		ms = tcp_check_interval_ms(io, f);
	else if (tcp_in_flight(f) || window_blocked(f))
		ms = backoff_ms(TCP_RTO_MS, f->tries);
	else if (f->tries)
		ms = TCP_PROBE_MS;
	else
		ms = f->flags & TCPF_SOCK_SHUT ? TCP_HALF_CLOSED_MS : TCP_IDLE_MS;
	/* Sending more does not give what is in flight more time (RFC 6298, 5). */
	if (tcp_in_flight(f) && !(f->flags & TCPF_PROGRESS) && timer_running(&f->timer) &&
	    f->timer.deadline_ms < io->loop->now_ms + ms)
		return;
	f->flags &= (uint16_t)~TCPF_PROGRESS;
	timer_set(&t->timers, &f->timer, io->loop->now_ms + ms);
}

/* RFC 9293, 3.8.3. Not for a closed window that the guest keeps confirming (3.8.6.1). Timeouts count as well, since time also
 * passes while this process is stopped. */
static bool user_timeout_expired(const struct io *io, const struct tcp_flow *f)
{
	return f->state == TCPS_ESTABLISHED && tcp_in_flight(f) && f->snd_wnd && f->timeouts >= TCP_TRIES_MAX &&
	       (uint32_t)io->loop->now_ms - f->waiting_ms >= TCP_USER_TIMEOUT_MS;
}

/* Nothing reaches the guest, so its silence says nothing: no timeout counts. A host client that has left waits no longer. */
static bool waits_for_link(const struct io *io, struct tcp_flow *f)
{
	if (f->state != TCPS_ESTABLISHED)
		return !(f->flags & TCPF_RDHUP);
	if (!tcp_in_flight(f) && !window_blocked(f))
		return false;
	tcp_restart_wait(io, f);
	return true;
}

static void flow_timeout(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	bool opening = f->state != TCPS_ESTABLISHED;
	char text[TCP_FLOW_STR_BYTES];

	if (f->verify & TCP_VERIFY_TIMED) {
		tcp_verify_late(t, io, f);
		return;
	}
	if (f->flags & TCPF_PROBED) {
		tcp_check_host_peer(io, f);
		tcp_arm_timer(t, io, f);
		return;
	}
	if (f->flags & TCPF_PROGRESS) { /* in the run queue: its turn would have done this */
		tcp_arm_timer(t, io, f);
		return;
	}
	if (io->link->blocked && f->state != TCPS_CONNECTING && waits_for_link(io, f)) {
		tcp_arm_timer(t, io, f);
		return;
	}
	if (f->state == TCPS_CONNECTING || f->tries >= (opening ? TCP_SYN_TRIES_MAX : TCP_TRIES_MAX) ||
	    user_timeout_expired(io, f)) {
		log_debug(io->log, "TCP %s: timed out", tcp_flow_str(io, f, text));
		tcp_reset(t, io, f, REASON_timed_out, 0);
		return;
	}
	f->tries++;
	f->timeouts += f->timeouts < TCP_TRIES_MAX;
	if (opening) {
		tcp_send_syn(io, f);
	} else if (tcp_in_flight(f)) {
		f->flags |= TCPF_RECOVERY;
		f->recover = f->snd_nxt;
		f->dup_acks = 0;
		tcp_retransmit_one(t, io, f);
	} else {
		/* The guest must answer a sequence number before its window (RFC 9293, 3.8.6.1 and 3.8.4). */
		tcp_send(io, f, TCP_ACK, seq_add(f->snd_nxt, (uint32_t)-1), NULL, 0);
	}
	tcp_arm_timer(t, io, f);
}

void tcp_timers(struct tcp *t, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&t->timers, io->loop->now_ms)))
		flow_timeout(t, io, CONTAINER_OF(due, struct tcp_flow, timer));
}
