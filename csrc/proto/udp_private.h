/* What the files of UDP share: udp.c (flows and sockets), udp_guest.c (datagrams of the guest), udp_sock.c (datagrams and
 * errors from host sockets), udp_splice.c (spliced flows). */
#ifndef PASTA_PROTO_UDP_PRIVATE_H
#define PASTA_PROTO_UDP_PRIVATE_H

#include "core/timeouts.h"
#include "io/datagram.h"
#include "proto/udp.h"

/* A host socket. key.guest and key.guest_port: the guest end that has the socket, unless it is a listening one. udp.c makes the
 * keys. */
struct udp_socket {
	struct flow flow;
	int fd;
	uint32_t users;         /* flows; a socket that is not listening closes with the last one */
	uint32_t groups;        /* flows of these to groups; while there are some, the socket takes datagrams from any sender */
	int64_t asked_ms;       /* when the guest last wrote to a group */
	struct sched_rate rate; /* of datagrams */
	struct endpoint target; /* of a listening socket */
	uint8_t discover[2];    /* IP_MTU_DISCOVER, IPV6_MTU_DISCOVER as set, or DATAGRAM_DISCOVER_UNKNOWN */
	bool listening;
	bool to_host; /* it is in the guest's namespace */
	bool v6;      /* AF_INET6: sends to v4-mapped addresses for IPv4 peers */
	bool polled;  /* in udp.polled; epoll does not watch it */
	bool many;    /* udp_expect_many() was called */
};

/* The kind of a flow's destination. A group answers from its members' own addresses, and no ICMP error answers it (RFC 1122,
 * 3.2.2). */
enum udp_group { UDP_UNICAST, UDP_MULTICAST, UDP_BROADCAST };

/* key: guest end and destination. */
struct udp_flow {
	struct flow flow;
	struct flow_account account;
	struct timer timer;
	struct endpoint host_peer;
	struct addr local;      /* the host's address that the host peer wrote to; none: the kernel chooses */
	uint32_t scope;         /* interface that the host peer is behind; 0: not known */
	uint32_t socket;        /* index in udp.sockets */
	uint32_t peer;          /* index in udp.peers */
	uint8_t sent, received; /* datagrams from and to the guest, counted to 2 */
	bool guest_last;        /* the last datagram came from the guest */
	uint8_t group;          /* enum udp_group */
	uint16_t rule;          /* of the egress policy, or FLOW_NO_RULE */
	bool member;            /* of a group that the guest wrote to: it may answer, but the guest has not written to it */
};

/* A host peer of a socket, in udp.peers. */
struct udp_peer {
	struct flow flow;
	uint32_t index; /* of the udp_flow that takes what the peer sends; FLOW_NONE until the guest writes again */
	uint32_t users; /* flows; more than one if the guest knows two addresses of the peer */
};

#define UDP_PORT_DNS 53 /* RFC 1035, 4.2.1 */

/* Bytes of IP packets with this payload; gso_size: of each datagram but the last, 0: there is one. */
static inline uint32_t udp_wire_bytes(const struct udp_flow *f, uint32_t payload_bytes, uint32_t gso_size)
{
	return payload_bytes +
	       account_datagrams(payload_bytes, gso_size) * (UDP_HLEN + ip_header_bytes(addr_is_v4(&f->host_peer.addr)));
}

/* Whether it is between a resolver and a nameserver. */
static inline bool udp_is_query(const struct udp_flow *f)
{
	return f->flow.key.dest_port == UDP_PORT_DNS;
}

/* --- udp.c --- */

/* Counts what was refused, and logs it now and then. error: errno, or 0 for the limit of flows. */
void udp_limit_reached(struct udp *u, struct io *io, int error);
/* The socket from which the guest end reaches host_peer. NULL: a limit was reached; it is counted and logged. */
struct udp_socket *udp_open_socket(struct udp *u, struct io *io, const struct endpoint *guest, const struct addr *host_peer);
/* NULL as above. Then a socket without flows is closed. from_host: the host peer has written first. */
struct udp_flow *udp_add_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct flow_key *key,
			      const struct endpoint *host_peer, bool from_host, uint16_t rule);
/* Tells those who read events that no flow was made. error: errno, or 0 for one of our limits. */
static inline void udp_report_refused(struct io *io, const struct flow_key *key, const struct endpoint *host_peer,
				      enum flow_reason reason, int error)
{
	event_refused(io->events, io->loop->now_ms, FLOW_UDP, key, host_peer, reason, error, FLOW_NO_RULE, true);
}
/* The flow that takes what this host peer sends to this socket, or NULL. */
struct udp_flow *udp_find_peer(const struct udp *u, const struct udp_socket *s, const struct endpoint *host_peer);
/* From now on f takes what its host peer sends: two flows may have one host peer. */
void udp_claim_peer(const struct udp *u, const struct udp_flow *f);
/* Closes the socket if it has no flows and is not listening. */
void udp_release_socket(struct udp *u, struct io *io, struct udp_socket *s);
/* A datagram has passed: the timeout starts anew. */
void udp_touch(struct udp *u, struct io *io, struct udp_flow *f);
static inline struct udp_socket *udp_socket_of(const struct udp *u, const struct udp_flow *f)
{
	return (struct udp_socket *)flow_at(&u->sockets, f->socket);
}

/* Whether the GSO batch b can take the datagram `next`, which came right after it. */
bool udp_batch_takes(const struct udp_gso_batch *b, const struct udp_gso_batch *next);
/* Adds it. True: the batch is complete. */
bool udp_batch_add(struct udp_gso_batch *b, const struct udp_gso_batch *next);

/* A datagram comes from the guest, or goes to it. If the two take turns, one of them waits for the next datagram. A flood has no
 * turns. */
static inline void udp_note_direction(struct io *io, struct udp_flow *f, bool from_guest)
{
	if (f->received && f->guest_last != from_guest)
		sched_note_short(&io->sched, io->loop->now_ms);
	f->guest_last = from_guest;
}

/* Prepares the socket for datagrams that come in bursts, if it is not prepared yet. Most sockets carry a question and its answer, or
 * a few datagrams a second, and never need that. */
void udp_expect_many(struct udp_socket *s);

/* --- udp_sock.c --- */

/* A datagram that the kernel has just refused. The kernel's own error names neither its port nor its data. */
struct udp_refused {
	const struct udp_flow *flow;
	const struct udp_view *datagram;
};
/* Reads the socket's error queue and passes the errors on as ICMP. refused: or NULL. */
void udp_read_errors(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_refused *refused);

/* Has epoll watch the socket. 0 or -errno. */
int udp_watch(struct io *io, const struct udp_socket *s);
/* Takes the socket off the polled ones, if it is one of them. */
void udp_stop_polling(struct udp *u, struct udp_socket *s);
/* Reads the polled sockets if it is time. */
void udp_poll(struct udp *u, struct io *io);

/* --- udp_guest.c --- */

/* The address `to` in the family of the socket. scope: interface of a link-local address, 0: not known. Returns the length. */
socklen_t udp_peer_address(const struct udp *u, const struct udp_socket *s, const struct endpoint *to, uint32_t scope,
			   struct sockaddr_storage *ss);
/* Says where a datagram is sent from: source, unspecified if the kernel chooses, and an interface or 0. */
void udp_add_source(struct msghdr *msg, const struct udp_socket *s, const struct addr *source, uint32_t ifindex);

/* --- udp_splice.c --- */

int udp_splice_init(struct udp *u, uint32_t limit, const struct siphash_key *key);
void udp_splice_free(struct udp *u);
/* Whether what this client writes to a listening socket is spliced. */
bool udp_is_spliced(const struct udp *u, const struct udp_socket *s, const struct endpoint *client);
/* Forwards a datagram of a spliced client to the other namespace. */
void udp_splice_forward(struct udp *u, struct io *io, const struct udp_socket *s, const struct datagram *d);
/* Ends all spliced flows of a listening socket, given by its index: the port is gone. */
void udp_splice_forget(struct udp *u, struct io *io, uint32_t socket);
void udp_splice_timers(struct udp *u, struct io *io);
/* The egress policy's rules have changed: ends the guest's flows that they deny. */
void udp_splice_judge_again(struct udp *u, struct io *io, struct gate_again *counts);

#endif
