/* The guest of a fuzz target: the frames that it sends, and what it knows from the answers. */
#ifndef PASTA_FUZZ_GUEST_H
#define PASTA_FUZZ_GUEST_H

#include "io/link.h"
#include "plane/plane.h"

#define SLOTS 8 /* connections of a script; odd ones are IPv6 */
#define GUEST_PORT 40000
#define REMOTE_PORT 80
#define GUEST_ISS 0xffffff00u /* so that sequence numbers wrap at once */

/* A connection as the guest's end knows it. */
struct slot {
	uint32_t snd_nxt, rcv_nxt;
	uint16_t window; /* as on the wire */
	uint16_t local_port, dest_port;
	struct addr remote;
	uint32_t acked, edge; /* what the core has acknowledged, and the end of its window */
	bool scaled;
};

struct guest {
	struct plane *plane;
	bool vnet_hdr;
	uint32_t header_bytes; /* before each frame */
	uint32_t mtu;
	struct slot slot[SLOTS];
	/* These apply to the next frame only. */
	struct vnet_hdr vnet;
	bool bad_checksum;
	uint32_t fragment_bytes; /* 0: not fragmented */
	uint32_t fragment_skip;  /* bit n: fragment n is left out */
};

extern struct guest guest;

extern const uint8_t GUEST_MAC[6], OUR_MAC[6];
extern const struct addr GUEST_ADDR[2], GATEWAY_ADDR[2], REMOTE_ADDR[2];

/* Starts a core in the simulated kernel. flags: PLANE_VNET_HDR and following. */
void guest_start(uint32_t flags, uint32_t mtu);
void guest_stop(void);
/* Runs the core until it waits. */
void guest_run(void);
/* Checks every flow; called when the core waits (check.c). */
void check_flows(void);

/* These send a frame. A segment's payload follows from its sequence numbers. */
void guest_segment(int slot, uint8_t flags, uint32_t sequence, uint32_t ack, uint32_t payload, bool syn_mss, int syn_wscale);
void guest_datagram(int slot, uint16_t port, uint32_t payload, uint8_t ttl, uint8_t tos);
void guest_echo(int slot, uint16_t id, uint32_t payload);

/* Takes note of a segment from the core that check.c has found valid. */
void guest_heard(bool v6, uint16_t dest_port, uint16_t local_port, const struct addr *remote, const uint8_t *tcp, uint32_t payload);

#endif
