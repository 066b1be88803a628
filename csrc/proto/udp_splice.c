/* Purpose: splicing of UDP. Datagrams between a client in one namespace and a server in the other cross no tap.
 *
 * How: a forwarded port is a listening socket in the client's namespace. Each client that writes to it is a flow, with a
 * connected socket in the server's namespace. A -u port is spliced for clients on the host's loopback, a -U port for all
 * clients in the guest's namespace. Client and server do not see each other's addresses: the server gets datagrams from the
 * connected socket.
 *
 * From loopback to loopback the address stays the same, because a resolver may listen at 127.0.0.53 alone. So a client that
 * writes to two addresses of the listening socket has two flows, and each answers from its own address.
 *
 * Invariant: a flow's `socket` is the index of a listening socket as long as the flow lives.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/datagram.h"
#include "io/gate.h"
#include "proto/udp_private.h"

struct udp_splice {
	struct flow flow; /* key: splice_key() */
	struct flow_account account;
	struct timer timer;
	struct endpoint client;
	struct addr asked; /* the address of the listening socket that the client wrote to; none: not known */
	uint32_t scope;
	uint32_t socket; /* index in udp.sockets */
	int fd;
};

/* The server's end is what its socket says. */
void udp_splice_describe(const struct flow *flow, struct flow_event *e)
{
	const struct udp_splice *f = (const struct udp_splice *)flow;
	struct endpoint server = sock_peer(f->fd, &f->client.addr), guest = f->account.from_host ? server : f->client;
	struct endpoint host = f->account.from_host ? f->client : server;
	struct flow named = *flow;

	named.key = (struct flow_key){guest.addr, host.addr, guest.port, host.port};
	event_fill(e, FLOW_SPLICE_UDP, &named, &f->account, &host, FLOW_NO_RULE);
}

/* A datagram from the client, or an answer of the server. The guest is either. */
static void count(struct udp_splice *f, bool from_client, const struct datagram *d)
{
	uint32_t packets = account_datagrams(d->len, d->info.gso_size);

	if (from_client == f->account.from_host)
		account_received(&f->account, packets, d->len);
	else
		account_sent(&f->account, packets, d->len);
}

/* A flow_table is searched by a flow_key. Here its dest is the client, guest the address that the client wrote to, and
 * guest_port the index of the listening socket. */
static struct flow_key splice_key(const struct udp_socket *s, const struct endpoint *client, const struct addr *asked)
{
	return (struct flow_key){*asked, client->addr, (uint16_t)s->flow.index, client->port};
}

int udp_splice_init(struct udp *u, uint32_t limit, const struct siphash_key *key)
{
	return flow_table_init(&u->splices, sizeof(struct udp_splice), limit, key);
}

void udp_splice_free(struct udp *u)
{
	struct udp_splice *f;

	for (uint32_t at = 0; (f = (struct udp_splice *)flow_next(&u->splices, &at));)
		close(f->fd);
	flow_table_free(&u->splices);
	timer_heap_free(&u->splice_timers);
}

bool udp_is_spliced(const struct udp *u, const struct udp_socket *s, const struct endpoint *client)
{
	return s->to_host || (u->splice && u->helper && u->helper->fd >= 0 && addr_is_loopback(&client->addr));
}

static void close_splice(struct udp *u, struct io *io, struct udp_splice *f, enum flow_reason reason)
{
	event_report(io->events, io->loop->now_ms, udp_splice_describe, &f->flow, FLOW_CLOSED, reason, 0);
	close(f->fd);
	timer_stop(&u->splice_timers, &f->timer);
	COUNT_SUB(io->counters, udp_splice_flows, 1);
	flow_remove(&u->splices, &f->flow);
}

/* A socket in the server's namespace, connected to the server; or -errno. */
static int connect_to_server(struct udp *u, struct io *io, const struct udp_socket *s, const struct addr *asked, bool v4)
{
	struct endpoint to = s->target;
	int fd, rc;

	if (addr_is_none(&to.addr))
		to.addr = s->to_host || u->lo_to_lo ? mapping_same_loopback(*asked, v4) : *mapping_local_addr(io->mapping, v4);
	if (addr_is_none(&to.addr) || addr_is_v4(&to.addr) != v4)
		return -EADDRNOTAVAIL;
	fd = s->to_host ? sock_open(&u->sock, &to.addr, SOCK_DGRAM, 0, 0) : helper_datagram_socket(u->helper, v4);
	rc = fd < 0 ? fd : sock_connect(fd, &to, io->mapping->guest_scope6);
	if (rc < 0 && fd >= 0)
		close(fd);
	return rc < 0 ? rc : fd;
}

/* Whether the egress policy lets a client in the guest reach the host's port. */
static bool may_open(struct io *io, const struct udp_socket *s, const struct endpoint *client, const struct addr *asked)
{
	struct endpoint to = {mapping_same_loopback(*asked, addr_is_v4(&client->addr)), s->target.port};
	struct flow_key ends = {client->addr, to.addr, client->port, to.port};
	struct gate_pass pass;

	return !s->to_host || gate_opens(io, FLOW_SPLICE_UDP, &ends, &to, &pass);
}

static void limit_reached(struct udp *u, struct io *io, int error)
{
	COUNT(io->counters, udp_limit);
	log_refused(io->log, &u->limit_logged_ms, io->loop->now_ms, "local UDP flow", u->splices.used, error);
}

static struct udp_splice *open_splice(struct udp *u, struct io *io, const struct udp_socket *s, const struct endpoint *client,
				      const struct addr *asked)
{
	struct flow_key key = splice_key(s, client, asked);
	struct udp_splice *f = NULL;
	int fd = connect_to_server(u, io, s, asked, addr_is_v4(&client->addr)), error = fd < 0 ? -fd : 0;

	if (!error && !timer_heap_reserve(&u->splice_timers, u->splices.used + 1))
		f = (struct udp_splice *)flow_add(&u->splices, &key);
	if (!error && !f)
		error = flow_no_room(&u->splices);
	if (f && loop_add(io->loop, fd, EPOLLIN, loop_tag(OWNER_UDP_SPLICE, f->flow.index, f->flow.generation)) < 0) {
		error = errno;
		flow_remove(&u->splices, &f->flow);
		f = NULL;
	}
	if (!f) {
		limit_reached(u, io, error);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	f->fd = fd;
	f->client = *client;
	f->asked = *asked;
	f->socket = s->flow.index;
	sock_set(fd, IPPROTO_UDP, UDP_GRO, 1);
	COUNT(io->counters, udp_splice_flows);
	account_open(&f->account, io->loop->now_ms, !s->to_host);
	event_report(io->events, io->loop->now_ms, udp_splice_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	return f;
}

static void touch(struct udp *u, struct io *io, struct udp_splice *f)
{
	timer_set(&u->splice_timers, &f->timer, io->loop->now_ms + UDP_TIMEOUT_MS);
}

/* A datagram for which the receiver has no room is lost. */
static void send_datagram(int fd, struct msghdr *msg, const uint8_t *data, uint32_t len, uint16_t gso_size)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};

	msg->msg_iov = &iov;
	msg->msg_iovlen = 1;
	if (gso_size && gso_size < len)
		datagram_add_control(msg, IPPROTO_UDP, UDP_SEGMENT, &gso_size, sizeof(gso_size));
	if (!msg->msg_controllen)
		msg->msg_control = NULL;
	/* A connected socket first reports that an earlier datagram was refused. */
	if (sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED)
		sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	msg->msg_iov = NULL; /* msg outlives iov */
}

void udp_splice_forward(struct udp *u, struct io *io, const struct udp_socket *s, const struct datagram *d)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES] = {0};
	struct msghdr msg = {.msg_control = control};
	struct flow_key key = splice_key(s, &d->from, &d->info.local);
	struct udp_splice *f;

	/* The loopback interface may have other addresses, too. The host's service is not offered there. */
	if (s->to_host && !addr_is_loopback(&d->info.local)) {
		COUNT(io->counters, udp_unsolicited);
		return;
	}
	f = (struct udp_splice *)flow_find(&u->splices, &key);
	if (!f && may_open(io, s, &d->from, &d->info.local))
		f = open_splice(u, io, s, &d->from, &d->info.local);
	if (!f)
		return;
	f->scope = d->info.ifindex;
	touch(u, io, f);
	count(f, true, d);
	send_datagram(f->fd, &msg, d->data, d->len, d->info.gso_size);
}

/* Sends an answer of the server back through the listening socket. */
static void answer(struct udp *u, struct io *io, struct udp_splice *f, const struct datagram *d)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES] = {0};
	struct udp_socket *s = (struct udp_socket *)flow_at(&u->sockets, f->socket);
	struct sockaddr_storage to;
	struct msghdr msg = {.msg_name = &to, .msg_control = control};

	msg.msg_namelen = udp_peer_address(u, s, &f->client, f->scope, &to);
	if (!addr_is_none(&f->asked))
		udp_add_source(&msg, s, &f->asked, 0);
	touch(u, io, f);
	count(f, false, d);
	send_datagram(s->fd, &msg, d->data, d->len, d->info.gso_size);
}

void udp_splice_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation)
{
	struct udp_splice *f = (struct udp_splice *)flow_at_generation(&u->splices, index, generation);
	int n = f ? datagram_receive(&u->batch, f->fd) : 0;

	if (n == 1)
		sched_note_short(&io->sched, io->loop->now_ms);
	for (int i = 0; i < n; i++) {
		const struct datagram d = datagram_at(&u->batch, i);

		answer(u, io, f, &d);
	}
}

void udp_splice_judge_again(struct udp *u, struct io *io, struct gate_again *counts)
{
	struct udp_splice *f;
	uint16_t rule;

	for (uint32_t at = 0; (f = (struct udp_splice *)flow_next(&u->splices, &at));)
		if (!gate_keeps(io, udp_splice_describe, &f->flow, NULL, &rule, counts))
			close_splice(u, io, f, REASON_rule);
}

void udp_splice_timers(struct udp *u, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&u->splice_timers, io->loop->now_ms)))
		close_splice(u, io, CONTAINER_OF(due, struct udp_splice, timer), REASON_idle);
}

void udp_splice_forget(struct udp *u, struct io *io, uint32_t socket)
{
	struct udp_splice *f;

	for (uint32_t at = 0; (f = (struct udp_splice *)flow_next(&u->splices, &at));)
		if (f->socket == socket)
			close_splice(u, io, f, REASON_port_removed);
}
