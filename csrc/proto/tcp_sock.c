/* Purpose: a flow's host socket: bytes from the guest into it, bytes from it to the guest.
 *
 * How: towards the guest there is no buffer. Bytes stay in the socket's receive queue until the guest acknowledges them. They are
 * read with MSG_PEEK at the offset of snd_nxt (SO_PEEK_OFF) and dropped with MSG_TRUNC when acknowledged. A retransmission
 * sets the offset back. If the kernel lacks SO_PEEK_OFF for TCP, a vector of discarded bytes precedes the wanted ones, and less is
 * in flight.
 *
 * Towards the host, send() takes bytes from the frame. What the socket does not take goes to the send backlog, which is sent first.
 *
 * Invariants: while there is a send backlog nothing else is sent; peek_offset is what the kernel has; acked_bytes plus the bytes in
 * flight never exceed what the socket has shown.
 *
 * Rejected: a send buffer in user space (memory for each flow, one more copy).
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "io/icmp_error.h"
#include "proto/tcp_private.h"

#define BACKLOG_MIN_BYTES 16384
#define PAYLOAD_PARTS 64 /* of a frame in the guest's memory; Linux makes frames of at most 45 pieces */

/* --- guest to host --- */

static bool backlog_add(struct tcp *t, struct send_backlog *b, const uint8_t *bytes, uint32_t len)
{
	if (b->from + b->len + len > b->space) {
		uint32_t space = u32_max(b->space, BACKLOG_MIN_BYTES);
		uint8_t *grown;

		while (space < b->len + len)
			space *= 2;
		if (t->backlog_bytes - b->space + space > t->backlog_max_bytes)
			return false;
		grown = malloc(space);
		if (!grown)
			return false;
		t->backlog_bytes += space - b->space;
		if (b->len)
			memcpy(grown, b->bytes + b->from, b->len);
		free(b->bytes);
		*b = (struct send_backlog){grown, 0, b->len, space};
	}
	memcpy(b->bytes + b->from + b->len, bytes, len);
	b->len += len;
	return true;
}

void tcp_free_backlog(struct tcp *t, struct tcp_flow *f)
{
	t->backlog_bytes -= f->backlog.space;
	free(f->backlog.bytes);
	f->backlog = (struct send_backlog){0};
}

static void backlog_limit_reached(struct tcp *t, struct io *io)
{
	COUNT(io->counters, tcp_backlog_limit);
	if (log_due(&t->backlog_logged_ms, io->loop->now_ms))
		log_add(io->log, LOG_LEVEL_WARNING,
			"TCP: %u MiB wait for slow peers of the host, the limit: the guest has to send again",
			(unsigned)(t->backlog_bytes >> 20));
}

/* Sends what the socket takes; returns how much. An error goes to f->error, for tcp_service_flow(). */
static uint32_t send_some(struct tcp_flow *f, const uint8_t *bytes, uint32_t len)
{
	ssize_t n;

	if (f->error)
		return 0;
	do
		n = send(f->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
		f->error = (int16_t)errno;
		f->flags |= TCPF_READABLE; /* the guest first gets what the host peer sent before */
	}
	return n < 0 ? 0 : (uint32_t)n;
}

uint32_t tcp_deliver(struct tcp *t, struct io *io, struct tcp_flow *f, const uint8_t *bytes, uint32_t len)
{
	bool waits = f->backlog.len || f->verify;
	uint32_t taken = 0;

	if (!waits && tcp_is_held(io, f)) {
		taken = tcp_rate_room(t, io, len);
		taken = taken ? send_some(f, bytes, taken) : 0;
		rate_took(io->rate_out, io->loop->now_us, taken);
	} else if (!waits) {
		taken = send_some(f, bytes, len);
	}
	if (taken == len || f->error)
		return len; /* after an error a reset follows, so the bytes do not matter */
	if (!backlog_add(t, &f->backlog, bytes + taken, len - taken)) {
		backlog_limit_reached(t, io);
		return taken;
	}
	COUNT_ADD(io->counters, tcp_backlog_bytes, len - taken);
	if (tcp_is_held(io, f) && !f->verify)
		tcp_wait_for_rate(t, f);
	return len;
}

uint32_t tcp_deliver_payload(struct tcp *t, struct io *io, struct tcp_flow *f, const uint8_t *bytes, uint32_t len)
{
	struct iovec parts[PAYLOAD_PARTS];
	struct msghdr msg = {.msg_iov = parts};
	ssize_t n = 0;

	if (LIKELY(!io->link->tail.count))
		return tcp_deliver(t, io, f, bytes, len);
	if (!f->backlog.len && !f->error && !f->verify && !tcp_is_held(io, f) && bytes <= io->link->tail.at) {
		msg.msg_iovlen = link_parts(io->link, bytes, len, parts, PAYLOAD_PARTS);
		n = sendmsg(f->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	if (n == (ssize_t)len)
		return len;
	/* What the socket did not take, and errors, are dealt with as with any frame. */
	link_linearize(io->link);
	n = n < 0 ? 0 : n;
	return (uint32_t)n + tcp_deliver(t, io, f, bytes + n, len - (uint32_t)n);
}

uint32_t tcp_drain_backlog(struct tcp *t, struct tcp_flow *f, uint32_t most)
{
	struct send_backlog *b = &f->backlog;
	uint32_t n;

	if (!b->len)
		return 0;
	n = send_some(f, b->bytes + b->from, u32_min(b->len, most));
	b->from += n;
	b->len -= n;
	if (n)
		f->flags |= TCPF_WINDOW_STALE;
	if (!b->len || f->error)
		tcp_free_backlog(t, f);
	return n;
}

/* --- host to guest --- */

/* Peeks at what fills `parts` at most, from_una bytes after snd_una. Returns the number of bytes, 0 at the end of the stream, or
 * -errno. Without SO_PEEK_OFF there is one part. */
static ssize_t peek_parts(struct tcp *t, struct tcp_flow *f, uint32_t from_una, const struct iovec *parts, uint32_t count)
{
	uint32_t offset = f->acked_bytes + from_una; /* in the socket's queue */
	struct iovec iov[TCP_DISCARD_IOVECS + 1];
	struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count};
	bool from_start = t->peek_offset && f->peek_offset == TCP_PEEK_OFF && !offset;
	uint32_t skipped = 0;
	ssize_t n;

	/* A flow of requests and responses always peeks at the first byte: it never needs the system call for the offset. */
	if (t->peek_offset && !from_start) {
		if (f->peek_offset != offset && sock_set(f->fd, SOL_SOCKET, SO_PEEK_OFF, (int)offset) < 0)
			return -errno;
		f->peek_offset = offset;
	} else if (!t->peek_offset) {
		msg = (struct msghdr){.msg_iov = iov};
		for (; skipped < offset; msg.msg_iovlen++) {
			uint32_t part = u32_min(offset - skipped, TCP_DISCARD_BYTES);

			iov[msg.msg_iovlen] = (struct iovec){t->discard, part};
			skipped += part;
		}
		iov[msg.msg_iovlen++] = parts[0];
	}
	do
		n = recvmsg(f->fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (from_start)
		return n;
	if (t->peek_offset)
		f->peek_offset += (uint32_t)n;
	else if (n == 0 && offset)
		return 0;
	else if ((uint32_t)n <= skipped && skipped)
		return (f->flags & (TCPF_RDHUP | TCPF_URGENT)) == TCPF_RDHUP ? 0 : -EAGAIN;
	return n - (ssize_t)skipped;
}

static ssize_t peek(struct tcp *t, struct tcp_flow *f, uint32_t from_una, uint8_t *into, uint32_t len)
{
	return peek_parts(t, f, from_una, &(struct iovec){into, len}, 1);
}

/* Drops from the socket's queue what the guest has acknowledged. A UNIX socket has to copy it. */
static void drop_acked(struct io *io, struct tcp_flow *f)
{
	while (f->acked_bytes) {
		ssize_t n = f->served ? recv(f->fd, io->scratch, u32_min(f->acked_bytes, SCRATCH_BYTES), MSG_DONTWAIT)
				      : recv(f->fd, NULL, f->acked_bytes, MSG_TRUNC | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			/* The bytes were there when they were peeked. Only an error can have removed them. */
			f->error = (int16_t)(n < 0 && errno != EAGAIN ? errno : EIO);
			f->flags &= (uint16_t)~TCPF_READABLE;
			f->acked_bytes = 0;
			return;
		}
		f->acked_bytes -= (uint32_t)n;
		if (f->peek_offset != TCP_PEEK_OFF)
			f->peek_offset -= u32_min(f->peek_offset, (uint32_t)n);
	}
}

/* len sequence numbers more are in flight. */
static void count_sent(struct io *io, struct tcp_flow *f, uint32_t len)
{
	if (!tcp_in_flight(f)) {
		tcp_restart_wait(io, f);
		/* The data answers the guest's probe. The timer, which checked for an answer, starts anew. */
		if (f->flags & TCPF_PROBED)
			f->flags = (uint16_t)((f->flags | TCPF_PROGRESS) & ~TCPF_PROBED);
	}
	f->snd_nxt = seq_add(f->snd_nxt, len);
}

/* Payload that one frame may carry: whole segments if the link has to make them, or each frame would leave a small one. */
static uint32_t frame_room(const struct io *io, const struct tcp_flow *f)
{
	uint32_t most = IP_MAX_BYTES - TCP_HLEN - (addr_is_v4(&f->flow.key.guest) ? IP4_HLEN : 0);

	return io->link->kind->offloads || most < f->mss ? most : most - most % f->mss;
}

/* Bytes that may be sent now, in `frames` frames at most. A piece smaller than a segment and than half of the window waits
 * until nothing is in flight (RFC 9293, 3.8.6.2.1). */
static uint32_t send_room(const struct tcp *t, const struct io *io, const struct tcp_flow *f, uint32_t frames)
{
	uint32_t flight = tcp_in_flight(f), room = f->snd_wnd > flight ? f->snd_wnd - flight : 0;
	uint32_t small = u32_min(f->mss, f->snd_wnd / 2), frame = frame_room(io, f), rest;
	uint32_t whole = io->link->kind->offloads ? frame : u32_min(frame, f->mss);

	if (!t->peek_offset)
		room = u32_min(room,
			       TCP_DISCARD_IOVECS * TCP_DISCARD_BYTES - u32_min(flight, TCP_DISCARD_IOVECS * TCP_DISCARD_BYTES));
	if (flight && room < small)
		return 0;
	room = u32_min(room, u32_min(frames * frame, SCRATCH_BYTES));
	rest = room % whole;
	return room > frame && rest < small ? room - rest : room;
}

/* Whether the stream, read up to offset, ends there. Then the FIN travels with the last data. */
static bool ends_after(struct tcp *t, struct tcp_flow *f, uint32_t offset)
{
	uint8_t byte;
	ssize_t n;

	if ((f->flags & (TCPF_RDHUP | TCPF_URGENT)) != TCPF_RDHUP || f->error)
		return false;
	n = peek(t, f, offset, &byte, 1);
	if (n < 0 && n != -EAGAIN)
		f->error = (int16_t)-n; /* the kernel reports an error once */
	return n == 0;
}

/* Sends the len bytes at `at`, as long as the link takes them; fin: the stream ends after them. Returns how many bytes are left, and
 * counts the frames. */
static uint32_t send_read(struct io *io, struct tcp_flow *f, const uint8_t *at, uint32_t len, bool fin, uint32_t *frames)
{
	uint32_t frame = frame_room(io, f), most = io->link->kind->trains ? SCRATCH_BYTES : frame, part;

	for (; len && !io->link->blocked; at += part, len -= part, *frames += (part + frame - 1) / frame) {
		bool last = fin && len <= most;

		part = u32_min(len, most);
		tcp_send(io, f, (uint8_t)(TCP_ACK | TCP_PSH | (last ? TCP_FIN : 0)), f->snd_nxt, at, part);
		count_sent(io, f, part + last);
		account_received(&f->account, 0, part);
	}
	return len;
}

/* Whether a reader that shows names gets what the guest's nameserver answers. All connections to port 53 are shard 0's (steering.h). */
static bool is_copied(const struct io *io, const struct tcp_flow *f)
{
	return UNLIKELY(f->flow.key.dest_port == STEERING_PORT_DNS) && io->answers->wanted && !f->account.from_host;
}

/* Peeks at `*room` bytes at most: into the guest's memory if its link lends some, else into io->scratch. *at is what to send. A stream
 * that has just begun may be a short message, for which borrowing would cost more than copying. */
static ssize_t peek_to_send(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t *room, const uint8_t **at)
{
	uint32_t head = ETH_HLEN + ip_header_bytes(addr_is_v4(&f->flow.key.guest)) + TCP_HLEN, count, lent = 0;
	const struct iovec *parts;

	if (tcp_in_flight(f) && t->peek_offset && !is_copied(io, f))
		lent = link_lend(io->link, head, u32_min(*room, frame_room(io, f)), &parts, &count);
	if (lent) {
		ssize_t n = peek_parts(t, f, tcp_in_flight(f), parts, count);

		*at = link_lent;
		*room = lent;
		if (n != -EFAULT) /* the memory has gone: the link notes that when it writes there */
			return n;
	}
	*at = io->scratch;
	return peek(t, f, tcp_in_flight(f), io->scratch, *room);
}

/* Sends what the socket has and the window allows, in `frames` frames at most. True: only that limit, or the link, stopped it. One read
 * fills all frames and they leave together, so that the guest's reader finds the next one and does not sleep. */
static bool send_available(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t frames)
{
	bool shaped = io->rate_in && !f->served;

	while (f->flags & TCPF_READABLE && !(f->flags & TCPF_SOCK_EOF)) {
		uint32_t room = send_room(t, io, f, u32_max(frames, 1));
		const uint8_t *at;
		ssize_t n;

		if (!room) {
			/* An error is passed on when there is nothing left to read. */
			if (f->error && peek(t, f, tcp_in_flight(f), io->scratch, 1) <= 0)
				f->flags &= (uint16_t)~TCPF_READABLE;
			return false;
		}
		if (!frames || io->link->blocked)
			return true;
		if (UNLIKELY(shaped)) {
			if (!rate_passes(io->rate_in, io->loop->now_us))
				return true;
			room = u32_min(room, rate_share_bytes(io->rate_in));
		}
		n = peek_to_send(t, io, f, &room, &at);
		if (n == 0) {
			f->flags |= TCPF_SOCK_EOF;
		} else if (n == -EAGAIN) {
			/* Without SO_PEEK_OFF, bytes after an urgent mark cannot be peeked before those in front of it are
			 * dropped. */
			if (f->flags & TCPF_URGENT && !t->peek_offset && tcp_in_flight(f))
				return false;
			f->flags &= (uint16_t) ~(TCPF_READABLE | TCPF_URGENT);
		} else if (n < 0) {
			f->error = f->error ? f->error : (int16_t)-n;
			f->flags &= (uint16_t)~TCPF_READABLE;
		} else {
			bool last = (uint32_t)n < room && ends_after(t, f, tcp_in_flight(f) + (uint32_t)n);
			uint64_t before = f->account.received_bytes;
			uint32_t sent = 0, left;

			if (n <= SCHED_SHORT_BYTES && !tcp_in_flight(f))
				sched_note_short(&io->sched, io->loop->now_ms);
			left = send_read(io, f, at, (uint32_t)n, last, &sent);
			if (is_copied(io, f))
				dns_copies_add_piece(io->answers, f->flow.index, f->flow.generation, before, at,
						     (uint32_t)n - left);
			if (UNLIKELY(shaped))
				rate_took(io->rate_in, io->loop->now_us, (uint32_t)n - left);
			if (left)
				return true;
			frames -= sent;
			if (last)
				f->flags |= TCPF_SOCK_EOF | TCPF_FIN_SENT;
			if ((uint32_t)n < room && !(f->flags & (TCPF_RDHUP | TCPF_URGENT)))
				f->flags &= (uint16_t)~TCPF_READABLE;
		}
	}
	return false;
}

void tcp_retransmit_one(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	uint32_t data = tcp_in_flight(f) - !!(f->flags & TCPF_FIN_SENT);
	ssize_t n = 0;

	drop_acked(io, f);
	/* The lost frame carried this much at most: send no more again. */
	data = u32_min(data, io->link->kind->offloads ? frame_room(io, f) : f->mss);
	if (data)
		n = peek(t, f, 0, io->scratch, data);
	COUNT(io->counters, tcp_retransmits);
	if (n > 0)
		tcp_send(io, f, TCP_ACK | TCP_PSH, f->snd_una, io->scratch, (uint32_t)n);
	else if (!data && f->flags & TCPF_FIN_SENT)
		tcp_send(io, f, TCP_ACK | TCP_FIN, f->snd_una, NULL, 0);
}

/* --- both directions --- */

void tcp_connected(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	worklist_remove(&t->connecting, &f->run_entry);
	f->state = TCPS_SYN_RECEIVED;
	if (!f->verify)
		event_report(io->events, io->loop->now_ms, tcp_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	tcp_update_window(t, io, f);
	tcp_send_syn(io, f);
	f->flags &= (uint16_t)~TCPF_ACK_NOW;
	tcp_arm_timer(t, io, f);
}

/* Whether the guest gets a reset. connect() to a broadcast address fails with ENETUNREACH, and no ICMP error answers a broadcast
 * (RFC 1122, 3.2.2). */
static bool is_refusal(const struct tcp *t, const struct flow_key *key, int error)
{
	return error == ECONNREFUSED || error == ECONNRESET || error == EADDRNOTAVAIL ||
	       (error == ENETUNREACH && sock_is_broadcast(&t->sock, &(struct endpoint){key->dest, key->dest_port}));
}

void tcp_fail_connect(struct tcp *t, struct io *io, struct tcp_flow *f, enum flow_reason reason, int error)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	struct icmp_error icmp;
	uint8_t header[TCP_HLEN];
	char text[TCP_FLOW_STR_BYTES];

	COUNT(io->counters, tcp_refused);
	log_debug(io->log, "TCP %s: connect: %s", tcp_flow_str(io, f, text), strerror(error));
	/* An error that no router reports (EINVAL: a blackhole route) is passed on as well, or the guest would wait for minutes. */
	if (!icmp_error_from_errno(v4, error, &icmp))
		icmp_error_from_errno(v4, EHOSTUNREACH, &icmp);
	tcp_emit(header, key->guest_port, key->dest_port, seq_add(f->rcv_nxt, (uint32_t)-1), seq(0), TCP_SYN, 0, 0, 255);
	if (is_refusal(t, key, error))
		tcp_send_rst_reply(io, &(struct ip_view){.src = key->guest, .dst = key->dest},
				   &(struct tcp_view){.src_port = key->guest_port,
						      .dst_port = key->dest_port,
						      .flags = TCP_SYN,
						      .seq = seq_add(f->rcv_nxt, (uint32_t)-1)});
	else if (error != ETIMEDOUT) /* the host peer was silent, so the guest gets no answer either */
		icmp_error_send(io, &io->mapping->gateway[v4 ? 0 : 1], &key->guest, &key->dest, IPPROTO_TCP, header, TCP_HLEN,
				TCP_HLEN, &icmp);
	tcp_close(t, io, f, false, reason, error);
}

void tcp_connect_failed(struct tcp *t, struct io *io, struct tcp_flow *f, int error)
{
	tcp_fail_connect(t, io, f, event_reason_of(error), error);
}

void tcp_connect_denied(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	tcp_fail_connect(t, io, f, REASON_rule, ECONNREFUSED);
}

/* Passes on the end of each direction once everything before it has gone. */
static void half_close(struct io *io, struct tcp_flow *f)
{
	if ((f->flags & (TCPF_GUEST_FIN | TCPF_SOCK_SHUT)) == TCPF_GUEST_FIN && !f->backlog.len) {
		/* If the other direction has ended, too, tcp_close() sends the FIN. */
		if (!(f->flags & TCPF_FIN_ACKED) && shutdown(f->fd, SHUT_WR) < 0 && errno != ENOTCONN)
			f->error = (int16_t)errno;
		f->flags |= TCPF_SOCK_SHUT;
	}
	if ((f->flags & (TCPF_SOCK_EOF | TCPF_FIN_SENT)) == TCPF_SOCK_EOF && !f->error) {
		tcp_send(io, f, TCP_ACK | TCP_FIN, f->snd_nxt, NULL, 0);
		count_sent(io, f, 1);
		f->flags |= TCPF_FIN_SENT;
	}
}

bool tcp_service_flow(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t frames)
{
	bool more = false, announce = false;

	if (f->state != TCPS_ESTABLISHED)
		return false; /* the timer of this state runs */
	if (UNLIKELY(f->verify) && !tcp_verify(t, io, f))
		return false;
	if (!tcp_is_held(io, f))
		tcp_drain_backlog(t, f, f->backlog.len);
	/* A drop opens the socket's window and wakes the host peer's sender. So drop seldom while there is enough to read. The
	 * window may close meanwhile; the drop after the last read opens it again. */
	if (!f->run_entry.queued || f->acked_bytes >= sched_drop_bytes(&io->sched, io->loop->now_ms) || !t->peek_offset)
		drop_acked(io, f);
	if (f->flags & TCPF_WINDOW_STALE)
		announce = tcp_update_window(t, io, f);
	if (announce)
		f->flags |= TCPF_ACK_NOW;
	more = send_available(t, io, f, frames);
	if (!more)
		drop_acked(io, f);
	half_close(io, f);
	/* As on a direct connection, the guest first gets what came before the error. */
	if (f->error && (!(f->flags & TCPF_READABLE) || f->flags & TCPF_SOCK_EOF)) {
		char text[TCP_FLOW_STR_BYTES];

		log_debug(io->log, "TCP %s: %s", tcp_flow_str(io, f, text), strerror(f->error));
		tcp_reset(t, io, f, event_reason_of(f->error), f->error);
		return false;
	}
	if (f->flags & TCPF_ACK_NOW)
		tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
	if ((f->flags & (TCPF_SOCK_SHUT | TCPF_FIN_ACKED)) == (TCPF_SOCK_SHUT | TCPF_FIN_ACKED)) {
		tcp_close(t, io, f, false, REASON_finished, 0);
		return false;
	}
	tcp_arm_timer(t, io, f);
	return more;
}
