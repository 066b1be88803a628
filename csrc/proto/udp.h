/* UDP: the guest's datagrams through host sockets, one for each guest address and port (RFC 4787). */
#ifndef PASTA_PROTO_UDP_H
#define PASTA_PROTO_UDP_H

#include "core/flood_limit.h"
#include "core/dns_copies.h"
#include "core/flow.h"
#include "core/timer.h"
#include "io/datagram.h"
#include "io/gate.h"
#include "io/io.h"
#include "io/helper.h"
#include "io/sock.h"
#include "wire/ip.h"
#include "wire/udp.h"

/* A GSO batch has as many datagrams as Linux before 6.9 takes, and as many bytes as a packet of either family has room for. */
#define UDP_BATCH_SEGMENTS 64
#define UDP_BATCH_BYTES (IP_MAX_BYTES - IP6_HLEN - UDP_HLEN)

/* A GSO batch: datagrams of one flow that came one after the other, all but the last of one size. They travel in one system call or
 * frame. */
struct udp_gso_batch {
	uint32_t flow;  /* index; meaningless while count is 0 */
	uint32_t bytes; /* of payload, together */
	uint16_t size;  /* bytes of each but the last */
	uint8_t count;
	uint8_t ttl, tos;
};

struct udp {
	/* What each table is searched by:
	 * sockets: guest end and family of the host side; listening sockets by their guest port (udp.c).
	 * flows: guest end and destination.
	 * peers: socket and host peer.
	 * splices: listening socket, its client and the address that the client wrote to (udp_splice.c). */
	struct flow_table sockets;
	struct flow_table flows;
	struct flow_table peers;
	struct timer_heap timers;
	struct flow_table splices;
	struct timer_heap splice_timers;

	struct sock_options sock;
	struct helper *helper; /* NULL: there is none */
	bool splice;           /* clients on the host's loopback are spliced */
	bool lo_to_lo;         /* splicing goes to the guest's loopback, not to its own address */
	uint32_t listener_serial;

	int64_t limit_logged_ms;
	struct flood_limit new_flows;
	int64_t rate_logged_ms;

	/* Adaptive polling: udp_sock.c. */
	uint32_t polled[SCHED_POLLED_MAX]; /* indices of sockets */
	uint32_t polled_count;
	int64_t next_poll_us;

	/* GSO batches under way. to_host: to_host_ip is the first datagram's; its pointers are stale. to_guest: while count is 1,
	 * to_guest_one points to the datagram, in `batch`, and to_guest_data is meaningless. */
	struct udp_gso_batch to_host, to_guest;
	struct ip_view to_host_ip;
	uint8_t to_host_data[UDP_BATCH_BYTES];
	uint8_t to_guest_data[UDP_BATCH_BYTES];
	const uint8_t *to_guest_one;
	struct datagram_batch batch;

	struct dns_copies answers; /* of nameservers that the guest has asked */
};

/* 0 or -errno. limit: flows at most. */
int udp_init(struct udp *u, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key);
void udp_free(struct udp *u);

/* One packet from the guest. The caller has checked the addresses and the checksum. False: it is a DNS query for Python. */
bool udp_from_guest(struct udp *u, struct io *io, const struct ip_view *ip, const struct link_frame *frame);
/* Forwards what arrives at fd, a bound socket, to target: a guest end, or (to_host: fd is in the guest's namespace) the host's
 * loopback. fd stays the caller's. 0 or -errno. */
int udp_listen(struct udp *u, struct io *io, int fd, bool to_host, const struct endpoint *target);
/* Undoes udp_listen() and ends all flows through fd. 0, or -ENOENT: fd is not a listening socket here. */
int udp_unlisten(struct udp *u, struct io *io, int fd);
/* Sends the GSO batch to the host. Call it after the last packet of a batch of frames. */
void udp_flush(struct udp *u, struct io *io);
void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
/* An event of the socket of a spliced flow. */
void udp_splice_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation);
void udp_timers(struct udp *u, struct io *io);
/* Ends the flows that send from one of these addresses of the host. No GSO batch may be under way. */
void udp_end_bound(struct udp *u, struct io *io, const struct addr_list *addrs);
/* The egress policy's rules have changed: ends the guest's flows that they deny. */
void udp_judge_again(struct udp *u, struct io *io, struct gate_again *counts);
event_describe udp_describe, udp_splice_describe;
/* When to call udp_timers() for polled sockets. */
static inline int64_t udp_next_us(const struct udp *u)
{
	return u->polled_count ? u->next_poll_us : TIMER_NEVER;
}
static inline int64_t udp_next_ms(const struct udp *u)
{
	int64_t a = timer_next_ms(&u->timers), b = timer_next_ms(&u->splice_timers);

	return a < b ? a : b;
}

#endif
