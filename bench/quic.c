/*
 * A load like QUIC's: many flows of numbered packets, each flow with a window; a sender that hands the kernel a burst of packets
 * at a time (UDP_SEGMENT), a receiver that takes as many at once as have arrived (UDP_GRO) and answers each such read with the
 * highest number seen. A lost packet is not repeated and costs nothing but itself, as the window goes by the highest number; only
 * when the end of a window is lost does the flow wait for PROBE_NS.
 *
 * The client opens all flows, as a browser does; the side that sends is chosen by A.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "endpoint.h"

#define PACKET_BYTES 1200u
#define BURST 32u
#define WINDOW (2 * BURST)
#define PROBE_NS 20000000ll
#define FLOWS 256u
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

struct flow {
	struct sockaddr_storage peer;
	socklen_t peer_bytes;
	uint64_t sent, acknowledged;
	int64_t sent_at_ns;
};

static struct flow flows[FLOWS];
static struct pollfd sockets[FLOWS];
static unsigned flow_count, socket_count;
static bool shared; /* one socket for all flows: the server's */
static uint64_t count, first[FLOWS], highest[FLOWS];

/* On a server all flows share one socket: the client's port tells them apart. */
static struct flow *flow_of(const struct sockaddr_storage *peer, socklen_t peer_bytes, unsigned socket_index)
{
	if (!shared)
		return &flows[socket_index];
	for (unsigned i = 0; i < flow_count; i++) {
		if (!flows[i].peer_bytes) {
			flows[i].peer = *peer;
			flows[i].peer_bytes = peer_bytes;
		}
		if (flows[i].peer_bytes == peer_bytes && !memcmp(&flows[i].peer, peer, peer_bytes))
			return &flows[i];
	}
	return NULL;
}

static void send_burst(struct flow *flow, unsigned index)
{
	static char packets[BURST * PACKET_BYTES];
	const struct sockaddr *to = shared ? (const struct sockaddr *)&flow->peer : NULL;

	for (uint64_t i = 0; i < BURST; i++) {
		uint64_t number = flow->sent + i + 1;

		memcpy(packets + i * PACKET_BYTES, &number, sizeof number);
	}
	if (sendto(sockets[shared ? 0 : index].fd, packets, sizeof packets, MSG_DONTWAIT, to, to ? flow->peer_bytes : 0) > 0) {
		flow->sent += BURST;
		flow->sent_at_ns = now_ns();
	}
}

/* Numbers that the receiver has seen come back; a flow whose peer is not known yet cannot send. */
static void send_all(int64_t end_ns)
{
	for (int64_t t = now_ns(); t < end_ns; t = now_ns()) {
		bool blocked = true;

		for (unsigned i = 0; i < flow_count; i++) {
			struct flow *flow = &flows[i];

			if (shared && !flow->peer_bytes)
				continue;
			if (flow->sent - flow->acknowledged > WINDOW - BURST && t - flow->sent_at_ns > PROBE_NS)
				flow->acknowledged = flow->sent;
			if (flow->sent - flow->acknowledged <= WINDOW - BURST) {
				send_burst(flow, i);
				blocked = false;
			}
		}
		if (poll(sockets, socket_count, blocked ? 5 : 0) <= 0)
			continue;
		for (unsigned i = 0; i < socket_count; i++) {
			struct sockaddr_storage peer;
			socklen_t peer_bytes = sizeof peer;
			uint64_t number;

			memset(&peer, 0, sizeof peer);
			while (sockets[i].revents && recvfrom(sockets[i].fd, &number, sizeof number, MSG_DONTWAIT,
							      (struct sockaddr *)&peer, &peer_bytes) == sizeof number) {
				struct flow *flow = flow_of(&peer, peer_bytes, i);

				if (flow && number > flow->acknowledged && number <= flow->sent)
					flow->acknowledged = number;
				peer_bytes = sizeof peer;
			}
		}
	}
	puts("{}");
}

/* One read, of up to a whole train of packets; its bytes, or 0. */
static size_t receive(unsigned index, int64_t t, int64_t from)
{
	static char data[65536];
	struct sockaddr_storage peer;
	struct iovec span = {data, sizeof data};
	char control[CMSG_SPACE(sizeof(int))];
	struct msghdr message = {&peer, sizeof peer, &span, 1, control, sizeof control, 0};
	ssize_t n;
	struct flow *flow;
	uint64_t number, before;

	memset(&peer, 0, sizeof peer);
	n = recvmsg(sockets[index].fd, &message, MSG_DONTWAIT);
	if (n < (ssize_t)PACKET_BYTES)
		return 0;
	flow = flow_of(&peer, message.msg_namelen, index);
	if (!flow)
		return 0;
	memcpy(&before, data, sizeof before);
	memcpy(&number, data + (size_t)n - PACKET_BYTES, sizeof number);
	sendto(sockets[index].fd, &number, sizeof number, MSG_DONTWAIT, (struct sockaddr *)&peer, message.msg_namelen);
	if (from && t >= from) {
		size_t i = (size_t)(flow - flows);

		count += (size_t)n / PACKET_BYTES;
		if (!first[i])
			first[i] = before;
		if (number > highest[i])
			highest[i] = number;
	}
	return (size_t)n;
}

static void receive_all(const struct job *job, bool hello)
{
	int64_t begin = now_ns(), end = begin + 4000000000, from = 0, t = begin, asked = 0;
	uint64_t total = 0, sent = 0;
	const uint64_t zero = 0;

	while (t < end) {
		if (hello && t - asked > 100000000 && t < begin + 1000000000) {
			for (unsigned i = 0; i < socket_count; i++)
				(void)!send(sockets[i].fd, &zero, sizeof zero, MSG_DONTWAIT);
			asked = t;
		}
		if (poll(sockets, socket_count, 20) > 0)
			for (unsigned i = 0; i < socket_count; i++)
				for (size_t n; sockets[i].revents && t < end && (n = receive(i, t, from)) > 0; t = now_ns())
					total += n;
		t = now_ns();
		if (!from && total) {
			from = t + job->warm_ns;
			end = from + job->run_ns;
		}
	}
	for (unsigned i = 0; i < flow_count; i++)
		sent += highest[i] ? highest[i] - first[i] + 1 : 0;
	if (!count || !sent)
		puts("{\"error\": \"no packet arrived\"}");
	else
		printf("{\"bytes\": %llu, \"seconds\": %.6f, \"total\": %llu, \"count\": %llu, \"sent\": %llu}\n",
		       (unsigned long long)(count * PACKET_BYTES), (double)(t - from) / 1e9, (unsigned long long)total,
		       (unsigned long long)count, (unsigned long long)sent);
}

void quic_end(const struct job *job, bool server)
{
	bool sends = (job->a != 0) == server;
	int segment = PACKET_BYTES, one = 1;

	flow_count = (unsigned)job->b;
	if (!flow_count || flow_count > FLOWS)
		die("too many flows");
	shared = server;
	socket_count = server ? 1 : flow_count;
	for (unsigned i = 0; i < socket_count; i++) {
		sockets[i].fd = server ? bound(job, SOCK_DGRAM) : connected(job, SOCK_DGRAM);
		sockets[i].events = POLLIN;
		large_buffers(sockets[i].fd);
		if (sends ? setsockopt(sockets[i].fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment)
			  : setsockopt(sockets[i].fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one))
			die("UDP_SEGMENT or UDP_GRO");
	}
	if (server)
		say_ready();
	if (sends)
		send_all(now_ns() + job->warm_ns + job->run_ns + 2000000000);
	else
		receive_all(job, !server);
}
