/* Owns what host sockets bring: datagrams, and errors from the error queue. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "io/icmp_error.h"
#include "io/packet.h"
#include "io/sock_error.h"
#include "proto/udp_private.h"

#define DATAGRAMS_PER_EVENT 64
#define ERRORS_PER_EVENT 16
#define PORT_TRIES 64

/* What came along with a datagram. */
struct ancillary {
	struct addr local;
	int gso_size;
	uint8_t ttl, tos;
};

static struct ancillary read_ancillary(struct msghdr *msg)
{
	struct ancillary a = {.ttl = IP_TTL_DEFAULT};

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		const void *data = CMSG_DATA(c);

		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) {
			a.ttl = (uint8_t) * (const int *)data;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT) {
			a.ttl = (uint8_t) * (const int *)data;
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
			a.tos = *(const uint8_t *)data;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
			a.tos = (uint8_t) * (const int *)data;
		} else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
			a.gso_size = *(const int *)data;
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			a.local = addr_from_v4(&((const struct in_pktinfo *)data)->ipi_addr);
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			a.local = addr_from_v6(&((const struct in6_pktinfo *)data)->ipi6_addr);
		}
	}
	return a;
}

/* A peer's first datagram to a forwarded port. */
static struct udp_flow *inbound_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct endpoint *peer)
{
	struct flow_key key = {.guest = s->target.addr, .guest_port = s->target.port, .remote_port = peer->port};
	int family = addr_family_index(&peer->addr);

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

static void to_guest(struct udp *u, struct io *io, struct udp_flow *f, const uint8_t *data, uint32_t len, const struct ancillary *a)
{
	const struct flow_key *key = &f->flow.key;
	uint8_t header[UDP_HLEN];
	struct packet p = {.src = key->remote, .dst = key->guest, .proto = IPPROTO_UDP, .ttl = a->ttl, .tos = a->tos, .header = header,
			   .header_len = UDP_HLEN, .csum_offset = UDP_CSUM_OFFSET, .body = data, .body_len = len,
			   .gso_size = (uint16_t)a->gso_size};

	udp_emit(header, key->remote_port, key->guest_port, len);
	f->received += f->received < 2;
	udp_touch(u, io, f);
	packet_send(io, &p);
}

/* False: nothing more is there. */
static bool receive_one(struct udp *u, struct io *io, struct udp_socket *s)
{
	_Alignas(struct cmsghdr) char control[256];
	struct sockaddr_storage from;
	struct iovec iov = {io->scratch, SCRATCH_BYTES};
	struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT);
	struct ancillary a;
	struct endpoint peer;
	struct udp_flow *f;

	if (n < 0)
		return errno == EINTR;
	a = read_ancillary(&msg);
	peer = addr_from_sockaddr(&from);
	f = udp_find_peer(u, s, &peer);
	if (!f && s->listening)
		f = inbound_flow(u, io, s, &peer);
	if (!f) {
		COUNT(io->counters, udp_unasked);
		return true;
	}
	if (s->listening)
		f->local = a.local;
	to_guest(u, io, f, io->scratch, (uint32_t)n, &a);
	return true;
}

/* --- errors --- */

/* Who reports it, as the guest knows it. */
static struct addr reporter(const struct io *io, const struct udp_flow *f, const struct sock_error *e)
{
	if (addr_is_none(&e->reporter))
		return io->router[addr_is_v4(&f->flow.key.guest) ? 0 : 1];
	if (addr_eq(&e->reporter, &f->remote.addr) || addr_is_loopback(&e->reporter))
		return f->flow.key.remote;
	return e->reporter;
}

static void error_to_guest(struct io *io, const struct udp_flow *f, const struct sock_error *e)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	uint8_t quote[UDP_HLEN + sizeof(e->data)];
	struct addr from = reporter(io, f, e);

	if (!(v4 ? e->known4 : e->known6))
		return;
	udp_emit(quote, key->guest_port, key->remote_port, e->len);
	memcpy(quote + UDP_HLEN, e->data, e->len);
	icmp_error_send(io, &from, &key->guest, &key->remote, IPPROTO_UDP, quote, UDP_HLEN + e->len, UDP_HLEN + e->len,
			v4 ? &e->icmp4 : &e->icmp6);
}

void udp_read_errors(struct udp *u, struct io *io, struct udp_socket *s)
{
	struct sock_error e;

	for (int i = 0; i < ERRORS_PER_EVENT && sock_next_error(s->fd, &e); i++) {
		struct udp_flow *f = udp_find_peer(u, s, &e.to);

		if (f)
			error_to_guest(io, f, &e);
	}
}

void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events)
{
	struct udp_socket *s = (struct udp_socket *)flow_at_generation(&u->sockets, index, generation);

	if (!s)
		return;
	if (events & EPOLLERR)
		udp_read_errors(u, io, s);
	for (int i = 0; i < DATAGRAMS_PER_EVENT && receive_one(u, io, s); i++)
		;
}
