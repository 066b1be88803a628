/* Purpose: the back end's side of the vhost-user protocol: what a front end (QEMU, DPDK, user-mode Linux) says over its UNIX socket
 * about a virtio network device, its memory and its queues. */
#ifndef PASTA_IO_VHOST_USER_H
#define PASTA_IO_VHOST_USER_H

#include "io/loop.h"
#include "wire/virtqueue.h"

/* Features of a network device (VIRTIO 1.2, 5.1.3) and of all devices (6), as bit numbers. */
#define VIRTIO_NET_CSUM 0       /* the guest sends partial checksums */
#define VIRTIO_NET_GUEST_CSUM 1 /* and takes them */
#define VIRTIO_NET_GUEST_TSO4 7
#define VIRTIO_NET_GUEST_TSO6 8
#define VIRTIO_NET_HOST_TSO4 11
#define VIRTIO_NET_HOST_TSO6 12
#define VIRTIO_NET_MRG_RXBUF 15 /* a frame may take several chains */
#define VIRTIO_NET_MQ 22
#define VIRTIO_INDIRECT_DESC 28
#define VIRTIO_EVENT_IDX 29
#define VHOST_USER_PROTOCOL_FEATURES 30
#define VIRTIO_VERSION_1 32
#define VIRTIO_NET_GUEST_USO4 54
#define VIRTIO_NET_GUEST_USO6 55
#define VIRTIO_NET_HOST_USO 56

#define VHOST_PAIRS_MAX 16
#define VHOST_FDS_MAX GUEST_REGIONS_MAX
#define VHOST_MESSAGE_MAX 512 /* more than any message that we take has */

enum vhost_direction { VHOST_TO_GUEST, VHOST_FROM_GUEST };

struct vhost_queue {
	struct virtq ring; /* stopped until the front end has told all of it, and kicks */
	struct virtq_addresses at;
	uint16_t size, base;
	bool addressed; /* `at` is set */
	bool enabled;   /* by SET_VRING_ENABLE */
	int kick, call; /* descriptors that wake us and the guest; -1: none */
};

struct vhost_user {
	int fd;              /* of the front end; -1: there is none */
	uint32_t pairs;      /* of queues that are offered: 1 to VHOST_PAIRS_MAX */
	struct loop **loops; /* of each pair: kicks go there, with OWNER_TAP and 1 + the direction */
	uint64_t features;   /* that the driver has accepted */
	uint64_t protocol;   /* protocol features that the front end has accepted */
	struct guest_memory memory;
	struct vhost_queue queue[2 * VHOST_PAIRS_MAX]; /* by pair and direction */
	const char *fault;                             /* why the front end is to be dropped; NULL: it has left */

	/* The message that is being read. */
	uint8_t in[VHOST_MESSAGE_MAX];
	uint32_t have;
	uint64_t handled; /* messages so far */
	int fds[VHOST_FDS_MAX];
	uint32_t fd_count;
};

/* loops: of `pairs` loops, kept. */
void vhost_user_init(struct vhost_user *v, uint32_t pairs, struct loop **loops);
/* A front end has connected. */
void vhost_user_attach(struct vhost_user *v, int fd);
/* Forgets all that it said. fd stays the caller's. */
void vhost_user_detach(struct vhost_user *v);
/* Handles the messages that wait, a bounded number. 0; -errno: the front end has left, or v->fault says why it is to be dropped. */
int vhost_user_receive(struct vhost_user *v);

static inline bool vhost_user_has(const struct vhost_user *v, int feature)
{
	return v->features >> feature & 1;
}

/* Whether frames may pass here now. */
static inline bool vhost_queue_runs(const struct vhost_user *v, const struct vhost_queue *q)
{
	return q->ring.size && !q->ring.broken && (q->enabled || !vhost_user_has(v, VHOST_USER_PROTOCOL_FEATURES));
}

/* Wakes the thread of the queue, as the guest does. */
void vhost_queue_kick(struct vhost_queue *q);
/* Shows the guest the chains given back, and wakes it if it waits. */
void vhost_queue_tell(struct vhost_queue *q);

#endif
