/* How: a message is read whole, with its descriptors, and found in a table that has its length and how many descriptors belong to it.
 * Its handler checks the rest. What a message cannot be makes the front end's connection end, with one line, and the next front end
 * begins anew.
 *
 * Front ends differ in the order of messages, so a queue starts as soon as its size, addresses and kick descriptor are known, whichever
 * comes last. A new memory table stops no queue: its ring is found again in the new memory.
 *
 * Invariants: each descriptor of a message has an owner or is closed. A ring lies in v->memory, or is stopped. Nothing here waits: an
 * answer that the socket does not take ends the connection.
 *
 * Rejected: rings without a kick descriptor, which are polled without end.
 */
#include "io/vhost_user.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/vhost_memory.h"

#define MESSAGES_AT_ONCE 64

/* vhost-user protocol, "Message types"; "Header". */
#define HEADER_BYTES 12
#define VERSION 1
#define VERSION_MASK 3
#define IS_REPLY 4
#define NEED_REPLY 8

/* "Protocol features". */
#define PROTOCOL_MQ 0
#define PROTOCOL_REPLY_ACK 3

#define INDEX_MASK 0xff     /* "SET_VRING_KICK": bits 0 to 7 */
#define NO_DESCRIPTOR 0x100 /* bit 8 */
#define REGION_BYTES 32     /* "Memory region description" */
#define REGIONS_HEAD_BYTES 8

#define BIT(n) (1ull << (n))
#define OFFERED \
	(BIT(VIRTIO_NET_CSUM) | BIT(VIRTIO_NET_GUEST_CSUM) | BIT(VIRTIO_NET_GUEST_TSO4) | BIT(VIRTIO_NET_GUEST_TSO6) | \
	 BIT(VIRTIO_NET_HOST_TSO4) | BIT(VIRTIO_NET_HOST_TSO6) | BIT(VIRTIO_NET_MRG_RXBUF) | BIT(VIRTIO_INDIRECT_DESC) | \
	 BIT(VIRTIO_EVENT_IDX) | BIT(VHOST_USER_PROTOCOL_FEATURES) | BIT(VIRTIO_VERSION_1) | BIT(VIRTIO_NET_GUEST_USO4) | \
	 BIT(VIRTIO_NET_GUEST_USO6) | BIT(VIRTIO_NET_HOST_USO))

struct message {
	uint32_t request, flags, bytes;
	const uint8_t *payload;
};

static uint64_t load64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, sizeof(value));
	return value; /* numbers are in the order of the machine */
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static int refuse(struct vhost_user *v, const char *why)
{
	v->fault = why;
	return -EPROTO;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static struct loop *loop_of(const struct vhost_user *v, const struct vhost_queue *q)
{
	return v->loops[(q - v->queue) / 2];
}

/* Takes over a descriptor of the message; -1: there is none. */
static int take_fd(struct vhost_user *v)
{
	return v->fd_count ? v->fds[--v->fd_count] : -1;
}

static void close_fds(struct vhost_user *v)
{
	while (v->fd_count)
		close(take_fd(v));
}

/* --- queues --- */

static void wake(int fd)
{
	uint64_t one = 1;

	/* A counter at its limit wakes too. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
}

void vhost_queue_kick(struct vhost_queue *q)
{
	wake(q->kick);
}

void vhost_queue_tell(struct vhost_queue *q)
{
	if (virtq_tell(&q->ring))
		wake(q->call);
}

/* Starts the queue if all is known. 0 or -errno. */
static int start(struct vhost_user *v, struct vhost_queue *q)
{
	if (q->ring.size || !q->size || !q->addressed || q->kick < 0)
		return 0;
	if (!virtq_start(&q->ring, &v->memory, q->size, &q->at, q->base, vhost_user_has(v, VIRTIO_EVENT_IDX)))
		return refuse(v, "a ring outside the guest's memory");
	/* Chains may have been offered, and calls missed, before now. */
	wake(q->kick);
	wake(q->call);
	return 0;
}

/* Stops the ring; it can start again where it ended. */
static void pause_ring(struct vhost_queue *q)
{
	if (!q->ring.size)
		return;
	if (!q->ring.broken)
		vhost_queue_tell(q);
	q->base = q->ring.taken;
	q->ring = (struct virtq){0};
}

static void stop(struct vhost_user *v, struct vhost_queue *q)
{
	pause_ring(q);
	if (q->kick >= 0)
		loop_remove(loop_of(v, q), q->kick);
	close_fd(&q->kick);
	q->addressed = false;
}

static uint32_t queue_count(const struct vhost_user *v)
{
	return 2 * v->pairs;
}

/* Takes over `memory`, and starts again what ran, as things are now. 0 or -errno. */
static int restart(struct vhost_user *v, const struct guest_memory *memory)
{
	int rc = 0;

	for (uint32_t i = 0; i < queue_count(v); i++)
		pause_ring(&v->queue[i]);
	if (memory != &v->memory) {
		vhost_memory_unmap(&v->memory);
		v->memory = *memory;
	}
	for (uint32_t i = 0; i < queue_count(v) && !rc; i++)
		rc = start(v, &v->queue[i]);
	return rc;
}

static struct vhost_queue *queue_of(struct vhost_user *v, uint64_t index)
{
	if (index < queue_count(v))
		return &v->queue[index];
	refuse(v, "a queue that does not exist");
	return NULL;
}

/* --- answers --- */

static int reply(struct vhost_user *v, const struct message *m, const void *payload, uint32_t bytes)
{
	uint8_t out[HEADER_BYTES + sizeof(uint64_t)];
	uint32_t head[3] = {m->request, VERSION | IS_REPLY, bytes};

	memcpy(out, head, HEADER_BYTES);
	memcpy(out + HEADER_BYTES, payload, bytes);
	if (send(v->fd, out, HEADER_BYTES + bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(HEADER_BYTES + bytes))
		return refuse(v, "a socket that takes no answer");
	return 0;
}

static int reply_number(struct vhost_user *v, const struct message *m, uint64_t value)
{
	return reply(v, m, &value, sizeof(value));
}

/* --- requests --- */

static uint64_t offered(const struct vhost_user *v)
{
	return OFFERED | (v->pairs > 1 ? BIT(VIRTIO_NET_MQ) : 0);
}

static uint64_t offered_protocol(const struct vhost_user *v)
{
	return BIT(PROTOCOL_REPLY_ACK) | (v->pairs > 1 ? BIT(PROTOCOL_MQ) : 0);
}

static int get_features(struct vhost_user *v, const struct message *m)
{
	return reply_number(v, m, offered(v));
}

static int set_features(struct vhost_user *v, const struct message *m)
{
	uint64_t features = load64(m->payload);

	if (features & ~offered(v))
		return refuse(v, "features that were not offered");
	if (features == v->features)
		return 0;
	v->features = features;
	return restart(v, &v->memory);
}

static int get_protocol_features(struct vhost_user *v, const struct message *m)
{
	return reply_number(v, m, offered_protocol(v));
}

static int set_protocol_features(struct vhost_user *v, const struct message *m)
{
	uint64_t features = load64(m->payload);

	if (features & ~offered_protocol(v))
		return refuse(v, "protocol features that were not offered");
	v->protocol = features;
	return 0;
}

static int get_queue_num(struct vhost_user *v, const struct message *m)
{
	return reply_number(v, m, v->pairs);
}

static int set_owner(struct vhost_user *v, const struct message *m)
{
	(void)v;
	(void)m;
	return 0;
}

static int reset_owner(struct vhost_user *v, const struct message *m)
{
	(void)m;
	for (uint32_t i = 0; i < queue_count(v); i++) {
		stop(v, &v->queue[i]);
		v->queue[i].enabled = false;
	}
	return 0;
}

/* The regions come one descriptor each. Rings that run are found again in the new memory. */
static int set_mem_table(struct vhost_user *v, const struct message *m)
{
	uint32_t count = load32(m->payload);
	struct guest_memory memory = {0};
	int rc = 0;

	if (count > GUEST_REGIONS_MAX || count != v->fd_count || m->bytes < REGIONS_HEAD_BYTES + count * REGION_BYTES)
		return refuse(v, "a memory table of an impossible size");
	for (uint32_t i = 0; i < count && !rc; i++) {
		const uint8_t *region = m->payload + REGIONS_HEAD_BYTES + (size_t)i * REGION_BYTES;

		rc = vhost_memory_map(&memory, v->fds[i], load64(region), load64(region + 16), load64(region + 8),
				      load64(region + 24));
	}
	if (rc) {
		vhost_memory_unmap(&memory);
		return refuse(v, "memory that cannot be mapped");
	}
	return restart(v, &memory);
}

static int set_vring_num(struct vhost_user *v, const struct message *m)
{
	struct vhost_queue *q = queue_of(v, load32(m->payload));
	uint32_t size = load32(m->payload + 4);

	if (!q)
		return -EPROTO;
	if (q->ring.size || !size || size > VIRTQ_SIZE_MAX || size & (size - 1))
		return refuse(v, "an impossible size of a ring");
	q->size = (uint16_t)size;
	return start(v, q);
}

static int set_vring_base(struct vhost_user *v, const struct message *m)
{
	struct vhost_queue *q = queue_of(v, load32(m->payload));

	if (!q)
		return -EPROTO;
	if (q->ring.size)
		return refuse(v, "a new position for a ring that runs");
	q->base = (uint16_t)load32(m->payload + 4);
	return 0;
}

static int get_vring_base(struct vhost_user *v, const struct message *m)
{
	struct vhost_queue *q = queue_of(v, load32(m->payload));
	uint32_t answer[2] = {load32(m->payload), 0};

	if (!q)
		return -EPROTO;
	stop(v, q);
	answer[1] = q->base;
	return reply(v, m, answer, sizeof(answer));
}

/* Index, flags (only about the log of writes, which is not offered), then the addresses. */
static int set_vring_addr(struct vhost_user *v, const struct message *m)
{
	struct vhost_queue *q = queue_of(v, load32(m->payload));

	if (!q)
		return -EPROTO;
	pause_ring(q);
	q->at = (struct virtq_addresses){
		.descriptors = load64(m->payload + 8), .used = load64(m->payload + 16), .available = load64(m->payload + 24)};
	q->addressed = true;
	return start(v, q);
}

/* The queue and the descriptor of a SET_VRING_ message: *fd is -1 if it brings none. NULL: it is malformed. */
static struct vhost_queue *queue_and_fd(struct vhost_user *v, const struct message *m, int *fd)
{
	uint64_t value = load64(m->payload);

	if (value & ~(uint64_t)(INDEX_MASK | NO_DESCRIPTOR) || (value & NO_DESCRIPTOR ? 0u : 1u) != v->fd_count) {
		refuse(v, "a message with too many or too few descriptors");
		return NULL;
	}
	*fd = -1;
	if (v->fd_count) {
		int flags = fcntl(v->fds[0], F_GETFL);

		/* We only wake with it. A full one must not stop us. */
		if (flags < 0 || fcntl(v->fds[0], F_SETFL, flags | O_NONBLOCK) < 0) {
			refuse(v, "a descriptor that cannot be used");
			return NULL;
		}
	}
	return queue_of(v, value & INDEX_MASK);
}

static int set_vring_kick(struct vhost_user *v, const struct message *m)
{
	int fd;
	struct vhost_queue *q = queue_and_fd(v, m, &fd);
	uint32_t index;

	if (!q)
		return -EPROTO;
	fd = take_fd(v);
	if (fd < 0)
		return refuse(v, "a ring without a kick descriptor");
	index = (uint32_t)(q - v->queue);
	if (q->kick >= 0)
		loop_remove(loop_of(v, q), q->kick);
	close_fd(&q->kick);
	/* Each kick is an edge: the counter need not be read. */
	if (loop_add(loop_of(v, q), fd, EPOLLIN | EPOLLET, loop_tag(OWNER_TAP, 1 + index % 2, 0)) < 0) {
		close(fd);
		return refuse(v, "a kick descriptor that cannot be waited for");
	}
	q->kick = fd;
	return start(v, q);
}

static int set_vring_call(struct vhost_user *v, const struct message *m)
{
	int fd;
	struct vhost_queue *q = queue_and_fd(v, m, &fd);

	if (!q)
		return -EPROTO;
	close_fd(&q->call);
	q->call = take_fd(v);
	if (q->ring.size)
		wake(q->call);
	return 0;
}

/* We never report an error there: the front end's connection ends instead. */
static int set_vring_err(struct vhost_user *v, const struct message *m)
{
	int fd;

	return queue_and_fd(v, m, &fd) ? 0 : -EPROTO;
}

static int set_vring_enable(struct vhost_user *v, const struct message *m)
{
	struct vhost_queue *q = queue_of(v, load32(m->payload));

	if (!q)
		return -EPROTO;
	q->enabled = load32(m->payload + 4) == 1;
	wake(q->kick);
	return 0;
}

/* vhost-user protocol, "Front-end message types". */
static const struct request {
	uint32_t number;
	uint32_t bytes;   /* of the payload */
	bool longer;      /* or more */
	uint32_t fds_max; /* descriptors that belong to it */
	bool answered;    /* by its handler */
	int (*handle)(struct vhost_user *v, const struct message *m);
} requests[] = {
	{1, 0, false, 0, true, get_features},
	{2, 8, false, 0, false, set_features},
	{3, 0, false, 0, false, set_owner},
	{4, 0, false, 0, false, reset_owner},
	{5, REGIONS_HEAD_BYTES, true, GUEST_REGIONS_MAX, false, set_mem_table},
	{8, 8, false, 0, false, set_vring_num},
	{9, 40, false, 0, false, set_vring_addr},
	{10, 8, false, 0, false, set_vring_base},
	{11, 8, false, 0, true, get_vring_base},
	{12, 8, false, 1, false, set_vring_kick},
	{13, 8, false, 1, false, set_vring_call},
	{14, 8, false, 1, false, set_vring_err},
	{15, 0, false, 0, true, get_protocol_features},
	{16, 8, false, 0, false, set_protocol_features},
	{17, 0, false, 0, true, get_queue_num},
	{18, 8, false, 0, false, set_vring_enable},
};

static int handle(struct vhost_user *v, const struct message *m)
{
	const struct request *r = requests;
	int rc;

	while (r < requests + ARRAY_LEN(requests) && r->number != m->request)
		r++;
	if (r == requests + ARRAY_LEN(requests))
		return refuse(v, "an unknown request");
	if (r->longer ? m->bytes < r->bytes : m->bytes != r->bytes)
		return refuse(v, "a message of a wrong length");
	if (v->fd_count > r->fds_max)
		return refuse(v, "a message with too many or too few descriptors");
	rc = r->handle(v, m);
	if (!rc && !r->answered && m->flags & NEED_REPLY && v->protocol & BIT(PROTOCOL_REPLY_ACK))
		rc = reply_number(v, m, 0);
	return rc;
}

/* --- reading --- */

/* Keeps the descriptors that came along. False: more than a message can have. */
static bool keep_fds(struct vhost_user *v, struct msghdr *msg)
{
	bool room = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		const uint8_t *at = CMSG_DATA(c);
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, at + i * sizeof(fd), sizeof(fd));
			if (v->fd_count < VHOST_FDS_MAX) {
				v->fds[v->fd_count++] = fd;
			} else {
				close(fd);
				room = false;
			}
		}
	}
	return room;
}

/* Reads up to `want` bytes of the message. 0: they are there; -EAGAIN: not yet; another -errno. */
static int fill(struct vhost_user *v, uint32_t want)
{
	while (v->have < want) {
		union {
			struct cmsghdr align;
			uint8_t bytes[CMSG_SPACE(VHOST_FDS_MAX * sizeof(int))];
		} control;
		struct iovec iov = {v->in + v->have, want - v->have};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(v->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!keep_fds(v, &msg))
			return refuse(v, "too many descriptors");
		if (!n)
			return -ENODEV;
		v->have += (uint32_t)n;
	}
	return 0;
}

/* Handles one message. 0; -EAGAIN: it has not come whole; another -errno. */
static int receive_one(struct vhost_user *v)
{
	struct message m = {.payload = v->in + HEADER_BYTES};
	int rc = fill(v, HEADER_BYTES);

	if (rc)
		return rc;
	m.request = load32(v->in);
	m.flags = load32(v->in + 4);
	m.bytes = load32(v->in + 8);
	if ((m.flags & VERSION_MASK) != VERSION || m.flags & IS_REPLY || m.bytes > VHOST_MESSAGE_MAX - HEADER_BYTES)
		return refuse(v, "bytes that are no message");
	rc = fill(v, HEADER_BYTES + m.bytes);
	if (rc)
		return rc;
	v->have = 0;
	v->handled++;
	rc = handle(v, &m);
	close_fds(v);
	return rc;
}

int vhost_user_receive(struct vhost_user *v)
{
	for (int i = 0; i < MESSAGES_AT_ONCE; i++) {
		int rc = receive_one(v);

		if (rc)
			return rc == -EAGAIN ? 0 : rc;
	}
	return 0;
}

/* --- life --- */

void vhost_user_init(struct vhost_user *v, uint32_t pairs, struct loop **loops)
{
	*v = (struct vhost_user){.fd = -1, .pairs = pairs, .loops = loops};
	for (uint32_t i = 0; i < queue_count(v); i++)
		v->queue[i].kick = v->queue[i].call = -1;
}

void vhost_user_attach(struct vhost_user *v, int fd)
{
	v->fd = fd;
}

void vhost_user_detach(struct vhost_user *v)
{
	for (uint32_t i = 0; i < queue_count(v); i++) {
		stop(v, &v->queue[i]);
		close_fd(&v->queue[i].call);
	}
	close_fds(v);
	vhost_memory_unmap(&v->memory);
	vhost_user_init(v, v->pairs, v->loops);
}
