/* Owns the listening TCP sockets, and the choice of a connection's way:
 *
 *   a listener of the guest's namespace  splicing, to the loopback address of the host that the client has asked for;
 *   a client on the host's loopback      splicing, to the guest's own address (or, with --host-lo-to-ns-lo, to the loopback
 *                                        address that it has asked for), where there is a helper to make a socket in the
 *                                        guest's namespace;
 *   any other client                     the tap, with its own address and port.
 *
 * When descriptors run out all listeners rest for a while: a level-triggered listener with a client waiting would otherwise
 * keep the loop busy, and the client is as well off in the backlog. Those of the host rest when three quarters of the descriptors
 * or of a table's places are taken: what others open must not keep the guest from opening connections of its own.
 */
#include "plane/listen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plane/plane.h"

#define PAUSE_MS 500
#define ACCEPTS_PER_EVENT 64
#define SHARES 4 /* of which the guest's own connections have one */

static uint64_t tag_of(uint32_t index, uint32_t offset)
{
	return loop_tag(OWNER_LISTENER, index, offset);
}

/* Room for one socket more. There is a place for each, so that one from the middle of a listener can go without memory: whoever
 * removes it closes it. What is not used of it is never touched. */
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
		memcpy(grown, ls->at, ls->count * sizeof(*grown)); /* realloc() would copy, and touch, what is not used too */
	free(ls->at);
	ls->at = grown;
	ls->space = space;
	return 0;
}

/* Index of a place for one more, which counts from then on. There must be room. */
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

int listen_add(struct plane *p, const struct listener *l)
{
	struct listeners *ls = &p->listeners;
	bool grows = ls->count && follows(&ls->at[ls->count - 1], l);
	int rc = reserve(ls);
	uint32_t i;

	if (rc < 0)
		return rc;
	i = grows ? ls->count - 1 : place(ls);
	rc = loop_add(&p->loop, l->fd, rests(ls, l) ? 0 : EPOLLIN, tag_of(i, grows ? ls->at[i].count : 0));
	if (grows)
		ls->at[i].count += rc >= 0;
	else if (rc < 0)
		vacate(ls, i);
	else
		ls->at[i] = *l;
	ls->sockets += rc >= 0;
	return rc < 0 ? rc : 0;
}

/* The sockets of a listener report themselves by what they are now. */
static void retag(struct plane *p, uint32_t index)
{
	const struct listener *l = &p->listeners.at[index];

	for (uint32_t k = 0; l->fd >= 0 && k < l->count; k++)
		loop_modify(&p->loop, l->fd + (int)k, rests(&p->listeners, l) ? 0 : EPOLLIN, tag_of(index, k));
}

/* Takes one socket out of a listener; what comes after it becomes a listener of its own. */
static void cut(struct plane *p, uint32_t index, uint32_t offset)
{
	struct listeners *ls = &p->listeners;
	struct listener tail = ls->at[index];
	uint32_t rest = index;

	tail.fd += (int)offset + 1;
	tail.count -= offset + 1;
	tail.target.port = (uint16_t)(tail.target.port + offset + 1);
	if (tail.count && offset)
		rest = place(ls);
	ls->at[index].count = offset;
	if (tail.count) {
		ls->at[rest] = tail;
		retag(p, rest);
	} else if (!offset) {
		vacate(ls, index);
	}
	ls->sockets--;
}

int listen_remove(struct plane *p, int fd)
{
	struct listeners *ls = &p->listeners;

	for (uint32_t i = 0; i < ls->count; i++) {
		const struct listener *l = &ls->at[i];

		if (l->fd < 0 || fd < l->fd || fd >= l->fd + (int)l->count)
			continue;
		cut(p, i, (uint32_t)(fd - l->fd));
		loop_remove(&p->loop, fd);
		return 0;
	}
	return -ENOENT;
}

static void set_resume(struct plane *p, int64_t resume_ms, bool hosts_only)
{
	p->listeners.resume_ms = resume_ms;
	p->listeners.hosts_only = hosts_only;
	for (uint32_t i = 0; i < p->listeners.count; i++)
		retag(p, i);
}

static bool is_crowded(const struct flow_table *t)
{
	return t->used >= t->limit / SHARES * (SHARES - 1);
}

/* fd: the newest descriptor. */
static bool share_is_taken(const struct plane *p, int fd)
{
	return descriptors_below(&p->io.descriptors, fd, SHARES) || is_crowded(&p->tcp.flows) || is_crowded(&p->splice.flows);
}

/* Whether a client of the host would be one too many. */
static bool still_crowded(const struct plane *p)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool crowded = fd < 0 ? errno == EMFILE || errno == ENFILE : share_is_taken(p, fd);

	if (fd >= 0)
		close(fd);
	return crowded;
}

void listen_timers(struct plane *p)
{
	struct listeners *ls = &p->listeners;

	if (!ls->resume_ms || ls->resume_ms > p->loop.now_ms)
		return;
	if (!still_crowded(p))
		set_resume(p, 0, false);
	else if (ls->hosts_only)
		ls->resume_ms = p->loop.now_ms + PAUSE_MS;
	else
		set_resume(p, p->loop.now_ms + PAUSE_MS, true);
}

static void rest_for_guest(struct plane *p)
{
	if (log_due(&p->listeners.logged_ms, p->loop.now_ms))
		log_add(&p->log, LOG_LEVEL_WARNING,
			"TCP: three quarters of all connections are in use, new clients of forwarded ports wait: raise the limit of open files (ulimit -n)");
	set_resume(p, p->loop.now_ms + PAUSE_MS, true);
}

/* Joins the client with a socket on its way to dst; takes both over. */
static void join(struct plane *p, int client, int fd, const struct endpoint *dst)
{
	int rc = fd < 0 ? fd : sock_connect(fd, dst, p->policy.guest_scope6);

	if (!rc || rc == -EINPROGRESS) {
		if (!p->shard || !shard_send_splice(p, client, fd))
			splice_join(&p->splice, &p->io, client, fd);
		return;
	}
	if (fd < 0)
		tcp_limit_reached(&p->tcp, &p->io, -fd);
	else
		close(fd);
	sock_close(client, true);
}

/* Which of our addresses a client has connected to. */
static struct addr asked_address(int client)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	return getsockname(client, (struct sockaddr *)&ss, &len) < 0 ? ADDR_NONE : addr_from_sockaddr(&ss).addr;
}

static void to_host(struct plane *p, int client, uint16_t port)
{
	struct endpoint dst = {asked_address(client), port};

	/* The loopback interface may have other addresses, too: the host's service is not offered there. */
	if (addr_is_loopback(&dst.addr))
		join(p, client, sock_open(&p->tcp.sock, &dst.addr, SOCK_STREAM, 0, 0), &dst);
	else
		sock_close(client, true);
}

/* False: there is no way round the tap for this one. */
static bool to_guest(struct plane *p, int client, const struct endpoint *peer, const struct endpoint *target)
{
	bool v4 = addr_is_v4(&peer->addr);
	struct endpoint dst = *target;
	int fd;

	if (!(p->config.flags & PLANE_SPLICE) || p->helper.fd < 0 || !addr_is_loopback(&peer->addr))
		return false;
	if (addr_is_none(&dst.addr) && p->config.flags & PLANE_LO_TO_LO)
		dst.addr = policy_same_loopback(asked_address(client), v4);
	else if (addr_is_none(&dst.addr))
		dst.addr = *policy_local_addr(&p->policy, v4);
	if (addr_is_none(&dst.addr) || addr_is_v4(&dst.addr) != v4)
		return false;
	fd = helper_stream_socket(&p->helper, v4);
	if (fd < 0 && p->helper.fd < 0) {
		log_add(&p->log, LOG_LEVEL_WARNING, "the helper in the guest's namespace is gone: local connections take the tap");
		return false;
	}
	join(p, client, fd, &dst);
	return true;
}

void listen_accept(struct plane *p, uint32_t index, uint32_t offset, uint32_t events)
{
	for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
		struct listener l = p->listeners.at[index];
		struct sockaddr_storage ss = {0};
		socklen_t len = sizeof(ss);
		struct endpoint peer;
		int fd;

		if (l.fd < 0 || offset >= l.count)
			return;
		if (rests(&p->listeners, &l) && !(events & EPOLLHUP)) /* it reports that it does not listen any more all the same */
			return;
		l.fd += (int)offset;
		l.target.port = (uint16_t)(l.target.port + offset);
		fd = accept4(l.fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			tcp_limit_reached(&p->tcp, &p->io, errno);
			set_resume(p, p->loop.now_ms + PAUSE_MS, false);
			return;
		}
		if (fd < 0 && errno == EINVAL) {
			/* Not listening any more: whoever shares an inherited socket has shut it down, and it would be ready for ever. */
			log_add(&p->log, LOG_LEVEL_WARNING, "a forwarded port of TCP is closed: its socket was shut down by another process");
			loop_remove(&p->loop, l.fd);
			return;
		}
		if (fd < 0)
			continue; /* that client has gone already (accept(2), "Error handling") */
		peer = addr_from_sockaddr(&ss);
		if (l.to_host)
			to_host(p, fd, l.target.port);
		else if (!to_guest(p, fd, &peer, &l.target) && (!p->shard || !shard_send_client(p, fd, &peer, &l.target)))
			tcp_accepted(&p->tcp, &p->io, fd, &peer, &l.target);
		if (!l.to_host && share_is_taken(p, fd)) {
			rest_for_guest(p);
			return;
		}
	}
}
