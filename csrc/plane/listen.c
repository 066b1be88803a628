/* Purpose: accepts clients of forwarded TCP ports, and decides how each connection reaches its target:
 *
 *   client of a listener in the guest's namespace   splice, to the loopback address of the host that the client connected to;
 *   client on the host's loopback                   splice, to the guest's own address, or with --host-lo-to-ns-lo to the loopback
 *                                                   address that the client connected to; without a helper the tap;
 *   any other client                                the tap, with the client's address and port.
 *
 * How: when descriptors run out, all listeners rest for a while. Otherwise a level-triggered listener with a waiting client would
 * keep the loop busy. A client that waits in the backlog loses nothing. Listeners on the host rest as soon as three quarters of the
 * descriptors or of a flow table are in use: inbound connections must leave room for those that the guest opens.
 */
#include "plane/listen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/gate.h"
#include "io/sock.h"
#include "plane_api.h"

#define PAUSE_MS 500
#define SHARES 4 /* one of them is for the guest's own connections */

static uint64_t tag_of(uint32_t index, uint32_t offset)
{
	return loop_tag(OWNER_LISTENER, index, offset);
}

/* Makes room for one more socket. There is a place per socket, so that taking one out of the middle of a listener needs no memory:
 * removing cannot fail, because the caller closes the socket. Unused places are never touched, and take no memory. */
static int reserve(struct listeners *ls)
{
	uint32_t space = ls->space ? ls->space * 2 : 16;
	struct listener *grown;

	if (ls->sockets < ls->space)
		return 0;
	grown = malloc(space * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	if (ls->count)
		memcpy(grown, ls->at, ls->count * sizeof(*grown)); /* realloc() would copy, and so touch, unused places */
	free(ls->at);
	ls->at = grown;
	ls->space = space;
	return 0;
}

/* Takes a place and returns its index. Only after reserve(). */
static uint32_t place(struct listeners *ls)
{
	uint32_t i = 0;

	while (i < ls->count && ls->at[i].fd >= 0)
		i = ls->removed ? i + 1 : ls->count;
	ls->removed -= i < ls->count;
	ls->count += i == ls->count;
	ls->at[i].fd = -1;
	return i;
}

static void vacate(struct listeners *ls, uint32_t index)
{
	ls->at[index].fd = -1;
	ls->removed++;
}

static bool follows(const struct listener *last, const struct listener *l)
{
	return last->fd >= 0 && l->fd == last->fd + (int)last->count && l->to_host == last->to_host &&
	       addr_eq(&l->target.addr, &last->target.addr) && l->target.port == (uint16_t)(last->target.port + last->count);
}

static bool rests(const struct listeners *ls, const struct listener *l)
{
	return ls->resume_ms && !(ls->hosts_only && l->to_host);
}

int listen_add(struct listeners *ls, const struct listener *l)
{
	bool grows = ls->count && follows(&ls->at[ls->count - 1], l);
	int rc = reserve(ls);
	uint32_t i;

	if (rc < 0)
		return rc;
	i = grows ? ls->count - 1 : place(ls);
	rc = loop_add(ls->io->loop, l->fd, rests(ls, l) ? 0 : EPOLLIN, tag_of(i, grows ? ls->at[i].skipped + ls->at[i].count : 0));
	if (grows)
		ls->at[i].count += rc >= 0;
	else if (rc < 0)
		vacate(ls, i);
	else
		ls->at[i] = *l;
	ls->sockets += rc >= 0;
	return rc < 0 ? rc : 0;
}

/* Gives the sockets of a listener their present tags and events in the loop. */
static void retag(struct listeners *ls, uint32_t index)
{
	const struct listener *l = &ls->at[index];

	for (uint32_t k = 0; l->fd >= 0 && k < l->count; k++)
		loop_modify(ls->io->loop, l->fd + (int)k, rests(ls, l) ? 0 : EPOLLIN, tag_of(index, l->skipped + k));
}

/* Takes one socket out of a listener. Those behind it become a listener of their own, unless it was the first one: a range is closed
 * from its first port on, and new tags for all others each time would take seconds. */
static void take_out(struct listeners *ls, uint32_t index, uint32_t offset)
{
	struct listener tail = ls->at[index];
	uint32_t rest = index;

	tail.fd += (int)offset + 1;
	tail.count -= offset + 1;
	tail.target.port = (uint16_t)(tail.target.port + offset + 1);
	tail.skipped = offset ? 0 : (uint16_t)(tail.skipped + 1);
	if (tail.count && offset)
		rest = place(ls);
	ls->at[index].count = offset;
	if (tail.count)
		ls->at[rest] = tail;
	else if (!offset)
		vacate(ls, index);
	if (rest != index)
		retag(ls, rest);
	ls->sockets--;
}

int listen_remove(struct listeners *ls, int fd)
{
	for (uint32_t i = 0; i < ls->count; i++) {
		const struct listener *l = &ls->at[i];

		if (l->fd < 0 || fd < l->fd || fd >= l->fd + (int)l->count)
			continue;
		take_out(ls, i, (uint32_t)(fd - l->fd));
		loop_remove(ls->io->loop, fd);
		return 0;
	}
	return -ENOENT;
}

static void set_resume(struct listeners *ls, int64_t resume_ms, bool hosts_only)
{
	ls->resume_ms = resume_ms;
	ls->hosts_only = hosts_only;
	for (uint32_t i = 0; i < ls->count; i++)
		retag(ls, i);
}

static int64_t later(const struct listeners *ls)
{
	return ls->io->loop->now_ms + PAUSE_MS;
}

static bool is_crowded(const struct flow_table *t)
{
	return t->used >= t->limit / SHARES * (SHARES - 1);
}

/* fd: the newest descriptor. */
static bool share_is_taken(const struct listeners *ls, int fd)
{
	return descriptors_below(&ls->io->descriptors, fd, SHARES) || is_crowded(&ls->tcp->flows) || is_crowded(&ls->splice->flows);
}

/* Whether clients of the host have to wait. */
static bool still_crowded(const struct listeners *ls)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool crowded = fd < 0 ? errno == EMFILE || errno == ENFILE : share_is_taken(ls, fd);

	if (fd >= 0)
		close(fd);
	return crowded;
}

void listen_timers(struct listeners *ls)
{
	if (!ls->resume_ms || ls->resume_ms > ls->io->loop->now_ms)
		return;
	if (!still_crowded(ls))
		set_resume(ls, 0, false);
	else if (ls->hosts_only)
		ls->resume_ms = later(ls);
	else
		set_resume(ls, later(ls), true);
}

static void rest_for_guest(struct listeners *ls)
{
	if (log_due(&ls->logged_ms, ls->io->loop->now_ms))
		log_add(ls->io->log, LOG_LEVEL_WARNING,
			"TCP: three quarters of all connections are in use, new clients of forwarded ports wait: raise the limit of open files (ulimit -n)");
	set_resume(ls, later(ls), true);
}

/* The shard for the next splice: round robin. */
static uint32_t next_splice_shard(struct listeners *ls)
{
	return ls->next_splice_shard++ % ls->tcp->steering.shards;
}

/* Connects fd to dst and splices it with the client, which is at `peer`. Takes over both; fd may be -errno. */
static void join(struct listeners *ls, int client, int fd, const struct endpoint *peer, const struct endpoint *dst, bool from_host)
{
	const struct endpoint *guest = from_host ? dst : peer, *host = from_host ? peer : dst;
	struct splice_message s = {client, fd, {guest->addr, host->addr, guest->port, host->port}, from_host};
	int rc = fd < 0 ? fd : sock_connect(fd, dst, ls->io->mapping->guest_scope6);

	if (!rc || rc == -EINPROGRESS) {
		uint32_t shard = next_splice_shard(ls);

		if (!shard || !messages_send_splice(ls->messages, shard, &s))
			splice_join(ls->splice, ls->io, client, fd, &s.ends, from_host);
		return;
	}
	event_refused(ls->io->events, ls->io->loop->now_ms, FLOW_SPLICE_TCP, &s.ends, NULL, event_reason_of(-rc), -rc, FLOW_NO_RULE,
		      false);
	if (fd < 0)
		tcp_limit_reached(ls->tcp, ls->io, -fd);
	else
		close(fd);
	sock_close(client, true);
}

/* The address that a client has connected to. */
static struct addr asked_address(int client)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	return getsockname(client, (struct sockaddr *)&ss, &len) < 0 ? ADDR_NONE : addr_from_sockaddr(&ss).addr;
}

static void to_host(struct listeners *ls, int client, const struct endpoint *peer, uint16_t port)
{
	struct endpoint dst = {asked_address(client), port};
	struct flow_key ends = {peer->addr, dst.addr, peer->port, port};
	struct gate_pass pass;

	/* The guest's loopback interface can have other addresses too. The host's service is not offered there. */
	if (addr_is_loopback(&dst.addr) && gate_opens(ls->io, FLOW_SPLICE_TCP, &ends, &dst, &pass))
		join(ls, client, sock_open(&ls->tcp->sock, &dst.addr, SOCK_STREAM, 0, 0), peer, &dst, false);
	else
		sock_close(client, true);
}

/* False: this client cannot be spliced. */
static bool to_guest(struct listeners *ls, int client, const struct endpoint *peer, const struct endpoint *target)
{
	bool v4 = addr_is_v4(&peer->addr);
	struct endpoint dst = *target;
	int fd;

	if (!(ls->flags & PLANE_SPLICE) || ls->helper->fd < 0 || !addr_is_loopback(&peer->addr))
		return false;
	if (addr_is_none(&dst.addr) && ls->flags & PLANE_LO_TO_LO)
		dst.addr = mapping_same_loopback(asked_address(client), v4);
	else if (addr_is_none(&dst.addr))
		dst.addr = *mapping_local_addr(ls->io->mapping, v4);
	if (addr_is_none(&dst.addr) || addr_is_v4(&dst.addr) != v4)
		return false;
	fd = helper_stream_socket(ls->helper, v4);
	if (fd < 0 && ls->helper->fd < 0) {
		log_add(ls->io->log, LOG_LEVEL_WARNING,
			"the helper in the guest's namespace is gone: local connections take the tap");
		return false;
	}
	join(ls, client, fd, peer, &dst, true);
	return true;
}

/* Through the tap, in the shard that the endpoints determine. */
static void to_tap(struct listeners *ls, int client, const struct endpoint *peer, const struct endpoint *target)
{
	struct client_message c = {client, *peer, *target};
	struct flow_key key;
	uint32_t shard = 0;

	if (ls->tcp->steering.shards > 1 && tcp_client_key(ls->io, peer, target, &key)) {
		c.target.addr = key.guest;
		shard = steering_shard(&ls->tcp->steering, &key);
	}
	if (shard)
		messages_send_client(ls->messages, shard, &c);
	else
		tcp_accepted(ls->tcp, ls->io, client, peer, target);
}

void listen_accept(struct listeners *ls, uint32_t index, uint32_t offset, uint32_t events)
{
	for (int i = 0; i < SCHED_ACCEPTS; i++) {
		struct listener l = ls->at[index];
		struct sockaddr_storage ss = {0};
		socklen_t len = sizeof(ss);
		struct endpoint peer;
		int fd;

		if (l.fd < 0 || offset < l.skipped || offset - l.skipped >= l.count)
			return;
		if (rests(ls, &l) && !(events & EPOLLHUP)) /* a resting socket still reports that it was shut down */
			return;
		l.fd += (int)(offset - l.skipped);
		l.target.port = (uint16_t)(l.target.port + offset - l.skipped);
		fd = accept4(l.fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			tcp_limit_reached(ls->tcp, ls->io, errno);
			set_resume(ls, later(ls), false);
			return;
		}
		if (fd < 0 && errno == EINVAL) {
			/* Another process that shares this inherited socket has shut it down. It would always be ready. */
			log_add(ls->io->log, LOG_LEVEL_WARNING,
				"a forwarded port of TCP is closed: its socket was shut down by another process");
			loop_remove(ls->io->loop, l.fd);
			return;
		}
		if (fd < 0)
			continue; /* the client is gone (accept(2), "Error handling") */
		peer = addr_from_sockaddr(&ss);
		if (l.to_host)
			to_host(ls, fd, &peer, l.target.port);
		else if (!to_guest(ls, fd, &peer, &l.target))
			to_tap(ls, fd, &peer, &l.target);
		if (!l.to_host && share_is_taken(ls, fd)) {
			rest_for_guest(ls);
			return;
		}
	}
}
