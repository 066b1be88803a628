/* The guest's link: where its frames come from and go to. */
#ifndef PASTA_IO_LINK_H
#define PASTA_IO_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/counters.h"
#include "core/neighbour.h"
#include "wire/eth.h"
#include "wire/ip.h"

struct capture;

#define LINK_FRAME_MAX (ETH_HLEN + IP_MAX_BYTES)
#define LINK_HEAD_MAX 128 /* Ethernet, IP and transport header of a frame that we build */

/* struct virtio_net_hdr (virtio 1.2, 5.1.6), native byte order as the kernel's tap uses it by default. */
struct vnet_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

/* The same with what segments in a tunnel need: struct virtio_net_hdr_v1_hash_tunnel (linux/virtio_net.h). */
struct vnet_hdr_tunnel {
	struct vnet_hdr common;
	uint8_t unused[10];
	uint8_t outer_transport[2], inner_network[2]; /* offsets, the lower byte first */
};

#define VNET_NEEDS_CSUM 1
#define VNET_GSO_NONE 0
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_TUNNEL 0x60 /* the segments are inside a UDP tunnel, over IPv4 (0x20) or IPv6 */
#define VNET_GSO_ECN 0x80

struct link;
struct link_frame;
struct link_tx;

/* What a link is: chosen once, when it is made. */
struct link_kind {
	bool offloads; /* takes segments of up to 64 KiB, with checksums to be completed, at any MTU */
	int (*read)(struct link *l, struct link_frame *f);
	bool (*send)(struct link *l, const struct link_tx *tx);
};

/* A tap of ours, with a virtio-net header before each frame. */
extern const struct link_kind link_tap;
/* Any other descriptor with one frame per read and write. */
extern const struct link_kind link_datagram;

struct link {
	const struct link_kind *kind;
	int fd;
	bool uso;                          /* the tap takes segments of UDP */
	uint8_t header_bytes;              /* of the virtio-net header before each frame; 0: there is none */
	struct neighbour_table neighbours; /* learnt from the guest's frames */
	uint8_t our_mac[ETH_ALEN];
	struct counters *counters;
	struct capture *capture; /* NULL: none */
	uint8_t *rx;             /* one frame with its header; the only receive buffer there is */
};

/* A received frame, valid until the next link_read(). */
struct link_frame {
	uint8_t *data;
	uint32_t len;
	uint16_t gso_size; /* 0: not a segmentation offload frame */
	uint8_t gso_type;
	bool partial_checksum; /* the checksum in csum_start + csum_offset, of all that follows csum_start, was left to us */
	uint16_t csum_start, csum_offset;
	uint16_t inner; /* with VNET_GSO_TUNNEL: offset of the IP header inside the tunnel, before csum_start */
};

/* A frame to send. The transport checksum field holds the folded pseudo-header sum if csum_start is set. */
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

/* header_bytes: 0 for a datagram descriptor, the size of one of the structures above for a tap. */
int link_init(struct link *l, int fd, uint8_t header_bytes, bool uso, struct counters *counters);
void link_free(struct link *l);

/* 0; -EBADMSG for one that is no frame (counted); -EAGAIN when there is none; or another -errno when the link is gone. */
static inline int link_read(struct link *l, struct link_frame *frame)
{
	return l->kind->read(l, frame);
}

/* False if the link did not take the frame (counted). */
static inline bool link_send(struct link *l, const struct link_tx *tx)
{
	return l->kind->send(l, tx);
}

/* Computes a partial checksum, for a reader that needs the bytes complete. */
void link_complete_checksum(struct link_frame *frame);
/* Takes off the tags that say a priority and no VLAN, as many as there are. False: there is none, or the checksum was in it. */
bool link_untag(struct link_frame *frame);

/* Starts a frame in head: Ethernet to the guest, then IP. Returns the offset of the transport header. */
uint32_t link_begin(const struct link *l, uint8_t head[LINK_HEAD_MAX], const struct addr *src, const struct addr *dst,
		    uint8_t proto, uint8_t ttl, uint8_t tos, bool df, uint32_t payload_len);

/* --- for the kinds --- */

/* Reads a header and a frame into l->rx: bytes, or a -errno as link_read() has it. */
int link_read_bytes(struct link *l);
/* What all received frames are held to; the offloads come from the header, or are zero. 0 or -EBADMSG. */
int link_received(struct link *l, struct link_frame *f);
/* Writes a frame, with whatever the kind puts before it in iov[0]. */
bool link_write(struct link *l, const struct iovec *iov, int iovcnt, uint32_t len);
/* For the capture: the frame as it was sent. */
void link_sent(struct link *l, const struct iovec *iov, int iovcnt, const struct link_tx *tx);
/* Cuts tx into segments, each sent by send_one. */
bool link_send_segments(struct link *l, const struct link_tx *tx, bool (*send_one)(struct link *l, const struct link_tx *tx));

#endif
