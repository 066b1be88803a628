/* Owns what host sockets bring: datagrams, and errors from the error queue.
 *
 * Datagrams that follow each other in one event are gathered in place and given to the tap as one segmentation offload frame:
 * a frame costs more than everything else here.
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

#define DATAGRAMS_PER_EVENT 64
#define ERRORS_PER_EVENT 16
#define PORT_TRIES 64

/* A peer's first datagram to a forwarded port. */
static struct udp_flow *inbound_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct endpoint *peer)
{
	struct flow_key key = {.guest = s->target.addr, .guest_port = s->target.port, .remote_port = peer->port};
	int family = addr_family_index(&peer->addr);

	/* A flood of senders must not keep the guest from opening flows of its own. */
	if (u->flows.used >= u->flows.limit / 4 * 3) {
		udp_limit_reached(u, io, 0);
		return NULL;
	}
	if (addr_is_none(&key.guest))
		key.guest = io->policy->guest_seen[family];
	if (addr_is_none(&key.guest) || addr_family_index(&key.guest) != family ||
	    !policy_inbound_source(io->policy, &peer->addr, &key.remote))
		return NULL;
	/* Two peers may look alike once their addresses are mapped: the later one gets another port. */
	for (int i = 0; flow_find(&u->flows, &key); i++) {
		if (i == PORT_TRIES)
			return NULL;
		key.remote_port = key.remote_port == 65535 ? 1024 : (uint16_t)(key.remote_port + 1);
	}
	return udp_add_flow(u, io, s, &key, peer);
}

static void to_guest(struct io *io, const struct udp_flow *f, const uint8_t *data, uint32_t len, const struct datagram_info *a)
{
	const struct flow_key *key = &f->flow.key;
	uint8_t header[UDP_HLEN];
	struct packet p = {.src = key->remote, .dst = key->guest, .proto = IPPROTO_UDP, .ttl = a->ttl, .tos = a->tos, .header = header,
			   .header_len = UDP_HLEN, .csum_offset = UDP_CSUM_OFFSET, .body = data, .body_len = len,
			   .gso_size = a->gso_size};

	udp_emit(header, key->remote_port, key->guest_port, len);
	packet_send(io, &p);
}

static void flush(struct udp *u, struct io *io)
{
	struct udp_run *r = &u->to_guest;

	if (r->count)
		to_guest(io, (const struct udp_flow *)flow_at(&u->flows, r->flow), u->to_guest_data, r->bytes,
			 &(struct datagram_info){.gso_size = r->count > 1 ? r->size : 0, .ttl = r->ttl, .tos = r->tos});
	r->count = 0;
	r->bytes = 0;
}

/* Takes the datagram that was read behind the run. */
static void gather(struct udp *u, struct io *io, const struct udp_flow *f, uint32_t len, const struct datagram_info *info)
{
	struct udp_run *r = &u->to_guest;
	struct udp_run next = {f->flow.index, len, (uint16_t)len, 1, info->ttl, info->tos};
	const uint8_t *data = u->to_guest_data + r->bytes;

	if (!info->gso_size && udp_run_takes(r, &next)) {
		if (udp_run_add(r, &next))
			flush(u, io);
		return;
	}
	flush(u, io);
	if (info->gso_size || !len || len > UDP_RUN_BYTES ||
	    ip_header_bytes(addr_is_v4(&f->flow.key.guest)) + UDP_HLEN + len > io->mtu) {
		to_guest(io, f, data, len, info);
		return;
	}
	memmove(u->to_guest_data, data, len);
	*r = next;
}

/* False: nothing more is there. */
static bool receive_one(struct udp *u, struct io *io, struct udp_socket *s)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES];
	struct sockaddr_storage from;
	struct iovec iov = {u->to_guest_data + u->to_guest.bytes, IP_MAX_BYTES};
	struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT);
	struct datagram_info info;
	struct endpoint peer;
	struct udp_flow *f;

	if (n < 0)
		return errno == EINTR;
	info = datagram_read_info(&msg);
	peer = addr_from_sockaddr(&from);
	if (s->listening && udp_is_local(u, s, &peer)) {
		udp_local_forward(u, io, s, &peer, iov.iov_base, (uint32_t)n, &info);
		return true;
	}
	f = udp_find_peer(u, s, &peer);
	if (!f && s->listening)
		f = inbound_flow(u, io, s, &peer);
	if (!f) {
		COUNT(io->counters, udp_unasked);
		return true;
	}
	if (s->listening) {
		f->local = info.local;
		f->scope = info.ifindex;
	}
	if (f->sent && !f->received)
		bucket_return(&u->openings);
	f->received += f->received < 2;
	udp_touch(u, io, f);
	gather(u, io, f, (uint32_t)n, &info);
	return true;
}

/* --- errors --- */

/* sent: what the error is about, where the error does not say it; or NULL. */
static void error_to_guest(struct io *io, const struct udp_flow *f, const struct sock_error *e, const struct udp_view *sent)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	uint32_t total = sent ? sent->payload_len : e->len, len = u32_min(total, sizeof(e->data));
	uint8_t quote[UDP_HLEN + sizeof(e->data)];
	struct addr from = icmp_error_reporter(io, &e->reporter, &f->remote.addr, &key->remote);
	struct icmp_error icmp = v4 ? e->icmp4 : e->icmp6;

	if (!(v4 ? e->known4 : e->known6))
		return;
	/* The same datagram has another length in the other family (a nameserver behind --dns-forward). */
	if (icmp.info > IP6_HLEN)
		icmp.info += (uint32_t)ip_header_bytes(v4) - ip_header_bytes(addr_is_v4(&f->remote.addr));
	udp_emit(quote, key->guest_port, key->remote_port, total);
	memcpy(quote + UDP_HLEN, sent ? sent->payload : e->data, len);
	icmp_error_send(io, &from, &key->guest, &key->remote, IPPROTO_UDP, quote, UDP_HLEN + len, UDP_HLEN + total,
			&icmp);
}

void udp_read_errors(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_refused *refused)
{
	struct sock_error e;

	for (int i = 0; i < ERRORS_PER_EVENT && sock_next_error(s->fd, &e); i++) {
		bool own = refused && addr_is_none(&e.reporter) && addr_eq(&e.to.addr, &refused->flow->remote.addr);
		const struct udp_flow *f = own ? refused->flow : udp_find_peer(u, s, &e.to);

		if (f)
			error_to_guest(io, f, &e, own ? refused->datagram : NULL);
	}
}

void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events)
{
	struct udp_socket *s = (struct udp_socket *)flow_at_generation(&u->sockets, index, generation);

	if (!s)
		return;
	if (events & EPOLLERR)
		udp_read_errors(u, io, s, NULL);
	for (int i = 0; i < DATAGRAMS_PER_EVENT && receive_one(u, io, s); i++)
		;
	flush(u, io);
}
