/*
 * Many peers that say little, as a game's server, a DNS server or BitTorrent has: A sockets, each of which sends B datagrams a second
 * and reads what comes back. The sends are spread evenly over the second. The server echoes, see rounds.c.
 *
 * The client reports how many came back of those sent; it waits LAST_NS for the last of them.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "endpoint.h"

#define MESSAGE_BYTES 64u
#define EVENTS 256
#define LAST_NS 300000000ll

static uint64_t receive_all(int poll_fd, int wait_ms)
{
	struct epoll_event events[EVENTS];
	char message[MESSAGE_BYTES];
	uint64_t count = 0;
	int ready = epoll_wait(poll_fd, events, EVENTS, wait_ms);

	for (int i = 0; i < ready; i++)
		while (recv(events[i].data.fd, message, sizeof message, MSG_DONTWAIT) == sizeof message)
			count++;
	return count;
}

void peers_client(const struct job *job)
{
	static const char message[MESSAGE_BYTES] = "request";
	struct rlimit limit;
	int poll_fd = epoll_create1(EPOLL_CLOEXEC), *sockets = calloc((size_t)job->a, sizeof *sockets);
	uint64_t sent = 0, count = 0;
	int64_t begin, end, every_ns;

	if (job->a < 1 || job->b < 1 || !sockets || poll_fd < 0)
		die("A sockets, B datagrams a second of each");
	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
	for (long i = 0; i < job->a; i++) {
		struct epoll_event event = {.events = EPOLLIN};

		event.data.fd = sockets[i] = connected(job, SOCK_DGRAM);
		if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, sockets[i], &event))
			die("epoll_ctl");
	}
	every_ns = 1000000000 / (job->a * job->b);
	begin = now_ns();
	end = begin + job->warm_ns + job->run_ns;
	for (int64_t t = begin; t < end; t = now_ns()) {
		while (begin + (int64_t)sent * every_ns <= t)
			(void)!send(sockets[sent++ % (uint64_t)job->a], message, sizeof message, MSG_DONTWAIT);
		count += receive_all(poll_fd, 1);
	}
	for (int64_t t = now_ns(); count < sent && t < end + LAST_NS; t = now_ns())
		count += receive_all(poll_fd, 10);
	printf("{\"count\": %llu, \"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)count, (unsigned long long)sent,
	       (double)(now_ns() - begin) / 1e9);
	free(sockets);
}
