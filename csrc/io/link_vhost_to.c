/* Purpose: the vhost-user link, to the guest: puts frames into its memory, or keeps them until there is room.
 *
 * How: a frame takes as many chains as its bytes need (VIRTIO 1.2, 5.1.6.4). What was given back is shown to the guest at the end of a
 * turn, or after TELL_BYTES, so that one call serves many frames. While no frame waits for room, the guest is told not to kick.
 *
 * A frame for which the guest offers too little room is kept, and the link is `blocked` until there is room: TCP leaves its data in
 * the host's sockets. Frames that come meanwhile are kept too, up to VHOST_KEPT_BYTES, then dropped.
 *
 * The payload of a TCP stream is not copied: the kernel reads it into chains that link_lend() took, and the headers follow.
 *
 * Invariant: frames keep their order.
 */
#include "io/link_vhost.h"
#include "wire/offload.h"

#define TELL_BYTES (64u << 10)

/* What a guest has to take so that a frame for it is read in one piece. */
#define WHOLE (1ull << VIRTIO_NET_GUEST_CSUM | 1ull << VIRTIO_NET_GUEST_TSO4 | 1ull << VIRTIO_NET_GUEST_TSO6)

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
			vhost_link_broken(l, q);
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

void vhost_link_take_back(struct vhost_link *v)
{
	struct virtq *ring = &vhost_link_queue(v, VHOST_TO_GUEST)->ring;

	if (v->lent && ring->size && !ring->broken)
		virtq_untake(ring, (uint16_t)v->lent);
	v->lent = 0;
}

/* Writes the header of a frame of `bytes` bytes that lies in these chains, and gives them back. */
static void finish(struct vhost_link *v, struct vhost_queue *q, uint32_t chains, uint32_t parts, uint32_t bytes)
{
	if (vhost_header_bytes(v->device) == sizeof(struct vhost_net_header))
		scatter(v->parts, parts, offsetof(struct vhost_net_header, chains), &(uint16_t){(uint16_t)chains},
			sizeof(uint16_t));
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
	struct vhost_queue *q = vhost_link_queue(v, VHOST_TO_GUEST);
	uint32_t bytes = 0, offset = 0, parts, chains;

	vhost_link_take_back(v);
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
	struct vhost_queue *q = vhost_link_queue(v, VHOST_TO_GUEST);
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
static bool more_room(struct link *l, struct vhost_queue *q)
{
	if (!vhost_queue_runs(((const struct vhost_link *)l->state)->device, q) || virtq_wait(&q->ring))
		return false;
	if (q->ring.broken)
		vhost_link_broken(l, q);
	return !q->ring.broken;
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
	if (v->kept_to + sizeof(bytes) + bytes > VHOST_KEPT_BYTES)
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

bool vhost_link_put(struct link *l, const struct iovec *from, int pieces)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = vhost_link_queue(v, VHOST_TO_GUEST);

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
	struct vhost_net_header header = {.common = link_header(tx, tx->gso_size && tx->body_len > tx->gso_size)};
	struct iovec iov[3] = {
		{&header, vhost_header_bytes(v->device)}, {tx->head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};
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
	else if (!vhost_link_put(l, iov, 3))
		return false;
	COUNT(l->counters, tap_tx_frames);
	COUNT_ADD(l->counters, tap_tx_bytes, tx->head_len + tx->body_len);
	link_sent(l, iov + 1, 2, &sent);
	return true;
}

/* Chains for the headers and the body are taken; the parts of the body are lent. A guest that segments nothing gets its frames in
 * pieces, so none is read for it in one. */
uint32_t vhost_link_lend(struct link *l, uint32_t head_len, uint32_t bytes, const struct iovec **parts, uint32_t *count)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = vhost_link_queue(v, VHOST_TO_GUEST);
	uint32_t skip = vhost_header_bytes(v->device) + head_len, left = bytes;

	vhost_link_take_back(v);
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

bool vhost_link_send(struct link *l, const struct link_tx *tx)
{
	const struct vhost_link *v = l->state;

	if (tx->gso_size && tx->body_len > tx->gso_size && !takes_large(v->device, tx->gso_type))
		return link_send_segments(l, tx, send_one);
	return send_one(l, tx);
}

void vhost_link_put_kept(struct link *l)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = vhost_link_queue(v, VHOST_TO_GUEST);
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

void vhost_link_flush(struct link *l)
{
	struct vhost_link *v = l->state;

	if (l->fd < 0)
		return;
	vhost_link_give_back(l);
	vhost_link_take_back(v);
	if (vhost_link_is_gone(l))
		return;
	for (enum vhost_direction i = 0; i < 2; i++)
		if (vhost_queue_runs(v->device, vhost_link_queue(v, i)))
			vhost_queue_tell(vhost_link_queue(v, i));
	v->untold = 0;
	if (l->blocked)
		vhost_link_put_kept(l);
}
