/* Owns the guest's echo requests. One ping socket per guest address, identifier and destination, connected, so that only
 * its own replies arrive; bound to the guest's identifier where that is free, so that it is kept on the wire, and restored in
 * the reply where it is not.
 *
 * The kernel checks that a ping socket carries nothing but echo requests, and computes checksums. Errors that come back reach
 * the guest with its own request inside. Where net.ipv4.ping_group_range does not let us have such sockets, that is said
 * once, and requests are dropped and counted.
 */
#include "proto/icmp.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/icmp_error.h"
#include "io/packet.h"
#include "io/sock_error.h"
#include "wire/icmp.h"

#define TIMEOUT_MS 30000
#define LIMIT_LOG_MS 10000
#define REPLIES_PER_EVENT 16

/* key.guest_port is the identifier. */
struct icmp_flow {
	struct flow flow;
	struct timer timer;
	struct addr remote; /* on the host side */
	int fd;
	uint8_t ttl, tos; /* as set on the socket */
};

int icmp_init(struct icmp *m, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key)
{
	*m = (struct icmp){.sock = *sock};
	return flow_table_init(&m->flows, sizeof(struct icmp_flow), limit, key);
}

void icmp_free(struct icmp *m)
{
	for (uint32_t i = 0; i < m->flows.made; i++) {
		struct icmp_flow *f = (struct icmp_flow *)flow_at(&m->flows, i);

		if (f)
			close(f->fd);
	}
	flow_table_free(&m->flows);
	timer_heap_free(&m->timers);
}

static void close_flow(struct icmp *m, struct io *io, struct icmp_flow *f)
{
	close(f->fd);
	timer_stop(&m->timers, &f->timer);
	flow_remove(&m->flows, &f->flow);
	COUNT_SUB(io->counters, icmp_flows, 1);
}

static void refused(struct icmp *m, struct io *io, int error)
{
	COUNT(io->counters, icmp_limit);
	if (error == EACCES || error == EPERM) {
		if (!m->refused_logged)
			log_add(io->log, LOG_LEVEL_WARNING,
				"ping does not work: the host allows no ping sockets; set net.ipv4.ping_group_range to include this group");
		m->refused_logged = true;
		return;
	}
	if (m->limit_logged_ms && io->loop->now_ms - m->limit_logged_ms < LIMIT_LOG_MS)
		return;
	m->limit_logged_ms = io->loop->now_ms;
	log_add(io->log, LOG_LEVEL_WARNING, "ping refused with %u open: %s", m->flows.used, strerror(error));
}

static void error_to_guest(struct io *io, const struct addr *from, const struct ip_view *ip, int error)
{
	struct icmp_error icmp;

	if (icmp_error_from_errno(ip->v4, error, &icmp))
		icmp_error_send(io, from, &ip->src, &ip->dst, ip->proto, ip->payload, ip->payload_len, ip->payload_len, &icmp);
}

/* A ping socket, with the guest's identifier if it is to be had. */
static int open_socket(const struct icmp *m, const struct addr *remote, uint16_t id)
{
	int protocol = addr_is_v4(remote) ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	int fd = sock_open(&m->sock, remote, SOCK_DGRAM, protocol, id);

	return fd == -EADDRINUSE ? sock_open(&m->sock, remote, SOCK_DGRAM, protocol, 0) : fd;
}

static struct icmp_flow *open_flow(struct icmp *m, struct io *io, const struct ip_view *ip, const struct flow_key *key)
{
	struct endpoint remote;
	struct icmp_flow *f = NULL;
	int fd, rc;

	if (!policy_outbound(io->policy, ip->proto, &(struct endpoint){ip->dst, 0}, &remote)) {
		COUNT(io->counters, drop_policy);
		return NULL;
	}
	fd = open_socket(m, &remote.addr, key->guest_port);
	if (fd < 0) {
		refused(m, io, -fd);
		return NULL;
	}
	rc = sock_connect(&m->sock, fd, &remote);
	if (!rc && !timer_heap_reserve(&m->timers, m->flows.used + 1))
		f = (struct icmp_flow *)flow_add(&m->flows, key);
	if (f && loop_add(io->loop, fd, EPOLLIN, loop_tag(OWNER_ICMP, f->flow.index, f->flow.generation)) < 0) {
		flow_remove(&m->flows, &f->flow);
		f = NULL;
	}
	if (!f) {
		close(fd);
		if (rc)
			error_to_guest(io, &io->router[ip->v4 ? 0 : 1], ip, -rc);
		else
			refused(m, io, ENOBUFS);
		return NULL;
	}
	f->fd = fd;
	f->remote = remote.addr;
	f->ttl = IP_TTL_DEFAULT;
	sock_receive_errors(fd, !addr_is_v4(&remote.addr));
	COUNT(io->counters, icmp_flows);
	return f;
}

static void pass_ttl_and_tos(struct icmp_flow *f, const struct ip_view *ip)
{
	bool v4 = addr_is_v4(&f->remote);

	if (f->ttl != ip->ttl)
		sock_set(f->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_UNICAST_HOPS, ip->ttl);
	if (f->tos != ip->tos)
		sock_set(f->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, ip->tos);
	f->ttl = ip->ttl;
	f->tos = ip->tos;
}

/* Errors that have come back, as ICMP with the guest's request inside. */
static void read_errors(struct io *io, struct icmp_flow *f)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	struct sock_error e;

	for (int i = 0; i < REPLIES_PER_EVENT && sock_next_error(f->fd, &e); i++) {
		const struct addr *from = &e.reporter;

		if (!(v4 ? e.known4 : e.known6) || e.len < ICMP_HLEN)
			continue;
		if (addr_is_none(from))
			from = &io->router[v4 ? 0 : 1];
		else if (addr_eq(from, &f->remote) || addr_is_loopback(from))
			from = &key->remote;
		store_be16(e.data + 4, key->guest_port);
		icmp_error_send(io, from, &key->guest, &key->remote, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, e.data, e.len, e.len,
				v4 ? &e.icmp4 : &e.icmp6);
	}
}

void icmp_from_guest(struct icmp *m, struct io *io, const struct ip_view *ip)
{
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	struct icmp_view echo;
	struct icmp_flow *f;
	ssize_t n;

	if (!icmp_parse(ip->payload, ip->payload_len, &echo) ||
	    echo.type != (ip->v4 ? ICMP4_ECHO_REQUEST : ICMP6_ECHO_REQUEST) || echo.code) {
		COUNT(io->counters, drop_unsupported);
		return;
	}
	key.guest_port = echo.id;
	f = (struct icmp_flow *)flow_find(&m->flows, &key);
	if (!f)
		f = open_flow(m, io, ip, &key);
	if (!f)
		return;
	timer_set(&m->timers, &f->timer, io->loop->now_ms + TIMEOUT_MS);
	pass_ttl_and_tos(f, ip);
	n = send(f->fd, ip->payload, ip->payload_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != ENOBUFS) {
		int error = errno;

		/* Perhaps an earlier request's error: that goes first, then this one gets its chance. */
		read_errors(io, f);
		if (send(f->fd, ip->payload, ip->payload_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && error != EMSGSIZE)
			error_to_guest(io, &io->router[ip->v4 ? 0 : 1], ip, error);
	}
}

static void reply_ttl(struct msghdr *msg, struct packet *p)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) ||
		    (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT))
			p->ttl = (uint8_t) * (const int *)(const void *)CMSG_DATA(c);
	}
}

/* False: nothing more is there. */
static bool receive_one(struct io *io, struct icmp_flow *f)
{
	_Alignas(struct cmsghdr) char control[256];
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	struct iovec iov = {io->scratch, SCRATCH_BYTES};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(f->fd, &msg, MSG_DONTWAIT);
	struct packet p;

	if (n < 0)
		return errno == EINTR;
	if (n < ICMP_HLEN)
		return true;
	p = (struct packet){.src = key->remote, .dst = key->guest, .proto = v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, .ttl = IP_TTL_DEFAULT,
			    .header = io->scratch, .header_len = ICMP_HLEN, .csum_offset = ICMP_CSUM_OFFSET,
			    .body = io->scratch + ICMP_HLEN, .body_len = (uint32_t)n - ICMP_HLEN};
	reply_ttl(&msg, &p);
	io->scratch[0] = v4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;
	memset(io->scratch + ICMP_CSUM_OFFSET, 0, 2);
	store_be16(io->scratch + 4, key->guest_port);
	packet_send(io, &p);
	return true;
}

void icmp_event(struct icmp *m, struct io *io, uint32_t index, uint32_t generation, uint32_t events)
{
	struct icmp_flow *f = (struct icmp_flow *)flow_at_generation(&m->flows, index, generation);

	if (!f)
		return;
	if (events & EPOLLERR)
		read_errors(io, f);
	for (int i = 0; i < REPLIES_PER_EVENT && receive_one(io, f); i++)
		;
}

void icmp_timers(struct icmp *m, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&m->timers, io->loop->now_ms)))
		close_flow(m, io, CONTAINER_OF(due, struct icmp_flow, timer));
}
