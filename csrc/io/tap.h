/* The guest's link: a descriptor that carries one frame per read and write, with or without a virtio-net header. */
#ifndef PASTA_IO_TAP_H
#define PASTA_IO_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/counters.h"
#include "core/neighbour.h"
#include "wire/eth.h"
#include "wire/ip.h"

struct capture;

#define TAP_FRAME_MAX (ETH_HLEN + IP_MAX_BYTES)
#define TAP_HEAD_MAX 128 /* Ethernet, IP and transport header of a frame that we build */

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

struct tap {
	int fd;
	bool uso;
	uint8_t header_bytes;	  /* of the header that comes before each frame; 0: there is none */
	struct neighbour_table neighbours; /* learnt from the guest's frames */
	uint8_t our_mac[ETH_ALEN];
	struct counters *counters;
	struct capture *capture; /* NULL: none */
	uint8_t *rx;		 /* one frame with its header; the only receive buffer there is */
};

/* A received frame, valid until the next tap_read(). */
struct tap_frame {
	uint8_t *data;
	uint32_t len;
	uint16_t gso_size; /* 0: not a segmentation offload frame */
	uint8_t gso_type;
	bool partial_checksum; /* the checksum in csum_start + csum_offset, of all that follows csum_start, was left to us */
	uint16_t csum_start, csum_offset;
	uint16_t inner; /* with VNET_GSO_TUNNEL: offset of the IP header inside the tunnel, before csum_start */
};

/* A frame to send. The transport checksum field holds the folded pseudo-header sum if csum_start is set. */
struct tap_tx {
	uint8_t *head;
	uint32_t head_len;
	const uint8_t *body;
	uint32_t body_len;
	uint16_t csum_start; /* offset of the transport header; 0: the checksum is complete */
	uint16_t csum_offset;
	uint16_t gso_size; /* payload bytes per segment; 0: one segment */
	uint8_t gso_type;
};

/* header_bytes: 0, or the size of one of the structures above. */
int tap_init(struct tap *t, int fd, uint8_t header_bytes, bool uso, struct counters *counters);
void tap_free(struct tap *t);

/* 0; -EBADMSG for one that is no frame (counted); -EAGAIN when there is none; or another -errno when the tap is gone. */
int tap_read(struct tap *t, struct tap_frame *frame);
/* Computes a partial checksum, for whoever needs the bytes complete. */
void tap_complete_checksum(struct tap_frame *frame);
/* Takes off the tags that say a priority and no VLAN, as many as there are. False: there is none, or the checksum was in it. */
bool tap_untag(struct tap_frame *frame);
/* False if the tap did not take the frame (counted). Without offloads, segments and checksums itself. */
bool tap_send(struct tap *t, const struct tap_tx *tx);

/* Starts a frame in head: Ethernet to the guest, then IP. Returns the offset of the transport header. */
uint32_t tap_begin(const struct tap *t, uint8_t head[TAP_HEAD_MAX], const struct addr *src, const struct addr *dst,
		   uint8_t proto, uint8_t ttl, uint8_t tos, bool df, uint32_t payload_len);

#endif
