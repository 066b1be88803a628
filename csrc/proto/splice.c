/* Purpose: pairs of TCP sockets, and the pipes between them.
 *
 * How: bytes go socket -> pipe -> socket with splice(2) and do not enter user space. A flow has a pipe only while the pipe
 * holds bytes or is about to, so an idle flow has none. An end travels like bytes: when a socket's end is read and its pipe is
 * empty, the other socket is shut down for writing. The flow ends when both directions have ended. An error on one side resets
 * both, and the bytes in the pipe are lost, as bytes in a socket's buffer would be.
 *
 * splice(2) does not move past a mark of urgent data, where it reports no data or the end. No data is urgent here, so the bytes
 * at the mark are copied into the pipe (RFC 6093, 4: they belong to the stream).
 *
 * There are no timers: both ends are on this machine, and the kernel reports when one goes.
 *
 * Invariants: pipe[d] carries from side d to the other; nothing is read from a side while its pipe holds bytes.
 *
 * Rejected: copying through a buffer (measured: no faster at 1 MiB, and memory for each flow); MSG_PEEK as on the tap (nothing
 * here is sent again).
 */
#include "proto/splice.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/sock.h"

/* The most that an unprivileged user may have. With 256 KiB: three times the wakeups, a third more CPU time. */
#define PIPE_BYTES (1 << 20)
#define URGENT_BYTES 4096 /* copied at once: the size of the smallest pipe */

enum {
	SPLICE_READABLE = 1, /* may have bytes or an end to read */
	SPLICE_WRITABLE = 2,
	SPLICE_EOF = 4,     /* its end has been read */
	SPLICE_SHUT = 8,    /* it is shut down for writing */
	SPLICE_URGENT = 16, /* may have a mark of urgent data */
};

struct splice_flow {
	struct flow flow;
	struct flow_account account;
	struct work work;
	struct splice_pipe pipe[2];
	int fd[2];
	uint8_t side[2]; /* SPLICE_ flags */
	bool connecting; /* side 1 */
};

static const struct splice_pipe NO_PIPE = {-1, -1, 0};

int splice_init(struct splice *s, uint32_t limit, const struct siphash_key *key)
{
	*s = (struct splice){0};
	return flow_table_init(&s->flows, sizeof(struct splice_flow), limit, key);
}

void splice_share(struct splice *s, uint32_t shards)
{
	s->flows.limit /= shards;
}

static void close_pipe(struct splice_pipe *p)
{
	if (p->in < 0)
		return;
	close(p->in);
	close(p->out);
	*p = NO_PIPE;
}

void splice_free(struct splice *s)
{
	struct splice_flow *f;

	for (uint32_t at = 0; (f = (struct splice_flow *)flow_next(&s->flows, &at));)
		for (int d = 0; d < 2; d++) {
			sock_close(f->fd[d], !(f->side[d] & SPLICE_SHUT)); /* a stream that ends early must not look complete */
			close_pipe(&f->pipe[d]);
		}
	while (s->pooled)
		close_pipe(&s->pool[--s->pooled]);
	flow_table_free(&s->flows);
}

/* --- pipes --- */

static int take_pipe(struct splice *s, struct splice_pipe *p)
{
	int fds[2];

	if (s->pooled) {
		*p = s->pool[--s->pooled];
		return 0;
	}
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
		return -errno;
	/* Above the soft limit of pipe(7) a user gets smaller pipes, which only cost speed. */
	(void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
	*p = (struct splice_pipe){fds[1], fds[0], 0};
	return 0;
}

static void return_pipe(struct splice *s, struct splice_pipe *p)
{
	if (p->in < 0 || p->bytes)
		return;
	if (s->pooled == SPLICE_POOL) {
		close_pipe(p);
		return;
	}
	s->pool[s->pooled++] = *p;
	*p = NO_PIPE;
}

/* --- beginning and end --- */

void splice_describe(const struct flow *flow, struct flow_event *e)
{
	const struct splice_flow *f = (const struct splice_flow *)flow;
	bool from_host = f->account.from_host;
	uint8_t guest = f->side[from_host], peer = f->side[!from_host];

	event_fill(e, FLOW_SPLICE_TCP, flow, &f->account, &(struct endpoint){flow->key.dest, flow->key.dest_port}, FLOW_NO_RULE);
	if (f->connecting)
		e->state = FLOW_STATE_connecting;
	else if (guest & SPLICE_EOF)
		e->state = FLOW_STATE_guest_closed;
	else if (peer & SPLICE_EOF)
		e->state = FLOW_STATE_peer_closed;
}

/* abort: both sides get a reset. */
static void end_flow(struct splice *s, struct io *io, struct splice_flow *f, bool abort, enum flow_reason reason, int error)
{
	event_report(io->events, io->loop->now_ms, splice_describe, &f->flow, f->connecting ? FLOW_REFUSED : FLOW_CLOSED, reason,
		     error);
	worklist_remove(&s->work, &f->work);
	for (int d = 0; d < 2; d++) {
		sock_close(f->fd[d], abort);
		if (f->pipe[d].bytes)
			close_pipe(&f->pipe[d]);
		return_pipe(s, &f->pipe[d]);
	}
	COUNT_SUB(io->counters, splice_flows, 1);
	flow_remove(&s->flows, &f->flow);
}

/* error: errno that ends the flow, and both sides with a reset; 0: it has come to its end. */
static void close_flow(struct splice *s, struct io *io, struct splice_flow *f, int error)
{
	end_flow(s, io, f, error, error ? event_reason_of(error) : REASON_finished, error);
}

void splice_judge_again(struct splice *s, struct io *io, struct gate_again *counts)
{
	struct splice_flow *f;
	uint16_t rule;

	for (uint32_t at = 0; (f = (struct splice_flow *)flow_next(&s->flows, &at));)
		if (!gate_keeps(io, splice_describe, &f->flow, NULL, &rule, counts))
			end_flow(s, io, f, true, REASON_rule, 0);
}

static void limit_reached(struct splice *s, struct io *io, int error)
{
	COUNT(io->counters, splice_limit);
	log_refused(io->log, &s->limit_logged_ms, io->loop->now_ms, "local connection", s->flows.used, error);
}

static int watch(struct io *io, const struct splice_flow *f, int side)
{
	return loop_add(io->loop, f->fd[side], EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
			loop_tag(side ? OWNER_SPLICE_CONNECTED : OWNER_SPLICE_ACCEPTED, f->flow.index, f->flow.generation));
}

void splice_join(struct splice *s, struct io *io, int accepted, int connecting, const struct flow_key *ends, bool from_host)
{
	struct splice_flow *f = (struct splice_flow *)flow_add(&s->flows, ends);

	if (!f) {
		limit_reached(s, io, flow_no_room(&s->flows));
		event_refused(io->events, io->loop->now_ms, FLOW_SPLICE_TCP, ends, NULL, REASON_no_room, 0, FLOW_NO_RULE, false);
		sock_close(accepted, true);
		sock_close(connecting, true);
		return;
	}
	f->fd[0] = accepted;
	f->fd[1] = connecting;
	f->pipe[0] = f->pipe[1] = NO_PIPE;
	f->connecting = true;
	account_open(&f->account, io->loop->now_ms, from_host);
	COUNT(io->counters, splice_flows);
	COUNT(io->counters, splice_opened);
	for (int side = 0; side < 2; side++) {
		sock_set(f->fd[side], IPPROTO_TCP, TCP_NODELAY, 1); /* the sender's kernel has applied Nagle's algorithm already */
		sock_set(f->fd[side], SOL_SOCKET, SO_OOBINLINE, 1);
	}
	if (watch(io, f, 0) < 0 || watch(io, f, 1) < 0) {
		limit_reached(s, io, errno);
		close_flow(s, io, f, ENOMEM);
	}
}

/* --- moving --- */

/* Moves bytes at a mark of urgent data. Returns what splice() would. */
static ssize_t copy_urgent(int from, int pipe)
{
	uint8_t bytes[URGENT_BYTES];
	ssize_t n = recv(from, bytes, sizeof(bytes), MSG_DONTWAIT);

	return n > 0 ? write(pipe, bytes, (size_t)n) : n;
}

/* Reads from side d into its pipe if that is empty, and writes the pipe to the other side. 1: bytes were written; 0: nothing
 * can be done now; -errno. */
static int move(struct splice *s, struct splice_flow *f, int d)
{
	struct splice_pipe *p = &f->pipe[d];
	ssize_t n;
	int rc;

	if (!p->bytes && f->side[d] & SPLICE_READABLE && !(f->side[d] & SPLICE_EOF)) {
		if (p->in < 0 && (rc = take_pipe(s, p)) < 0)
			return rc;
		n = splice(f->fd[d], NULL, p->in, NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n == 0 || (n < 0 && errno == EAGAIN && f->side[d] & SPLICE_URGENT))
			n = copy_urgent(f->fd[d], p->in);
		if (n < 0 && errno == EAGAIN)
			f->side[d] &= (uint8_t) ~(SPLICE_READABLE | SPLICE_URGENT);
		else if (n < 0)
			return errno == EINTR ? 1 : -errno;
		else if (n == 0)
			f->side[d] |= SPLICE_EOF;
		else
			p->bytes = (uint32_t)n;
	}
	if (!p->bytes || !(f->side[!d] & SPLICE_WRITABLE))
		return 0;
	n = splice(p->out, NULL, f->fd[!d], NULL, p->bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n < 0 && errno == EAGAIN) {
		f->side[!d] &= (uint8_t)~SPLICE_WRITABLE;
		return 0;
	}
	if (n < 0)
		return errno == EINTR ? 1 : -errno;
	p->bytes -= (uint32_t)n;
	if (f->account.from_host == !d)
		account_received(&f->account, 0, (uint32_t)n);
	else
		account_sent(&f->account, 0, (uint32_t)n);
	return 1;
}

/* Passes the end of side d on if everything before it has been written. */
static void pass_end(struct splice_flow *f, int d)
{
	if (!(f->side[d] & SPLICE_EOF) || f->pipe[d].bytes || f->side[!d] & SPLICE_SHUT)
		return;
	shutdown(f->fd[!d], SHUT_WR);
	f->side[!d] |= SPLICE_SHUT;
}

/* One turn of a flow, SCHED_SPLICE_MOVES at most in each direction. True: there is more to move. The flow may be gone
 * afterwards. */
static bool run_turn(struct splice *s, struct io *io, struct splice_flow *f)
{
	bool more = false;

	for (int d = 0; d < 2; d++) {
		int moves = 0, rc = 1;

		while (rc > 0 && moves++ < SCHED_SPLICE_MOVES)
			rc = move(s, f, d);
		if (rc < 0) {
			if (rc == -EMFILE || rc == -ENFILE)
				limit_reached(s, io, -rc);
			close_flow(s, io, f, -rc);
			return false;
		}
		more |= rc > 0;
		pass_end(f, d);
		return_pipe(s, &f->pipe[d]);
	}
	if (f->side[0] & SPLICE_SHUT && f->side[1] & SPLICE_SHUT) {
		close_flow(s, io, f, 0);
		return false;
	}
	return more;
}

void splice_event(struct splice *s, struct io *io, uint32_t index, uint32_t generation, int side, uint32_t events)
{
	struct splice_flow *f = (struct splice_flow *)flow_at_generation(&s->flows, index, generation);
	int error = 0;
	socklen_t len = sizeof(error);

	if (!f)
		return;
	if (events & EPOLLERR && (getsockopt(f->fd[side], SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error)) {
		log_debug(io->log, "local connection [flow %u.%u.%u.%u]: %s", io->events->shard, FLOW_SPLICE_TCP, f->flow.index,
			  f->flow.generation / 2, strerror(error));
		close_flow(s, io, f, error ? error : EIO);
		return;
	}
	if (events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP))
		f->side[side] |= SPLICE_READABLE;
	if (events & EPOLLPRI)
		f->side[side] |= SPLICE_URGENT;
	if (events & EPOLLOUT)
		f->side[side] |= SPLICE_WRITABLE;
	if (side == 1 && events & EPOLLOUT && f->connecting) {
		f->connecting = false;
		event_report(io->events, io->loop->now_ms, splice_describe, &f->flow, FLOW_OPENED, REASON_none, 0);
	}
	if (!f->connecting)
		worklist_add(&s->work, &f->work);
}

bool splice_service(struct splice *s, struct io *io)
{
	/* Flows with more to move join the end of the list; they get no second turn now. */
	for (uint32_t left = s->work.count; left && s->work.head; left--) {
		struct splice_flow *f = CONTAINER_OF(s->work.head, struct splice_flow, work);

		worklist_remove(&s->work, &f->work);
		if (run_turn(s, io, f))
			worklist_add(&s->work, &f->work);
	}
	return s->work.count;
}

bool splice_drain(struct splice *s, struct io *io)
{
	struct splice_flow *f;
	bool more = false;

	for (uint32_t at = 0; (f = (struct splice_flow *)flow_next(&s->flows, &at));) {
		for (int d = 0; d < 2; d++)
			f->side[d] |= SPLICE_READABLE | SPLICE_URGENT | SPLICE_WRITABLE;
		more |= run_turn(s, io, f);
	}
	return more;
}
