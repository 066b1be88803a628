/* Purpose: what the files of the vhost-user link share: link_vhost_user.c has the front end and several links, link_vhost_from.c the
 * frames from the guest, link_vhost_to.c those to it. Private to these three.
 */
#ifndef PASTA_IO_LINK_VHOST_H
#define PASTA_IO_LINK_VHOST_H

#include <stdatomic.h>

#include "base/bytes.h"
#include "io/link.h"
#include "io/vhost_memory.h"
#include "io/vhost_user.h"

#define VHOST_KEPT_BYTES (256u << 10) /* a frame of 64 KiB in segments of 100 bytes */

/* Without VIRTIO_VERSION_1 and VIRTIO_NET_MRG_RXBUF the last field is missing (VIRTIO 1.2, 5.1.6.1). */
struct vhost_net_header {
	struct vnet_hdr common;
	uint16_t chains; /* that the frame takes */
};
#define VHOST_SHORT_HEADER_BYTES 10

/* What all links of a front end share; the first owns it. */
struct vhost_machine {
	struct vhost_user device;
	uint32_t count; /* of links */
	struct link *link[VHOST_PAIRS_MAX];
	struct loop *loops[VHOST_PAIRS_MAX];
	atomic_bool gone;   /* the guest's memory has shrunk */
	atomic_bool told;   /* of a ring that the guest broke; until none is broken */
	struct turns turns; /* of the threads beside the first */
};

struct vhost_link {
	struct vhost_machine *machine;
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
	uint8_t kept[VHOST_KEPT_BYTES]; /* memory only where it was used */
};

static inline struct vhost_queue *vhost_link_queue(struct vhost_link *v, enum vhost_direction direction)
{
	return &v->device->queue[2 * v->pair + direction];
}

static inline uint32_t vhost_header_bytes(const struct vhost_user *d)
{
	return vhost_user_has(d, VIRTIO_VERSION_1) || vhost_user_has(d, VIRTIO_NET_MRG_RXBUF) ? sizeof(struct vhost_net_header)
											      : VHOST_SHORT_HEADER_BYTES;
}

/* Whether memory has shrunk; then the next read of the first link says that the front end is gone. */
static inline bool vhost_link_is_gone(struct link *l)
{
	struct vhost_machine *m = ((struct vhost_link *)l->state)->machine;

	if (UNLIKELY(vhost_memory_has_gone()))
		atomic_store(&m->gone, true);
	if (LIKELY(!atomic_load_explicit(&m->gone, memory_order_relaxed)))
		return false;
	l->buffered = !l->turns;
	if (l->turns)
		vhost_queue_kick(&m->device.queue[VHOST_FROM_GUEST]);
	return true;
}

/* One line for the rings that the guest broke. A ring in memory that has gone is broken too. */
void vhost_link_broken(struct link *l, const struct vhost_queue *q);

/* --- from the guest --- */

int vhost_link_read(struct link *l, struct link_frame *f);
/* The frame that was read last has been handled. */
void vhost_link_give_back(struct link *l);

/* --- to the guest --- */

bool vhost_link_send(struct link *l, const struct link_tx *tx);
uint32_t vhost_link_lend(struct link *l, uint32_t head_len, uint32_t bytes, const struct iovec **parts, uint32_t *count);
/* The chains that were lent go back: nothing was read into them. */
void vhost_link_take_back(struct vhost_link *v);
/* Puts the frame, or keeps it until there is room. */
bool vhost_link_put(struct link *l, const struct iovec *from, int pieces);
/* Puts the frames that wait, if there is room now; the link is blocked as long as there is none. */
void vhost_link_put_kept(struct link *l);
void vhost_link_flush(struct link *l);

#endif
