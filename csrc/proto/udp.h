/* UDP: the guest's datagrams through host sockets, one per guest address and port (RFC 4787). */
#ifndef PASTA_PROTO_UDP_H
#define PASTA_PROTO_UDP_H

#include "core/flow.h"
#include "core/timer.h"
#include "io/io.h"
#include "io/sock.h"

struct udp {
	struct flow_table sockets; /* by guest endpoint and family of the host side; listening ones by their own port */
	struct flow_table flows;   /* by guest and remote endpoint, as the guest sees them */
	struct flow_table peers;   /* the same, by socket and host-side remote endpoint */
	struct timer_heap timers;
	struct sock_options sock;
	int64_t limit_logged_ms;
};

/* 0 or -errno. limit: flows at most. */
int udp_init(struct udp *u, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key);
void udp_free(struct udp *u);

/* One packet from the guest, addresses checked by the caller, checksum right. */
void udp_from_guest(struct udp *u, struct io *io, const struct ip_view *ip, const struct tap_frame *frame);
/* Forwards what arrives at fd, a bound socket with packet information switched on, to target. fd stays the caller's. */
int udp_listen(struct udp *u, struct io *io, int fd, const struct endpoint *target);
void udp_event(struct udp *u, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
void udp_timers(struct udp *u, struct io *io);
static inline int64_t udp_next_ms(const struct udp *u)
{
	return timer_next_ms(&u->timers);
}

#endif
