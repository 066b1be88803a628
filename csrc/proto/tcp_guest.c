/* Purpose: what a segment of the guest means (RFC 9293, 3.10.7, with the challenge ACKs of RFC 5961).
 *
 * How: the guest is hostile, so any sequence number, acknowledgement, window and flag may come. Bytes behind a hole wait in the
 * out-of-order queue (tcp_out_of_order.c) and are acknowledged when the hole is filled.
 *
 * Invariant: a segment outside the window changes nothing.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/gate.h"
#include "io/icmp_error.h"
#include "proto/tcp_private.h"

#define MSS_MIN 48 /* Linux's TCP_MIN_SND_MSS: a smaller one only costs time */
#define DUP_ACKS 3 /* RFC 5681, 3.2 */

/* --- a new connection --- */

static void set_tos(struct tcp_flow *f, uint8_t tos)
{
	bool v4 = addr_is_v4(&f->flow.key.guest);

	tos &= 0xfc; /* the host's kernel has its own ECN */
	if (tos == f->tos)
		return;
	f->tos = tos;
	sock_set(f->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, tos);
}

static void syn_options(struct io *io, struct tcp_flow *f, const struct tcp_view *seg)
{
	bool v4 = addr_is_v4(&f->flow.key.guest);
	uint32_t mss = seg->mss ? seg->mss : v4 ? TCP_MSS_DEFAULT_V4 : TCP_MSS_DEFAULT_V6;

	mss = u32_min(mss, io->mtu - ip_header_bytes(v4) - TCP_HLEN);
	f->mss = (uint16_t)u32_max(mss, MSS_MIN);
	if (seg->wscale != 255) {
		f->flags |= TCPF_WSCALE;
		f->snd_wscale = seg->wscale;
	}
	f->sack = f->sack && seg->sack_permitted;
	f->snd_wnd = seg->window; /* a SYN's window is never scaled (RFC 7323, 2.2) */
	f->rcv_nxt = f->rcv_edge = f->rcv_computed = seq_add(seg->seq, 1);
	f->wl1 = seg->seq;
}

/* A descriptor or -errno. The oldest connect() gives its descriptor away if none is left, or if few are left and many
 * connect()s are under way. -EAGAIN: all of them are too young for that. The guest will repeat its SYN. */
static int open_socket(struct tcp *t, struct io *io, const struct addr *host_peer)
{
	int fd = sock_open(&t->sock, host_peer, SOCK_STREAM, 0, 0);
	bool many = t->connecting.count > descriptors_part(&io->descriptors, TCP_FREE_FOR_OTHERS);
	bool few = fd < 0 ? fd == -EMFILE || fd == -ENFILE : many && descriptors_below(&io->descriptors, fd, TCP_FREE_FOR_OTHERS);
	int rc = few ? tcp_displace(t, io) : -ENOENT;

	if (rc == -ENOENT)
		return fd;
	if (fd >= 0)
		close(fd);
	return rc < 0 ? rc : sock_open(&t->sock, host_peer, SOCK_STREAM, 0, 0);
}

/* A connection that Python answers. Without room the guest has to repeat its SYN. */
static void open_served(struct tcp *t, struct io *io, const struct ip_view *ip, const struct tcp_view *seg,
			const struct flow_key *key)
{
	struct tcp_flow *f = NULL;
	int ends[2];

	if (t->served.count == TCP_SERVED_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) {
		COUNT(io->counters, tcp_rate_limit);
		return;
	}
	f = tcp_new_flow(t, io, key, ends[0], TCPS_CONNECTING);
	if (!f) {
		tcp_limit_reached(t, io, ENOMEM);
		close(ends[0]);
		close(ends[1]);
		return;
	}
	f->served = true;
	syn_options(io, f, seg);
	f->tos = ip->tos & 0xfc;
	t->served.at[t->served.count++] = (struct tcp_served_stream){ends[1], key->guest};
	tcp_connected(t, io, f);
}

static void open_flow(struct tcp *t, struct io *io, const struct ip_view *ip, const struct tcp_view *seg,
		      const struct flow_key *key)
{
	const struct detour *detour;
	struct endpoint host_peer;
	struct tcp_flow *f;
	struct gate_pass pass;
	int fd, rc;

	if (gate_serves_dns(io, FLOW_TCP, key)) {
		open_served(t, io, ip, seg, key);
		return;
	}
	if (!mapping_outbound(io->mapping, IPPROTO_TCP, &(struct endpoint){ip->dst, seg->dst_port}, &host_peer)) {
		COUNT(io->counters, drop_policy);
		event_refused(io->events, io->loop->now_ms, FLOW_TCP, key, NULL, REASON_address, 0, FLOW_NO_RULE, true);
		if (mapping_is_virtual(io->mapping, &ip->dst))
			icmp_error_answer(io, ip, ENETUNREACH);
		else
			tcp_send_rst_reply(io, ip, seg);
		return;
	}
	if (!gate_opens(io, FLOW_TCP, key, &host_peer, &pass)) {
		if (!io->frame_waits)
			tcp_send_rst_reply(io, ip, seg);
		return;
	}
	detour = gate_detour(io, key, &host_peer);
	fd = open_socket(t, io, detour ? &detour->to.addr : &host_peer.addr);
	if (fd == -EAGAIN) {
		COUNT(io->counters, tcp_rate_limit);
		return;
	}
	f = fd < 0 ? NULL : tcp_new_flow(t, io, key, fd, TCPS_CONNECTING);
	if (!f) {
		tcp_limit_reached(t, io, fd < 0 ? -fd : ENOMEM);
		event_refused(io->events, io->loop->now_ms, FLOW_TCP, key, &host_peer,
			      fd < 0 ? event_reason_of(-fd) : REASON_no_room, fd < 0 ? -fd : 0, FLOW_NO_RULE, false);
		if (fd >= 0)
			close(fd);
		tcp_send_rst_reply(io, ip, seg);
		return;
	}
	f->rule = pass.rule;
	f->verify = pass.verify;
	f->detoured = detour;
	tcp_note_peer(f, detour ? &detour->to : &host_peer);
	account_sent(&f->account, 1, 0);
	syn_options(io, f, seg);
	set_tos(f, ip->tos);
	tcp_refresh_connect(t, io, f);
	if (detour && !tcp_detour_begin(io, f, detour)) {
		tcp_connect_failed(t, io, f, ENOMEM);
		return;
	}
	rc = sock_connect(fd, detour ? &detour->to : &host_peer, t->sock.scope6);
	if (!rc && detour)
		tcp_detour_reached(t, io, f);
	else if (!rc)
		tcp_connected(t, io, f);
	else if (rc != -EINPROGRESS && detour)
		tcp_detour_failed(t, io, f, -rc);
	else if (rc != -EINPROGRESS)
		tcp_connect_failed(t, io, f, -rc);
}

/* --- the first answer --- */

/* The guest's ACK of our SYN-ACK. */
static void established(struct tcp_flow *f, const struct tcp_view *seg)
{
	f->state = TCPS_ESTABLISHED;
	f->tries = 0;
	f->snd_wnd = (uint32_t)seg->window << f->snd_wscale;
	f->wl1 = seg->seq;
	f->wl2 = seg->ack;
}

/* The guest's answer to the SYN that we sent for a host client (RFC 9293, 3.10.7.3). */
static void syn_sent(struct tcp *t, struct io *io, struct tcp_flow *f, const struct ip_view *ip, const struct tcp_view *seg)
{
	if (!(seg->flags & TCP_ACK))
		return; /* an honest guest does not open the same connection at the same moment: let it time out */
	if (!seq_eq(seg->ack, f->snd_una)) {
		tcp_send_rst_reply(io, ip, seg);
		return;
	}
	if (seg->flags & TCP_RST) {
		tcp_close(t, io, f, true, REASON_refused, 0);
		return;
	}
	if (!(seg->flags & TCP_SYN))
		return;
	syn_options(io, f, seg);
	established(f, seg);
	event_report(io->events, io->loop->now_ms, tcp_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	f->snd_wnd = seg->window;
	tcp_update_window(t, io, f); /* our SYN advertised one, and not even a challenge ACK may take it back */
	f->flags |= TCPF_ACK_NOW | TCPF_READABLE;
	tcp_add_work(t, f);
}

/* --- an established connection --- */

/* Whether a part of the segment is inside the window (RFC 9293, 3.10.7.4, first). */
static bool acceptable(const struct tcp_flow *f, const struct tcp_view *seg)
{
	uint32_t len = tcp_seq_len(seg);

	if (!len) /* like Linux, one byte of tolerance at a closed window */
		return seq_le(f->rcv_nxt, seg->seq) && seq_le(seg->seq, f->rcv_edge);
	return seq_lt(f->rcv_nxt, seq_add(seg->seq, len)) && seq_le(seg->seq, f->rcv_edge);
}

/* A probe repeats the last byte: the guest asks whether the host peer lives (keepalive), or whether the window is open again. */
static bool is_probe(const struct tcp_flow *f, const struct tcp_view *seg)
{
	return seg->payload_len <= 1 && !(seg->flags & TCP_SYN) && seq_eq(seq_add(seg->seq, 1), f->rcv_nxt);
}

static void unacceptable(struct tcp *t, struct io *io, struct tcp_flow *f, const struct tcp_view *seg)
{
	if (seg->flags & TCP_RST)
		return;
	/* Only challenge ACKs have a rate limit. Many connections may be probed in the same second, and a connection whose
	 * probe gets no answer ends. Data that comes again, or exceeds the window, is acknowledged: our ACK may have been lost. */
	if (is_probe(f, seg)) {
		tcp_probed(t, io, f);
	} else if (seg->payload_len > 1) {
		f->flags |= TCPF_ACK_NOW;
		tcp_add_work(t, f);
	} else {
		tcp_challenge(t, io, f);
	}
}

/* The guest has everything before ack. */
static void acknowledged(struct tcp *t, struct io *io, struct tcp_flow *f, seq_t ack)
{
	uint32_t bytes = seq_diff(ack, f->snd_una);

	if (f->flags & TCPF_FIN_SENT && seq_eq(ack, f->snd_nxt) && !(f->flags & TCPF_FIN_ACKED)) {
		f->flags |= TCPF_FIN_ACKED;
		bytes--;
	}
	f->flags |= TCPF_PROGRESS;
	tcp_restart_wait(io, f);
	f->acked_bytes += bytes;
	f->snd_una = ack;
	f->dup_acks = 0;
	if (!(f->flags & TCPF_RECOVERY))
		return;
	if (seq_lt(ack, f->recover))
		tcp_retransmit_one(t, io, f); /* a partial acknowledgement: fill the next hole (RFC 6582, 3.2) */
	else
		f->flags &= (uint16_t)~TCPF_RECOVERY;
}

static void recover(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	if (f->flags & TCPF_RECOVERY)
		return;
	f->flags |= TCPF_RECOVERY;
	f->recover = f->snd_nxt;
	tcp_retransmit_one(t, io, f);
}

static void duplicate_ack(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	if (++f->dup_acks >= DUP_ACKS)
		recover(t, io, f);
}

/* RFC 9293, 3.10.7.4, fifth, and RFC 5961, 5. False: drop the segment. */
static bool process_ack(struct tcp *t, struct io *io, struct tcp_flow *f, const struct tcp_view *seg)
{
	uint32_t window = (uint32_t)seg->window << f->snd_wscale;
	bool newer = seq_lt(f->snd_una, seg->ack), older = seq_lt(seg->ack, f->snd_una);

	if (seq_lt(f->snd_nxt, seg->ack) || (older && seq_diff(f->snd_una, seg->ack) > 1u << 30)) {
		tcp_challenge(t, io, f);
		return false;
	}
	f->tries = 0;
	if (newer)
		acknowledged(t, io, f, seg->ack);
	else if (seq_eq(seg->ack, f->snd_una) && tcp_in_flight(f) && !tcp_seq_len(seg) && window == f->snd_wnd)
		duplicate_ack(t, io, f);
	/* A guest short of memory drops what is in flight and closes its window over it (RFC 9293, 3.8.6). It opens it again. */
	else if (seq_eq(seg->ack, f->snd_una) && tcp_in_flight(f) && !f->snd_wnd && window)
		recover(t, io, f);
	/* RFC 9293, 3.10.7.4, except that a new acknowledgement always sets the window: the old window, counted from the new
	 * snd_una, would reach too far. */
	if (newer || (!older && (seq_lt(f->wl1, seg->seq) || (seq_eq(f->wl1, seg->seq) && seq_le(f->wl2, seg->ack))))) {
		f->snd_wnd = window;
		f->wl1 = seg->seq;
		f->wl2 = seg->ack;
		if (!window)
			tcp_restart_wait(io, f);
	}
	return true;
}

/* Takes payload and FIN, as much as is inside the window. */
static void process_data(struct tcp *t, struct io *io, struct tcp_flow *f, const struct tcp_view *seg)
{
	uint32_t skip = seq_lt(seg->seq, f->rcv_nxt) ? seq_diff(f->rcv_nxt, seg->seq) : 0, len, kept = 0;
	bool fin = seg->flags & TCP_FIN;

	if (seq_lt(f->rcv_nxt, seg->seq)) {
		/* Acknowledge data behind a hole each time: three such ACKs make the guest repair the hole (RFC 5681, 4.2). Do not
		 * acknowledge a pure ACK that has overtaken data: to the guest our ACK would be one more sign of reordering. */
		if (!tcp_seq_len(seg) || f->flags & TCPF_GUEST_FIN)
			return;
		COUNT(io->counters, tcp_out_of_order);
		link_linearize(io->link);
		if (seg->payload_len)
			tcp_ooo_add(t, io, f, seg->seq, seg->payload, seg->payload_len);
		tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
		return;
	}
	if (!tcp_seq_len(seg) || f->flags & TCPF_GUEST_FIN)
		return;
	f->flags |= TCPF_ACK_NOW;
	len = skip < seg->payload_len ? seg->payload_len - skip : 0;
	if (len > seq_diff(f->rcv_edge, f->rcv_nxt)) {
		len = seq_diff(f->rcv_edge, f->rcv_nxt);
		fin = false;
	}
	if (len) {
		if (len <= SCHED_SHORT_BYTES)
			sched_note_short(&io->sched, io->loop->now_ms);
		kept = tcp_deliver_payload(t, io, f, seg->payload + skip, len);
		f->rcv_nxt = seq_add(f->rcv_nxt, kept);
		account_sent(&f->account, 0, kept);
		/* Computing the window asks the socket, which costs as much as sending a short message. */
		if (f->backlog.len || seq_diff(f->rcv_nxt, f->rcv_computed) >= SCHED_WINDOW_STALE_BYTES ||
		    seq_diff(f->rcv_edge, f->rcv_nxt) < SCHED_WINDOW_LOW_BYTES)
			f->flags |= TCPF_WINDOW_STALE;
	}
	if (f->ooo && !fin)
		tcp_ooo_deliver(t, io, f);
	if (fin && kept == len) {
		f->rcv_nxt = seq_add(f->rcv_nxt, 1);
		f->rcv_edge = seq_max(f->rcv_edge, f->rcv_nxt);
		f->flags |= TCPF_GUEST_FIN;
		tcp_ooo_free(t, f); /* everything before the FIN is delivered */
	}
}

/* RFC 9293, 3.10.7.4, for SYN-RECEIVED and all later states. */
static void synchronized(struct tcp *t, struct io *io, struct tcp_flow *f, const struct ip_view *ip, const struct tcp_view *seg)
{
	if (f->state == TCPS_SYN_RECEIVED && seg->flags & TCP_SYN && seq_eq(seq_add(seg->seq, 1), f->rcv_nxt)) {
		tcp_send_syn(io, f); /* our answer was lost */
		return;
	}
	if (!acceptable(f, seg)) {
		unacceptable(t, io, f, seg);
		return;
	}
	if (seg->flags & TCP_RST) {
		if (seq_eq(seg->seq, f->rcv_nxt)) /* after a FIN the kernel still delivers what came before it */
			tcp_close(t, io, f, !(f->flags & TCPF_SOCK_SHUT), REASON_guest_reset, 0);
		else
			tcp_challenge(t, io, f); /* RFC 5961, 3.2 */
		return;
	}
	if (seg->flags & TCP_SYN) {
		tcp_challenge(t, io, f); /* RFC 5961, 4.2 */
		return;
	}
	if (!(seg->flags & TCP_ACK))
		return;
	if (f->state == TCPS_SYN_RECEIVED) {
		if (!seq_eq(seg->ack, f->snd_nxt)) {
			tcp_send_rst_reply(io, ip, seg);
			return;
		}
		established(f, seg);
		flood_limit_return(&t->new_flows);
	}
	if (!process_ack(t, io, f, seg))
		return;
	if (seg->payload_len)
		set_tos(f, ip->tos);
	process_data(t, io, f, seg);
	tcp_add_work(t, f);
}

/* The new-flow rate limit. A segment of no connection costs system calls or a reply, so only TCP_NEW_FLOWS_PER_S are dealt
 * with. Those that become established connections do not count. The rest is dropped, as on a busy link, and an honest SYN comes
 * again. */
static bool new_flow_allowed(struct tcp *t, struct io *io)
{
	uint32_t shards = t->steering.shards;
	uint32_t per_s = u32_max(TCP_NEW_FLOWS_PER_S / shards, 1000); /* flood_limit_take() wants whole thousands */

	if (flood_limit_take(&t->new_flows, io->loop->now_ms, per_s, TCP_NEW_FLOWS_BURST / shards))
		return true;
	COUNT(io->counters, tcp_rate_limit);
	if (log_due(&t->rate_logged_ms, io->loop->now_ms))
		log_add(io->log, LOG_LEVEL_WARNING,
			"TCP: the guest sends more than %u segments a second that open nothing: some connections have to try again",
			per_s * shards);
	return false;
}

void tcp_from_guest(struct tcp *t, struct io *io, const struct ip_view *ip)
{
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	struct tcp_view seg;
	struct tcp_flow *f;

	if (!tcp_parse(ip->payload, ip->payload_len, &seg)) {
		COUNT(io->counters, drop_malformed);
		return;
	}
	key.guest_port = seg.src_port;
	key.dest_port = seg.dst_port;
	f = (struct tcp_flow *)flow_find(&t->flows, &key);
	if (f)
		account_sent(&f->account, 1, 0);
	if ((!f || f->state == TCPS_CONNECTING) && (seg.flags & (TCP_SYN | TCP_FIN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_FIN)) {
		COUNT(io->counters, drop_malformed); /* like Linux: a SYN with a FIN opens nothing */
		return;
	}
	if (f && f->state == TCPS_CONNECTING) {
		if (seg.flags & TCP_SYN && seq_eq(seq_add(seg.seq, 1), f->rcv_nxt)) {
			tcp_refresh_connect(t, io, f);
			return;
		}
		if (!(seg.flags & (TCP_SYN | TCP_RST)))
			return; /* the guest has no SYN-ACK yet, so this is of an earlier connection */
		if (seg.flags & TCP_RST && !seq_eq(seg.seq, f->rcv_nxt))
			return;
		tcp_close(t, io, f, true, REASON_guest_reset, 0);
		f = NULL;
	}
	if (f && f->state == TCPS_SYN_SENT)
		syn_sent(t, io, f, ip, &seg);
	else if (f)
		synchronized(t, io, f, ip, &seg);
	else if (!new_flow_allowed(t, io))
		return;
	else if ((seg.flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN)
		open_flow(t, io, ip, &seg, &key);
	else
		tcp_send_rst_reply(io, ip, &seg);
}
