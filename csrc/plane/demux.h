/* What happens to a frame of the guest: a protocol takes it, or the caller gets a verdict. */
#ifndef PASTA_PLANE_DEMUX_H
#define PASTA_PLANE_DEMUX_H

#include "core/reassembly.h"
#include "proto/icmp.h"
#include "proto/tcp.h"
#include "proto/udp.h"

enum demux_verdict {
	DEMUX_TAKEN,       /* a protocol has taken it, or it waits for more fragments */
	DEMUX_DROPPED,     /* and counted */
	DEMUX_SLOW_PATH,   /* demux.frame is for Python, its checksum complete */
	DEMUX_WAITS,       /* for a name that is asked again; demux.frame is the frame */
	DEMUX_DNS,         /* likewise; it ends with the datagram, whose UDP header is at demux.udp_at */
	DEMUX_OTHER_SHARD, /* demux.frame is for demux.to_shard */
};

/* Bits of demux.learned: what a frame has shown about the guest's link. The caller clears them. */
#define DEMUX_LEARNED_MAC 1       /* the guest sends from another MAC address */
#define DEMUX_LEARNED_NEIGHBOUR 2 /* demux.source has another MAC address */
#define DEMUX_LEARNED_ADDRESS 4   /* the guest uses demux.source: inbound connections go there */

struct demux {
	uint32_t flags; /* PLANE_IPV4 and following */
	uint32_t self;  /* index of this shard */
	struct addr gateway4;
	struct io *io;
	struct address_mapping *mapping;
	struct tcp *tcp;
	struct udp *udp;
	struct icmp *icmp;
	struct reassembly reassembly;

	uint32_t learned; /* DEMUX_LEARNED_ bits */
	struct addr source;
	/* Set with DEMUX_SLOW_PATH and DEMUX_OTHER_SHARD; valid until the next frame is read. */
	struct link_frame frame;
	bool reassembled; /* from fragments */
	bool is_tcp;
	uint32_t to_shard;
	uint32_t udp_at;
};

/* One frame as read from the tap. */
enum demux_verdict demux_frame(struct demux *d, struct link_frame *frame);
/* A packet that another shard has put together from fragments. */
enum demux_verdict demux_reassembled(struct demux *d, struct link_frame *frame);

#endif
