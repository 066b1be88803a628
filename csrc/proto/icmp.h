/* ICMP echo: the guest's pings through ping sockets (icmp(7)), which need no privilege. */
#ifndef PASTA_PROTO_ICMP_H
#define PASTA_PROTO_ICMP_H

#include "core/flood_limit.h"
#include "core/flow.h"
#include "core/timer.h"
#include "io/gate.h"
#include "io/io.h"
#include "io/sock.h"

struct icmp {
	struct flow_table flows;
	struct timer_heap timers;
	struct sock_options sock;
	bool refused_logged; /* that the host allows no ping sockets */
	int64_t limit_logged_ms;
	struct flood_limit requests;
	int64_t rate_logged_ms;
};

/* 0 or -errno. limit: flows at most. */
int icmp_init(struct icmp *m, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key);
void icmp_free(struct icmp *m);
/* One packet from the guest. The caller has checked the addresses and the checksum. */
void icmp_from_guest(struct icmp *m, struct io *io, const struct ip_view *ip);
void icmp_event(struct icmp *m, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
void icmp_timers(struct icmp *m, struct io *io);
/* Ends the flows whose host sockets have one of these addresses. */
void icmp_end_bound(struct icmp *m, struct io *io, const struct addr_list *addrs);
/* The egress policy's rules have changed: ends the guest's flows that they deny. */
void icmp_judge_again(struct icmp *m, struct io *io, struct gate_again *counts);
event_describe icmp_describe;
static inline int64_t icmp_next_ms(const struct icmp *m)
{
	return timer_next_ms(&m->timers);
}

#endif
