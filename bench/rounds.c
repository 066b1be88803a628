/* Requests and responses: what one costs, over a connection, with a connection for each, and in datagrams. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "endpoint.h"

#define ROUNDS_KEPT (1u << 21)
#define MESSAGE_BYTES 64u
#define DATAGRAM_MS 200 /* how long to wait for an answer before the request is sent again */

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
		printf("{\"count\": %u, \"lost\": %u, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}\n",
		       count, lost, (double)duration_ns / 1e9, ns[count / 2] / 1e3, ns[(uint64_t)count * 99 / 100] / 1e3,
		       ns[count - 1] / 1e3);
}

static bool one_round(const struct job *job, int fd, int type, bool fresh, unsigned *lost)
{
	char message[MESSAGE_BYTES] = "request";

	if (type == SOCK_DGRAM) {
		bool answered = false;

		if (fresh) {
			fd = connected(job, type);
			patience(fd, DATAGRAM_MS);
		}
		for (unsigned tries = 0; tries < 20 && !answered; tries++) {
			answered = send(fd, message, sizeof message, 0) == sizeof message &&
				   recv(fd, message, sizeof message, 0) == sizeof message;
			*lost += !answered;
		}
		if (fresh)
			close(fd);
		return answered;
	}
	if (!fresh)
		return put_all(fd, message, sizeof message) && get_all(fd, message, sizeof message);
	fd = connected(job, SOCK_STREAM);
	no_delay(fd);
	if (!put_all(fd, message, sizeof message) || !get_all(fd, message, sizeof message) || recv(fd, message, 1, 0) != 0)
		return false;
	close(fd);
	return true;
}

void rounds_client(const struct job *job, int type, bool fresh)
{
	uint32_t *ns = malloc(ROUNDS_KEPT * sizeof *ns);
	int fd = fresh ? -1 : connected(job, type);
	int64_t begin = now_ns(), from = begin + job->warm_ns, t = begin;
	unsigned count = 0, lost = 0;

	if (!ns)
		die("malloc");
	if (type == SOCK_STREAM && !fresh)
		no_delay(fd);
	if (type == SOCK_DGRAM && !fresh)
		patience(fd, DATAGRAM_MS);
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

void rounds_server(const struct job *job, bool fresh)
{
	int listener = bound(job, SOCK_STREAM);
	char message[MESSAGE_BYTES];

	say_ready();
	do {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		no_delay(fd);
		while (get_all(fd, message, sizeof message) && put_all(fd, message, sizeof message) && !fresh)
			;
		close(fd);
	} while (fresh);
}

void echo_datagrams(const struct job *job)
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
