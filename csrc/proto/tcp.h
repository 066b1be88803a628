/* TCP: the guest's connections, reflected into host sockets without a TCP stack. */
#ifndef PASTA_PROTO_TCP_H
#define PASTA_PROTO_TCP_H

#include "core/flood_limit.h"
#include "core/flow.h"
#include "core/steering.h"
#include "core/timer.h"
#include "io/gate.h"
#include "io/io.h"
#include "io/sock.h"

struct tcp_flow;

#define TCP_SERVED_MAX 8

/* Connections to port 53 that wait for Python: its end of each, and the guest's address. */
struct tcp_served {
	struct tcp_served_stream {
		int fd;
		struct addr guest;
	} at[TCP_SERVED_MAX];
	uint32_t count;
};

struct tcp {
	struct flow_table flows; /* of this shard */
	struct timer_heap timers;
	struct flow_steering steering; /* which flows are this shard's */
	struct siphash_key isn_key;
	struct sock_options sock;

	/* A flow is in at most one of connecting and run_queue: its run_entry is for both. */
	struct worklist work;       /* tcp_service() must look at them */
	struct worklist connecting; /* in CONNECTING; the one whose SYN is the oldest is first */
	struct run_queue run_queue; /* their sockets have more for the guest than one turn's share */

	/* With --rate-out: flows whose send backlog waits for the rate (tcp_rate.c). */
	struct worklist held;
	struct work *held_entries; /* of each flow, by its index; NULL without --rate-out */
	int64_t rate_ms;           /* when flows that wait for a rate go on; TIMER_NEVER: none waits */

	struct tcp_proof **proofs; /* what flows have named (tcp_verify.c), by their index; NULL before the first */

	bool peek_offset; /* SO_PEEK_OFF works on TCP sockets */
	uint8_t *discard; /* if it does not: where the bytes before the offset go */
	bool sack;        /* offer it: see the head of tcp_out_of_order.c */

	/* Send backlogs and out-of-order queues of all flows. */
	uint64_t backlog_bytes; /* allocated */
	uint64_t backlog_max_bytes;
	uint32_t ooo_queues;
	uint32_t ooo_queues_max;

	struct tcp_served served;

	/* Rate limits. */
	struct flood_limit new_flows;
	int64_t challenge_second;
	uint32_t challenges; /* sent within challenge_second */

	/* When each limit was last logged. */
	int64_t limit_logged_ms;
	int64_t backlog_logged_ms;
	int64_t rate_logged_ms;
};

/* 0 or -errno. limit: flows at most. peek_offset false: do without SO_PEEK_OFF even where the kernel has it. */
int tcp_init(struct tcp *t, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key, bool peek_offset);
void tcp_free(struct tcp *t);
/* Before the first flow: what the guest sends will have a limit, io->rate_out. 0 or -ENOMEM. */
int tcp_keep_rate(struct tcp *t);
/* Makes t the TCP of one shard: it takes only the flows of that shard, and its part of every limit. Call it before the first
 * flow. */
void tcp_share(struct tcp *t, const struct flow_steering *steering);

/* One packet from the guest. The caller has checked the addresses and the checksum. */
void tcp_from_guest(struct tcp *t, struct io *io, const struct ip_view *ip);
/* An event of a flow's socket. */
void tcp_event(struct tcp *t, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
/* The endpoints of a connection from host_peer, a client accepted on the host, to the guest end target; its port as the guest
 * sees it may still change. False: the guest cannot be shown that client. */
bool tcp_client_key(const struct io *io, const struct endpoint *host_peer, const struct endpoint *target, struct flow_key *key);
/* Takes over the socket of host_peer, a client accepted on the host, for the guest end target. */
void tcp_accepted(struct tcp *t, struct io *io, int fd, const struct endpoint *host_peer, const struct endpoint *target);
/* Counts and logs a connection that was refused. error: the errno of a system call, ENOMEM if no flow was made. */
void tcp_limit_reached(struct tcp *t, struct io *io, int error);
/* With state and details, which lists have. */
event_describe tcp_describe_open;
/* Does all that events and packets since the last call made necessary. True: call again without waiting. */
bool tcp_service(struct tcp *t, struct io *io);
void tcp_timers(struct tcp *t, struct io *io);
/* Ends the flows whose host sockets have one of these addresses, with a reset on both sides. */
void tcp_end_bound(struct tcp *t, struct io *io, const struct addr_list *addrs);
/* The egress policy's rules have changed: ends the guest's flows that they deny. */
void tcp_judge_again(struct tcp *t, struct io *io, struct gate_again *counts);
static inline int64_t tcp_next_ms(const struct tcp *t)
{
	int64_t ms = timer_next_ms(&t->timers);

	return ms < t->rate_ms ? ms : t->rate_ms;
}

#endif
