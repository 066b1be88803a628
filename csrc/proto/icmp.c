/* Purpose: the guest's echo requests, through ping sockets (icmp(7)).
 *
 * How: a flow is a guest address, an identifier and a destination, and has a ping socket. The socket is bound to the guest's
 * identifier if that is free, so that the host peer sees the same; if not, replies get the guest's identifier back. The socket is
 * connected, so that a missing route shows at once. But the kernel gives a ping socket every reply with its identifier, so the
 * sender is compared here.
 *
 * Requests to virtual addresses are answered here: the host would look for those addresses on its network.
 *
 * The kernel lets a ping socket send only echo requests, and computes checksums. An ICMP error reaches the guest with the guest's
 * own request inside. If net.ipv4.ping_group_range does not allow ping sockets, that is logged once, and requests are dropped and
 * counted.
 */
#include "proto/icmp.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/timeouts.h"
#include "io/datagram.h"
#include "io/gate.h"
#include "io/icmp_error.h"
#include "io/packet.h"
#include "io/sock_error.h"
#include "wire/icmp.h"

#define REQUESTS_PER_S 5000 /* each costs four system calls: together a fifth of a CPU */
#define REQUESTS_BURST 1000
#define SEND_TRIES 3

/* key.guest_port is the identifier of the guest's requests; key.dest_port is 0. */
struct icmp_flow {
	struct flow flow;
	struct flow_account account;
	struct timer timer;
	struct addr host_peer;
	int fd;
	uint8_t ttl, tos, discover; /* as set on the socket */
	uint16_t rule;              /* of the egress policy, or FLOW_NO_RULE */
};

void icmp_describe(const struct flow *flow, struct flow_event *e)
{
	const struct icmp_flow *f = (const struct icmp_flow *)flow;

	event_fill(e, FLOW_PING, flow, &f->account, &(struct endpoint){f->host_peer, 0}, f->rule);
}

static void report_refused(struct io *io, const struct flow_key *key, enum flow_reason reason, int error)
{
	event_refused(io->events, io->loop->now_ms, FLOW_PING, key, NULL, reason, error, FLOW_NO_RULE, true);
}

int icmp_init(struct icmp *m, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key)
{
	*m = (struct icmp){.sock = *sock};
	return flow_table_init(&m->flows, sizeof(struct icmp_flow), limit, key);
}

void icmp_free(struct icmp *m)
{
	struct icmp_flow *f;

	for (uint32_t at = 0; (f = (struct icmp_flow *)flow_next(&m->flows, &at));)
		close(f->fd);
	flow_table_free(&m->flows);
	timer_heap_free(&m->timers);
}

static void close_flow(struct icmp *m, struct io *io, struct icmp_flow *f, enum flow_reason reason)
{
	event_report(io->events, io->loop->now_ms, icmp_describe, &f->flow, FLOW_CLOSED, reason, 0);
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
				"ping does not work: the host allows no ping sockets; "
				"set net.ipv4.ping_group_range to include this group");
		m->refused_logged = true;
		return;
	}
	log_refused(io->log, &m->limit_logged_ms, io->loop->now_ms, "ping", m->flows.used, error);
}

/* A ping socket, with the guest's identifier if that is free; or -errno. */
static int open_socket(const struct icmp *m, const struct addr *host_peer, uint16_t id)
{
	int protocol = addr_is_v4(host_peer) ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	int fd = sock_open(&m->sock, host_peer, SOCK_DGRAM, protocol, id);

	return fd == -EADDRINUSE ? sock_open(&m->sock, host_peer, SOCK_DGRAM, protocol, 0) : fd;
}

static struct icmp_flow *open_flow(struct icmp *m, struct io *io, const struct ip_view *ip, const struct flow_key *key)
{
	struct endpoint host_peer;
	struct icmp_flow *f = NULL;
	struct gate_pass pass;
	int fd, rc;

	if (!mapping_outbound(io->mapping, ip->proto, &(struct endpoint){ip->dst, 0}, &host_peer)) {
		COUNT(io->counters, drop_policy);
		report_refused(io, key, REASON_address, 0);
		return NULL;
	}
	if (!gate_opens(io, FLOW_PING, key, &host_peer, &pass)) {
		gate_answer(io, ip);
		return NULL;
	}
	fd = open_socket(m, &host_peer.addr, key->guest_port);
	if (fd < 0) {
		refused(m, io, -fd);
		report_refused(io, key, event_reason_of(-fd), -fd);
		return NULL;
	}
	rc = sock_connect(fd, &host_peer, m->sock.scope6);
	if (!rc && !timer_heap_reserve(&m->timers, m->flows.used + 1))
		f = (struct icmp_flow *)flow_add(&m->flows, key);
	if (f && loop_add(io->loop, fd, EPOLLIN, loop_tag(OWNER_ICMP, f->flow.index, f->flow.generation)) < 0) {
		flow_remove(&m->flows, &f->flow);
		f = NULL;
	}
	if (!f) {
		close(fd);
		report_refused(io, key, rc ? event_reason_of(-rc) : REASON_no_room, -rc);
		/* No ICMP error answers a broadcast (RFC 1122, 3.2.2). */
		if (rc == -EACCES && sock_is_broadcast(&m->sock, &host_peer))
			COUNT(io->counters, drop_policy);
		else if (rc)
			icmp_error_answer(io, ip, -rc);
		else
			refused(m, io, flow_no_room(&m->flows));
		return NULL;
	}
	f->fd = fd;
	f->host_peer = host_peer.addr;
	f->ttl = IP_TTL_DEFAULT;
	f->discover = DATAGRAM_DISCOVER_UNKNOWN;
	sock_receive_errors(fd, addr_is_v4(&host_peer.addr), !addr_is_v4(&host_peer.addr));
	COUNT(io->counters, icmp_flows);
	f->rule = pass.rule;
	account_open(&f->account, io->loop->now_ms, false);
	event_report(io->events, io->loop->now_ms, icmp_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	return f;
}

static void pass_header(const struct io *io, struct icmp_flow *f, const struct ip_view *ip)
{
	bool v4 = addr_is_v4(&f->host_peer);
	uint8_t ttl = ip_ttl_onward(ip);

	if (f->ttl != ttl)
		sock_set(f->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_UNICAST_HOPS, ttl);
	if (f->tos != ip->tos)
		sock_set(f->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, ip->tos);
	f->ttl = ttl;
	f->tos = ip->tos;
	datagram_set_discover(f->fd, v4, ip->df, (uint32_t)ip_header_bytes(v4) + ip->payload_len, io->link_mtu, &f->discover);
}

/* Sends the errors of the socket's error queue to the guest, as ICMP errors with its request inside. sent: the request that the
 * kernel has just refused, because the kernel's own errors do not repeat it; or NULL. */
static void read_errors(struct io *io, const struct icmp_flow *f, const struct ip_view *sent)
{
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	struct sock_error e;

	for (int i = 0; i < SCHED_PINGS && sock_next_error(f->fd, &e); i++) {
		struct addr from = icmp_error_reporter(io, &e.reporter, &f->host_peer, &key->dest);
		bool own = addr_is_none(&e.reporter) && sent;
		uint32_t len = own ? u32_min(sent->payload_len, sizeof(e.data)) : e.len;

		if (own)
			memcpy(e.data, sent->payload, len);
		if (!(v4 ? e.known4 : e.known6) || len < ICMP_HLEN)
			continue;
		store_be16(e.data + 4, key->guest_port);
		icmp_error_send(io, &from, &key->guest, &key->dest, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, e.data, len,
				own ? sent->payload_len : len, v4 ? &e.icmp4 : &e.icmp6);
	}
}

static void send_request(struct io *io, struct icmp_flow *f, const struct ip_view *ip)
{
	int error = 0;

	/* The error may be an earlier request's: report that one, then try again. */
	for (int i = 0; i < SEND_TRIES; i++) {
		if (send(f->fd, ip->payload, ip->payload_len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return;
		error = errno;
		if (error == EAGAIN || error == ENOBUFS)
			return;
		read_errors(io, f, error == EMSGSIZE ? ip : NULL);
		if (error == EMSGSIZE)
			return;
	}
	icmp_error_answer(io, ip, error);
}

/* The reply of a virtual address. */
static void answer(struct io *io, const struct ip_view *ip)
{
	uint8_t header[ICMP_HLEN];
	struct packet p = {.src = ip->dst,
			   .dst = ip->src,
			   .proto = ip->proto,
			   .ttl = IP_TTL_DEFAULT,
			   .tos = ip->tos,
			   .header = header,
			   .header_len = ICMP_HLEN,
			   .csum_offset = ICMP_CSUM_OFFSET,
			   .body = ip->payload + ICMP_HLEN,
			   .body_len = ip->payload_len - ICMP_HLEN};

	memcpy(header, ip->payload, ICMP_HLEN);
	header[0] = ip->v4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;
	memset(header + ICMP_CSUM_OFFSET, 0, 2);
	packet_send(io, &p);
}

/* Bytes of the IP packet. */
static uint32_t wire_bytes(const struct icmp_flow *f, uint32_t message_bytes)
{
	return message_bytes + ip_header_bytes(addr_is_v4(&f->host_peer));
}

void icmp_from_guest(struct icmp *m, struct io *io, const struct ip_view *ip)
{
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	struct icmp_view echo;
	struct icmp_flow *f;

	if (!icmp_parse(ip->payload, ip->payload_len, &echo) || echo.type != (ip->v4 ? ICMP4_ECHO_REQUEST : ICMP6_ECHO_REQUEST) ||
	    echo.code) {
		COUNT(io->counters, drop_unsupported);
		return;
	}
	if (!flood_limit_take(&m->requests, io->loop->now_ms, REQUESTS_PER_S, REQUESTS_BURST)) {
		COUNT(io->counters, icmp_rate_limit);
		if (log_due(&m->rate_logged_ms, io->loop->now_ms))
			log_add(io->log, LOG_LEVEL_WARNING, "ping: the guest sends more than %u a second: some are lost",
				REQUESTS_PER_S);
		return;
	}
	if (mapping_is_virtual(io->mapping, &ip->dst)) {
		answer(io, ip);
		return;
	}
	key.guest_port = echo.id;
	f = (struct icmp_flow *)flow_find(&m->flows, &key);
	if (!f)
		f = open_flow(m, io, ip, &key);
	if (!f)
		return;
	if (UNLIKELY(io->rate_out) && !rate_takes_datagram(io->rate_out, io->loop->now_us, wire_bytes(f, ip->payload_len), false)) {
		COUNT(io->counters, drop_rate);
		return;
	}
	timer_set(&m->timers, &f->timer, io->loop->now_ms + ICMP_TIMEOUT_MS);
	account_sent(&f->account, 1, ip->payload_len - ICMP_HLEN);
	pass_header(io, f, ip);
	send_request(io, f, ip);
}

/* False: there is no more to read. */
static bool receive_one(struct io *io, struct icmp_flow *f)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES];
	const struct flow_key *key = &f->flow.key;
	bool v4 = addr_is_v4(&key->guest);
	struct iovec iov = {io->scratch, SCRATCH_BYTES};
	struct sockaddr_storage from = {0};
	struct msghdr msg = {.msg_name = &from,
			     .msg_namelen = sizeof(from),
			     .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(f->fd, &msg, MSG_DONTWAIT);
	struct datagram_info info;
	struct endpoint sender;
	struct packet p;

	if (n < 0)
		return errno == EINTR;
	sender = addr_from_sockaddr(&from);
	if (n < ICMP_HLEN || !addr_eq(&sender.addr, &f->host_peer)) {
		COUNT(io->counters, icmp_unsolicited);
		return true;
	}
	if (UNLIKELY(io->rate_in) && !rate_takes_datagram(io->rate_in, io->loop->now_us, wire_bytes(f, (uint32_t)n), false)) {
		COUNT(io->counters, drop_rate);
		return true;
	}
	account_received(&f->account, 1, (uint32_t)n - ICMP_HLEN);
	info = datagram_read_info(&msg);
	p = (struct packet){.src = key->dest,
			    .dst = key->guest,
			    .proto = v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6,
			    .ttl = info.ttl,
			    .tos = info.tos,
			    .header = io->scratch,
			    .header_len = ICMP_HLEN,
			    .csum_offset = ICMP_CSUM_OFFSET,
			    .body = io->scratch + ICMP_HLEN,
			    .body_len = (uint32_t)n - ICMP_HLEN};
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
		read_errors(io, f, NULL);
	for (int i = 0; i < SCHED_PINGS && receive_one(io, f); i++)
		;
}

void icmp_end_bound(struct icmp *m, struct io *io, const struct addr_list *addrs)
{
	struct icmp_flow *f;

	for (uint32_t at = 0; (f = (struct icmp_flow *)flow_next(&m->flows, &at));)
		if (sock_is_bound(f->fd, addrs))
			close_flow(m, io, f, REASON_address_gone);
}

void icmp_judge_again(struct icmp *m, struct io *io, struct gate_again *counts)
{
	struct icmp_flow *f;

	for (uint32_t at = 0; (f = (struct icmp_flow *)flow_next(&m->flows, &at));)
		if (!gate_keeps(io, icmp_describe, &f->flow, NULL, &f->rule, counts))
			close_flow(m, io, f, REASON_rule);
}

void icmp_timers(struct icmp *m, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&m->timers, io->loop->now_ms)))
		close_flow(m, io, CONTAINER_OF(due, struct icmp_flow, timer), REASON_idle);
}
