/* Purpose: fuzz target: a hostile vhost-user front end and its guest. The input is a script of messages, of writes to the shared
 * memory, and of what the core does meanwhile, with two pairs of queues.
 *
 * How: the socket, the memory and the descriptors are real ones of this process. Each command is one byte, with arguments behind it.
 * One thread does the work of both pairs, in turn.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/link.h"
#include "io/loop.h"
#include "io/vhost_user.h"
#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define MEMORY_BYTES 0x8000u
#define BUFFERS 0x4000u
#define SIZE 16u
#define PAIRS 2u
#define QUEUES (2 * PAIRS)
#define FDS 3 /* for messages: memory, a counter, neither */

struct script {
	const uint8_t *at;
	size_t left;
};

static struct {
	struct link link[PAIRS];
	struct loop loop[PAIRS];
	uint32_t pair; /* whose link is used */
	struct counters counters;
	int front_end, ours;
	int fds[FDS];
	uint8_t *memory;
	uint16_t offered[QUEUES];
} g;

static uint32_t next(struct script *s, uint32_t bytes)
{
	uint32_t value = 0;

	for (; bytes && s->left; bytes--, s->left--)
		value = value << 8 | *s->at++;
	return value;
}

static void say(uint32_t request, uint32_t flags, const void *payload, uint32_t bytes, uint32_t fds)
{
	uint8_t out[12 + 256];
	uint32_t head[3] = {request, flags, bytes};
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = {0};
	struct iovec iov = {out, 12 + (size_t)bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	memcpy(out, head, sizeof(head));
	memcpy(out + sizeof(head), payload, bytes);
	if (fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		control.align = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(fds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		for (uint32_t i = 0; i < fds; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int), &g.fds[(request == 5 ? 0 : 1)], sizeof(int));
	}
	(void)!sendmsg(g.front_end, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void connect_front_end(void)
{
	int pair[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	g.front_end = pair[0];
	g.ours = pair[1];
	REQUIRE(!link_attach(&g.link[0], g.ours));
}

static void disconnect(void)
{
	link_detach(&g.link[0]);
	close(g.front_end);
	close(g.ours);
}

static void handle_messages(void)
{
	uint8_t answers[4096];

	if (link_event(&g.link[0], 0)) {
		disconnect();
		connect_front_end();
	}
	while (recv(g.front_end, answers, sizeof(answers), MSG_DONTWAIT) > 0)
		;
}

/* The messages of a device that starts, with these features. */
static void start(uint64_t features)
{
	uint64_t table[5] = {1, 0, MEMORY_BYTES, 0, 0};

	say(2, 1, &features, 8, 0);
	say(5, 1, table, 40, 1);
	for (uint32_t q = 0; q < QUEUES; q++) {
		uint32_t size[2] = {q, SIZE}, base[2] = {q, 0}, on[2] = {q, 1};
		uint64_t number = q, at = q * 0x1000u, where[5] = {q, at, at + 0x800, at + 0x400, 0};

		say(8, 1, size, 8, 0);
		say(10, 1, base, 8, 0);
		say(9, 1, where, 40, 0);
		say(12, 1, &number, 8, 1);
		say(13, 1, &number, 8, 1);
		say(18, 1, on, 8, 0);
		g.offered[q] = 0;
	}
	handle_messages();
}

static void describe(struct script *s)
{
	uint32_t q = next(s, 1) % QUEUES, index = next(s, 1) % SIZE;
	uint64_t address = next(s, 3), rest = next(s, 2);

	rest |= (uint64_t)(next(s, 1) ^ (q & 1 ? 0 : 2)) << 32;
	rest |= (uint64_t)next(s, 1) << 48;
	memcpy(g.memory + (size_t)q * 0x1000 + (size_t)index * 16, &address, 8);
	memcpy(g.memory + (size_t)q * 0x1000 + (size_t)index * 16 + 8, &rest, 8);
}

static void offer(struct script *s)
{
	uint32_t q = next(s, 1) % QUEUES;
	uint16_t head = (uint16_t)next(s, 1);

	memcpy(g.memory + q * 0x1000 + 0x400 + 4 + g.offered[q]++ % SIZE * 2, &head, 2);
	memcpy(g.memory + q * 0x1000 + 0x400 + 2, &g.offered[q], 2);
}

/* What the second pair cannot send itself. */
static bool hand_over(struct link *l, const struct iovec *from, int pieces)
{
	static uint8_t frame[sizeof(struct vnet_hdr) + 2 + LINK_FRAME_MAX];
	uint32_t len = 0;

	(void)l;
	for (int i = 0; i < pieces; len += (uint32_t)from[i++].iov_len) {
		REQUIRE(from[i].iov_len <= sizeof(frame) - len);
		if (from[i].iov_len)
			memcpy(frame + len, from[i].iov_base, from[i].iov_len);
	}
	link_put(&g.link[0], frame, len);
	return true;
}

static void read_frames(void)
{
	struct link_frame f;

	for (int i = 0; i < 4; i++) {
		int rc = link_read(&g.link[g.pair], &f);

		REQUIRE(rc == 0 || rc == -EBADMSG || rc == -EAGAIN || rc == -EFAULT);
		if (rc == -EFAULT) { /* a region is larger than its file */
			disconnect();
			connect_front_end();
		}
		if (rc == -EAGAIN || rc == -EFAULT)
			return;
		if (rc)
			continue;
		REQUIRE(f.len >= ETH_HLEN && f.len <= LINK_FRAME_MAX);
		REQUIRE(!f.partial_checksum || (uint32_t)f.csum_start + f.csum_offset + 2 <= f.len);
		for (uint32_t n = 0; n < f.len; n++)
			(void)*(volatile uint8_t *)(f.data + n);
	}
}

static void send_frame(struct script *s)
{
	static uint8_t body[0x10000];
	uint8_t head[LINK_HEAD_MAX] = {[12] = 8, [14] = 0x45};
	struct link_tx tx = {.head = head, .head_len = ETH_HLEN + 40, .body = body, .csum_start = ETH_HLEN + 20, .csum_offset = 16};

	tx.body_len = next(s, 2) % (LINK_FRAME_MAX - tx.head_len);
	tx.gso_size = (uint16_t)(536 + next(s, 1));
	tx.gso_type = VNET_GSO_TCPV4;
	link_send(&g.link[g.pair], &tx);
}

static void run(struct script *s)
{
	uint8_t payload[256];
	uint32_t request, flags, bytes;

	while (s->left) {
		switch (next(s, 1) % 11) {
		case 0:
			request = next(s, 1) % 20;
			flags = next(s, 1);
			bytes = u32_min(next(s, 1), (uint32_t)s->left);
			memcpy(payload, s->at, bytes);
			s->at += bytes;
			s->left -= bytes;
			say(request, flags & 16 ? flags : 1 | (flags & 8), payload, bytes, flags >> 5 & 3);
			break;
		case 1:
			bytes = u32_min(next(s, 1) % 32, (uint32_t)s->left);
			(void)!send(g.front_end, s->at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
			s->at += bytes;
			s->left -= bytes;
			break;
		case 2:
			start((uint64_t)next(s, 4) << 15 | next(s, 2));
			break;
		case 3:
			start(1ull << 32 | 1u << 15 | 0x1983 | (next(s, 1) & 1u) << 29);
			break;
		case 4:
			describe(s);
			break;
		case 5:
			offer(s);
			break;
		case 6:
			handle_messages();
			break;
		case 7:
			read_frames();
			break;
		case 8:
			send_frame(s);
			break;
		case 9:
			g.memory[next(s, 2) % MEMORY_BYTES] = (uint8_t)next(s, 1);
			link_event(&g.link[g.pair], 1);
			link_flush(&g.link[g.pair]);
			break;
		case 10:
			g.pair = (g.pair + 1) % PAIRS;
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct script s = {data, len};
	int lowest;

	if (!g.memory) {
		g.fds[0] = memfd_create("guest", 0);
		g.fds[1] = eventfd(0, EFD_NONBLOCK);
		REQUIRE(g.fds[0] >= 0 && g.fds[1] >= 0 && !ftruncate(g.fds[0], MEMORY_BYTES));
		g.memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g.fds[0], 0);
		REQUIRE(g.memory != MAP_FAILED);
	}
	memset(g.memory, 0, MEMORY_BYTES);
	lowest = dup(0);
	close(lowest);
	g.pair = 0;
	for (uint32_t i = 0; i < PAIRS; i++) {
		struct link *l = &g.link[i];

		REQUIRE(!loop_init(&g.loop[i]) && !link_init(l, &g.loop[i], &link_vhost_user, -1, 0, false, &g.counters));
		l->hand_over = hand_over;
		REQUIRE(!i || !link_join(l, &g.link[0]));
	}
	connect_front_end();
	run(&s);
	disconnect();
	for (uint32_t i = PAIRS; i-- > 0;) {
		link_free(&g.link[i]);
		loop_free(&g.loop[i]);
	}
	REQUIRE(dup(0) == lowest, "a descriptor is left open");
	close(lowest);
	return 0;
}
