/* Purpose: the device's side of a split virtqueue (VIRTIO 1.2, 2.7) in a guest's memory: takes chains of buffers, gives them back.
 */
#ifndef PASTA_WIRE_VIRTQUEUE_H
#define PASTA_WIRE_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "wire/guest_memory.h"

#define VIRTQ_SIZE_MAX 1024   /* entries of a ring; QEMU's largest */
#define VIRTQ_IOVECS_MAX 1024 /* parts of a chain: a chain has no more descriptors than its ring has entries (2.7.5.3.1) */

/* Where the parts of a ring are, in the front end's addresses, as VHOST_USER_SET_VRING_ADDR has them. */
struct virtq_addresses {
	uint64_t descriptors, available, used;
};

/* All zero: stopped. */
struct virtq {
	const uint8_t *descriptors, *available;
	uint8_t *used;
	uint16_t size; /* a power of two, 1 to VIRTQ_SIZE_MAX; 0: stopped */
	bool event_index;
	/* Counts of chains, modulo 65536 as in the ring. */
	uint16_t taken;     /* by us */
	uint16_t offered;   /* by the guest, when we last looked; at most `size` more than taken */
	uint16_t given;     /* back by us */
	uint16_t told;      /* of these, the guest has been told about */
	const char *broken; /* what the guest did wrong: the ring is not used any more. NULL: nothing */
};

/* A chain that the guest has offered. */
struct virtq_chain {
	uint16_t head;  /* names the chain in virtq_give() */
	uint32_t parts; /* entries of the caller's iovec */
	uint32_t bytes; /* of all parts */
};

enum virtq_taken {
	VIRTQ_TAKEN,
	VIRTQ_EMPTY,   /* the guest offers none */
	VIRTQ_NO_ROOM, /* the chain has more parts than the caller has room for */
	VIRTQ_BROKEN,  /* q->broken says why */
};

/* Starts at entry `base` of the ring. False: the parts are not in memory as a whole, not aligned, or size is impossible. */
bool virtq_start(struct virtq *q, const struct guest_memory *m, uint16_t size, const struct virtq_addresses *at, uint16_t base,
		 bool event_index);

/* Takes the next chain. All its parts lie in the guest's memory, and all are for the device to read, or with `writable` all to
 * write. room: of iov; VIRTQ_IOVECS_MAX is always enough. */
enum virtq_taken virtq_take(struct virtq *q, const struct guest_memory *m, bool writable, struct iovec *iov, uint32_t room,
			    struct virtq_chain *chain);
/* Takes the last `count` chains back into the queue, as if they had not been taken. */
void virtq_untake(struct virtq *q, uint16_t count);

/* Gives a chain back, in the order of taking, with `written` bytes in it. The guest sees it after virtq_tell(). */
void virtq_give(struct virtq *q, uint16_t head, uint32_t written);
/* Shows the guest all chains given back. True: it wants to be called. */
bool virtq_tell(struct virtq *q);

/* Asks the guest to kick when it offers one more chain than when we last looked. False: it has, so go on taking. */
bool virtq_wait(struct virtq *q);
/* Tells the guest that no kick is needed. */
void virtq_poll(struct virtq *q);

#endif
