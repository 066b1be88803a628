/* A bad wire: carries frames between two ends, and loses, doubles and reorders some of them, both ways.
 *
 *   relay LOSS DUPLICATES REORDERED SEED END END      the first three in frames of 10,000; prints "ready"
 *
 *   END: tap:NAME          a tap of this network namespace, made here
 *        tap:NAME:PID      the same in that of a process
 *        packets:PATH      a UNIX socket to listen at, which keeps boundaries; one client
 *        passt:PATH        a UNIX socket where passt listens: a stream, 4 bytes of length before each frame
 *
 * A frame that is reordered waits until three others have passed it, or 5 ms.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 65550, PASSED = 3, WAIT_MS = 5, BUFFER = 4 << 20 };

struct end {
	int fd, framed;
	size_t have; /* of what a stream has brought */
	uint8_t in[4 * FRAME_MAX];
	/* one frame on its way to this end that waits */
	size_t held_len;
	int held_passed;
	int64_t held_ms;
	uint8_t held[FRAME_MAX];
};

static struct end ends[2];
static long chance[3];
static uint64_t state;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* xorshift64*, of 10,000 */
static long roll(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (long)((state * UINT64_C(2685821657736338717) >> 33) % 10000);
}

static int open_tap(char *spec)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	char *name = strsep(&spec, ":"), path[64];
	int fd, here = open("/proc/self/ns/net", O_RDONLY);
	if (spec) {
		snprintf(path, sizeof path, "/proc/%s/ns/net", spec);
		int there = open(path, O_RDONLY);
		if (there < 0 || setns(there, CLONE_NEWNET))
			die(path);
		close(there);
	}
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if ((fd = open("/dev/net/tun", O_RDWR)) < 0 || ioctl(fd, TUNSETIFF, &request))
		die(name);
	if (spec && setns(here, CLONE_NEWNET))
		die("setns");
	close(here);
	return fd;
}

static int unix_socket(const char *path, int type, int (*use)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);
	snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
	if (use(fd, (struct sockaddr *)&un, sizeof un))
		die(path);
	return fd;
}

static void open_end(struct end *e, char *spec)
{
	char *kind = strsep(&spec, ":");
	e->framed = !strcmp(kind, "passt");
	if (!strcmp(kind, "tap"))
		e->fd = open_tap(spec);
	else if (e->framed)
		e->fd = unix_socket(spec, SOCK_STREAM, connect);
	else if (listen(e->fd = unix_socket(spec, SOCK_SEQPACKET, bind), 1))
		die(spec);
}

/* A UNIX socket becomes its client. */
static void accept_client(struct end *e)
{
	int listening = 0, size = BUFFER;
	socklen_t len = sizeof listening;
	if (getsockopt(e->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) || !listening)
		return;
	e->fd = accept(e->fd, NULL, NULL);
	if (e->fd < 0)
		die("accept");
	setsockopt(e->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static void put(struct end *to, const uint8_t *frame, size_t len)
{
	uint32_t head = htonl((uint32_t)len);
	struct iovec iov[2] = {{&head, sizeof head}, {(void *)(uintptr_t)frame, len}};
	size_t left = len + sizeof head;
	if (!to->framed) {
		if (write(to->fd, frame, len) < 0 && (errno == EPIPE || errno == ECONNRESET))
			exit(0);
		return;
	}
	while (left) {
		ssize_t n = writev(to->fd, iov, 2);
		if (n < 0)
			exit(0);
		left -= (size_t)n;
		for (int i = 0; i < 2; i++) {
			size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;
			iov[i].iov_base = (char *)iov[i].iov_base + part;
			iov[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
}

static void release(struct end *to)
{
	put(to, to->held, to->held_len);
	to->held_len = 0;
}

static void carry(struct end *to, const uint8_t *frame, size_t len)
{
	long r = roll();
	if (r < chance[0])
		return;
	if (r < chance[0] + chance[1]) {
		put(to, frame, len);
	} else if (r < chance[0] + chance[1] + chance[2] && !to->held_len) {
		memcpy(to->held, frame, to->held_len = len);
		to->held_passed = 0;
		to->held_ms = now_ms();
		return;
	}
	put(to, frame, len);
	if (to->held_len && ++to->held_passed >= PASSED)
		release(to);
}

static void take(struct end *from, struct end *to)
{
	ssize_t n = read(from->fd, from->in + from->have, sizeof from->in - from->have);
	size_t at = 0;
	if (n <= 0) {
		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EIO))
			return;
		exit(0);
	}
	if (!from->framed) {
		carry(to, from->in, (size_t)n);
		return;
	}
	from->have += (size_t)n;
	while (from->have - at >= 4) {
		uint32_t len;
		memcpy(&len, from->in + at, 4);
		len = ntohl(len);
		if (len > FRAME_MAX)
			die("a frame's length");
		if (from->have - at < 4 + len)
			break;
		carry(to, from->in + at + 4, len);
		at += 4 + len;
	}
	memmove(from->in, from->in + at, from->have -= at);
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	for (int i = 0; i < 3; i++)
		chance[i] = atol(argv[1 + i]);
	state = strtoull(argv[4], NULL, 10) * 2 + 1;
	for (int i = 0; i < 2; i++)
		open_end(&ends[i], argv[5 + i]);
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < 2; i++)
		accept_client(&ends[i]);
	for (;;) {
		struct pollfd p[2] = {{.fd = ends[0].fd, .events = POLLIN}, {.fd = ends[1].fd, .events = POLLIN}};
		poll(p, 2, ends[0].held_len || ends[1].held_len ? WAIT_MS : -1);
		for (int i = 0; i < 2; i++) {
			if (p[i].revents)
				take(&ends[i], &ends[!i]);
			if (ends[i].held_len && now_ms() - ends[i].held_ms >= WAIT_MS)
				release(&ends[i]);
		}
	}
}
