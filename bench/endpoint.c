/*
 * The two ends of every measurement, the same for each translator and for none: plain blocking sockets, buffers of 1 MiB,
 * a thread for each stream, and a fixed duration by the receiver's clock. It is the receiver that reports what arrived.
 *
 *     endpoint hold                                    make a network namespace and keep it
 *     endpoint in NETNS CMD [ARG...]                   run a command in the namespace of that path
 *     endpoint NETNS ROLE ADDR PORT WARM_MS RUN_MS [A B C]
 *
 * A server prints "ready" when it listens; each role ends by printing one JSON object and within WARM + RUN + a few seconds.
 * An alarm ends what hangs, so that nothing outlives a broken translator.
 *
 *     tcp-serve, tcp-load    A streams from server to client, B from client to server
 *     idle-serve, idle-load  A connections that are opened, reported, and kept until the input of the client ends
 *     rr-serve,  rr-load     64 bytes there and back over one connection
 *     crr-serve, crr-load    connect, 64 bytes, 64 bytes back, the server closes
 *     udp-serve, udp-load    A: 1 = the server sends, 0 = the client does; B: bits per second to offer, 0 = no limit; C: bytes
 *     quic-serve, quic-load  A: 1 = the server sends, 0 = the client does; B flows
 *     urr-serve, urr-load    64 bytes there and back in datagrams
 *     ucrr-serve, ucrr-load  the same, each from a socket of its own
 *     peers-serve, peers-load  A sockets, each of which sends B datagrams a second, which come back
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "endpoint.h"

_Noreturn void die(const char *what)
{
	fprintf(stderr, "endpoint: %s: %s\n", what, strerror(errno));
	exit(1);
}

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void sleep_until(int64_t when_ns)
{
	struct timespec t = {.tv_sec = when_ns / 1000000000, .tv_nsec = when_ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

void say_ready(void)
{
	puts("ready");
	fflush(stdout);
}

void patience(int fd, long ms)
{
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t))
		die("SO_RCVTIMEO");
}

void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

int connected(const struct job *job, int type)
{
	int fd = socket(job->addr.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	patience(fd, 3000);
	if (connect(fd, (const struct sockaddr *)&job->addr, job->addr_bytes))
		die("connect");
	return fd;
}

int bound(const struct job *job, int type)
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

bool put_all(int fd, void *data, size_t size)
{
	return all(put, fd, data, size);
}

bool get_all(int fd, void *data, size_t size)
{
	return all(get, fd, data, size);
}

/* Past the machine's limit where the namespace is our own. */
void large_buffers(int fd)
{
	int size = 8 << 20;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
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
	else if (!strncmp(role, "idle-", 5))
		idle_end(job, server);
	else if (!strncmp(role, "udp-", 4))
		udp_end(job, server);
	else if (!strncmp(role, "quic-", 5))
		quic_end(job, server);
	else if (!strcmp(role, "rr-serve") || !strcmp(role, "crr-serve"))
		rounds_server(job, *role == 'c');
	else if (!strcmp(role, "rr-load") || !strcmp(role, "crr-load"))
		rounds_client(job, SOCK_STREAM, *role == 'c');
	else if (!strcmp(role, "urr-serve") || !strcmp(role, "ucrr-serve") || !strcmp(role, "peers-serve"))
		echo_datagrams(job);
	else if (!strcmp(role, "urr-load") || !strcmp(role, "ucrr-load"))
		rounds_client(job, SOCK_DGRAM, role[1] == 'c');
	else if (!strcmp(role, "peers-load"))
		peers_client(job);
	else
		fprintf(stderr, "endpoint: no such role: %s\n", role);
}

int main(int argc, char **argv)
{
	struct job job = {0};

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
		fprintf(stderr, "usage: endpoint NETNS ROLE ADDR PORT WARM_MS RUN_MS [A B C]\n");
		return 1;
	}
	enter(argv[1]);
	address(&job, argv[3], argv[4]);
	job.warm_ns = atol(argv[5]) * 1000000ll;
	job.run_ns = atol(argv[6]) * 1000000ll;
	job.a = argc > 7 ? atol(argv[7]) : 0;
	job.b = argc > 8 ? atol(argv[8]) : 0;
	job.c = argc > 9 ? atol(argv[9]) : 0;
	alarm((unsigned)((job.warm_ns + job.run_ns) / 1000000000 + 10));
	play(argv[2], &job);
	fflush(stdout);
	_exit(0); /* with the receiving threads still in recv: their sockets close unread, which tells the senders to stop */
}
