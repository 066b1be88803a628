/* TCP streams: bulk in either direction or both, counted where it arrives; and connections that only exist. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "endpoint.h"

#define STREAMS 512u
#define BUFFER_BYTES (1u << 20)
#define ALL_BUFFERS_BYTES (64u << 20) /* of all streams together: with many of them each gets less */
#define STACK_BYTES (64u << 10)
#define SLICE_NS 100000000ll
#define SLICES 1200u

static _Atomic int64_t received_bytes;
static _Atomic int64_t last_arrival_ns;
static _Atomic unsigned senders;
static size_t buffer_bytes = BUFFER_BYTES;

static void *stream_out(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *buffer = malloc(buffer_bytes);

	if (!buffer)
		die("malloc");
	memset(buffer, 'x', buffer_bytes);
	while (send(fd, buffer, buffer_bytes, MSG_NOSIGNAL) > 0)
		;
	close(fd);
	free(buffer);
	atomic_fetch_sub(&senders, 1);
	return NULL;
}

static void *stream_in(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *buffer = malloc(buffer_bytes);
	ssize_t n;

	if (!buffer)
		die("malloc");
	while ((n = recv(fd, buffer, buffer_bytes, 0)) > 0) {
		atomic_fetch_add(&received_bytes, n);
		atomic_store(&last_arrival_ns, now_ns());
	}
	return NULL;
}

static void start(void *(*body)(void *), int fd)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	if (pthread_create(&thread, &attributes, body, (void *)(intptr_t)fd))
		die("pthread_create");
	pthread_attr_destroy(&attributes);
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
void tcp_end(const struct job *job, bool server)
{
	unsigned down = (unsigned)job->a, up = (unsigned)job->b, total = down + up;
	int listener = server ? bound(job, SOCK_STREAM) : -1;
	bool receives = server ? up : down;
	static int fds[STREAMS];
	static char ways[STREAMS];

	if (total > STREAMS)
		die("too many streams");
	if (total && ALL_BUFFERS_BYTES / total < buffer_bytes)
		buffer_bytes = ALL_BUFFERS_BYTES / total;
	if (server)
		say_ready();
	for (unsigned i = 0; i < total; i++) {
		fds[i] = server ? accept(listener, NULL, NULL) : connected(job, SOCK_STREAM);
		ways[i] = i < down ? 'd' : 'u';
		if (fds[i] < 0)
			die("accept");
		patience(fds[i], 4000);
		if (!(server ? get_all : put_all)(fds[i], &ways[i], 1))
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

/* Connections that say nothing. The client tells how fast they were made; both keep theirs until its input ends, or the alarm. */
void idle_end(const struct job *job, bool server)
{
	struct rlimit limit;
	int listener = server ? bound(job, SOCK_STREAM) : -1;
	int64_t begin;
	char byte;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
	if (server)
		say_ready();
	begin = now_ns();
	for (long i = 0; i < job->a; i++)
		if ((server ? accept(listener, NULL, NULL) : connected(job, SOCK_STREAM)) < 0)
			die("accept");
	printf("{\"count\": %ld, \"seconds\": %.6f}\n", job->a, (double)(now_ns() - begin) / 1e9);
	fflush(stdout);
	while (!server && read(STDIN_FILENO, &byte, 1) > 0)
		;
	if (server)
		pause();
}
