/* vhost_tap IFNAME SOCKET|FD [FEATURES [PAIRS]]: a virtual machine without the machine: a vhost-user front end whose guest's stack is that of this
 * network namespace, behind a tap with all offloads.
 *
 * The rings and all buffers are in a memfd. FEATURES is a number: what the guest takes of what is offered; default: all. PAIRS of
 * queues, each with a queue of the tap and a thread; default: 1. SOCKET|FD: machine.h. It prints "ready" when the first device runs. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "machine.h"

enum { TO_GUEST, FROM_GUEST };
/* Message types of the protocol. */
enum { GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR, SET_VRING_BASE };
enum { SET_VRING_KICK = 12, SET_VRING_CALL, SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18 };
#define PROTOCOL_MQ 1 /* the bit of a protocol feature */

#define ENTRIES 256
#define HEADER_BYTES 12
#define NEEDS_CSUM 1 /* flags of the header */
#define DATA_VALID 2
#define MRG_RXBUF (1ull << 15)
#define MQ (1ull << 22)
#define PAIRS_MAX 4
#define EVENT_IDX (1ull << 29)
#define NEEDED (1ull << 32 | 1ull << 30 | MRG_RXBUF) /* VERSION_1, PROTOCOL_FEATURES */
#define SMALL_BYTES 4096                             /* of a buffer to the guest: a page, as Linux has them */
#define LARGE_BYTES (68u << 10)                      /* of one from the guest: a frame */
#define RING_BYTES 16384
#define PAIR_BYTES (2 * RING_BYTES + ENTRIES * (SMALL_BYTES + LARGE_BYTES))

struct queue {
	struct {
		uint64_t address;
		uint32_t len;
		uint16_t flags, next;
	} * descriptors;
	struct {
		uint16_t flags, index, ring[ENTRIES], used_event;
	} * available;
	struct {
		uint16_t flags, index;
		struct {
			uint32_t head, len;
		} ring[ENTRIES];
		uint16_t avail_event;
	} * used;
	uint8_t *buffers;
	uint32_t buffer_bytes;
	uint16_t offered, seen, told;
	int kick, call;
};

static uint8_t *memory;
static size_t memory_bytes;
static int memory_fd, sock, tap[PAIRS_MAX];
static uint32_t pairs = 1;
static uint64_t wanted = UINT64_MAX; /* features that the guest takes */
static uint64_t features;            /* what of these the back end offers, and what is needed */
static struct queue queue[2 * PAIRS_MAX];

/* What the guest's kernel may leave to the link: what the back end takes of it. */
static void set_offloads(void)
{
	unsigned offloads =
		features & 1 ? TUN_F_CSUM | (features >> 11 & 1 ? TUN_F_TSO4 : 0) | (features >> 12 & 1 ? TUN_F_TSO6 : 0) : 0;

#ifdef TUN_F_USO4
	if (offloads && features >> 56 & 1 && ioctl(tap[0], TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) == 0)
		return;
#endif
	if (ioctl(tap[0], TUNSETOFFLOAD, offloads) < 0)
		die("offloads");
}

/* --- messages --- */

static void tell(uint32_t request, const void *payload, uint32_t bytes, int fd)
{
	uint32_t head[3] = {request, 1, bytes};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)payload, bytes}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		control.align =
			(struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
	}
	(void)!sendmsg(sock, &msg, MSG_NOSIGNAL); /* a closed socket is seen when it is read */
}

static void tell_pair(uint32_t request, uint32_t index, uint32_t number)
{
	tell(request, (uint32_t[2]){index, number}, 8, -1);
}

static uint64_t offered_features(void)
{
	uint8_t answer[20] = {0};
	uint64_t value;

	tell(GET_FEATURES, NULL, 0, -1);
	if (recv(sock, answer, sizeof(answer), MSG_WAITALL) != sizeof(answer))
		return 0;
	memcpy(&value, answer + 12, sizeof(value));
	return value;
}

static void start_queue(uint32_t index)
{
	struct queue *q = &queue[index];
	bool to_guest = index % 2 == TO_GUEST;
	uint8_t *pair = memory + index / 2 * PAIR_BYTES, *at = pair + (to_guest ? 0 : RING_BYTES);
	uint64_t number = index, where[5];

	memset(at, 0, RING_BYTES);
	q->descriptors = (void *)at;
	q->available = (void *)(at + sizeof(*q->descriptors) * ENTRIES);
	q->used = (void *)(at + 8192);
	q->buffer_bytes = to_guest ? SMALL_BYTES : LARGE_BYTES;
	q->buffers = pair + 2 * RING_BYTES + (to_guest ? 0 : ENTRIES * SMALL_BYTES);
	q->offered = q->seen = q->told = 0;
	q->kick = eventfd(0, EFD_NONBLOCK);
	q->call = eventfd(0, EFD_NONBLOCK);
	where[0] = index;
	where[1] = (uint64_t)(at - memory);
	where[2] = (uint64_t)((uint8_t *)q->used - memory);
	where[3] = (uint64_t)((uint8_t *)q->available - memory);
	where[4] = 0;
	for (uint32_t i = 0; i < ENTRIES; i++) {
		q->descriptors[i].address = (uint64_t)(q->buffers - memory) + (uint64_t)i * q->buffer_bytes;
		q->descriptors[i].len = q->buffer_bytes;
		q->descriptors[i].flags = to_guest ? 2 : 0;
	}
	tell_pair(SET_VRING_NUM, index, ENTRIES);
	tell_pair(SET_VRING_BASE, index, 0);
	tell(SET_VRING_ADDR, where, sizeof(where), -1);
	tell(SET_VRING_KICK, &number, 8, q->kick);
	tell(SET_VRING_CALL, &number, 8, q->call);
	tell_pair(SET_VRING_ENABLE, index, 1);
}

static void start_device(void)
{
	uint64_t table[5] = {1, 0, memory_bytes, 0, 0};

	tell(SET_OWNER, NULL, 0, -1);
	features = offered_features() & (wanted | NEEDED) & (pairs > 1 ? UINT64_MAX : ~MQ);
	if (pairs > 1 && !(features & MQ))
		fputs("no several pairs are offered\n", stderr), exit(1);
	tell(SET_PROTOCOL_FEATURES, &(uint64_t){pairs > 1 ? PROTOCOL_MQ : 0}, 8, -1);
	tell(SET_FEATURES, &features, 8, -1);
	tell(SET_MEM_TABLE, table, sizeof(table), memory_fd);
	set_offloads();
	for (uint32_t i = 0; i < 2 * pairs; i++)
		start_queue(i);
}

/* --- rings --- */

static uint16_t load(const uint16_t *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void offer(struct queue *q, uint32_t head)
{
	q->available->ring[q->offered++ % ENTRIES] = (uint16_t)head;
}

/* Shows what was offered, and kicks if the back end wants that. */
static void show(struct queue *q)
{
	uint16_t before = q->told;
	bool kick;

	if (q->offered == before)
		return;
	q->told = q->offered;
	__atomic_store_n(&q->available->index, q->told, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (features & EVENT_IDX)
		kick = (uint16_t)(q->told - load(&q->used->avail_event) - 1) < (uint16_t)(q->told - before);
	else
		kick = !(load(&q->used->flags) & 1);
	if (kick)
		eventfd_write(q->kick, 1);
}

/* Asks for a call at the next chain. True: it is there already. */
static bool ask(struct queue *q)
{
	q->available->used_event = q->seen;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load(&q->used->index) != q->seen;
}

/* A driver trusts a checksum that the back end calls good (VIRTIO 1.2, 5.1.6.4.2); a tap looks at it, so it is told that there is none
 * yet. Nothing leaves the namespace, so the field itself does not count. */
static void trust_checksum(uint8_t *frame)
{
	const uint8_t *ip = frame + HEADER_BYTES + 14;
	bool v4 = ip[0] >> 4 == 4, tcp = ip[v4 ? 9 : 6] == IPPROTO_TCP;
	uint16_t where[2] = {(uint16_t)(14 + (v4 ? (ip[0] & 15) * 4 : 40)), tcp ? 16 : 6};

	if (!(frame[0] & DATA_VALID) || (!tcp && ip[v4 ? 9 : 6] != IPPROTO_UDP))
		return;
	frame[0] = NEEDS_CSUM;
	memcpy(frame + 6, where, sizeof(where));
}

static void to_tap(struct queue *q, int fd)
{
	struct iovec iov[ENTRIES];

	do {
		while (load(&q->used->index) != q->seen) {
			uint16_t chains = 1, count = 0, first = q->seen;

			do {
				uint32_t head = q->used->ring[q->seen % ENTRIES].head;

				iov[count] = (struct iovec){q->buffers + (size_t)head * SMALL_BYTES,
							    q->used->ring[q->seen % ENTRIES].len};
				if (!count++) {
					memcpy(&chains, (uint8_t *)iov[0].iov_base + 10, sizeof(chains));
					trust_checksum(iov[0].iov_base);
				}
				q->seen++;
			} while (count < chains && load(&q->used->index) != q->seen);
			if (writev(fd, iov, count) < 0 && errno != EAGAIN && errno != EIO)
				die("write"); /* EIO: the interface is down */
			for (; first != q->seen; first++)
				offer(q, q->used->ring[first % ENTRIES].head);
		}
		show(q);
	} while (ask(q));
}

/* Whether all buffers are in use. */
static bool is_full(struct queue *q)
{
	q->seen = load(&q->used->index);
	return (uint16_t)(q->offered - q->seen) == ENTRIES;
}

static bool from_tap(struct queue *q, int fd)
{
	for (int i = 0; i < 64 && !is_full(q); i++) {
		uint32_t head = q->offered % ENTRIES;
		ssize_t n = read(fd, q->buffers + (size_t)head * LARGE_BYTES, LARGE_BYTES);

		if (n <= 0)
			break;
		q->descriptors[head].len = (uint32_t)n;
		offer(q, head);
	}
	show(q);
	return is_full(q) && !ask(q);
}

/* Serves a pair of queues until the other end closes the connection. */
static void *serve_pair(void *number)
{
	uint32_t pair = (uint32_t)(uintptr_t)number;
	struct queue *to_guest = &queue[2 * pair], *from_guest = to_guest + 1;
	bool full = false;

	for (uint32_t i = 0; i < ENTRIES; i++)
		offer(to_guest, i);
	show(to_guest);
	for (;;) {
		struct pollfd wait[4] = {{.fd = sock, .events = POLLIN},
					 {.fd = to_guest->call, .events = POLLIN},
					 {.fd = full ? from_guest->call : -1, .events = POLLIN},
					 {.fd = full ? -1 : tap[pair], .events = POLLIN}};
		eventfd_t count;

		if (leave || (poll(wait, 4, -1) < 0 && errno == EINTR) || wait[0].revents)
			return NULL;
		if (wait[1].revents) {
			(void)!eventfd_read(to_guest->call, &count);
			to_tap(to_guest, tap[pair]);
		}
		if (wait[2].revents)
			(void)!eventfd_read(from_guest->call, &count);
		if (wait[2].revents || wait[3].revents)
			full = from_tap(from_guest, tap[pair]);
	}
}

/* Serves one connection until the other end closes. */
static void serve(int connection)
{
	pthread_t thread[PAIRS_MAX];
	sigset_t ours;

	sock = connection;
	start_device();
	sigemptyset(&ours);
	sigaddset(&ours, SIGUSR1); /* for this thread */
	pthread_sigmask(SIG_BLOCK, &ours, NULL);
	for (uint32_t i = 1; i < pairs; i++)
		if (pthread_create(&thread[i], NULL, serve_pair, (void *)(uintptr_t)i))
			die("thread");
	pthread_sigmask(SIG_UNBLOCK, &ours, NULL);
	say_ready();
	serve_pair(NULL);
	shutdown(sock, SHUT_RDWR);
	for (uint32_t i = 1; i < pairs; i++)
		pthread_join(thread[i], NULL);
	for (uint32_t i = 0; i < 2 * pairs; i++) {
		close(queue[i].kick);
		close(queue[i].call);
	}
}

int main(int argc, char **argv)
{
	int header = HEADER_BYTES;

	if (argc < 3 || argc > 5)
		return 2;
	if (argc > 3)
		wanted = strtoull(argv[3], NULL, 0);
	if (argc > 4)
		pairs = (uint32_t)atoi(argv[4]);
	if (!pairs || pairs > PAIRS_MAX)
		return 2;
	for (uint32_t i = 0; i < pairs; i++) {
		tap[i] = open_tap(argv[1], IFF_VNET_HDR | (pairs > 1 ? IFF_MULTI_QUEUE : 0));
		if (ioctl(tap[i], TUNSETVNETHDRSZ, &header) < 0)
			die("tap");
	}
	memory_bytes = pairs * (size_t)PAIR_BYTES;
	memory_fd = memfd_create("guest", MFD_CLOEXEC);
	if (memory_fd < 0 || ftruncate(memory_fd, (off_t)memory_bytes) < 0)
		die("memory");
	memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	if (memory == MAP_FAILED)
		die("memory");
	serve_each(argv[2], serve);
	return 0;
}
