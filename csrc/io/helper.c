/* Purpose: both ends of the conversation with the helper. A socket always stays in the network namespace of the process that made
 * it. The helper is a child of the worker that entered the guest's namespaces before it gave up its privileges. It can only make
 * sockets there and hand them over.
 *
 * How: requests and answers are one message each. Answers come in the order of the requests. TCP sockets to connect are ordered in
 * advance, so that a connection does not wait for a process switch.
 *
 * Rejected: a thread. It cannot have a user namespace of its own, and would keep the worker out of one.
 */
#include "io/helper.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/small_fork.h"
#include "io/sock.h"
#include "plane_api.h"

#define LISTEN_BACKLOG 4096
#define LOOPBACK "lo"
#define OVERFLOW_ID 65534 /* overflowuid and overflowgid of Linux: they own nothing */
#define ANSWER_TIMEOUT_MS 2000
#define LOW_WATER (HELPER_POOL / 4)

struct request {
	int32_t type;   /* SOCK_STREAM or SOCK_DGRAM */
	int32_t family; /* AF_INET, AF_INET6; or AF_NETLINK, for sock_diag(7) */
	int32_t bind;   /* 1: bind it to `at`, and listen if it is TCP */
	struct endpoint at;
};

/* --- messages with at most one descriptor --- */

static int send_fd(int sock, const void *data, size_t len, int fd)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	while (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Returns the bytes received, 0 at the end, or -errno. *fd: -1 if none came. */
static ssize_t recv_fd(int sock, void *data, size_t len, int flags, int *fd)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {data, len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	ssize_t n;

	*fd = -1;
	do
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(c), sizeof(int));
	return n;
}

/* --- the helper --- */

/* Asks for the address that each datagram was sent to, before the first can come. No datagrams of groups that others have
 * joined. */
static void prepare_datagrams(int fd, bool v4)
{
	if (v4) {
		sock_set(fd, IPPROTO_IP, IP_PKTINFO, 1);
		sock_set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
	} else {
		sock_set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	}
}

/* The unspecified address means the loopback interface only: the guest's other addresses are its own. */
static int bind_and_listen(int fd, const struct request *r)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&r->at.addr, r->at.port, 0, &ss);
	bool stream = r->type == SOCK_STREAM;

	if (addr_is_unspecified(&r->at.addr) && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, LOOPBACK, sizeof(LOOPBACK)) < 0)
		return -errno;
	if (stream)
		sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	else
		prepare_datagrams(fd, r->family == AF_INET);
	if (bind(fd, (struct sockaddr *)&ss, len) < 0)
		return -errno;
	/* UDP: a program of the guest that sets this option too can still bind to the port later, and then gets the datagrams. Set
	 * before bind(), the option would let us take the port from a program that has it. */
	if (!stream)
		return sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	return listen(fd, LISTEN_BACKLOG) < 0 ? -errno : 0;
}

static int make_socket(const struct request *r)
{
	int protocol = r->family == AF_NETLINK ? NETLINK_SOCK_DIAG : 0;
	int fd = socket(r->family, r->type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol), one = 1, rc;

	if (fd < 0)
		return -errno;
	if (r->family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	rc = r->bind ? bind_and_listen(fd, r) : 0;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

/* The first messages bring the namespaces: 'u' with a user namespace (optional), then 'n' with the network namespace. */
static int enter_namespaces(int sock)
{
	for (;;) {
		char what = 0;
		int fd, rc;
		ssize_t n = recv_fd(sock, &what, 1, 0, &fd);

		if (n <= 0)
			return n < 0 ? (int)n : -ECANCELED;
		if (fd < 0 || (what != 'u' && what != 'n'))
			return -EPROTO;
		rc = setns(fd, what == 'u' ? CLONE_NEWUSER : CLONE_NEWNET) < 0 ? -errno : 0;
		close(fd);
		if (rc < 0 || what == 'n')
			return rc;
	}
}

/* Keeps only the right to bind to the guest's low ports, which -T 80 needs. The guest's root has it as well. */
static int give_up_privileges(void)
{
	int rc;

	/* The host's root changes to another user. Root of a namespace with one ID cannot, and need not. */
	if (!geteuid() && !prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) && !setresgid(OVERFLOW_ID, OVERFLOW_ID, OVERFLOW_ID)) {
		if (setgroups(0, NULL) < 0 || setresuid(OVERFLOW_ID, OVERFLOW_ID, OVERFLOW_ID) < 0)
			return -errno;
	}
	rc = confine_privileges(1u << CAP_NET_BIND_SERVICE, 0);
	return rc == -EPERM ? confine_privileges(0, 0) : rc; /* we did not have it */
}

/* Locks the helper in. The empty root takes rights in the guest's user namespace; without them Landlock and the filter on system
 * calls hide as much. Returns 0, a positive errno value if there is no filter, or -errno. */
static int lock_in(uint32_t by_chroot)
{
	int rc;

	if (!confine_unshare(CONFINE_MOUNT | CONFINE_IPC | CONFINE_UTS))
		(void)confine_root(by_chroot);
	rc = give_up_privileges();
	if (rc < 0)
		return rc;
	(void)confine_landlock(NULL);
	(void)confine_limits(0);
	return -confine_calls(CONFINE_HELPER);
}

static int serve(int sock, uint32_t by_chroot)
{
	int32_t result;
	struct request r;
	ssize_t n;
	int fd;

	prctl(PR_SET_NAME, "pasta-helper", 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* else the guest's root could trace it as soon as it joins */
	result = enter_namespaces(sock);
	if (result == -ECANCELED)
		return 0; /* the worker needs no helper */
	if (!result)
		result = lock_in(by_chroot);
	if (send_fd(sock, &result, sizeof(result), -1) < 0 || result < 0)
		return result;
	while ((n = recv_fd(sock, &r, sizeof(r), 0, &fd)) > 0) {
		int made;

		if (fd >= 0)
			close(fd);
		if (n != sizeof(r))
			return -EPROTO;
		made = make_socket(&r);
		result = made < 0 ? made : 0;
		n = send_fd(sock, &result, sizeof(result), made < 0 ? -1 : made);
		if (made >= 0)
			close(made);
		if (n < 0)
			return (int)n;
	}
	return (int)n;
}

int helper_start(int null, int ours, uint32_t by_chroot)
{
	int rc = small_fork(null, ours);

	if (rc > 0)
		_exit(serve(SMALL_FORK_SOCKET, by_chroot) < 0);
	return rc;
}

/* --- the core's side --- */

void helper_init(struct helper *h, int fd)
{
	*h = (struct helper){.fd = fd};
}

void helper_free(struct helper *h)
{
	for (int f = 0; f < 2; f++)
		while (h->ready[f])
			close(h->pool[f][--h->ready[f]]);
}

static int family_of(int f)
{
	return f == 0 ? AF_INET : AF_INET6;
}

/* Waits for one answer: a descriptor or -errno. After one timeout it only looks, until the helper answers: it may be stopped. */
static int answer(struct helper *h)
{
	struct pollfd p = {.fd = h->fd, .events = POLLIN};
	int32_t result;
	ssize_t got;
	int fd;

	h->silent = poll(&p, 1, h->silent ? 0 : ANSWER_TIMEOUT_MS) <= 0;
	if (h->silent)
		return -ETIMEDOUT;
	got = recv_fd(h->fd, &result, sizeof(result), MSG_DONTWAIT, &fd);
	if (got != sizeof(result)) {
		h->fd = -1; /* the helper is gone, or the answer malformed: never ask again */
		return got < 0 ? (int)got : -ECONNRESET;
	}
	if (result < 0)
		return result;
	return fd < 0 ? -EMFILE : fd; /* it was sent, but we had no room for a descriptor */
}

static int order(struct helper *h, const struct request *r)
{
	if (h->fd < 0)
		return -ENOTCONN;
	return send_fd(h->fd, r, sizeof(*r), -1);
}

/* Takes outstanding answers: first a late one, which is dropped; then those to orders, family 0 before family 1. */
static int collect(struct helper *h)
{
	int fd;

	if (h->late) {
		fd = answer(h);
		if (fd >= 0)
			close(fd);
		else if (h->fd < 0 || fd == -ETIMEDOUT)
			return fd;
		h->late = false;
	}
	for (int f = 0; f < 2; f++) {
		for (; h->ordered[f]; h->ordered[f]--) {
			fd = answer(h);
			if (fd >= 0)
				h->pool[f][h->ready[f]++] = fd;
			else if (h->fd < 0 || fd == -ETIMEDOUT)
				return fd;
		}
	}
	return 0;
}

/* Orders sockets before the pool is empty. */
static void refill(struct helper *h, int f)
{
	struct request r = {.type = SOCK_STREAM, .family = family_of(f)};

	if (h->ordered[0] || h->ordered[1] || h->ready[f] > LOW_WATER)
		return;
	while (h->ready[f] + h->ordered[f] < HELPER_POOL && order(h, &r) == 0)
		h->ordered[f]++;
}

int helper_stream_socket(struct helper *h, bool v4)
{
	int f = v4 ? 0 : 1, rc;

	if (!h->ready[f]) {
		rc = collect(h);
		if (rc < 0)
			return rc;
	}
	if (!h->ready[f]) {
		refill(h, f);
		rc = collect(h);
		if (rc < 0 || !h->ready[f])
			return rc < 0 ? rc : -ENOBUFS;
	}
	rc = h->pool[f][--h->ready[f]];
	refill(h, f);
	return rc;
}

static int ask(struct helper *h, const struct request *r)
{
	int rc = collect(h);

	if (!rc)
		rc = order(h, r);
	if (rc < 0)
		return rc;
	rc = answer(h);
	h->late = rc == -ETIMEDOUT; /* the answer still comes, and must be dropped then */
	return rc;
}

int helper_datagram_socket(struct helper *h, bool v4)
{
	return ask(h, &(struct request){.type = SOCK_DGRAM, .family = v4 ? AF_INET : AF_INET6});
}

int helper_diag_socket(struct helper *h)
{
	return ask(h, &(struct request){.type = SOCK_DGRAM, .family = AF_NETLINK});
}

int helper_listen(struct helper *h, int type, const struct addr *addr, uint16_t port)
{
	return ask(h, &(struct request){
			      .type = type, .family = addr_is_v4(addr) ? AF_INET : AF_INET6, .bind = 1, .at = {*addr, port}});
}
