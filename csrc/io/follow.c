/* Purpose: the two processes that follow the host, while they wait (docs/follow.md).
 *
 *   worker ──fork──  watcher                 host's network namespace, no capability: reads events
 *                       ├─fork── applier     guest's namespaces, CAP_NET_ADMIN there: waits for what the watcher's programs say
 *                       └─exec── a program   for each change (pasta_py/worker/follow_change.py): makes the plan again, tells
 *                                            the worker and the applier, writes the state down, and says what to wait for next
 *
 * How: the fork comes from the worker before it confines itself, and takes nothing of the interpreter along (small_fork.c). It waits
 * for a message with descriptors. So waiting takes no more memory than a small program does. What a change needs is loaded by a Python
 * of its own, which ends after it; it gets the descriptors that it needs, in the order of `enum given`. The state between two changes
 * is in a memory file that only these programs read. The watcher reads nothing from the worker after the first message, and the
 * applier nothing at all: it starts a program for what arrives.
 *
 * When the worker ends, so do both. When one of them ends, so does the other, and the worker says that following has ended.
 *
 * Rejected: forks of an interpreter that wait. They take 1.7 MB each.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "core/follow_events.h"
#include "io/small_fork.h"
#include "plane_api.h"

/* A change comes as a burst of events. It is read when the burst may be over, so that it is read once. */
#define GATHER_MS 40
/* Where changes never end, the plan is made again after 20 times as long as it takes, and at least twice a second. */
#define REST_FACTOR 20
#define REST_MAX_MS 500
#define EVENT_BYTES (64u << 10)
#define TEXT_BYTES (16u << 10)
#define LOOK_BYTES (8u << 10)
#define WORDS_MAX 64
#define GIVEN_FIRST 3 /* behind the standard streams */
#define ABOVE_GIVEN 16
#define FAILED 1

/* Descriptors that come with the first message, each named by a letter there; the last ones are made here. */
enum { STATE, LOOK, NETLINK, INOTIFY, USERNS, NETNS, NAMED, WORKER = NAMED, APPLIER, DESCRIPTORS };
static const char letters[NAMED] = {'s', 'l', 'n', 'i', 'u', 't'};

/* What a program that looks at a change gets, from GIVEN_FIRST on. The applier's gets the socket to the watcher only. */
enum given { GIVEN_LOOK, GIVEN_STATE, GIVEN_INOTIFY, GIVEN_WORKER, GIVEN_APPLIER, GIVEN };

/* What to wait for: from control at first, then from each program. Behind it are `links` numbers of 32 bits, the indices of the
 * interfaces whose events matter, then names of files that matter, each with a zero byte at its end; none: all matter. */
struct look {
	int64_t due_ms; /* when to look again without an event, CLOCK_MONOTONIC; -1: never */
	uint32_t changed, applies, links;
};

static struct {
	struct follow_events events;
	struct look look;
	uint8_t given[LOOK_BYTES]; /* the bytes behind `look` */
	size_t given_len;
	int fds[DESCRIPTORS];
	char *words[WORDS_MAX + 1], *environment[WORDS_MAX + 1];
	size_t word_count;     /* behind them goes what the program is for */
	char text[TEXT_BYTES]; /* what these two point to */
	char namespace_name[NAME_MAX + 1];
	int32_t namespace_watch; /* of the directory with that name, as inotify numbers it; 0: the worker does not ask for it */
	int64_t rested_ms;       /* when the plan may be made again */
} self;

static uint8_t event[EVENT_BYTES];

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- programs for changes --- */

/* Copies strings into self.text from `used` on, and lists them. Returns how much is used then; 0: there is no room. */
static size_t keep_words(const char *words, size_t len, size_t used, char *list[WORDS_MAX + 1], size_t *count)
{
	*count = 0;
	if (len > sizeof(self.text) - used || (len && words[len - 1]))
		return 0;
	memcpy(self.text + used, words, len);
	for (size_t at = used; at < used + len; at += strlen(self.text + at) + 1) {
		if (*count == WORDS_MAX - 1)
			return 0;
		list[(*count)++] = self.text + at;
	}
	return used + len;
}

/* The same descriptor with a number that no program is given, so that dup2() to one of those closes no descriptor that we need. */
static int above_given(int fd)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, ABOVE_GIVEN);

	close(fd);
	return moved;
}

/* fds: GIVEN or fewer, -1 for those that there are not. */
static pid_t start_program(const char *purpose, const int fds[], size_t count)
{
	pid_t child;

	self.words[self.word_count] = (char *)(uintptr_t)purpose;
	child = plain_fork();

	if (child)
		return child;
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			(void)dup2(fds[i], GIVEN_FIRST + (int)i);
	execve(self.words[0], self.words, self.environment);
	_exit(FAILED);
}

/* --- the applier --- */

/* Whether a capability that we have now counts in this network namespace: its owner is our user namespace, or one below. */
static bool counts_on(int netns)
{
	int owner = ioctl(netns, NS_GET_USERNS);

	if (owner < 0)
		return false; /* EPERM: the owner is out of our reach (ioctl_ns(2)) */
	close(owner);
	return true;
}

/* Locks the process in: no capability but `kept`, files can only be read, few system calls. */
static int lock_in(const char *name, uint32_t who, uint32_t kept)
{
	int rc = confine_name(name);

	if (!rc)
		rc = confine_privileges(kept, 1);
	if (rc)
		return rc;
	(void)confine_reading_only(); /* many kernels lack it */
	(void)confine_calls(who);     /* the worker has warned of that */
	return 0;
}

/* Joins the guest. 0, -errno, or FOLLOW_COUNTS_ON_HOST. */
static int32_t enter(int host)
{
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* or the guest's root could trace us */
	if (self.fds[USERNS] >= 0 && setns(self.fds[USERNS], CLONE_NEWUSER))
		return -errno;
	if (counts_on(host))
		return FOLLOW_COUNTS_ON_HOST;
	if (setns(self.fds[NETNS], CLONE_NEWNET))
		return -errno;
	close(host);
	for (size_t i = 0; i < DESCRIPTORS; i++)
		if (self.fds[i] >= 0)
			close(self.fds[i]);
	return lock_in("pasta-apply", CONFINE_APPLIER, 1u << CAP_NET_ADMIN);
}

static void apply(int sock, int host)
{
	int32_t rc = enter(host);
	char byte;

	if (send(sock, &rc, sizeof(rc), MSG_NOSIGNAL) < 0 || rc)
		return;
	while (recv(sock, &byte, 1, MSG_PEEK) > 0) {
		pid_t child = start_program("apply", &sock, 1);
		int status = 0;

		if (child < 0 || waitpid(child, &status, 0) < 0 || status)
			return;
	}
}

/* Starts it, and tells the worker if there can be none. */
static int start_applier(void)
{
	int host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), pair[2];
	int32_t rc = -errno;

	if (host >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
		if (plain_fork() == 0) {
			close(pair[0]);
			apply(above_given(pair[1]), host);
			_exit(0);
		}
		close(pair[1]);
		self.fds[APPLIER] = above_given(pair[0]);
		if (recv(self.fds[APPLIER], &rc, sizeof(rc), MSG_WAITALL) != sizeof(rc))
			rc = -ECHILD;
	}
	if (host >= 0)
		close(host);
	if (!rc)
		return 0;
	if (self.fds[APPLIER] >= 0)
		close(self.fds[APPLIER]);
	self.fds[APPLIER] = -1;
	return send(self.fds[WORKER], &rc, sizeof(rc), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* --- the watcher --- */

/* Takes what to wait for from a pipe, up to its end, and closes it. */
static int read_look(int pipe)
{
	size_t len = 0, names;
	ssize_t n;
	uint8_t all[sizeof(struct look) + LOOK_BYTES];

	while (len < sizeof(all) && ((n = read(pipe, all + len, sizeof(all) - len)) > 0 || (n < 0 && errno == EINTR)))
		len += n > 0 ? (size_t)n : 0;
	close(pipe);
	if (len < sizeof(self.look) || len == sizeof(all))
		return -EPROTO;
	memcpy(&self.look, all, sizeof(self.look));
	self.given_len = len - sizeof(self.look);
	memcpy(self.given, all + sizeof(self.look), self.given_len);
	if (self.look.links > self.given_len / sizeof(uint32_t))
		return -EPROTO;
	names = self.look.links * sizeof(uint32_t);
	return names < self.given_len && self.given[self.given_len - 1] ? -EPROTO : 0;
}

/* From now on only the interfaces of the last look wake us. */
static void attend(void)
{
	uint32_t links[FOLLOW_LINKS_MAX], count = self.look.links;
	int on = 1;

	memcpy(links, self.given, u32_min(count, FOLLOW_LINKS_MAX) * sizeof(links[0]));
	/* If there are too many, all events come through: more work, the same result. */
	if (follow_filter(self.fds[NETLINK], links, count) < 0)
		(void)setsockopt(self.fds[NETLINK], SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof(on));
}

static bool names_file(const char *name, size_t len)
{
	size_t at = self.look.links * sizeof(uint32_t);
	bool any = at < self.given_len;

	for (; at < self.given_len; at += strlen((const char *)self.given + at) + 1)
		if (!len || strncmp((const char *)self.given + at, name, len) == 0)
			return true;
	return !any || !len;
}

/* Whether one of the events that wait matters. */
static bool read_netlink(void)
{
	bool matters = false;

	for (;;) {
		struct sockaddr_nl sender = {0};
		socklen_t size = sizeof(sender);
		ssize_t n = recvfrom(self.fds[NETLINK], event, sizeof(event), MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&sender,
				     &size);

		if (n < 0 && errno != ENOBUFS)
			return matters;
		if (n >= 0 && sender.nl_pid)
			continue; /* not the kernel */
		/* Events were lost, or are too long to compare: look at everything. */
		matters |= follow_events_note(&self.events, event, n < 0 || (size_t)n > sizeof(event) ? 0 : (size_t)n);
	}
}

/* Whether the name of the guest's namespace is gone, or another file has its place. name: e->len bytes. */
static bool namespace_gone(const struct inotify_event *e, const char *name)
{
	const uint32_t of_name = IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE, of_directory = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT;

	if (!self.namespace_watch || e->wd != self.namespace_watch)
		return false;
	return e->mask & of_directory || (e->mask & of_name && e->len && strncmp(name, self.namespace_name, e->len) == 0);
}

/* Whether one of the events that wait matters. One that is about the guest's namespace matters to the worker. */
static bool read_inotify(void)
{
	const int32_t gone = FOLLOW_NAMESPACE_GONE;
	bool matters = false;
	ssize_t n = read(self.fds[INOTIFY], event, sizeof(event));

	for (size_t at = 0; n > 0 && at + sizeof(struct inotify_event) <= (size_t)n;) {
		struct inotify_event e;

		memcpy(&e, event + at, sizeof(e));
		at += sizeof(e);
		matters |= names_file((const char *)event + at, e.len);
		if (namespace_gone(&e, (const char *)event + at))
			(void)send(self.fds[WORKER], &gone, sizeof(gone), MSG_NOSIGNAL);
		at += e.len;
	}
	return matters;
}

/* Makes the plan again, in a program; false: following ends. */
static bool plan_again(void)
{
	int64_t started = now_ms(), took;
	int look[2], given[GIVEN], status;
	pid_t child;

	(void)read_netlink();
	if (pipe2(look, O_CLOEXEC) < 0)
		return false;
	look[1] = above_given(look[1]);
	given[GIVEN_LOOK] = look[1];
	given[GIVEN_STATE] = self.fds[STATE];
	given[GIVEN_INOTIFY] = self.fds[INOTIFY];
	given[GIVEN_WORKER] = self.fds[WORKER];
	given[GIVEN_APPLIER] = self.fds[APPLIER];
	child = start_program("plan", given, GIVEN);
	close(look[1]);
	if (read_look(look[0]) < 0 || child < 0 || waitpid(child, &status, 0) < 0)
		return false;
	follow_events_planned(&self.events, self.look.changed);
	attend();
	took = (now_ms() - started) * REST_FACTOR;
	self.rested_ms = now_ms() + (took < REST_MAX_MS ? took : REST_MAX_MS);
	return true;
}

/* When to make the plan again; changed_ms: when the first event of a burst came, -1: there was none. -1: not before an event. */
static int64_t when(int64_t changed_ms)
{
	int64_t at = changed_ms < 0 ? -1 : changed_ms + GATHER_MS;

	if (at >= 0 && at < self.rested_ms)
		at = self.rested_ms;
	return at < 0 || (self.look.due_ms >= 0 && self.look.due_ms < at) ? self.look.due_ms : at;
}

/* Until the worker or the applier ends. */
static void watch(void)
{
	struct pollfd polled[] = {{self.fds[WORKER], 0, 0},
				  {self.fds[APPLIER], 0, 0},
				  {self.fds[NETLINK], POLLIN, 0},
				  {self.fds[INOTIFY], POLLIN, 0}};
	int64_t changed_ms = -1;

	attend();
	for (;;) {
		int64_t at = when(changed_ms), now = now_ms();
		bool matters = false;

		if (poll(polled, ARRAY_LEN(polled), at < 0 ? -1 : at < now ? 0 : (int)(at - now)) < 0)
			return;
		if (polled[0].revents || polled[1].revents)
			return;
		if (polled[2].revents)
			matters = read_netlink();
		if (polled[3].revents)
			matters |= read_inotify();
		now = now_ms();
		if (matters && changed_ms < 0)
			changed_ms = now;
		at = when(changed_ms);
		if (at < 0 || at > now)
			continue;
		changed_ms = -1;
		if (!plan_again())
			return;
	}
}

/* Takes which name is the namespace's, if the worker asks for it: the number of a watch, and a name. */
static int keep_namespace(const char *said, size_t len)
{
	if (!len)
		return 0;
	if (len < sizeof(self.namespace_watch) || len - sizeof(self.namespace_watch) >= sizeof(self.namespace_name))
		return -EPROTO;
	memcpy(&self.namespace_watch, said, sizeof(self.namespace_watch));
	memcpy(self.namespace_name, said + sizeof(self.namespace_watch), len - sizeof(self.namespace_watch));
	return 0;
}

/* Takes the first message: letters, and the descriptors that they name; then see above. */
static int receive(int sock)
{
	char said[NAMED + sizeof(self.namespace_watch) + sizeof(self.namespace_name)];
	struct iovec iov = {said, sizeof(said)};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(NAMED * sizeof(int))];
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	size_t count = c && c->cmsg_type == SCM_RIGHTS ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

	if (!count || (size_t)n < count || keep_namespace(said + count, (size_t)n - count) < 0)
		return -EPROTO;
	for (size_t i = 0; i < count; i++) {
		const char *letter = memchr(letters, said[i], sizeof(letters));
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (letter)
			self.fds[letter - letters] = above_given(fd);
	}
	self.fds[WORKER] = above_given(sock);
	return self.fds[STATE] < 0 || self.fds[LOOK] < 0 || self.fds[NETLINK] < 0 || self.fds[WORKER] < 0 ? -EPROTO : 0;
}

static int prepare(const char *words, size_t words_len, const char *environment, size_t environment_len)
{
	size_t used = keep_words(words, words_len, 0, self.words, &self.word_count), ignored;
	uintptr_t random = getauxval(AT_RANDOM);

	for (size_t i = 0; i < DESCRIPTORS; i++)
		self.fds[i] = -1;
	if (!used || !self.words[0][0] ||
	    (environment_len && !keep_words(environment, environment_len, used, self.environment, &ignored)))
		return -E2BIG;
	if (random)
		memcpy(&self.events.key, (const void *)random, sizeof(self.events.key));
	return 0;
}

/* The process from its fork to its end. */
static void serve(int sock)
{
	if (receive(sock) < 0 || read_look(self.fds[LOOK]) < 0)
		return;
	self.fds[LOOK] = -1;
	if (self.look.applies && self.fds[NETNS] >= 0 && start_applier() < 0)
		return;
	for (size_t i = USERNS; i <= NETNS; i++) {
		if (self.fds[i] >= 0)
			close(self.fds[i]);
		self.fds[i] = -1;
	}
	if (lock_in("pasta-watch", CONFINE_WATCHER, 0) == 0)
		watch();
}

int follow_start(int null, int ours, const char *words, uint32_t words_len, const char *environment, uint32_t environment_len)
{
	int rc = prepare(words, words_len, environment, environment_len);

	if (rc == 0)
		rc = small_fork(null, ours);
	if (rc > 0) {
		serve(SMALL_FORK_SOCKET);
		_exit(0);
	}
	return rc;
}
