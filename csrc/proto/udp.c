/* Purpose: flows and sockets of UDP.
 *
 * How: a guest end has one host socket per family, to all destinations, as long as a flow uses it: endpoint-independent mapping
 * (RFC 4787, 4.1). It receives only from host peers, address and port, that the guest has written to: address and
 * port-dependent filtering (RFC 4787, 5), because a sandbox should hear only from peers that it asked. A flow knows both the
 * host peer and the destination, so that answers come from the destination.
 *
 * A datagram to a group, multicast or broadcast, goes to all its members. They answer from their own addresses, and often from
 * another port. So as long as a socket has a flow to a group, each new sender to the socket becomes a flow. No socket joins a
 * group: multicast and broadcast do not come in.
 *
 * A forwarded port is a listening socket. Each host peer that writes to it is a flow. Its answers leave through the same
 * socket, from the address that the host peer wrote to. If the socket is bound to any address, flows that the guest begins from
 * that port leave through it too, so that all peers see one port (RFC 4787, 4.1).
 *
 * Invariants: every flow has an entry in `peers`; a socket's users counts its flows; a listening socket is not closed here.
 *
 * Limits: flows and descriptors (udp_limit counts what was refused).
 */
#include "proto/udp.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/datagram.h"
#include "io/sock_error.h"
#include "proto/udp_private.h"

#define SOCKETS_MAX (UINT16_MAX + 1)  /* a key has 16 bits for a socket's index: peer_key(), udp_splice.c */
#define SOCKET_BUFFER_BYTES (4 << 20) /* net.core.rmem_max and wmem_max may allow less */

/* --- keys ---
 *
 * A flow_table is searched by a flow_key, but sockets and host peers are no flows. The functions below say what their keys hold.
 */

/* The host peers that a socket can send to. */
enum reach {
	REACH_BOUND = 0, /* bound to an address or a device: flows of the guest cannot share it */
	REACH_V4 = 4,
	REACH_V6 = 6,
	REACH_DUAL = 10,
};

/* The socket of a guest end for one family of host peers: dest_port holds the family. */
static struct flow_key guest_socket_key(const struct endpoint *guest, enum reach family)
{
	return (struct flow_key){.guest = guest->addr, .guest_port = guest->port, .dest_port = (uint16_t)family};
}

/* A listening socket that flows from the guest's port can share: dest_port holds its reach. */
static struct flow_key shared_listener_key(uint16_t guest_port, enum reach reach)
{
	return (struct flow_key){.guest_port = guest_port, .dest_port = (uint16_t)reach};
}

/* Any other listening socket: dest holds a serial number, which makes the key unique. */
static struct flow_key listener_key(uint32_t serial)
{
	struct flow_key key = {.dest_port = REACH_BOUND};

	memcpy(key.dest.b, &serial, sizeof(serial));
	return key;
}

/* A host peer of a socket, in udp.peers: guest_port holds the socket's index. */
static struct flow_key peer_key(const struct udp_socket *s, const struct endpoint *host_peer)
{
	return (struct flow_key){.dest = host_peer->addr, .guest_port = (uint16_t)s->flow.index, .dest_port = host_peer->port};
}

/* --- sockets --- */

int udp_init(struct udp *u, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key)
{
	int rc;

	memset(u, 0, offsetof(struct udp, to_host_data)); /* not the buffers: they take memory when they are used */
	u->batch.used = DATAGRAM_BATCH;
	u->sock = *sock;
	if (limit > SOCKETS_MAX / 2)
		return -EINVAL;
	rc = flow_table_init(&u->sockets, sizeof(struct udp_socket), limit * 2, key);
	if (!rc)
		rc = flow_table_init(&u->flows, sizeof(struct udp_flow), limit, key);
	if (!rc)
		rc = flow_table_init(&u->peers, sizeof(struct udp_peer), limit, key);
	if (!rc)
		rc = udp_splice_init(u, limit, key);
	return rc;
}

void udp_free(struct udp *u)
{
	struct udp_socket *s;

	for (uint32_t at = 0; (s = (struct udp_socket *)flow_next(&u->sockets, &at));)
		if (!s->listening)
			close(s->fd);
	dns_copies_free(&u->answers);
	flow_table_free(&u->sockets);
	flow_table_free(&u->flows);
	flow_table_free(&u->peers);
	timer_heap_free(&u->timers);
	udp_splice_free(u);
}

void udp_limit_reached(struct udp *u, struct io *io, int error)
{
	COUNT(io->counters, udp_limit);
	log_refused(io->log, &u->limit_logged_ms, io->loop->now_ms, "UDP flow", u->flows.used, error);
}

void udp_expect_many(struct udp_socket *s)
{
	if (LIKELY(s->many))
		return;
	s->many = true;
	sock_set(s->fd, IPPROTO_UDP, UDP_GRO, 1);
	sock_set(s->fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER_BYTES);
}

/* The first answer may be a burst already: it has to find room. */
static void prepare(int fd, bool v4, bool v6)
{
	sock_receive_errors(fd, v4, v6);
	sock_set(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER_BYTES);
}

static struct udp_socket *add_socket(struct udp *u, struct io *io, const struct flow_key *key, int fd, bool v6)
{
	struct udp_socket *s = (struct udp_socket *)flow_add(&u->sockets, key);

	if (!s)
		return NULL;
	s->fd = fd;
	if (udp_watch(io, s) < 0) {
		flow_remove(&u->sockets, &s->flow);
		return NULL;
	}
	s->v6 = v6;
	memset(s->discover, DATAGRAM_DISCOVER_UNKNOWN, sizeof(s->discover));
	return s;
}

/* The listening socket that this flow of the guest can share, or NULL. */
static struct udp_socket *find_listener(const struct udp *u, const struct endpoint *guest, const struct addr *host_peer)
{
	int family = addr_family_index(host_peer);
	struct flow_key key = shared_listener_key(guest->port, family ? REACH_V6 : REACH_V4);
	struct flow_key dual = shared_listener_key(guest->port, REACH_DUAL);
	struct udp_socket *s;

	if (!addr_is_none(&u->sock.outbound[family]) || u->sock.outbound_if[family][0])
		return NULL;
	s = (struct udp_socket *)flow_find(&u->sockets, &key);
	if (!s)
		s = (struct udp_socket *)flow_find(&u->sockets, &dual);
	return s && (addr_is_none(&s->target.addr) || addr_eq(&s->target.addr, &guest->addr)) ? s : NULL;
}

struct udp_socket *udp_open_socket(struct udp *u, struct io *io, const struct endpoint *guest, const struct addr *host_peer)
{
	struct flow_key key = guest_socket_key(guest, addr_is_v4(host_peer) ? REACH_V4 : REACH_V6);
	struct udp_socket *s = (struct udp_socket *)flow_find(&u->sockets, &key);
	int fd;

	if (!s)
		s = find_listener(u, guest, host_peer);
	if (s)
		return s;
	fd = sock_open(&u->sock, host_peer, SOCK_DGRAM, 0, 0);
	s = fd < 0 ? NULL : add_socket(u, io, &key, fd, !addr_is_v4(host_peer));
	if (!s) {
		udp_limit_reached(u, io, fd < 0 ? -fd : flow_no_room(&u->sockets));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	prepare(fd, !s->v6, s->v6);
	return s;
}

static int get_int(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, name, &value, &len) < 0 ? -errno : value;
}

static enum reach listener_reach(int fd, bool v6)
{
	struct sockaddr_storage ss = {0};
	struct addr any;
	char device[16] = "";
	socklen_t len = sizeof(ss), device_len = sizeof(device);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &device_len) < 0 || device[0])
		return REACH_BOUND;
	any = addr_from_sockaddr(&ss).addr;
	if (!addr_is_unspecified(&any))
		return REACH_BOUND;
	if (!v6)
		return REACH_V4;
	return get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY) ? REACH_V6 : REACH_DUAL;
}

int udp_listen(struct udp *u, struct io *io, int fd, bool to_host, const struct endpoint *target)
{
	int domain = get_int(fd, SOL_SOCKET, SO_DOMAIN);
	struct udp_socket *s;
	struct flow_key key;
	enum reach reach;

	if (domain < 0)
		return domain;
	reach = listener_reach(fd, domain == AF_INET6);
	key = shared_listener_key(target->port, reach);
	/* Several ports of the host may lead to one of the guest's: flows of the guest share the first. */
	if (to_host || reach == REACH_BOUND || flow_find(&u->sockets, &key))
		key = listener_key(++u->listener_serial);
	s = add_socket(u, io, &key, fd, domain == AF_INET6);
	if (!s)
		return -ENOMEM;
	prepare(fd, true, s->v6);
	udp_expect_many(s);
	sock_set(fd, IPPROTO_IP, IP_PKTINFO, 1);
	if (s->v6)
		sock_set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	s->listening = true;
	s->to_host = to_host;
	s->target = *target;
	return 0;
}

/* --- flows --- */

struct udp_flow *udp_find_peer(const struct udp *u, const struct udp_socket *s, const struct endpoint *host_peer)
{
	struct flow_key key = peer_key(s, host_peer);
	struct udp_peer *p = (struct udp_peer *)flow_find(&u->peers, &key);

	return p ? (struct udp_flow *)flow_at(&u->flows, p->index) : NULL;
}

void udp_describe(const struct flow *flow, struct flow_event *e)
{
	const struct udp_flow *f = (const struct udp_flow *)flow;

	event_fill(e, FLOW_UDP, flow, &f->account, &f->host_peer, f->rule);
}

struct udp_flow *udp_add_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct flow_key *key,
			      const struct endpoint *host_peer, bool from_host, uint16_t rule)
{
	struct flow_key pk = peer_key(s, host_peer);
	struct udp_flow *f = NULL;
	struct udp_peer *p;

	/* Two destinations may be one host peer. */
	p = (struct udp_peer *)flow_find(&u->peers, &pk);
	if (!timer_heap_reserve(&u->timers, u->flows.used + 1))
		f = (struct udp_flow *)flow_add(&u->flows, key);
	if (f && !p)
		p = (struct udp_peer *)flow_add(&u->peers, &pk);
	if (!f || !p) {
		if (f)
			flow_remove(&u->flows, &f->flow);
		udp_limit_reached(u, io, flow_no_room(&u->flows));
		udp_report_refused(io, key, host_peer, REASON_no_room, flow_no_room(&u->flows));
		udp_release_socket(u, io, s);
		return NULL;
	}
	f->host_peer = *host_peer;
	f->socket = s->flow.index;
	f->peer = p->flow.index;
	p->index = f->flow.index;
	p->users++;
	s->users++;
	COUNT(io->counters, udp_opened);
	COUNT(io->counters, udp_flows);
	f->rule = rule;
	account_open(&f->account, io->loop->now_ms, from_host);
	event_report(io->events, io->loop->now_ms, udp_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	return f;
}

bool udp_batch_takes(const struct udp_gso_batch *b, const struct udp_gso_batch *next)
{
	return b->count && b->flow == next->flow && next->bytes && next->bytes <= b->size && b->ttl == next->ttl &&
	       b->tos == next->tos && b->bytes + next->bytes <= UDP_BATCH_BYTES;
}

bool udp_batch_add(struct udp_gso_batch *b, const struct udp_gso_batch *next)
{
	b->bytes += next->bytes;
	b->count++;
	return b->count == UDP_BATCH_SEGMENTS || next->bytes < b->size;
}

void udp_claim_peer(const struct udp *u, const struct udp_flow *f)
{
	struct udp_peer *p = (struct udp_peer *)flow_at(&u->peers, f->peer);

	p->index = f->flow.index;
}

void udp_release_socket(struct udp *u, struct io *io, struct udp_socket *s)
{
	if (s->users || s->listening)
		return;
	udp_stop_polling(u, s);
	loop_remove(io->loop, s->fd);
	close(s->fd);
	flow_remove(&u->sockets, &s->flow);
}

void udp_touch(struct udp *u, struct io *io, struct udp_flow *f)
{
	int64_t ms = UDP_TIMEOUT_MS;

	if (f->host_peer.port == 53 && f->sent == 1 && f->received == 1)
		ms = UDP_DNS_TIMEOUT_MS;
	else if (f->sent > 1 && f->received > 1)
		ms = UDP_STREAM_TIMEOUT_MS;
	timer_set(&u->timers, &f->timer, io->loop->now_ms + ms);
}

static void remove_flow(struct udp *u, struct io *io, struct udp_flow *f, enum flow_reason reason)
{
	struct udp_socket *s = udp_socket_of(u, f);
	struct udp_peer *p = (struct udp_peer *)flow_at(&u->peers, f->peer);

	event_report(io->events, io->loop->now_ms, udp_describe, &f->flow, FLOW_CLOSED, reason, 0);
	if (--p->users == 0)
		flow_remove(&u->peers, &p->flow);
	else if (p->index == f->flow.index)
		p->index = FLOW_NONE;
	s->groups -= f->group != UDP_UNICAST;
	timer_stop(&u->timers, &f->timer);
	flow_remove(&u->flows, &f->flow);
	COUNT_SUB(io->counters, udp_flows, 1);
	s->users--;
	udp_release_socket(u, io, s);
}

int udp_unlisten(struct udp *u, struct io *io, int fd)
{
	struct udp_socket *s;
	struct udp_flow *f;

	for (uint32_t at = 0; (s = (struct udp_socket *)flow_next(&u->sockets, &at));)
		if (s->listening && s->fd == fd)
			break;
	if (!s)
		return -ENOENT;
	for (uint32_t at = 0; (f = (struct udp_flow *)flow_next(&u->flows, &at));)
		if (f->socket == s->flow.index)
			remove_flow(u, io, f, REASON_port_removed);
	udp_splice_forget(u, io, s->flow.index);
	udp_stop_polling(u, s);
	loop_remove(io->loop, fd);
	flow_remove(&u->sockets, &s->flow);
	return 0;
}

void udp_end_bound(struct udp *u, struct io *io, const struct addr_list *addrs)
{
	struct udp_flow *f;

	for (uint32_t at = 0; (f = (struct udp_flow *)flow_next(&u->flows, &at));)
		if (addr_list_has(addrs, &f->local) || sock_is_bound(udp_socket_of(u, f)->fd, addrs))
			remove_flow(u, io, f, REASON_address_gone);
}

/* As the flow was when it was opened: a broadcast leads to all of the host's link. */
static void describe_opened(const struct flow *flow, struct flow_event *e)
{
	struct addr all = addr_from_v4("\xff\xff\xff\xff");

	udp_describe(flow, e);
	if (((const struct udp_flow *)flow)->group == UDP_BROADCAST)
		memcpy(e->peer, all.b, sizeof(e->peer));
}

void udp_judge_again(struct udp *u, struct io *io, struct gate_again *counts)
{
	struct udp_flow *f;

	for (uint32_t at = 0;
	     (f = (struct udp_flow *)flow_next(&u->flows, &at));) /* a group is judged, its members may come again */
		if (f->member || !gate_keeps(io, describe_opened, &f->flow, NULL, &f->rule, counts))
			remove_flow(u, io, f, REASON_rule);
	udp_splice_judge_again(u, io, counts);
}

void udp_timers(struct udp *u, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&u->timers, io->loop->now_ms)))
		remove_flow(u, io, CONTAINER_OF(due, struct udp_flow, timer), REASON_idle);
	udp_splice_timers(u, io);
	udp_poll(u, io);
}
