/* Owns splicing for local datagrams: a forwarded port in one namespace, and for each peer that writes to it a connected socket
 * in the other. The guest's side of a -u port is for peers on the host's loopback; the host's side of a -U port for everyone in
 * the guest's namespace. Neither sees a tap, or each other's addresses: what arrives comes from the socket that we connected.
 *
 * From loopback to loopback the address stays the same: a resolver listens at 127.0.0.53 and nowhere else. So a peer that
 * writes to two of our addresses has two flows, and each answers from its own.
 *
 * Invariants: a local flow's socket index names a listening socket as long as the flow lives.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/datagram.h"
#include "proto/udp_private.h"

struct udp_splice {
	struct flow flow; /* key: udp_peer_key(), key.guest: the address of the listening socket that the peer wrote to */
	struct timer timer;
	struct endpoint peer;
	uint32_t scope;
	uint32_t socket; /* index in udp.sockets */
	int fd;
};

int udp_splice_init(struct udp *u, uint32_t limit, const struct siphash_key *key)
{
	return flow_table_init(&u->splices, sizeof(struct udp_splice), limit, key);
}

void udp_splice_free(struct udp *u)
{
	for (uint32_t i = 0; i < u->splices.made; i++) {
		struct udp_splice *l = (struct udp_splice *)flow_at(&u->splices, i);

		if (l)
			close(l->fd);
	}
	flow_table_free(&u->splices);
	timer_heap_free(&u->splice_timers);
}

bool udp_is_spliced(const struct udp *u, const struct udp_socket *s, const struct endpoint *peer)
{
	return s->to_host || (u->splice && u->helper && u->helper->fd >= 0 && addr_is_loopback(&peer->addr));
}

static void close_splice(struct udp *u, struct io *io, struct udp_splice *l)
{
	close(l->fd);
	timer_stop(&u->splice_timers, &l->timer);
	COUNT_SUB(io->counters, udp_splice_flows, 1);
	flow_remove(&u->splices, &l->flow);
}

/* A socket on the other side, connected to where the port leads. */
static int open_other_side(struct udp *u, struct io *io, const struct udp_socket *s, const struct addr *asked, bool v4)
{
	struct endpoint to = s->target;
	int fd, rc;

	if (addr_is_none(&to.addr))
		to.addr = s->to_host || u->lo_to_lo ? policy_same_loopback(*asked, v4) : *policy_local_addr(io->policy, v4);
	if (addr_is_none(&to.addr) || addr_is_v4(&to.addr) != v4)
		return -EADDRNOTAVAIL;
	fd = s->to_host ? sock_open(&u->sock, &to.addr, SOCK_DGRAM, 0, 0) : helper_datagram_socket(u->helper, v4);
	rc = fd < 0 ? fd : sock_connect(fd, &to, io->policy->guest_scope6);
	if (rc < 0 && fd >= 0)
		close(fd);
	return rc < 0 ? rc : fd;
}

static void limit_reached(struct udp *u, struct io *io, int error)
{
	COUNT(io->counters, udp_limit);
	log_refused(io->log, &u->limit_logged_ms, io->loop->now_ms, "local UDP flow", u->splices.used, error);
}

static struct udp_splice *open_splice(struct udp *u, struct io *io, const struct udp_socket *s, const struct endpoint *peer,
				      const struct flow_key *key)
{
	struct udp_splice *l = NULL;
	int fd = open_other_side(u, io, s, &key->guest, addr_is_v4(&peer->addr)), error = fd < 0 ? -fd : 0;

	if (!error && !timer_heap_reserve(&u->splice_timers, u->splices.used + 1))
		l = (struct udp_splice *)flow_add(&u->splices, key);
	if (!error && !l)
		error = flow_no_room(&u->splices);
	if (l && loop_add(io->loop, fd, EPOLLIN, loop_tag(OWNER_UDP_SPLICE, l->flow.index, l->flow.generation)) < 0) {
		error = errno;
		flow_remove(&u->splices, &l->flow);
		l = NULL;
	}
	if (!l) {
		limit_reached(u, io, error);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	l->fd = fd;
	l->peer = *peer;
	l->socket = s->flow.index;
	sock_set(fd, IPPROTO_UDP, UDP_GRO, 1);
	COUNT(io->counters, udp_splice_flows);
	return l;
}

static void touch(struct udp *u, struct io *io, struct udp_splice *l)
{
	timer_set(&u->splice_timers, &l->timer, io->loop->now_ms + UDP_TIMEOUT_MS);
}

/* What the receiver has no room for is lost, as with any datagram. */
static void send_datagram(int fd, struct msghdr *msg, const uint8_t *data, uint32_t len, uint16_t gso_size)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};

	msg->msg_iov = &iov;
	msg->msg_iovlen = 1;
	if (gso_size && gso_size < len)
		datagram_add_control(msg, IPPROTO_UDP, UDP_SEGMENT, &gso_size, sizeof(gso_size));
	if (!msg->msg_controllen)
		msg->msg_control = NULL;
	/* A connected socket tells of an earlier refusal first. */
	if (sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED)
		sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	msg->msg_iov = NULL; /* it ends here, msg does not */
}

void udp_splice_forward(struct udp *u, struct io *io, const struct udp_socket *s, const struct datagram *d)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES] = {0};
	struct msghdr msg = {.msg_control = control};
	struct flow_key key = udp_peer_key(s, &d->from, &d->info.local);
	struct udp_splice *l;

	/* The loopback interface may have other addresses, too: the host's service is not offered there. */
	if (s->to_host && !addr_is_loopback(&d->info.local)) {
		COUNT(io->counters, udp_unsolicited);
		return;
	}
	l = (struct udp_splice *)flow_find(&u->splices, &key);
	if (!l)
		l = open_splice(u, io, s, &d->from, &key);
	if (!l)
		return;
	l->scope = d->info.ifindex;
	touch(u, io, l);
	send_datagram(l->fd, &msg, d->data, d->len, d->info.gso_size);
}

/* An answer, back through the listening socket. */
static void answer(struct udp *u, struct io *io, struct udp_splice *l, const struct datagram *d)
{
	_Alignas(struct cmsghdr) char control[DATAGRAM_CONTROL_BYTES] = {0};
	struct udp_socket *s = (struct udp_socket *)flow_at(&u->sockets, l->socket);
	struct sockaddr_storage to;
	struct msghdr msg = {.msg_name = &to, .msg_control = control};

	msg.msg_namelen = udp_peer_address(u, s, &l->peer, l->scope, &to);
	if (!addr_is_none(&l->flow.key.guest))
		udp_add_source(&msg, s, &l->flow.key.guest, 0);
	touch(u, io, l);
	send_datagram(s->fd, &msg, d->data, d->len, d->info.gso_size);
}

void udp_splice_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation)
{
	struct udp_splice *l = (struct udp_splice *)flow_at_generation(&u->splices, index, generation);
	int n = l ? datagram_receive(&u->batch, l->fd, DATAGRAM_BATCH) : 0;

	if (n == 1)
		sched_note_short(&io->sched, io->loop->now_ms);
	for (int i = 0; i < n; i++) {
		const struct datagram d = datagram_at(&u->batch, i);

		answer(u, io, l, &d);
	}
}

void udp_splice_timers(struct udp *u, struct io *io)
{
	struct timer *due;

	while ((due = timer_due(&u->splice_timers, io->loop->now_ms)))
		close_splice(u, io, CONTAINER_OF(due, struct udp_splice, timer));
}

void udp_splice_forget(struct udp *u, struct io *io, uint32_t socket)
{
	for (uint32_t i = 0; i < u->splices.made; i++) {
		struct udp_splice *l = (struct udp_splice *)flow_at(&u->splices, i);

		if (l && l->socket == socket)
			close_splice(u, io, l);
	}
}
