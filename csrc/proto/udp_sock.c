/* Purpose: datagrams and errors from host sockets to the guest.
 *
 * How: one system call reads all that waits, up to a batch. Datagrams of one flow that follow each other become a GSO batch,
 * which is one frame on the tap: a frame costs more than everything else here, including the copy that makes the batch.
 *
 * A socket under a flood is polled (adaptive polling, core/scheduling.h). Its datagrams come later, by the interval at most. Those
 * of other sockets do not.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "io/datagram.h"
#include "io/icmp_error.h"
#include "io/packet.h"
#include "io/sock_error.h"
#include "proto/udp_private.h"

#define PORT_TRIES 64
#define GROUP_ANSWER_MS 5000 /* with an egress policy: how long the members of a group may answer */

/* Opens a flow for the first datagram of host_peer to a forwarded port, or to a socket whose flow to a group it may answer. */
static struct udp_flow *inbound_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct endpoint *host_peer)
{
	struct flow_key key = {.guest = s->listening ? s->target.addr : s->flow.key.guest,
			       .guest_port = s->listening ? s->target.port : s->flow.key.guest_port,
			       .dest_port = host_peer->port};
	struct udp_flow *f;

	/* A flood of senders must leave flows for the guest to open. */
	if (u->flows.used >= u->flows.limit / 4 * 3) {
		udp_limit_reached(u, io, 0);
		return NULL;
	}
	if (!mapping_inbound_source(io->mapping, &host_peer->addr, &key.dest))
		return NULL;
	if (addr_is_none(&key.guest))
		key.guest = *mapping_guest_addr(io->mapping, &key.dest);
	if (addr_is_none(&key.guest) || addr_is_v4(&key.guest) != addr_is_v4(&host_peer->addr))
		return NULL;
	/* Two host peers may have the same address and port after mapping: the later one gets another port. */
	for (int i = 0; flow_find(&u->flows, &key); i++) {
		if (i == PORT_TRIES)
			return NULL;
		key.dest_port = key.dest_port == 65535 ? 1024 : (uint16_t)(key.dest_port + 1);
	}
	f = udp_add_flow(u, io, s, &key, host_peer, true, FLOW_NO_RULE);
	if (f)
		f->member = !s->listening;
	return f;
}

/* Whether any sender may write to the socket now. */
static bool takes_any(const struct io *io, const struct udp_socket *s)
{
	return s->listening || (s->groups && (!io->egress || io->loop->now_ms - s->asked_ms < GROUP_ANSWER_MS));
}

static void to_guest(struct io *io, const struct udp_flow *f, const uint8_t *data, uint32_t len, const struct datagram_info *a)
{
	const struct flow_key *key = &f->flow.key;
	uint8_t header[UDP_HLEN];
	struct packet p = {.src = key->dest,
			   .dst = key->guest,
			   .proto = IPPROTO_UDP,
			   .ttl = a->ttl,
			   .tos = a->tos,
			   .header = header,
			   .header_len = UDP_HLEN,
			   .csum_offset = UDP_CSUM_OFFSET,
			   .body = data,
			   .body_len = len,
			   .gso_size = a->gso_size};

	udp_emit(header, key->dest_port, key->guest_port, len);
	packet_send(io, &p);
}

static void flush(struct udp *u, struct io *io)
{
	struct udp_gso_batch *b = &u->to_guest;

	if (b->count)
		to_guest(io, (const struct udp_flow *)flow_at(&u->flows, b->flow),
			 b->count > 1 ? u->to_guest_data : u->to_guest_one, b->bytes,
			 &(struct datagram_info){.gso_size = b->count > 1 ? b->size : 0, .ttl = b->ttl, .tos = b->tos});
	b->count = 0;
}

/* Adds a datagram to the GSO batch, or sends it if no other can join it. */
static void add_to_batch(struct udp *u, struct io *io, const struct udp_flow *f, const struct datagram *d)
{
	struct udp_gso_batch *b = &u->to_guest;
	struct udp_gso_batch next = {f->flow.index, d->len, (uint16_t)d->len, 1, d->info.ttl, d->info.tos};

	if (!d->info.gso_size && udp_batch_takes(b, &next)) {
		if (b->count == 1)
			memcpy(u->to_guest_data, u->to_guest_one, b->bytes);
		memcpy(u->to_guest_data + b->bytes, d->data, d->len);
		if (udp_batch_add(b, &next))
			flush(u, io);
		return;
	}
	flush(u, io);
	if (d->info.gso_size || !d->len || d->len > UDP_BATCH_BYTES ||
	    ip_header_bytes(addr_is_v4(&f->flow.key.guest)) + UDP_HLEN + d->len > io->mtu) {
		to_guest(io, f, d->data, d->len, &d->info);
		return;
	}
	u->to_guest_one = d->data;
	*b = next;
}

static void forward(struct udp *u, struct io *io, struct udp_socket *s, const struct datagram *d)
{
	struct udp_flow *f;

	if (s->listening && udp_is_spliced(u, s, &d->from)) {
		udp_splice_forward(u, io, s, d);
		return;
	}
	f = udp_find_peer(u, s, &d->from);
	if (!f && takes_any(io, s))
		f = inbound_flow(u, io, s, &d->from);
	if (!f) {
		COUNT(io->counters, udp_unsolicited);
		return;
	}
	if (s->listening) {
		f->local = d->info.local;
		f->scope = d->info.ifindex;
	}
	if (UNLIKELY(io->rate_in) &&
	    !rate_takes_datagram(io->rate_in, io->loop->now_us, udp_wire_bytes(f, d->len, d->info.gso_size), udp_is_query(f))) {
		COUNT_ADD(io->counters, drop_rate, account_datagrams(d->len, d->info.gso_size));
		return;
	}
	if (f->sent && !f->received)
		flood_limit_return(&u->new_flows);
	f->received += f->received < 2;
	account_received(&f->account, account_datagrams(d->len, d->info.gso_size), d->len);
	udp_note_direction(io, f, false);
	udp_touch(u, io, f);
	add_to_batch(u, io, f, d);
}

/* --- errors --- */

/* sent: the datagram that the error is about, if the error does not hold it; or NULL. */
static void error_to_guest(struct io *io, const struct udp_flow *f, const struct sock_error *e, const struct udp_view *sent)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	uint32_t total = sent ? sent->payload_len : e->len, len = u32_min(total, sizeof(e->data));
	uint8_t quote[UDP_HLEN + sizeof(e->data)];
	struct addr from = icmp_error_reporter(io, &e->reporter, &f->host_peer.addr, &key->dest);
	struct icmp_error icmp = v4 ? e->icmp4 : e->icmp6;

	if (!(v4 ? e->known4 : e->known6))
		return;
	/* The datagram has another length in the other family (a nameserver behind --dns-forward). */
	if (icmp.info > IP6_HLEN)
		icmp.info += (uint32_t)ip_header_bytes(v4) - ip_header_bytes(addr_is_v4(&f->host_peer.addr));
	udp_emit(quote, key->guest_port, key->dest_port, total);
	memcpy(quote + UDP_HLEN, sent ? sent->payload : e->data, len);
	icmp_error_send(io, &from, &key->guest, &key->dest, IPPROTO_UDP, quote, UDP_HLEN + len, UDP_HLEN + total, &icmp);
}

void udp_read_errors(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_refused *refused)
{
	struct sock_error e;

	for (int i = 0; i < SCHED_ERRORS && sock_next_error(s->fd, &e); i++) {
		bool own = refused && addr_is_none(&e.reporter) && addr_eq(&e.to.addr, &refused->flow->host_peer.addr);
		const struct udp_flow *f = own ? refused->flow : udp_find_peer(u, s, &e.to);

		if (f && !f->group)
			error_to_guest(io, f, &e, own ? refused->datagram : NULL);
	}
}

/* For readers that show names: the answers among n datagrams that nameservers have sent to flows of the guest. */
static void copy_answers(struct udp *u, const struct udp_socket *s, int n)
{
	for (int i = 0; i < n && !s->listening; i++) {
		const struct datagram d = datagram_at(&u->batch, i);
		uint32_t step = d.info.gso_size ? d.info.gso_size : d.len;

		if (d.from.port != UDP_PORT_DNS || !udp_find_peer(u, s, &d.from))
			continue;
		for (uint32_t at = 0; at < d.len; at += step)
			dns_copies_add(&u->answers, d.data + at, u32_min(step, d.len - at));
	}
}

/* Forwards what one system call reads. Returns the number of datagrams. */
static int receive(struct udp *u, struct io *io, struct udp_socket *s)
{
	int n = datagram_receive(&u->batch, s->fd);

	if (UNLIKELY(n < 0 && n != -EAGAIN) && s->polled)
		udp_read_errors(u, io, s, NULL); /* epoll does not report them */
	if (UNLIKELY(u->answers.wanted))
		copy_answers(u, s, n);
	if (n > 1)
		udp_expect_many(s);
	for (int i = 0; i < n; i++) {
		const struct datagram d = datagram_at(&u->batch, i);

		forward(u, io, s, &d);
	}
	flush(u, io);
	return n > 0 ? n : 0;
}

int udp_watch(struct io *io, const struct udp_socket *s)
{
	return loop_add(io->loop, s->fd, EPOLLIN, loop_tag(OWNER_UDP, s->flow.index, s->flow.generation));
}

/* Counts n datagrams more, and polls the socket from now on if there are too many to wait for. */
static void count_received(struct udp *u, struct io *io, struct udp_socket *s, int n)
{
	if (!sched_rate_is_high(&s->rate, io->loop->now_ms, n) || !io->loop->precise || u->polled_count == SCHED_POLLED_MAX ||
	    loop_remove(io->loop, s->fd) < 0)
		return;
	s->rate.count = 0;
	s->polled = true;
	COUNT(io->counters, udp_polled);
	u->polled[u->polled_count++] = s->flow.index;
	if (u->polled_count == 1)
		u->next_poll_us = io->loop->now_us + SCHED_POLL_INTERVAL_US;
}

void udp_stop_polling(struct udp *u, struct udp_socket *s)
{
	for (uint32_t i = 0; s->polled && i < u->polled_count; i++)
		if (u->polled[i] == s->flow.index)
			u->polled[i--] = u->polled[--u->polled_count];
	s->polled = false;
}

void udp_poll(struct udp *u, struct io *io)
{
	bool more = false;

	if (!u->polled_count || io->loop->now_us < u->next_poll_us)
		return;
	for (uint32_t i = u->polled_count; i-- > 0;) {
		struct udp_socket *s = (struct udp_socket *)flow_at(&u->sockets, u->polled[i]);
		int n = 0, total = 0;

		for (int batches = 0; batches < SCHED_POLL_BATCHES; batches++) {
			n = receive(u, io, s);
			total += n;
			if (n < DATAGRAM_BATCH)
				break;
		}
		more |= n == DATAGRAM_BATCH;
		if (total < SCHED_POLL_UNTIL_BELOW && udp_watch(io, s) == 0)
			udp_stop_polling(u, s);
	}
	u->next_poll_us = io->loop->now_us + (more ? 0 : SCHED_POLL_INTERVAL_US);
}

void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events)
{
	struct udp_socket *s = (struct udp_socket *)flow_at_generation(&u->sockets, index, generation);

	if (!s)
		return;
	if (events & EPOLLERR)
		udp_read_errors(u, io, s, NULL);
	if (s->polled)
		return;
	/* If datagrams are left, the loop reports the socket again after the others had their turn. */
	count_received(u, io, s, receive(u, io, s));
}
