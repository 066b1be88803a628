/* `read_once`: frames pass both ways through rings whose memory changes as soon as it is read (reads.c). Each descriptor, each entry
 * of a ring, each header and each frame is read once, and what the frames are is what was there then. Exit status 1 and a line: not so.
 * `read_once twice`, `read_once plain`: such a read is made on purpose.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/captures.h"
#include "io/link.h"
#include "io/loop.h"
#include "io/vhost_user.h"
#include "reads.h"

#define SIZE 64u
#define RING_BYTES 0x1000u /* of each queue: descriptors, what is available, what is used */
#define AVAILABLE 0x400u
#define USED 0x800u
#define TABLE 0x3000u /* an indirect one */
#define BUFFERS 0x4000u
#define BUFFER_BYTES 2048u
#define NEXT 1
#define WRITE 2
#define INDIRECT 4

#define PLAIN (1ull << VIRTIO_VERSION_1 | 1ull << VIRTIO_NET_MRG_RXBUF | 1ull << VHOST_USER_PROTOCOL_FEATURES)
#define ALL \
	(PLAIN | 1ull << VIRTIO_NET_CSUM | 1ull << VIRTIO_NET_GUEST_CSUM | 1ull << VIRTIO_NET_GUEST_TSO4 | \
	 1ull << VIRTIO_NET_GUEST_TSO6 | 1ull << VIRTIO_NET_HOST_TSO4 | 1ull << VIRTIO_NET_HOST_TSO6 | \
	 1ull << VIRTIO_INDIRECT_DESC | 1ull << VIRTIO_EVENT_IDX)

void read_wrongly(const uint16_t *at, bool twice); /* the test brings it */

static struct {
	struct link link;
	struct loop loop;
	struct counters counters;
	int front_end, memfd, counter;
	uint8_t *memory; /* as the guest sees it */
	uint16_t offered[2];
	uint32_t header_bytes;
	uint8_t frame[70000]; /* with its header */
} g;

/* Nothing is captured here. */
void captures_frame(struct captures *cs, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		    const struct capture_offload *offload)
{
	(void)cs, (void)direction, (void)iov, (void)iovcnt, (void)offload;
	abort();
}

static void require(bool held, const char *what)
{
	if (held)
		return;
	printf("%s: %s\n", reads.doing, what);
	exit(1);
}

/* --- the front end --- */

static void say(uint32_t request, const void *payload, uint32_t bytes, int fd)
{
	uint32_t head[3] = {request, 1, bytes};
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control = {.align = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)payload, bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	require(sendmsg(g.front_end, &msg, 0) == (ssize_t)(sizeof(head) + bytes), "a message is not taken");
}

static void connect_device(uint64_t features)
{
	uint64_t table[5] = {1, 0, READS_MEMORY_BYTES, 0, 0};
	int pair[2];

	require(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && !link_attach(&g.link, pair[1]), "no front end");
	g.front_end = pair[0];
	memset(g.memory, 0, READS_MEMORY_BYTES);
	say(2, &features, 8, -1);
	say(5, table, 40, g.memfd);
	for (uint32_t q = 0; q < 2; q++) {
		uint32_t size[2] = {q, SIZE}, base[2] = {q, 0}, on[2] = {q, 1};
		uint64_t number = q, at = q * RING_BYTES, where[5] = {q, at, at + USED, at + AVAILABLE, 0};

		say(8, size, 8, -1);
		say(10, base, 8, -1);
		say(9, where, 40, -1);
		say(12, &number, 8, g.counter);
		say(13, &number, 8, g.counter);
		say(18, on, 8, -1);
		g.offered[q] = 0;
	}
	require(!link_event(&g.link, 0) && reads.theirs, "the device does not start");
	g.header_bytes = features ? 12 : 10;
}

static void disconnect(void)
{
	int ours = g.link.fd;

	link_detach(&g.link);
	close(g.front_end);
	close(ours);
}

/* --- the guest --- */

/* From now on what lies here is read once, and changes then. */
static void once(uint32_t at, uint32_t bytes)
{
	memset(reads.once + at, true, bytes);
	memset(reads.changes + at, true, bytes);
}

static void begin(const char *doing)
{
	reads.doing = doing;
	memset(reads.count, 0, sizeof(reads.count));
	memset(reads.once, 0, sizeof(reads.once));
	memset(reads.changes, 0, sizeof(reads.changes));
}

/* All that was to be read once has been. */
static void end(void)
{
	for (uint32_t i = 0; i < READS_MEMORY_BYTES; i++)
		if (reads.once[i] && reads.count[i] != 1) {
			printf("%s: not read at 0x%x\n", reads.doing, i);
			exit(1);
		}
}

static void describe(uint32_t at, uint64_t address, uint32_t len, uint16_t flags, uint16_t next)
{
	memcpy(g.memory + at, &address, 8);
	memcpy(g.memory + at + 8, &len, 4);
	memcpy(g.memory + at + 12, &flags, 2);
	memcpy(g.memory + at + 14, &next, 2);
	once(at, 16);
}

static void offer(uint32_t q, uint16_t head)
{
	uint32_t at = q * RING_BYTES + AVAILABLE, entry = at + 4 + g.offered[q]++ % SIZE * 2;

	memcpy(g.memory + entry, &head, 2);
	memcpy(g.memory + at + 2, &g.offered[q], 2);
	once(entry, 2);
}

static uint8_t noise(uint32_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

/* A header, and a TCP segment over IPv4 of `payload` bytes. Returns the bytes of both. */
static uint32_t make_frame(uint32_t payload, bool offloaded)
{
	struct vnet_hdr vh = {.flags = VNET_NEEDS_CSUM,
			      .gso_type = VNET_GSO_TCPV4,
			      .hdr_len = 54,
			      .gso_size = 1448,
			      .csum_start = 34,
			      .csum_offset = 16};
	uint8_t *frame = g.frame + g.header_bytes;
	uint32_t bytes = 54 + payload;

	memset(g.frame, 0, g.header_bytes);
	if (offloaded)
		memcpy(g.frame, &vh, sizeof(vh));
	for (uint32_t i = 0; i < bytes; i++)
		frame[i] = noise(i);
	memcpy(frame + 12,
	       (const uint8_t[]){8, 0, 0x45, 0, (uint8_t)((40 + payload) >> 8), (uint8_t)(40 + payload), 0, 0, 0x40, 0, 64, 6}, 12);
	frame[34 + 12] = 0x50;
	frame[34 + 13] = 0x10;
	return g.header_bytes + bytes;
}

/* Sends `bytes` of g.frame in parts: of the sizes given, the last of what is left. */
static void from_guest(const char *doing, uint32_t bytes, const uint32_t *sizes, uint32_t parts, bool indirect)
{
	uint32_t table = indirect ? TABLE : RING_BYTES, at = BUFFERS, done = 0;
	struct link_frame f;
	uint32_t first;

	begin(doing);
	for (uint32_t i = 0; i < parts; i++) {
		uint32_t len = i + 1 < parts ? sizes[i] : bytes - done;

		memcpy(g.memory + at, g.frame + done, len);
		once(at, len);
		describe(table + 16 * i, at, len, i + 1 < parts ? NEXT : 0, (uint16_t)(i + 1));
		at += len + 8; /* what is between is never read */
		done += len;
	}
	if (indirect)
		describe(RING_BYTES + 16 * 5, TABLE, 16 * parts, INDIRECT, 0);
	offer(VHOST_FROM_GUEST, indirect ? 5 : 0);
	require(!link_read(&g.link, &f), "no frame");
	require(f.len == bytes - g.header_bytes, "a frame of another length");
	first = g.link.tail.count ? (uint32_t)(g.link.tail.at - f.data) : f.len;
	require(!memcmp(f.data, g.frame + g.header_bytes, first), "another frame");
	if (g.link.tail.count)
		link_linearize(&g.link);
	require(!memcmp(f.data, g.frame + g.header_bytes, f.len), "another payload");
	require(f.partial_checksum == (g.frame[0] != 0) && f.gso_size == (g.frame[0] ? 1448 : 0), "other offloads");
	link_flush(&g.link);
	end();
}

/* Offers `count` buffers, each as a chain of its own, of two parts or in an indirect table. */
static void offer_room(uint32_t count, uint32_t parts, bool indirect)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t table = indirect ? TABLE + i * 16 * parts : i * 16 * parts, buffer = BUFFERS + i * BUFFER_BYTES;

		for (uint32_t part = 0; part < parts; part++)
			describe(table + 16 * part, buffer + part * BUFFER_BYTES / parts, BUFFER_BYTES / parts,
				 WRITE | (part + 1 < parts ? NEXT : 0), (uint16_t)((indirect ? 0 : i * parts) + part + 1));
		if (indirect)
			describe(16 * i, table, 16 * parts, INDIRECT, 0);
		offer(VHOST_TO_GUEST, (uint16_t)(indirect ? i : i * parts));
	}
}

/* Sends it a frame of `bytes` with its header. lent: its payload is read into its buffers. */
static void to_guest(const char *doing, uint32_t payload, uint32_t parts, bool indirect, bool lent)
{
	uint32_t bytes, count, lent_parts = 0, done = 0;
	uint8_t head[LINK_HEAD_MAX];
	const struct iovec *room;
	struct link_tx tx = {.head = head, .head_len = 54, .body_len = payload};

	begin(doing);
	bytes = make_frame(payload, true);
	count = (bytes + BUFFER_BYTES - 1) / BUFFER_BYTES;
	memcpy(head, g.frame + g.header_bytes, 54);
	offer_room(count, parts, indirect);
	tx.body = g.frame + g.header_bytes + 54;
	if (payload > 1448) {
		tx.csum_start = 34;
		tx.csum_offset = 16;
		tx.gso_size = 1448;
		tx.gso_type = VNET_GSO_TCPV4;
	}
	if (lent) {
		require(link_lend(&g.link, 54, payload, &room, &lent_parts) == payload, "nothing is lent");
		for (uint32_t i = 0; i < lent_parts; done += (uint32_t)room[i++].iov_len)
			memcpy(room[i].iov_base, tx.body + done, room[i].iov_len);
		tx.body = link_lent;
	}
	require(link_send(&g.link, &tx), "the frame is not taken");
	link_flush(&g.link);
	for (uint32_t i = g.header_bytes; i < bytes; i++)
		require(g.memory[BUFFERS + i] == g.frame[i], "another frame in the guest's buffers");
	end();
}

/* --- all of it --- */

static void pass_frames(uint64_t features)
{
	const uint32_t one[1] = {0}, apart[2] = {g.header_bytes, 0}, many[6] = {3, g.header_bytes - 3, 14, 1, 39, 0};
	bool large = features & 1;

	for (uint32_t indirect = 0; indirect <= (features >> VIRTIO_INDIRECT_DESC & 1); indirect++) {
		from_guest("a frame in one part", make_frame(500, large), one, 1, indirect);
		from_guest("a frame behind its header", make_frame(500, large), apart, 2, indirect);
		from_guest("a frame in six parts", make_frame(500, large), many, 6, indirect);
		from_guest("a large frame in one part", make_frame(30000, large), one, 1, indirect);
		from_guest("a large frame in six parts", make_frame(60000, large), many, 6, indirect);
		from_guest("a large frame without offloads", make_frame(9000, false), apart, 2, indirect);
		to_guest("a frame to the guest", 500, 1, indirect, false);
		to_guest("a frame to the guest in two parts", 1400, 2, indirect, false);
		if (!large)
			continue;
		to_guest("a large frame to the guest", 30000, 1, indirect, false);
		to_guest("a large frame to the guest in parts", 30000, 2, indirect, false);
		to_guest("a large frame that is lent room", 30000, 1, indirect, true);
		to_guest("a large frame that is lent room in parts", 30000, 2, indirect, true);
	}
}

/* What is looked at again and again changes too: each call looks once at most, and uses what it has seen. */
static void look_at_indexes(bool event_index)
{
	static struct iovec iov[VIRTQ_IOVECS_MAX];
	struct guest_memory m = {0};
	struct virtq_addresses at = {0, AVAILABLE, USED};
	struct virtq_chain chain;
	struct virtq q;

	begin("a ring that begins");
	memset(g.memory, 0, BUFFERS);
	require(guest_memory_add(&m, &(struct guest_region){0, 0, READS_MEMORY_BYTES, reads.theirs}), "no memory");
	once(USED + 2, 2);
	require(virtq_start(&q, &m, SIZE, &at, 0, event_index) && !q.given, "the ring does not begin");
	end();
	begin("a chain is taken");
	g.offered[0] = 0;
	describe(0, BUFFERS, 100, 0, 0);
	offer(0, 0);
	once(AVAILABLE + 2, 2);
	require(virtq_take(&q, &m, false, iov, VIRTQ_IOVECS_MAX, &chain) == VIRTQ_TAKEN, "it is not taken");
	require(q.offered == 1 && chain.head == 0 && chain.bytes == 100 && iov[0].iov_base == reads.theirs + BUFFERS,
		"another chain");
	end();
	begin("a chain is given back");
	memset(g.memory + AVAILABLE, 0, 2);
	once(event_index ? AVAILABLE + 4 + SIZE * 2 : AVAILABLE, 2);
	virtq_give(&q, 0, 0);
	require(virtq_tell(&q), "the guest wants to be told");
	end();
	begin("waiting");
	memcpy(g.memory + AVAILABLE + 2, &g.offered[0], 2);
	once(AVAILABLE + 2, 2);
	require(virtq_wait(&q) && !q.broken, "there is nothing to take");
	end();
}

int main(int argc, char **argv)
{
	const uint64_t kinds[] = {ALL, ALL & ~(1ull << VIRTIO_EVENT_IDX), PLAIN, 0};

	g.memfd = memfd_create("guest", 0);
	g.counter = eventfd(0, EFD_NONBLOCK);
	require(g.memfd >= 0 && g.counter >= 0 && !ftruncate(g.memfd, READS_MEMORY_BYTES), "no memory");
	g.memory = mmap(NULL, READS_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g.memfd, 0);
	reads.theirs = NULL; /* that was ours */
	require(!loop_init(&g.loop) && !link_init(&g.link, &g.loop, &link_vhost_user, -1, 0, false, &g.counters), "no link");
	for (uint32_t i = 0; i < ARRAY_LEN(kinds); i++) {
		begin("the device starts");
		connect_device(kinds[i]);
		if (argc > 1) {
			begin("on purpose");
			once(0, 2);
			read_wrongly((const uint16_t *)(void *)reads.theirs, !strcmp(argv[1], "twice"));
		}
		pass_frames(kinds[i]);
		look_at_indexes(kinds[i] >> VIRTIO_EVENT_IDX & 1);
		disconnect();
	}
	link_free(&g.link);
	loop_free(&g.loop);
	puts("each was read once");
	return 0;
}
