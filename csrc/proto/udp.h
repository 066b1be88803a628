/* UDP: the guest's datagrams through host sockets, one per guest address and port (RFC 4787). */
#ifndef PASTA_PROTO_UDP_H
#define PASTA_PROTO_UDP_H

#include "core/bucket.h"
#include "core/flow.h"
#include "core/timer.h"
#include "io/datagram.h"
#include "io/io.h"
#include "io/helper.h"
#include "io/sock.h"
#include "wire/ip.h"
#include "wire/udp.h"

/* At most as many datagrams as Linux before 6.9 takes in one segmentation offload, at most as many bytes as one packet of
 * either family has room for. */
#define UDP_BATCH_SEGMENTS 64
#define UDP_BATCH_BYTES (IP_MAX_BYTES - IP6_HLEN - UDP_HLEN)

/* Datagrams of one flow that came one after the other, all but the last of one size: they travel in one system call. */
struct udp_gso_batch {
	uint32_t flow;  /* index; meaningless while count is 0 */
	uint32_t bytes; /* of payload, together */
	uint16_t size;  /* bytes of each but the last */
	uint8_t count;
	uint8_t ttl, tos;
};

struct udp {
	struct flow_table sockets; /* by guest endpoint and family of the host side; listening ones by their own port */
	struct flow_table flows;   /* by guest and remote endpoint, as the guest sees them */
	struct flow_table peers;   /* the same, by socket and host-side remote endpoint */
	struct timer_heap timers;
	struct flow_table splices; /* the splice: by listening socket and peer */
	struct timer_heap splice_timers;
	struct sock_options sock;
	struct helper *helper; /* NULL: no sockets of the guest's namespace are to be had */
	bool splice;           /* for peers on the host's loopback */
	bool lo_to_lo;         /* splicing goes to the guest's loopback, not to its own address */
	int64_t limit_logged_ms;
	struct bucket new_flows;
	int64_t rate_logged_ms;
	uint32_t listener_serial;
	uint32_t polled[SCHED_POLLED_MAX]; /* indices of sockets that are looked at from time to time: udp_sock.c */
	uint32_t polled_count;
	int64_t next_poll_us; /* when next */
	struct udp_gso_batch to_host, to_guest;
	struct ip_view to_host_ip; /* of the first datagram; its pointers are stale */
	uint8_t to_host_data[UDP_BATCH_BYTES];
	uint8_t to_guest_data[UDP_BATCH_BYTES]; /* meaningless while the run is one datagram: that one is in `batch` */
	const uint8_t *to_guest_one;
	struct datagram_batch batch;
};

/* 0 or -errno. limit: flows at most. */
int udp_init(struct udp *u, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key);
void udp_free(struct udp *u);

/* One packet from the guest, addresses checked by the caller, checksum right. */
void udp_from_guest(struct udp *u, struct io *io, const struct ip_view *ip, const struct link_frame *frame);
/* Forwards what arrives at fd, a bound socket, to target: in the guest, or (to_host: a socket of the guest's namespace) on the
 * host's loopback. fd stays the caller's. */
int udp_listen(struct udp *u, struct io *io, int fd, bool to_host, const struct endpoint *target);
/* Ends that, and every flow through it. -ENOENT: fd is not listened at. */
int udp_unlisten(struct udp *u, struct io *io, int fd);
/* Sends what udp_from_guest() has held back to send it together with what follows: after the last packet of a batch. */
void udp_flush(struct udp *u, struct io *io);
void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
/* An event of a socket of splicing. */
void udp_splice_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation);
void udp_timers(struct udp *u, struct io *io);
/* When udp_timers() has to be called for sockets that are not waited for. */
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
