/* Purpose: the vhost-user link, from the guest: takes its frames out of its memory.
 *
 * How: a frame is one chain (VIRTIO 1.2, 5.1.6.4). While there is a frame to read, the guest is told not to kick. The payload of a TCP
 * stream is not copied: it stays in the guest's memory as the link_tail of a frame whose headers are copied, and the kernel takes it
 * from there.
 *
 * Invariant: a header is copied out of the guest's memory once and checked there.
 */
#include <errno.h>
#include <netinet/in.h>

#include "io/link_vhost.h"
#include "wire/tcp.h"

#define LEAVE_BYTES 2048 /* the payload of a longer frame stays in the guest's memory if it can; */
#define COPY_BYTES 256   /* then its first bytes, with all headers, are copied */

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
			vhost_link_broken(l, q);
			return -EAGAIN;
		}
	}
}

void vhost_link_give_back(struct link *l)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = vhost_link_queue(v, VHOST_FROM_GUEST);

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

int vhost_link_read(struct link *l, struct link_frame *f)
{
	struct vhost_link *v = l->state;
	struct vhost_queue *q = vhost_link_queue(v, VHOST_FROM_GUEST);
	uint32_t head = vhost_header_bytes(v->device), have;
	struct vnet_hdr vh;

	vhost_link_give_back(l);
	if (vhost_link_is_gone(l)) {
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
