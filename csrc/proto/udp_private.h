/* What the four files of UDP share: udp.c (flows), udp_guest.c (from the guest), udp_sock.c (from host sockets), udp_splice.c
 * (splicing). */
#ifndef PASTA_PROTO_UDP_PRIVATE_H
#define PASTA_PROTO_UDP_PRIVATE_H

#include "io/datagram.h"
#include "proto/udp.h"

/* A host socket. key.guest and guest_port: whose it is; key.dest_port: 4 or 6, the family on the host side. Listening
 * sockets have no guest; key.dest_port is LISTENER_V4 and following, or LISTENER_BOUND with a serial number in key.dest. */
#define LISTENER_BOUND 0 /* to an address or a device */
#define LISTENER_V4 4    /* any address */
#define LISTENER_V6 6
#define LISTENER_DUAL 10

struct udp_socket {
	struct flow flow;
	int fd;
	uint32_t users;  /* flows; a socket that is not listening goes with the last one */
	uint32_t groups; /* of these, to groups: as long as there is one, what anybody sends to the socket is taken */
	struct sched_rate rate;
	struct endpoint target; /* of a listening one */
	uint8_t discover[2];    /* IP_MTU_DISCOVER, IPV6_MTU_DISCOVER as set; 255: not set yet */
	bool listening;
	bool to_host; /* it is in the guest's namespace */
	bool v6;      /* AF_INET6: sends v4-mapped addresses to IPv4 peers */
	bool polled;  /* in udp.polled, and not waited for */
	struct sched_batching batching;
};

/* Whom a flow is to. A group answers with its members' own addresses, and no ICMP error answers it (RFC 1122, 3.2.2). */
enum udp_group { UDP_UNICAST, UDP_MULTICAST, UDP_BROADCAST };

/* A conversation. key: as the guest sees it. */
struct udp_flow {
	struct flow flow;
	struct timer timer;
	struct endpoint host_peer;
	struct addr local;      /* which of our addresses the peer has written to; none: left to the kernel */
	uint32_t scope;         /* interface that the peer is behind; 0: not known */
	uint32_t socket;        /* index in udp.sockets */
	uint32_t peer;          /* index in udp.peers */
	uint8_t sent, received; /* datagrams from and to the guest, counted to 2 */
	bool guest_last;        /* the last one came from the guest */
	uint8_t group;          /* enum udp_group */
};

/* The entry of a flow in udp.peers: key.guest_port is the socket's index. */
struct udp_peer {
	struct flow flow;
	uint32_t index; /* of the udp_flow that takes what the peer sends; FLOW_NONE until one writes again */
	uint32_t users; /* flows; more than one where the guest has two names for the peer */
};

/* RFC 4787, 4.3 asks for two minutes at least, RFC 5452 lets a DNS client have a port per query. */
#define UDP_TIMEOUT_MS 120000
#define UDP_STREAM_TIMEOUT_MS 300000
#define UDP_DNS_TIMEOUT_MS 10000

/* udp.c */
/* Counts, and logs at times, what was refused; error: errno, or 0 for the limit of flows. */
void udp_limit_reached(struct udp *u, struct io *io, int error);
struct udp_socket *udp_open_socket(struct udp *u, struct io *io, const struct endpoint *guest, const struct addr *remote);
/* Both fail with NULL at a limit, which is counted and logged. A socket without flows is closed. */
struct udp_flow *udp_add_flow(struct udp *u, struct io *io, struct udp_socket *s, const struct flow_key *key,
			      const struct endpoint *remote);
/* How a peer of a socket is found: in udp.peers by its address (asked: none), in udp.splices also by ours. */
struct flow_key udp_peer_key(const struct udp_socket *s, const struct endpoint *remote, const struct addr *asked);
struct udp_flow *udp_find_peer(const struct udp *u, const struct udp_socket *s, const struct endpoint *remote);
/* What the peer sends is for this flow now, where two flows have one peer. */
void udp_claim_peer(const struct udp *u, const struct udp_flow *f);
void udp_release_socket(struct udp *u, struct io *io, struct udp_socket *s);
void udp_touch(struct udp *u, struct io *io, struct udp_flow *f);
static inline struct udp_socket *udp_socket_of(const struct udp *u, const struct udp_flow *f)
{
	return (struct udp_socket *)flow_at(&u->sockets, f->socket);
}

/* Whether a run of one datagram may be added to another, whose data it follows. */
bool udp_batch_takes(const struct udp_gso_batch *r, const struct udp_gso_batch *next);
/* Adds it; true: nothing can follow. */
bool udp_batch_add(struct udp_gso_batch *r, const struct udp_gso_batch *next);

/* A datagram comes from the guest, or goes to it. Where the two take turns, somebody waits for the next: a flood is no conversation. */
static inline void udp_turn(struct io *io, struct udp_flow *f, bool from_guest)
{
	if (f->received && f->guest_last != from_guest)
		sched_note_short(&io->sched, io->loop->now_ms);
	f->guest_last = from_guest;
}

/* udp_sock.c */
/* A datagram that the kernel itself has just refused: its errors name neither the port nor the data. */
struct udp_refused {
	const struct udp_flow *flow;
	const struct udp_view *datagram;
};
/* Reads errors that have come back and passes them on as ICMP. refused: NULL if there is none. */
void udp_read_errors(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_refused *refused);

/* What comes to the socket is an event from now on. 0 or -errno. */
int udp_watch(struct io *io, const struct udp_socket *s);
/* No longer to be looked at from time to time: the socket goes. */
void udp_stop_polling(struct udp *u, struct udp_socket *s);
void udp_poll(struct udp *u, struct io *io);

/* udp_guest.c */
/* The socket address of a peer in the family of the socket; scope: of a link-local one, 0 if not known. */
socklen_t udp_peer_address(const struct udp *u, const struct udp_socket *s, const struct endpoint *to, uint32_t scope,
			   struct sockaddr_storage *ss);
/* Where a datagram has to come from: an address, unspecified if that is the kernel's choice, and an interface, or 0. */
void udp_add_source(struct msghdr *msg, const struct udp_socket *s, const struct addr *local, uint32_t ifindex);

/* udp_splice.c */
int udp_splice_init(struct udp *u, uint32_t limit, const struct siphash_key *key);
void udp_splice_free(struct udp *u);
/* Whether what this peer writes to a listening socket takes splicing. */
bool udp_is_spliced(const struct udp *u, const struct udp_socket *s, const struct endpoint *peer);
/* A datagram from a local peer, to the other side. */
void udp_splice_forward(struct udp *u, struct io *io, const struct udp_socket *s, const struct datagram *d);
void udp_splice_forget(struct udp *u, struct io *io, uint32_t socket);
void udp_splice_timers(struct udp *u, struct io *io);

#endif
