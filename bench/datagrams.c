/* Floods of numbered datagrams, or as many as an offered rate needs; what arrives is counted, and what does not. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "endpoint.h"

static void flood(const struct job *job, int fd)
{
	static char datagram[65536];
	size_t size = (size_t)job->c;
	uint64_t number = 0;
	int64_t begin = now_ns(), end = begin + job->warm_ns + job->run_ns + 400000000;
	int64_t t = begin;

	while (t < end) {
		/* With a rate to keep: in each millisecond what is due by then. */
		uint64_t due = job->b ? (uint64_t)((double)(t - begin) / 1e9 * (double)job->b / 8 / (double)size) : number + 16;

		for (; number < due; number++) {
			memcpy(datagram, &number, sizeof number);
			while (send(fd, datagram, size, MSG_NOSIGNAL) < 0 && errno == EAGAIN)
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
		       (unsigned long long)(count * (uint64_t)job->c), (double)(t - from) / 1e9, (unsigned long long)total,
		       (unsigned long long)count, (unsigned long long)(highest - first + 1), (double)(t - last) / 1e6);
}

void udp_end(const struct job *job, bool server)
{
	int fd = server ? bound(job, SOCK_DGRAM) : connected(job, SOCK_DGRAM);
	struct sockaddr_storage peer;
	socklen_t peer_bytes = sizeof peer;
	char hello[8];

	large_buffers(fd);
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
