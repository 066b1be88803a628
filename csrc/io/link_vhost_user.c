/* Purpose: the link of a virtual machine over vhost-user: frames are copied from and to the guest's memory, with its offloads, so that
 * a frame of 64 KiB costs as much as a small one.
 *
 * How: vhost_user.c has what the front end said. A frame from the guest is one chain; a frame to the guest takes as many chains as its
 * bytes need (VIRTIO 1.2, 5.1.6.4). What was given back is shown to the guest at the end of a turn, or after TELL_BYTES, so that one
 * call serves many frames. While there is a frame to read, and while none waits for room, the guest is told not to kick.
 *
 * A frame for which the guest offers too little room is kept, and the link is `blocked` until there is room: TCP leaves its data in
 * the host's sockets. Frames that come meanwhile are kept too, up to KEPT_BYTES, then dropped.
 *
 * The payload of a TCP stream is not copied here. From the guest it stays in its memory as the link_tail of a frame whose headers are
 * copied, and the kernel takes it from there. To the guest the kernel reads it into chains that link_lend() took, and the headers
 * follow.
 *
 * Several queue pairs, each with a thread: a link for each, which has joined the first (link_join()). What the front end says is
 * handled by the first, while every other thread is between two turns, so no queue and no memory changes under one that is used. A
 * pair that the guest does not use has frames all the same, those of its thread's flows: they are handed over to the first.
 *
 * Invariants: a header is copied out of the guest's memory once and checked there. A ring that the guest has broken is not touched
 * again until the front end starts it anew. Frames keep their order.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "io/link.h"
#include "io/vhost_memory.h"
#include "io/vhost_user.h"
#include "wire/offload.h"
#include "wire/tcp.h"

#define TELL_BYTES (64u << 10)
#define LEAVE_BYTES 2048        /* the payload of a longer frame stays in the guest's memory if it can; */
#define COPY_BYTES 256          /* then its first bytes, with all headers, are copied */
#define KEPT_BYTES (256u << 10) /* a frame of 64 KiB in segments of 100 bytes */

/* Without VIRTIO_VERSION_1 and VIRTIO_NET_MRG_RXBUF the last field is missing (VIRTIO 1.2, 5.1.6.1). */
struct net_header {
	struct vnet_hdr common;
	uint16_t chains; /* that the frame takes */
};
#define SHORT_HEADER_BYTES 10

/* What a guest has to take so that a frame for it is read in one piece. */
#define WHOLE (1ull << VIRTIO_NET_GUEST_CSUM | 1ull << VIRTIO_NET_GUEST_TSO4 | 1ull << VIRTIO_NET_GUEST_TSO6)

/* What all links of a front end share; the first owns it. */
struct machine {
	struct vhost_user device;
	uint32_t count; /* of links */
	struct link *link[VHOST_PAIRS_MAX];
	struct loop *loops[VHOST_PAIRS_MAX];
	atomic_bool gone;   /* the guest's memory has shrunk */
	struct turns turns; /* of the threads beside the first */
};

struct vhost_link {
	struct machine *machine;
	struct vhost_user *device;   /* the machine's */
	uint32_t pair;               /* of queues: ours */
	uint32_t untold;             /* bytes in chains that the guest has not been told about */
	uint32_t kept_from, kept_to; /* frames that wait for room, each behind its length in 32 bits: a part of `kept` */
	bool held;                   /* a chain of the guest's, `from`, whose frame is being handled */
	struct virtq_chain from;
	struct iovec from_parts[VIRTQ_IOVECS_MAX];
	uint32_t lent; /* chains that link_lend() took */
	uint32_t lent_parts;
	struct virtq_chain chain[VIRTQ_SIZE_MAX]; /* to the guest */
	struct iovec parts[VIRTQ_IOVECS_MAX], lent_body[VIRTQ_IOVECS_MAX];
	uint8_t kept[KEPT_BYTES]; /* memory only where it was used */
};

static struct vhost_queue *queue(struct vhost_link *v, enum vhost_direction direction)
{
	return &v->device->queue[2 * v->pair + direction];
}

static uint32_t header_bytes(const struct vhost_user *d)
{
	return vhost_user_has(d, VIRTIO_VERSION_1) || vhost_user_has(d, VIRTIO_NET_MRG_RXBUF) ? sizeof(struct net_header)
											      : SHORT_HEADER_BYTES;
}

/* Whether memory has shrunk; then the next read of the first link says that the front end is gone. */
static bool memory_is_gone(struct link *l)
{
	struct machine *m = ((struct vhost_link *)l->state)->machine;

	if (UNLIKELY(vhost_memory_has_gone()))
		atomic_store(&m->gone, true);
	if (LIKELY(!atomic_load_explicit(&m->gone, memory_order_relaxed)))
		return false;
	l->buffered = !l->turns;
	if (l->turns)
		vhost_queue_kick(&m->device.queue[VHOST_FROM_GUEST]);
	return true;
}

/* One line for a ring that the guest broke. A ring in memory that has gone is broken too. */
static void note_broken(struct link *l, const struct vhost_queue *q)
{
	if (!memory_is_gone(l))
		l->fault = q->ring.broken;
}

/* --- from the guest --- */

static void gather(uint8_t *to, const struct iovec *iov, uint32_t parts, uint32_t len)
{
	for (uint32_t i = 0; i < parts && len; i++) {
		uint32_t part = u32_min(len, (uint32_t)iov[i].iov_len);

		memcpy(to, iov[i].iov_base, part);
		to += part;
		len -= part;
	}
}

/* Takes the next chain of the guest's. 0; -EAGAIN: there is none, and the guest will kick. */
static int take(struct link *l, struct vhost_link *v, struct vhost_queue *q)
{
	for (;;) {
		switch (virtq_take(&q->ring, &v->device->memory, false, v->from_parts, VIRTQ_IOVECS_MAX, &v->from)) {
		case VIRTQ_TAKEN:
			return 0;
		case VIRTQ_EMPTY:
			vhost_queue_tell(q);
			if (virtq_wait(&q->ring) && !q->ring.broken)
				return -EAGAIN;
			break;
		default:
			note_broken(l, q);
			return -EAGAIN;
		}
	}
}

/* The frame that was read last has been handled. */
static void give_back(struct link *l)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_FROM_GUEST);

	l->tail.count = 0;
	if (v->held && q->ring.size && !q->ring.broken)
		virtq_give(&q->ring, v->from.head, 0);
	v->held = false;
}

/* Whether the payload of this frame may stay where it is: a TCP segment whose headers are among its first `have` bytes, and whose
 * checksum the guest left to us. */
static bool is_stream(const struct link_frame *f, uint32_t have)
{
	const uint8_t *ip = f->data + ETH_HLEN, *tcp = f->data + f->csum_start;
	bool v4 = eth_type(f->data) == ETH_TYPE_IPV4;
	uint32_t header = v4 ? (ip[0] & 15u) * 4 : IP6_HLEN;

	if (!v4 && eth_type(f->data) != ETH_TYPE_IPV6)
		return false;
	if ((v4 ? ip[9] : ip[6]) != IPPROTO_TCP || (v4 && load_be16(ip + 6) & IP4_FRAGMENT))
		return false;
	if (!f->partial_checksum || f->csum_start != ETH_HLEN + header || f->csum_offset != TCP_CSUM_OFFSET)
		return false;
	return (uint32_t)f->csum_start + TCP_HLEN + TCP_MAX_OPTIONS_BYTES <= have && !(tcp[13] & TCP_SYN);
}

/* Leaves in the guest's memory what lies `skip` bytes into the chain and after. */
static void leave_tail(struct link *l, struct vhost_link *v, uint32_t skip)
{
	uint32_t first = 0;

	l->tail.at = l->rx + skip;
	while (skip >= v->from_parts[first].iov_len)
		skip -= (uint32_t)v->from_parts[first++].iov_len;
	v->from_parts[first].iov_base = (uint8_t *)v->from_parts[first].iov_base + skip;
	v->from_parts[first].iov_len -= skip;
	l->tail.parts = v->from_parts + first;
	l->tail.count = v->from.parts - first;
}

static int read_frame(struct link *l, struct link_frame *f)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_FROM_GUEST);
	uint32_t head = header_bytes(v->device), have;
	struct vnet_hdr vh;

	give_back(l);
	if (memory_is_gone(l)) {
		if (l->turns)
			return -EAGAIN;
		l->fault = "memory that has shrunk";
		return -EFAULT;
	}
	if (!l->buffered)
		virtq_poll(&q->ring);
	l->buffered = false;
	if (!vhost_queue_runs(v->device, q) || take(l, v, q))
		return -EAGAIN;
	l->buffered = v->held = true;
	if (v->from.bytes < head || v->from.bytes - head > LINK_FRAME_MAX)
		v->from.bytes = head; /* no frame at all, which is counted as malformed */
	have = !l->captures && v->from.bytes > LEAVE_BYTES ? COPY_BYTES : v->from.bytes;
	gather(l->rx, v->from_parts, v->from.parts, have);
	memcpy(&vh, l->rx, sizeof(vh));
	*f = (struct link_frame){.data = l->rx + head, .len = v->from.bytes - head};
	if (f->len)
		link_offloads(f, &vh);
	if (f->gso_type & VNET_GSO_TUNNEL)
		f->len = 0; /* not offered */
	if (have < v->from.bytes) {
		leave_tail(l, v, have);
		if (!is_stream(f, have - head))
			link_linearize(l);
	}
	return link_received(l, f);
}

/* --- to the guest --- */

static bool dropped(struct link *l)
{
	COUNT(l->counters, tap_tx_dropped);
	return false;
}

/* Writes `len` bytes at `offset` of the parts. */
static void scatter(const struct iovec *iov, uint32_t parts, uint32_t offset, const void *from, uint32_t len)
{
	const uint8_t *at = from;

	for (uint32_t i = 0; i < parts && len; i++) {
		uint32_t part;

		if (offset >= iov[i].iov_len) {
			offset -= (uint32_t)iov[i].iov_len;
			continue;
		}
		part = u32_min(len, (uint32_t)iov[i].iov_len - offset);
		memcpy((uint8_t *)iov[i].iov_base + offset, at, part);
		at += part;
		len -= part;
		offset = 0;
	}
}

/* Takes chains for `bytes` bytes: v->chain[] and v->parts[]. Returns how many; 0: the guest offers too little room, or the ring is
 * broken. Sets *parts. */
static uint32_t take_room(struct link *l, struct vhost_link *v, struct vhost_queue *q, uint32_t bytes, uint32_t *parts)
{
	uint32_t most = vhost_user_has(v->device, VIRTIO_NET_MRG_RXBUF) ? q->ring.size : 1, count = 0, room = 0;

	*parts = 0;
	while (room < bytes && count < most) {
		struct virtq_chain *chain = &v->chain[count];
		enum virtq_taken rc =
			virtq_take(&q->ring, &v->device->memory, true, v->parts + *parts, VIRTQ_IOVECS_MAX - *parts, chain);

		if (rc == VIRTQ_BROKEN)
			note_broken(l, q);
		if (rc != VIRTQ_TAKEN)
			break;
		room += u32_min(chain->bytes, bytes - room);
		*parts += chain->parts;
		count++;
	}
	if (room == bytes)
		return count;
	if (!q->ring.broken)
		virtq_untake(&q->ring, (uint16_t)count);
	return 0;
}

/* The chains that were lent go back: nothing was read into them. */
static void take_back(struct vhost_link *v)
{
	struct virtq *ring = &queue(v, VHOST_TO_GUEST)->ring;

	if (v->lent && ring->size && !ring->broken)
		virtq_untake(ring, (uint16_t)v->lent);
	v->lent = 0;
}

/* Writes the header of a frame of `bytes` bytes that lies in these chains, and gives them back. */
static void finish(struct vhost_link *v, struct vhost_queue *q, uint32_t chains, uint32_t parts, uint32_t bytes)
{
	if (header_bytes(v->device) == sizeof(struct net_header))
		scatter(v->parts, parts, offsetof(struct net_header, chains), &(uint16_t){(uint16_t)chains}, sizeof(uint16_t));
	v->untold += bytes;
	for (uint32_t i = 0; i < chains; i++) {
		uint32_t part = u32_min(bytes, v->chain[i].bytes);

		virtq_give(&q->ring, v->chain[i].head, part);
		bytes -= part;
	}
	if (v->untold >= TELL_BYTES) {
		vhost_queue_tell(q);
		v->untold = 0;
	}
}

/* Puts a frame, headers first, into the guest's buffers. False: there is no room for it. */
static bool put(struct link *l, const struct iovec *from, int pieces)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_TO_GUEST);
	uint32_t bytes = 0, offset = 0, parts, chains;

	take_back(v);
	for (int i = 0; i < pieces; i++)
		bytes += (uint32_t)from[i].iov_len;
	chains = take_room(l, v, q, bytes, &parts);
	if (!chains)
		return false;
	for (int i = 0; i < pieces; i++) {
		scatter(v->parts, parts, offset, from[i].iov_base, (uint32_t)from[i].iov_len);
		offset += (uint32_t)from[i].iov_len;
	}
	finish(v, q, chains, parts, bytes);
	return true;
}

/* Puts the headers before a body that was read into the chains that were lent. */
static void put_lent(struct vhost_link *v, const struct iovec *head, uint32_t body_len)
{
	struct vhost_queue *q = queue(v, VHOST_TO_GUEST);
	uint32_t bytes = (uint32_t)(head[0].iov_len + head[1].iov_len) + body_len, chains = 0, room = 0;

	while (room < bytes)
		room += v->chain[chains++].bytes;
	virtq_untake(&q->ring, (uint16_t)(v->lent - chains));
	v->lent = 0;
	scatter(v->parts, v->lent_parts, 0, head[0].iov_base, (uint32_t)head[0].iov_len);
	scatter(v->parts, v->lent_parts, (uint32_t)head[0].iov_len, head[1].iov_base, (uint32_t)head[1].iov_len);
	finish(v, q, chains, v->lent_parts, bytes);
}

/* Whether a frame that has found no room may be tried again: the guest has offered more. Else it will kick when it does. */
static bool more_room(const struct link *l, struct vhost_queue *q)
{
	return vhost_queue_runs(((const struct vhost_link *)l->state)->device, q) && !virtq_wait(&q->ring) && !q->ring.broken;
}

/* Puts a frame, or takes another look at what the guest offers. False: there is no room, and the guest will kick. */
static bool put_or_wait(struct link *l, struct vhost_queue *q, const struct iovec *from, int pieces)
{
	while (!put(l, from, pieces))
		if (!more_room(l, q))
			return false;
	return true;
}

static bool keep(struct vhost_link *v, const struct iovec *from, int pieces)
{
	uint32_t bytes = 0;

	for (int i = 0; i < pieces; i++)
		bytes += (uint32_t)from[i].iov_len;
	if (v->kept_to + sizeof(bytes) + bytes > KEPT_BYTES)
		return false;
	memcpy(v->kept + v->kept_to, &bytes, sizeof(bytes));
	v->kept_to += (uint32_t)sizeof(bytes);
	for (int i = 0; i < pieces; i++) {
		if (from[i].iov_len) /* an empty piece has no address */
			memcpy(v->kept + v->kept_to, from[i].iov_base, from[i].iov_len);
		v->kept_to += (uint32_t)from[i].iov_len;
	}
	return true;
}

/* Puts the frame, or keeps it until there is room. */
static bool put_or_keep(struct link *l, const struct iovec *from, int pieces)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_TO_GUEST);

	if (!vhost_queue_runs(v->device, q))
		return (l->turns && l->fd >= 0 && l->hand_over(l, from, pieces)) || dropped(l);
	if (!l->blocked && put_or_wait(l, q, from, pieces))
		return true;
	l->blocked = true;
	return keep(v, from, pieces) || dropped(l);
}

/* Sends one frame, with the offloads that the guest takes. */
static bool send_one(struct link *l, const struct link_tx *tx)
{
	struct vhost_link *v = l->state;
	uint8_t head[LINK_HEAD_MAX];
	struct net_header header = {.common = link_header(tx, tx->gso_size && tx->body_len > tx->gso_size)};
	struct iovec iov[3] = {
		{&header, header_bytes(v->device)}, {tx->head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};
	struct link_tx sent = *tx;

	if (tx->csum_start && !vhost_user_has(v->device, VIRTIO_NET_GUEST_CSUM)) {
		memcpy(head, tx->head, tx->head_len);
		checksum_complete(head, tx->head_len, tx->csum_start, tx->csum_offset, tx->body, tx->body_len);
		iov[1].iov_base = head;
		header.common = (struct vnet_hdr){0};
		sent = (struct link_tx){0};
	}
	if (tx->body == link_lent)
		put_lent(v, iov, tx->body_len);
	else if (!put_or_keep(l, iov, 3))
		return false;
	COUNT(l->counters, tap_tx_frames);
	COUNT_ADD(l->counters, tap_tx_bytes, tx->head_len + tx->body_len);
	link_sent(l, iov + 1, 2, &sent);
	return true;
}

/* Chains for the headers and the body are taken; the parts of the body are lent. A guest that segments nothing gets its frames in
 * pieces, so none is read for it in one. */
static uint32_t lend(struct link *l, uint32_t head_len, uint32_t bytes, const struct iovec **parts, uint32_t *count)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_TO_GUEST);
	uint32_t skip = header_bytes(v->device) + head_len, left = bytes;

	take_back(v);
	if (l->blocked || l->captures || (v->device->features & WHOLE) != WHOLE || !vhost_queue_runs(v->device, q))
		return 0;
	v->lent = take_room(l, v, q, skip + bytes, &v->lent_parts);
	*parts = v->lent_body;
	*count = 0;
	for (uint32_t i = 0; v->lent && left; i++) {
		struct iovec part = v->parts[i];
		uint32_t skipped = u32_min(skip, (uint32_t)part.iov_len);

		skip -= skipped;
		part.iov_base = (uint8_t *)part.iov_base + skipped;
		part.iov_len = u32_min(left, (uint32_t)part.iov_len - skipped);
		left -= (uint32_t)part.iov_len;
		if (part.iov_len)
			v->lent_body[(*count)++] = part;
	}
	return v->lent ? bytes : 0;
}

static bool takes_large(const struct vhost_user *d, uint8_t gso_type)
{
	if (gso_type == VNET_GSO_TCPV4)
		return vhost_user_has(d, VIRTIO_NET_GUEST_TSO4);
	if (gso_type == VNET_GSO_TCPV6)
		return vhost_user_has(d, VIRTIO_NET_GUEST_TSO6);
	return vhost_user_has(d, VIRTIO_NET_GUEST_USO4) && vhost_user_has(d, VIRTIO_NET_GUEST_USO6);
}

static bool send_frame(struct link *l, const struct link_tx *tx)
{
	const struct vhost_link *v = l->state;

	if (tx->gso_size && tx->body_len > tx->gso_size && !takes_large(v->device, tx->gso_type))
		return link_send_segments(l, tx, send_one);
	return send_one(l, tx);
}

/* Puts the frames that wait, if there is room now; the link is blocked as long as there is none. */
static void put_kept(struct link *l)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = queue(v, VHOST_TO_GUEST);
	uint32_t bytes;

	while (v->kept_from < v->kept_to && vhost_queue_runs(v->device, q)) {
		memcpy(&bytes, v->kept + v->kept_from, sizeof(bytes));
		if (!put_or_wait(l, q, &(struct iovec){v->kept + v->kept_from + sizeof(bytes), bytes}, 1))
			break;
		v->kept_from += (uint32_t)sizeof(bytes) + bytes;
	}
	/* The flows of a pair that does not run go on by way of the first. */
	l->blocked = v->kept_from < v->kept_to || (!l->turns && !vhost_queue_runs(v->device, q));
	if (l->blocked)
		return;
	v->kept_from = v->kept_to = 0;
	virtq_poll(&q->ring);
}

static void flush(struct link *l)
{
	struct vhost_link *v = l->state;

	if (l->fd < 0)
		return;
	give_back(l);
	take_back(v);
	if (memory_is_gone(l))
		return;
	for (enum vhost_direction i = 0; i < 2; i++)
		if (vhost_queue_runs(v->device, queue(v, i)))
			vhost_queue_tell(queue(v, i));
	v->untold = 0;
	if (l->blocked)
		put_kept(l);
}

/* --- several links --- */

/* All links of a front end that has come, with fd, or has left: -1. */
static void begin_anew(struct machine *m, int fd)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct vhost_link *v = m->link[i]->state;

		v->kept_from = v->kept_to = v->untold = v->lent = 0;
		v->held = false;
		m->link[i]->fd = fd;
		m->link[i]->tail.count = 0;
		m->link[i]->blocked = fd < 0 || !m->link[i]->turns;
		m->link[i]->buffered = false;
	}
	atomic_store(&m->gone, false);
}

static int join(struct link *l, struct link *first)
{
	struct vhost_link *v = l->state;
	struct machine *own = v->machine, *m = ((struct vhost_link *)first->state)->machine;

	if (m->count == VHOST_PAIRS_MAX)
		return -EINVAL;
	v->machine = m;
	l->turns = &m->turns;
	v->device = &m->device;
	v->pair = m->count;
	free(own);
	m->loops[m->count] = l->loop;
	m->link[m->count++] = l;
	vhost_user_init(&m->device, m->count, m->loops);
	vhost_user_attach(&m->device, first->fd);
	begin_anew(m, first->fd);
	return 0;
}

static void put_handed_over(struct link *l, const uint8_t *bytes, uint32_t len)
{
	put_or_keep(l, &(struct iovec){(void *)(uintptr_t)bytes, len}, 1);
}

/* --- the front end --- */

/* Messages of the front end: they are about all links. */
static int hear(struct link *l, struct machine *m)
{
	uint64_t before = m->device.handled;
	int rc;

	turns_close(&m->turns);
	for (uint32_t i = 0; i < m->count; i++) {
		give_back(m->link[i]);
		take_back(m->link[i]->state);
	}
	rc = vhost_user_receive(&m->device);
	COUNT_ADD(l->counters, vhost_messages, m->device.handled - before);
	l->fault = m->device.fault;
	for (uint32_t i = 0; i < m->count; i++) {
		struct vhost_link *v = m->link[i]->state;

		if (!vhost_queue_runs(v->device, queue(v, VHOST_TO_GUEST)))
			v->kept_from = v->kept_to = 0;
		put_kept(m->link[i]);
	}
	turns_open(&m->turns);
	return rc;
}

static int event(struct link *l, uint32_t which)
{
	struct vhost_link *v = l->state;

	l->buffered |= which == 1 + VHOST_FROM_GUEST; /* an edge that is not followed by a read must not be lost */
	if (which == 0)
		return hear(l, v->machine);
	if (l->blocked)
		put_kept(l);
	return 0;
}

static int make(struct link *l)
{
	struct vhost_link *v = l->state = calloc(1, sizeof(*v));
	struct machine *m = calloc(1, sizeof(*m));

	l->rx = malloc(sizeof(struct net_header) + LINK_FRAME_MAX);
	if (v)
		v->machine = m;
	else
		free(m);
	/* Headers are in the order of the machine here, and little-endian there (VIRTIO 1.2, 5.1.6.1). */
	if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
		return -EOPNOTSUPP;
	if (!v || !m || !l->rx)
		return -ENOMEM;
	v->device = &m->device;
	m->count = 1;
	m->link[0] = l;
	m->loops[0] = l->loop;
	turns_init(&m->turns);
	return vhost_memory_survive();
}

static void destroy(struct link *l)
{
	struct vhost_link *v = l->state;

	if (v && !l->turns) {
		if (v->machine && l->fd >= 0)
			link_detach(l);
		free(v->machine);
	}
	free(v);
	l->state = NULL;
}

static int attach(struct link *l)
{
	struct machine *m = ((struct vhost_link *)l->state)->machine;

	turns_close(&m->turns);
	begin_anew(m, l->fd);
	vhost_user_init(&m->device, m->count, m->loops);
	vhost_user_attach(&m->device, l->fd);
	turns_open(&m->turns);
	return 0;
}

static void detach(struct link *l)
{
	struct machine *m = ((struct vhost_link *)l->state)->machine;

	turns_close(&m->turns);
	begin_anew(m, -1);
	vhost_user_detach(&m->device);
	(void)vhost_memory_has_gone();
	turns_open(&m->turns);
}

const struct link_kind link_vhost_user = {.offloads = true,
					  .init = make,
					  .free = destroy,
					  .attach = attach,
					  .detach = detach,
					  .read = read_frame,
					  .send = send_frame,
					  .flush = flush,
					  .lend = lend,
					  .join = join,
					  .put = put_handed_over,
					  .event = event};
