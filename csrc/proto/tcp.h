/* TCP: the guest's connections, reflected into host sockets without a stack of our own. */
#ifndef PASTA_PROTO_TCP_H
#define PASTA_PROTO_TCP_H

#include "core/bucket.h"
#include "core/flow.h"
#include "core/steering.h"
#include "core/timer.h"
#include "io/io.h"
#include "io/sock.h"

struct tcp_flow;

struct tcp {
	struct flow_table flows;
	struct timer_heap timers;
	struct flow_steering steering; /* of all there are, those are here */
	struct siphash_key isn_key;
	struct sock_options sock;
	struct worklist work;       /* flows that tcp_service() has to look at */
	struct worklist connecting; /* flows in CONNECTING, by the guest's last SYN, the oldest first */
	struct run_queue run_queue; /* of these, whose socket has more for the guest than one turn's share */
	bool peek_offset;           /* SO_PEEK_OFF works on TCP sockets */
	bool sack;                  /* is offered; the head of tcp_out_of_order.c says when */
	uint8_t *discard;           /* where bytes before the offset go without it */
	uint64_t backlog_bytes;     /* allocated for the spills of all flows */
	uint64_t backlog_max_bytes;
	int64_t challenge_second;
	uint32_t challenges;       /* sent within challenge_second */
	int64_t limit_logged_ms;   /* when a limit was last written to the log */
	int64_t backlog_logged_ms; /* the same for that of the spills */
	uint32_t ooo_queues;       /* flows that keep bytes behind a hole */
	uint32_t ooo_queues_max;
	struct bucket new_flows;
	int64_t rate_logged_ms;
};

/* 0 or -errno. limit: flows at most. peek_offset false: do without SO_PEEK_OFF even where the kernel has it. */
int tcp_init(struct tcp *t, uint32_t limit, const struct sock_options *sock, const struct siphash_key *key, bool peek_offset);
void tcp_free(struct tcp *t);
/* One of o->shards that have the flows among them: takes only its own, and has its share of every limit. Before the first flow. */
void tcp_share(struct tcp *t, const struct flow_steering *o);

/* One packet from the guest, addresses checked by the caller, checksum right. */
void tcp_from_guest(struct tcp *t, struct io *io, const struct ip_view *ip);
/* An event of a flow's socket. */
void tcp_event(struct tcp *t, struct io *io, uint32_t index, uint32_t generation, uint32_t events);
/* The endpoints of a connection with a client that was accepted on the host, unless others have them already; false: the guest
 * cannot be shown it. */
bool tcp_client_key(const struct io *io, const struct endpoint *peer, const struct endpoint *target, struct flow_key *key);
/* Takes over the socket of a client that was accepted on the host, for the guest's endpoint target. */
void tcp_accepted(struct tcp *t, struct io *io, int fd, const struct endpoint *peer, const struct endpoint *target);
/* Counts and logs that a connection was not taken: no flow, or the errno of a system call. */
void tcp_limit_reached(struct tcp *t, struct io *io, int error);
/* Everything that events and packets since the last call made necessary. True: call again without waiting. */
bool tcp_service(struct tcp *t, struct io *io);
void tcp_timers(struct tcp *t, struct io *io);
static inline int64_t tcp_next_ms(const struct tcp *t)
{
	return timer_next_ms(&t->timers);
}

#endif
