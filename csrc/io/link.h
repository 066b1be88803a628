/* Purpose: the guest's link: where its frames come from and go to. */
#ifndef PASTA_IO_LINK_H
#define PASTA_IO_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/counters.h"
#include "core/neighbour.h"
#include "io/turns.h"
#include "wire/eth.h"
#include "wire/ip.h"

struct captures;
struct loop;

#define LINK_FRAME_MAX (ETH_HLEN + IP_MAX_BYTES)
#define LINK_HEAD_MAX 128 /* Ethernet, IP and transport headers of a frame that we send */

/* struct virtio_net_hdr (VIRTIO 1.2, 5.1.6), in native byte order, which a tap uses by default. */
struct vnet_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

/* The same with offsets for segments in a tunnel: struct virtio_net_hdr_v1_hash_tunnel (linux/virtio_net.h). */
struct vnet_hdr_tunnel {
	struct vnet_hdr common;
	uint8_t unused[10];
	uint8_t outer_transport[2], inner_network[2]; /* offsets, little-endian */
};

/* Flags. */
#define VNET_NEEDS_CSUM 1

/* Values of gso_type. */
#define VNET_GSO_NONE 0
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5

/* Bits of gso_type beside one of these. */
#define VNET_GSO_TUNNEL 0x60 /* the segments are inside a UDP tunnel over IPv4 (0x20) or IPv6 (0x40) */
#define VNET_GSO_ECN 0x80

struct link;
struct link_frame;
struct link_tx;

/* What a link can do; chosen once, when the link is made. A function that is NULL does nothing. */
struct link_kind {
	bool offloads;               /* takes segments of up to 64 KiB with partial checksums, at any MTU */
	bool trains;                 /* takes the segments of several frames of TCP as one, up to SCRATCH_BYTES of payload */
	int (*init)(struct link *l); /* makes `state` and `rx`, before there is a peer. 0 or -errno */
	void (*free)(struct link *l);
	int (*attach)(struct link *l); /* fd is that of a new peer. 0 or -errno */
	void (*detach)(struct link *l);
	int (*read)(struct link *l, struct link_frame *f);
	bool (*send)(struct link *l, const struct link_tx *tx);
	void (*flush)(struct link *l);
	/* link_lend() */
	uint32_t (*lend)(struct link *l, uint32_t head_len, uint32_t bytes, const struct iovec **parts, uint32_t *count);
	int (*join)(struct link *l, struct link *first);                 /* link_join() */
	void (*put)(struct link *l, const uint8_t *bytes, uint32_t len); /* link_put() */
	/* Something other than a frame has come: which is the index of its event. 0; -errno: the peer is gone. */
	int (*event)(struct link *l, uint32_t which);
};

/* Our own tap, with a virtio-net header before each frame. */
extern const struct link_kind link_tap;
/* Any other descriptor with one frame per read and write. */
extern const struct link_kind link_datagram;
/* A socket with a length before each frame; its peer may come late, leave, and be followed by another. */
extern const struct link_kind link_stream;
/* A vhost-user front end: frames are in the guest's memory, and fd has the messages about it. */
extern const struct link_kind link_vhost_user;

/* The rest of a frame's payload where it lies in the guest's memory, which may change. count 0: all of the frame is at its data. */
struct link_tail {
	const struct iovec *parts;
	uint32_t count;
	uint8_t *at; /* behind the first bytes of the frame; there is room for the rest */
};

struct link {
	const struct link_kind *kind;
	int fd;                            /* of the peer; -1: there is none */
	bool blocked;                      /* the peer takes nothing now, or there is none: data that can wait stays where it is */
	bool buffered;                     /* the next link_read() has a frame without asking the kernel */
	bool drained;                      /* a frame was read, and the kernel had no more behind it */
	bool uso;                          /* the tap takes UDP segmentation offload frames */
	uint8_t header_bytes;              /* of the virtio-net header; 0: there is none */
	struct neighbour_table neighbours; /* learnt from the guest's frames */
	uint8_t our_mac[ETH_ALEN];
	struct counters *counters;
	struct captures *_Atomic captures; /* NULL: there are none. Set by the thread of shard 0 */
	uint8_t *rx;                       /* the receive buffer: one frame with its header, or as the kind needs it */
	void *state;                       /* of the kind */
	struct loop *loop;                 /* where a kind adds descriptors of its own, with OWNER_TAP and an index above 0 */
	struct link_tail tail;             /* of the frame that was read last */
	const char *fault;                 /* what the peer did wrong, for one line of the log; NULL: nothing */
	struct turns *turns;               /* of a link that has joined another; NULL: it has not */
	/* Gives a frame, with its header, to the link that this one has joined, in whose thread link_put() takes it. */
	bool (*hand_over)(struct link *l, const struct iovec *from, int pieces);
};

/* Makes l another queue of the peer that `first` has or gets, for another thread; once, with hand_over set. 0 or -errno. What the peer
 * says is heard by `first`, while the other threads are outside their links: between link_leave() and link_enter(). */
int link_join(struct link *l, struct link *first);
static inline void link_enter(struct link *l)
{
	if (UNLIKELY(l->turns != NULL))
		turns_enter(l->turns);
}
static inline void link_leave(struct link *l)
{
	if (UNLIKELY(l->turns != NULL))
		turns_leave(l->turns);
}
/* Takes a frame that a link which has joined this one has handed over. */
static inline void link_put(struct link *l, const uint8_t *bytes, uint32_t len)
{
	if (l->kind->put)
		l->kind->put(l, bytes, len);
}

/* A received frame, valid until the next link_read(). Only TCP segments without SYN have a link_tail, which begins in their payload. */
struct link_frame {
	uint8_t *data;
	uint32_t len;
	uint16_t gso_size; /* 0: not a segmentation offload frame */
	uint8_t gso_type;
	bool partial_checksum; /* the field at csum_start + csum_offset holds the folded sum of the pseudo-header only */
	uint16_t csum_start, csum_offset;
	uint16_t inner; /* with VNET_GSO_TUNNEL: offset of the IP header inside the tunnel */
};

/* A frame to send. If csum_start is set, the transport checksum field holds the folded sum of the pseudo-header only. */
struct link_tx {
	uint8_t *head;
	uint32_t head_len;
	const uint8_t *body;
	uint32_t body_len;
	uint16_t csum_start; /* offset of the transport header; 0: the checksum is complete */
	uint16_t csum_offset;
	uint16_t gso_size; /* payload bytes per segment; 0: one segment */
	uint8_t gso_type;
};

/* fd: of the peer; -1: it comes later, with link_attach(). header_bytes: the size of struct vnet_hdr or struct vnet_hdr_tunnel for a
 * tap, else 0. 0 or -errno. */
int link_init(struct link *l, struct loop *loop, const struct link_kind *kind, int fd, uint8_t header_bytes, bool uso,
	      struct counters *counters);
void link_free(struct link *l);
/* A peer has come. -EBUSY: there is one. -EOPNOTSUPP: a link of this kind keeps the peer that it has from the start. */
int link_attach(struct link *l, int fd);
/* The peer has gone: what it has left, in either direction, is forgotten. fd stays the caller's. */
void link_detach(struct link *l);

/* 0; -EBADMSG: the frame is malformed (counted); -EAGAIN: there is none; any other -errno: the link is gone. */
static inline int link_read(struct link *l, struct link_frame *frame)
{
	return l->kind->read(l, frame);
}

/* False: the link did not take the frame (counted). It may leave only with link_flush(). */
static inline bool link_send(struct link *l, const struct link_tx *tx)
{
	return l->kind->send(l, tx);
}

/* Room in the guest's memory for the payload of the next frame, so that it is read there and not copied. Returns how many of `bytes`
 * fit into *parts; 0: the link has no such room. A frame that is sent right then, with link_lent as its body and head_len bytes of
 * headers, has what was read there. Without one, the room is taken back. */
static inline uint32_t link_lend(struct link *l, uint32_t head_len, uint32_t bytes, const struct iovec **parts, uint32_t *count)
{
	return l->kind->lend ? l->kind->lend(l, head_len, bytes, parts, count) : 0;
}
extern const uint8_t link_lent[1];

/* Copies the tail behind the first bytes of the frame that was read last. */
void link_linearize(struct link *l);
/* Parts of the frame that was read last: `bytes` from `from` on, which is before its tail. Returns their number, at most `room`. */
uint32_t link_parts(const struct link *l, const uint8_t *from, uint32_t bytes, struct iovec *parts, uint32_t room);

/* Lets go of frames that were kept to leave together; needed before anything waits for an answer. Sets `blocked`. */
static inline void link_flush(struct link *l)
{
	if (l->kind->flush)
		l->kind->flush(l);
}

/* An event that the loop has for this link. -errno: the peer is gone. */
static inline int link_event(struct link *l, uint32_t which)
{
	return l->kind->event ? l->kind->event(l, which) : 0;
}

/* Completes a partial checksum. */
void link_complete_checksum(struct link_frame *frame);
/* Removes all priority tags (eth_is_priority_tagged()). False: there is none, or the offsets point into one. */
bool link_untag(struct link_frame *frame);

/* Writes the Ethernet and IP headers of a frame to the guest. Returns the offset of the transport header. */
uint32_t link_begin(const struct link *l, uint8_t head[LINK_HEAD_MAX], const struct addr *src, const struct addr *dst,
		    uint8_t proto, uint8_t ttl, uint8_t tos, bool df, uint32_t payload_len);

/* --- for the kinds --- */

/* Reads a header and a frame into l->rx. Returns the bytes, or -errno as link_read(). */
int link_read_bytes(struct link *l);
/* Sets what the frame's header says about offloads. */
void link_offloads(struct link_frame *f, const struct vnet_hdr *vh);
/* The header of a frame. large: it is sent as one, to be segmented later. */
struct vnet_hdr link_header(const struct link_tx *tx, bool large);
/* Checks, counts and captures a received frame, whose members are set from the header, or zero without one. 0 or -EBADMSG. */
int link_received(struct link *l, struct link_frame *f);
/* Writes a frame of len bytes, in iov behind the header of the kind, if it has one. False: it was not taken (counted). */
bool link_write(struct link *l, const struct iovec *iov, int iovcnt, uint32_t len);
/* Captures the frame as it was sent. */
void link_sent(struct link *l, const struct iovec *iov, int iovcnt, const struct link_tx *tx);
/* Sends tx as segments, each with send_one. False: one was not taken; those after it are not sent. */
bool link_send_segments(struct link *l, const struct link_tx *tx, bool (*send_one)(struct link *l, const struct link_tx *tx));

#endif
