/*
 * The two ends of every measurement, the same for each translator and for none: plain blocking sockets, buffers of 1 MiB,
 * a thread for each stream, and a fixed duration by the receiver's clock. It is the receiver that reports what arrived.
 *
 *     endpoint hold                                    make a network namespace and keep it
 *     endpoint in NETNS CMD [ARG...]                   run a command in the namespace of that path
 *     endpoint NETNS ROLE ADDR PORT WARM_MS RUN_MS [A B]
 *
 * A server prints "ready" when it listens; each role ends by printing one JSON object and within WARM + RUN + a few seconds.
 * An alarm ends what hangs, so that nothing outlives a broken translator.
 *
 *     tcp-serve, tcp-load   A streams from server to client, B from client to server
 *     rr-serve,  rr-load    64 bytes there and back over one connection
 *     crr-serve, crr-load   connect, 64 bytes, 64 bytes back, the server closes
 *     udp-serve, udp-load   A: 1 = the server sends, 0 = the client does; B: bits per second to offer, 0 = no limit
 *     urr-serve, urr-load   64 bytes there and back in datagrams
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (1u << 20)
#define STREAMS 64u
#define ROUNDS_KEPT (1u << 21)
#define SLICE_NS 100000000ll
#define SLICES 1200u
#define MESSAGE_BYTES 64u
#define DATAGRAM_BYTES 1400u

struct job {
	struct sockaddr_storage addr;
	socklen_t addr_bytes;
	int64_t warm_ns, run_ns;
	long a, b;
};

static _Atomic int64_t received_bytes;
static _Atomic int64_t last_arrival_ns;
static _Atomic unsigned senders;

_Noreturn static void die(const char *what)
{
	fprintf(stderr, "endpoint: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t when_ns)
{
	struct timespec t = { .tv_sec = when_ns / 1000000000, .tv_nsec = when_ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void say_ready(void)
{
	puts("ready");
	fflush(stdout);
}

static void patience(int fd, long ms)
{
	struct timeval t = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t))
		die("SO_RCVTIMEO");
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int connected(const struct job *job, int type)
{
	int fd = socket(job->addr.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	patience(fd, 3000);
	if (connect(fd, (const struct sockaddr *)&job->addr, job->addr_bytes))
		die("connect");
	return fd;
}

static int bound(const struct job *job, int type)
{
	int one = 1, fd = socket(job->addr.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (const struct sockaddr *)&job->addr, job->addr_bytes))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 1024))
		die("listen");
	return fd;
}

/* Moves exactly `size` bytes; false at the end of the stream, on an error or after the socket's patience. */
static bool all(ssize_t (*move)(int, void *, size_t), int fd, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = move(fd, (char *)data + done, size - done);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

static ssize_t put(int fd, void *data, size_t size)
{
	return send(fd, data, size, MSG_NOSIGNAL);
}

static ssize_t get(int fd, void *data, size_t size)
{
	return recv(fd, data, size, 0);
}

/* TCP streams */

static void *stream_out(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *buffer = malloc(BUFFER_BYTES);

	if (!buffer)
		die("malloc");
	memset(buffer, 'x', BUFFER_BYTES);
	while (send(fd, buffer, BUFFER_BYTES, MSG_NOSIGNAL) > 0)
		;
	close(fd);
	free(buffer);
	atomic_fetch_sub(&senders, 1);
	return NULL;
}

static void *stream_in(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *buffer = malloc(BUFFER_BYTES);
	ssize_t n;

	if (!buffer)
		die("malloc");
	while ((n = recv(fd, buffer, BUFFER_BYTES, 0)) > 0) {
		atomic_fetch_add(&received_bytes, n);
		atomic_store(&last_arrival_ns, now_ns());
	}
	return NULL;
}

static void start(void *(*body)(void *), int fd)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, (void *)(intptr_t)fd))
		die("pthread_create");
	pthread_detach(thread);
}

/* Waits for the first byte, then counts over the window, in slices; the longest silence is seen to about 2 ms. */
static void watch(const struct job *job)
{
	static int64_t slices[SLICES];
	unsigned used = 0;
	int64_t begin = now_ns(), silence = 0, from, bytes, slice_bytes, slice_from, t;

	while (!atomic_load(&received_bytes)) {
		if (now_ns() - begin > 4000000000) {
			puts("{\"error\": \"no byte arrived within 4 s\"}");
			return;
		}
		sleep_until(now_ns() + 1000000);
	}
	sleep_until(now_ns() + job->warm_ns);
	from = slice_from = now_ns();
	bytes = slice_bytes = atomic_load(&received_bytes);
	while ((t = now_ns()) < from + job->run_ns) {
		int64_t last = atomic_load(&last_arrival_ns), quiet = t - (last > from ? last : from);

		if (quiet > silence)
			silence = quiet;
		if (t - slice_from >= SLICE_NS && used < SLICES) {
			int64_t count = atomic_load(&received_bytes);

			slices[used++] = count - slice_bytes;
			slice_bytes = count;
			slice_from += SLICE_NS;
		}
		sleep_until(t + 2000000);
	}
	t = now_ns();
	bytes = atomic_load(&received_bytes) - bytes;
	printf("{\"bytes\": %lld, \"seconds\": %.6f, \"total\": %lld, \"silence_ms\": %.1f, \"slices\": [", (long long)bytes,
	       (double)(t - from) / 1e9, (long long)atomic_load(&received_bytes), (double)silence / 1e6);
	for (unsigned i = 0; i < used; i++)
		printf("%s%lld", i ? ", " : "", (long long)slices[i]);
	puts("]}");
}

/* All streams are connected, and the server knows each one's direction from its first byte, before the first of them sends. */
static void tcp_end(const struct job *job, bool server)
{
	unsigned down = (unsigned)job->a, up = (unsigned)job->b, total = down + up;
	int listener = server ? bound(job, SOCK_STREAM) : -1;
	bool receives = server ? up : down;
	int fds[STREAMS];
	char ways[STREAMS];

	if (total > STREAMS)
		die("too many streams");
	if (server)
		say_ready();
	for (unsigned i = 0; i < total; i++) {
		fds[i] = server ? accept(listener, NULL, NULL) : connected(job, SOCK_STREAM);
		ways[i] = i < down ? 'd' : 'u';
		if (fds[i] < 0)
			die("accept");
		patience(fds[i], 4000);
		if (!all(server ? get : put, fds[i], &ways[i], 1))
			die("first byte");
	}
	for (unsigned i = 0; i < total; i++) {
		bool sends = (ways[i] == 'd') == server;

		if (sends)
			atomic_fetch_add(&senders, 1);
		start(sends ? stream_out : stream_in, fds[i]);
	}
	if (receives) {
		watch(job);
	} else {
		/* The receiver's close ends the senders; the alarm ends them where it does not get through. */
		while (atomic_load(&senders))
			sleep_until(now_ns() + 1000000);
		puts("{}");
	}
}

/* Requests and responses */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print_rounds(uint32_t *ns, unsigned count, unsigned lost, int64_t duration_ns)
{
	qsort(ns, count, sizeof *ns, by_value);
	if (!count)
		puts("{\"error\": \"no response\"}");
	else
		printf("{\"count\": %u, \"lost\": %u, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}\n", count, lost,
		       (double)duration_ns / 1e9, ns[count / 2] / 1e3, ns[(uint64_t)count * 99 / 100] / 1e3, ns[count - 1] / 1e3);
}

static bool one_round(const struct job *job, int fd, int type, bool fresh, unsigned *lost)
{
	char message[MESSAGE_BYTES] = "request";

	if (type == SOCK_DGRAM) {
		for (unsigned tries = 0; tries < 20; tries++, ++*lost)
			if (send(fd, message, sizeof message, 0) == sizeof message && recv(fd, message, sizeof message, 0) == sizeof message)
				return true;
		return false;
	}
	if (!fresh)
		return all(put, fd, message, sizeof message) && all(get, fd, message, sizeof message);
	fd = connected(job, SOCK_STREAM);
	no_delay(fd);
	if (!all(put, fd, message, sizeof message) || !all(get, fd, message, sizeof message) || recv(fd, message, 1, 0) != 0)
		return false;
	close(fd);
	return true;
}

static void rounds_client(const struct job *job, int type, bool fresh)
{
	uint32_t *ns = malloc(ROUNDS_KEPT * sizeof *ns);
	int fd = fresh ? -1 : connected(job, type);
	int64_t begin = now_ns(), from = begin + job->warm_ns, t = begin;
	unsigned count = 0, lost = 0;

	if (!ns)
		die("malloc");
	if (type == SOCK_STREAM && !fresh)
		no_delay(fd);
	if (type == SOCK_DGRAM)
		patience(fd, 200);
	while (t < from + job->run_ns && count < ROUNDS_KEPT) {
		int64_t sent = t;

		if (!one_round(job, fd, type, fresh, &lost))
			die("no response");
		t = now_ns();
		if (sent >= from)
			ns[count++] = (uint32_t)(t - sent > UINT32_MAX ? UINT32_MAX : t - sent);
		else
			lost = 0;
	}
	print_rounds(ns, count, lost, t - from);
	free(ns);
}

static void rounds_server(const struct job *job, bool fresh)
{
	int listener = bound(job, SOCK_STREAM);
	char message[MESSAGE_BYTES];

	say_ready();
	do {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		no_delay(fd);
		while (all(get, fd, message, sizeof message) && all(put, fd, message, sizeof message) && !fresh)
			;
		close(fd);
	} while (fresh);
}

/* Datagrams */

static void flood(const struct job *job, int fd)
{
	static char datagram[DATAGRAM_BYTES];
	uint64_t number = 0;
	int64_t begin = now_ns(), end = begin + job->warm_ns + job->run_ns + 400000000;
	int64_t t = begin;

	while (t < end) {
		/* With a rate to keep: in each millisecond what is due by then. */
		uint64_t due = job->b ? (uint64_t)((double)(t - begin) / 1e9 * (double)job->b / 8 / DATAGRAM_BYTES) : number + 16;

		for (; number < due; number++) {
			memcpy(datagram, &number, sizeof number);
			while (send(fd, datagram, sizeof datagram, MSG_NOSIGNAL) < 0 && errno == EAGAIN)
				;
		}
		if (job->b)
			sleep_until(t + 1000000);
		t = now_ns();
	}
	puts("{}");
}

static void count_flood(const struct job *job, int fd, bool hello)
{
	static char datagram[65536];
	uint64_t number, first = 0, highest = 0, count = 0, total = 0;
	int64_t begin = now_ns(), from = 0, last = 0, t;

	patience(fd, 100);
	for (;;) {
		ssize_t n;

		if (hello && !total && send(fd, "go", 2, 0) < 0 && errno != ECONNREFUSED)
			die("send");
		n = recv(fd, datagram, sizeof datagram, 0);
		t = now_ns();
		if (from ? t > from + job->run_ns : t - begin > 4000000000)
			break;
		if (n < (ssize_t)sizeof number)
			continue;
		memcpy(&number, datagram, sizeof number);
		total += (uint64_t)n;
		if (!from)
			from = t + job->warm_ns;
		if (t < from)
			continue;
		if (!count++)
			first = highest = number;
		if (number > highest)
			highest = number;
		last = t;
	}
	if (!count)
		puts("{\"error\": \"no datagram arrived\"}");
	else
		printf("{\"bytes\": %llu, \"seconds\": %.6f, \"total\": %llu, \"count\": %llu, \"sent\": %llu, \"after_last_ms\": %.1f}\n",
		       (unsigned long long)(count * DATAGRAM_BYTES), (double)(t - from) / 1e9, (unsigned long long)total,
		       (unsigned long long)count, (unsigned long long)(highest - first + 1), (double)(t - last) / 1e6);
}

static void udp_end(const struct job *job, bool server)
{
	int fd = server ? bound(job, SOCK_DGRAM) : connected(job, SOCK_DGRAM), size = 4 << 20;
	struct sockaddr_storage peer;
	socklen_t peer_bytes = sizeof peer;
	char hello[8];

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	if (server)
		say_ready();
	if (server && job->a) {
		if (recvfrom(fd, hello, sizeof hello, 0, (struct sockaddr *)&peer, &peer_bytes) < 0)
			die("recvfrom");
		if (connect(fd, (struct sockaddr *)&peer, peer_bytes))
			die("connect");
	}
	if ((job->a != 0) == server)
		flood(job, fd);
	else
		count_flood(job, fd, !server);
}

static void echo_datagrams(const struct job *job)
{
	int fd = bound(job, SOCK_DGRAM);
	char message[MESSAGE_BYTES];

	say_ready();
	for (;;) {
		struct sockaddr_storage peer;
		socklen_t peer_bytes = sizeof peer;
		ssize_t n = recvfrom(fd, message, sizeof message, 0, (struct sockaddr *)&peer, &peer_bytes);

		if (n > 0)
			sendto(fd, message, (size_t)n, 0, (struct sockaddr *)&peer, peer_bytes);
	}
}

/* Where to run */

static void enter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	close(fd);
}

static void address(struct job *job, const char *text, const char *port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&job->addr;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&job->addr;
	uint16_t number = htons((uint16_t)atoi(port));

	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = number;
		job->addr_bytes = sizeof *v4;
	} else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = number;
		job->addr_bytes = sizeof *v6;
	} else {
		errno = EINVAL;
		die(text);
	}
}

static void play(const char *role, const struct job *job)
{
	bool server = strstr(role, "-serve") != NULL;

	if (!strncmp(role, "tcp-", 4))
		tcp_end(job, server);
	else if (!strncmp(role, "udp-", 4))
		udp_end(job, server);
	else if (!strcmp(role, "rr-serve") || !strcmp(role, "crr-serve"))
		rounds_server(job, *role == 'c');
	else if (!strcmp(role, "rr-load") || !strcmp(role, "crr-load"))
		rounds_client(job, SOCK_STREAM, *role == 'c');
	else if (!strcmp(role, "urr-serve"))
		echo_datagrams(job);
	else if (!strcmp(role, "urr-load"))
		rounds_client(job, SOCK_DGRAM, false);
	else
		fprintf(stderr, "endpoint: no such role: %s\n", role);
}

int main(int argc, char **argv)
{
	struct job job = { 0 };

	if (argc == 2 && !strcmp(argv[1], "hold")) {
		if (unshare(CLONE_NEWNET))
			die("unshare");
		say_ready();
		pause();
		return 0;
	}
	if (argc > 3 && !strcmp(argv[1], "in")) {
		enter(argv[2]);
		execvp(argv[3], argv + 3);
		die(argv[3]);
	}
	if (argc < 7) {
		fprintf(stderr, "usage: endpoint NETNS ROLE ADDR PORT WARM_MS RUN_MS [A B]\n");
		return 1;
	}
	enter(argv[1]);
	address(&job, argv[3], argv[4]);
	job.warm_ns = atol(argv[5]) * 1000000ll;
	job.run_ns = atol(argv[6]) * 1000000ll;
	job.a = argc > 7 ? atol(argv[7]) : 0;
	job.b = argc > 8 ? atol(argv[8]) : 0;
	alarm((unsigned)((job.warm_ns + job.run_ns) / 1000000000 + 10));
	play(argv[2], &job);
	fflush(stdout);
	_exit(0); /* with the receiving threads still in recv: their sockets close unread, which tells the senders to stop */
}
