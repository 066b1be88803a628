/* vhost_tap IFNAME SOCKET|FD [FEATURES]: a virtual machine without the machine: a vhost-user front end whose guest's stack is that of this
 * network namespace, behind a tap with all offloads.
 *
 * The rings and all buffers are in a memfd. FEATURES is a number: what the guest takes of what is offered; default: all. SOCKET is a path
 * to connect to, again and again when the other end closes, or after SIGUSR1; FD is an open socket. It prints "ready" when the first
 * device runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { TO_GUEST, FROM_GUEST };
/* Message types of the protocol. */
enum { GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR, SET_VRING_BASE };
enum { SET_VRING_KICK = 12, SET_VRING_CALL, SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18 };

#define ENTRIES 256
#define HEADER_BYTES 12
#define MRG_RXBUF (1ull << 15)
#define EVENT_IDX (1ull << 29)
#define NEEDED (1ull << 32 | 1ull << 30 | MRG_RXBUF) /* VERSION_1, PROTOCOL_FEATURES */
#define SMALL_BYTES 4096                             /* of a buffer to the guest: a page, as Linux has them */
#define LARGE_BYTES (68u << 10)                      /* of one from the guest: a frame */
#define RING_BYTES 16384
#define MEMORY_BYTES (2 * RING_BYTES + ENTRIES * (SMALL_BYTES + LARGE_BYTES))

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
static int memory_fd, sock, tap;
static uint64_t features;
static struct queue queue[2];
static volatile sig_atomic_t leave;

static void on_signal(int number)
{
	leave = number;
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int header = HEADER_BYTES;

	tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (tap < 0 || ioctl(tap, TUNSETIFF, &request) < 0 || ioctl(tap, TUNSETVNETHDRSZ, &header) < 0)
		die("tap");
}

/* What the guest's kernel may leave to the link: what the back end takes of it. */
static void set_offloads(void)
{
	unsigned offloads =
		features & 1 ? TUN_F_CSUM | (features >> 11 & 1 ? TUN_F_TSO4 : 0) | (features >> 12 & 1 ? TUN_F_TSO6 : 0) : 0;

#ifdef TUN_F_USO4
	if (offloads && features >> 56 & 1 && ioctl(tap, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) == 0)
		return;
#endif
	if (ioctl(tap, TUNSETOFFLOAD, offloads) < 0)
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
	uint8_t *at = memory + index * RING_BYTES;
	uint64_t number = index, where[5];

	memset(at, 0, RING_BYTES);
	q->descriptors = (void *)at;
	q->available = (void *)(at + sizeof(*q->descriptors) * ENTRIES);
	q->used = (void *)(at + 8192);
	q->buffer_bytes = index == TO_GUEST ? SMALL_BYTES : LARGE_BYTES;
	q->buffers = memory + 2 * RING_BYTES + (index == TO_GUEST ? 0 : ENTRIES * SMALL_BYTES);
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
		q->descriptors[i].flags = index == TO_GUEST ? 2 : 0;
	}
	tell_pair(SET_VRING_NUM, index, ENTRIES);
	tell_pair(SET_VRING_BASE, index, 0);
	tell(SET_VRING_ADDR, where, sizeof(where), -1);
	tell(SET_VRING_KICK, &number, 8, q->kick);
	tell(SET_VRING_CALL, &number, 8, q->call);
	tell_pair(SET_VRING_ENABLE, index, 1);
}

static void start_device(uint64_t wanted)
{
	uint64_t table[5] = {1, 0, MEMORY_BYTES, 0, 0};

	tell(SET_OWNER, NULL, 0, -1);
	features = offered_features() & (wanted | NEEDED);
	tell(SET_PROTOCOL_FEATURES, &(uint64_t){0}, 8, -1);
	tell(SET_FEATURES, &features, 8, -1);
	tell(SET_MEM_TABLE, table, sizeof(table), memory_fd);
	set_offloads();
	start_queue(TO_GUEST);
	start_queue(FROM_GUEST);
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

static void to_tap(struct queue *q)
{
	struct iovec iov[ENTRIES];

	do {
		while (load(&q->used->index) != q->seen) {
			uint16_t chains = 1, count = 0, first = q->seen;

			do {
				uint32_t head = q->used->ring[q->seen % ENTRIES].head;

				iov[count] = (struct iovec){q->buffers + (size_t)head * SMALL_BYTES,
							    q->used->ring[q->seen % ENTRIES].len};
				if (!count++)
					memcpy(&chains, (uint8_t *)iov[0].iov_base + 10, sizeof(chains));
				q->seen++;
			} while (count < chains && load(&q->used->index) != q->seen);
			if (writev(tap, iov, count) < 0 && errno != EAGAIN && errno != EIO)
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

static bool from_tap(struct queue *q)
{
	for (int i = 0; i < 64 && !is_full(q); i++) {
		uint32_t head = q->offered % ENTRIES;
		ssize_t n = read(tap, q->buffers + (size_t)head * LARGE_BYTES, LARGE_BYTES);

		if (n <= 0)
			break;
		q->descriptors[head].len = (uint32_t)n;
		offer(q, head);
	}
	show(q);
	return is_full(q) && !ask(q);
}

/* Serves one connection until the other end closes. */
static void serve(uint64_t wanted, bool *told)
{
	bool full = false;

	start_device(wanted);
	for (uint32_t i = 0; i < ENTRIES; i++)
		offer(&queue[TO_GUEST], i);
	show(&queue[TO_GUEST]);
	if (!*told)
		puts("ready"), fflush(stdout);
	*told = true;
	for (;;) {
		struct pollfd wait[4] = {{.fd = sock, .events = POLLIN},
					 {.fd = queue[TO_GUEST].call, .events = POLLIN},
					 {.fd = full ? queue[FROM_GUEST].call : -1, .events = POLLIN},
					 {.fd = full ? -1 : tap, .events = POLLIN}};
		eventfd_t count;

		if (leave || (poll(wait, 4, -1) < 0 && errno == EINTR) || wait[0].revents)
			break;
		if (wait[1].revents) {
			(void)!eventfd_read(queue[TO_GUEST].call, &count);
			to_tap(&queue[TO_GUEST]);
		}
		if (wait[2].revents)
			(void)!eventfd_read(queue[FROM_GUEST].call, &count);
		if (wait[2].revents || wait[3].revents)
			full = from_tap(&queue[FROM_GUEST]);
	}
	leave = 0;
	for (int i = 0; i < 2; i++) {
		close(queue[i].kick);
		close(queue[i].call);
	}
}

/* -1: nothing listens there. */
static int connected(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		die("socket");
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

int main(int argc, char **argv)
{
	bool told = false, path = argc > 2 && strchr(argv[2], '/');
	uint64_t wanted = argc == 4 ? strtoull(argv[3], NULL, 0) : UINT64_MAX;

	if (argc < 3 || argc > 4)
		return 2;
	sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
	open_tap(argv[1]);
	memory_fd = memfd_create("guest", MFD_CLOEXEC);
	if (memory_fd < 0 || ftruncate(memory_fd, MEMORY_BYTES) < 0)
		die("memory");
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	if (memory == MAP_FAILED)
		die("memory");
	do {
		sock = path ? connected(argv[2]) : atoi(argv[2]);
		if (sock < 0) {
			usleep(20000);
			continue;
		}
		serve(wanted, &told);
		close(sock);
	} while (path);
	return 0;
}
