/* What the files of TCP share: tcp.c (beginning, end, timers), tcp_guest.c (segments of the guest), tcp_out_of_order.c (bytes
 * behind a hole), tcp_probe.c (keepalive probes), tcp_verify.c (names that a flow has to give), tcp_sock.c (the host socket),
 * tcp_segment.c (segments to the guest), tcp_rate.c (what waits for a rate), tcp_event.c (what readers learn of a flow). */
#ifndef PASTA_PROTO_TCP_PRIVATE_H
#define PASTA_PROTO_TCP_PRIVATE_H

#include "core/timeouts.h"
#include "proto/tcp.h"
#include "wire/tcp.h"

/* RFC 9293's states where they differ here. The flags say what has been closed. */
#define TCP_STATES(X) \
	X(CONNECTING)   /* the guest sent a SYN; connect() on the host is under way; the guest has no answer yet */ \
	X(SYN_RECEIVED) /* connect() succeeded; SYN-ACK sent; its ACK has not come yet */ \
	X(SYN_SENT)     /* a host client was accepted; SYN sent to the guest */ \
	X(ESTABLISHED)  /* data may flow; TCPF_ flags say in which directions it still does */

enum tcp_state {
#define TCP_STATE_ENUM(name) TCPS_##name,
	TCP_STATES(TCP_STATE_ENUM)
#undef TCP_STATE_ENUM
};

/* Guest to host: GUEST_FIN, then SOCK_SHUT. Host to guest: SOCK_EOF, then FIN_SENT, then FIN_ACKED. A flow ends when
 * SOCK_SHUT and FIN_ACKED are both set. */
enum {
	TCPF_PROBED = 1 << 0,        /* the guest's keepalive probe has no answer yet: tcp_probe.c */
	TCPF_ACK_NOW = 1 << 1,       /* the guest waits for an ACK */
	TCPF_READABLE = 1 << 2,      /* the socket may have bytes, an end or an error to read */
	TCPF_RDHUP = 1 << 3,         /* epoll has reported the end of the stream: read on after a short read */
	TCPF_GUEST_FIN = 1 << 4,     /* the guest's FIN is in sequence and counted in rcv_nxt */
	TCPF_SOCK_SHUT = 1 << 5,     /* shutdown(SHUT_WR) done: the socket took every byte before the FIN */
	TCPF_SOCK_EOF = 1 << 6,      /* the stream of the host peer ends at snd_nxt */
	TCPF_FIN_SENT = 1 << 7,      /* snd_nxt counts the FIN to the guest */
	TCPF_FIN_ACKED = 1 << 8,     /* the guest has acknowledged it */
	TCPF_OUT_ARMED = 1 << 9,     /* EPOLLOUT will come: the socket limits the window */
	TCPF_WINDOW_STALE = 1 << 10, /* rcv_edge must be computed again */
	TCPF_RECOVERY = 1 << 11,     /* holes before `recover` are being filled (RFC 6582) */
	TCPF_KEEPALIVE = 1 << 12,    /* the host socket is set up for keepalive probes */
	TCPF_WSCALE = 1 << 13,       /* both sides scale windows */
	TCPF_PROGRESS = 1 << 14,     /* the guest has acknowledged something: the retransmission timer starts anew */
	TCPF_URGENT = 1 << 15,       /* a mark of urgent data may stop reads early (tcp(7), "SO_OOBINLINE") */
};

/* Bytes of the guest that are acknowledged but not in the host socket yet: [from, from + len) of a buffer of `space` bytes. */
struct send_backlog {
	uint8_t *bytes;
	uint32_t from, len, space;
};

struct tcp_flow {
	struct flow flow;
	struct flow_account account;
	struct timer timer;
	struct work work;      /* in tcp.work */
	struct work run_entry; /* in tcp.run_queue; CONNECTING: in tcp.connecting */
	int fd;
	uint16_t flags; /* TCPF_ */
	uint8_t state;  /* enum tcp_state */
	uint8_t tos;    /* as set on the socket */

	/* Guest to host.
	 * rcv_nxt: all bytes before it are in the socket or the backlog.
	 * rcv_edge: right edge of the window. Bytes before it are taken. It never moves left.
	 * rcv_advertised: the edge that the guest heard last.
	 * rcv_computed: rcv_nxt when the window was last computed. */
	seq_t rcv_nxt;
	seq_t rcv_edge;
	seq_t rcv_advertised;
	seq_t rcv_computed;
	struct send_backlog backlog;
	union {
		struct ooo_queue *ooo;       /* NULL: there is no hole */
		struct handshake *handshake; /* CONNECTING, with a proxy or an inspector; else NULL */
	};

	/* Host to guest. Bytes from snd_una on are still in the socket's receive queue.
	 * wl1, wl2: sequence number and ACK of the last window update (RFC 9293, 3.8.6.1).
	 * recover: see TCPF_RECOVERY. */
	seq_t snd_una;
	seq_t snd_nxt;
	seq_t wl1, wl2;
	seq_t recover;
	uint32_t snd_wnd; /* bytes from snd_una */

	/* Low 32 bits of the clock. ESTABLISHED: since when the guest has had something to acknowledge; PROBED: when the host
	 * peer was probed; CONNECTING: when the guest last sent its SYN. */
	uint32_t waiting_ms;

	uint32_t acked_bytes; /* acknowledged by the guest, not dropped from the socket yet */
	uint32_t peek_offset; /* SO_PEEK_OFF as the kernel has it, or TCP_PEEK_OFF */
	uint16_t mss;         /* of segments to the guest */
	uint8_t snd_wscale;
	uint8_t dup_acks;
	uint8_t sent_in; /* period in which the guest last sent: sched_window_share() */
	bool sack;       /* both sides allow SACK (RFC 2018); used only for what the guest sends */
	bool served;     /* the socket is a UNIX socket, and Python has the other end */

	uint8_t tries;     /* timeouts since the guest last answered */
	uint8_t timeouts;  /* timeouts since waiting_ms, counted to TCP_TRIES_MAX */
	uint8_t verify;    /* what the guest has to name first: tcp_verify.c; 0: nothing, or it has */
	bool peer_is_dest; /* the host peer is key.dest: no address mapping, and no need to ask the kernel */
	bool detoured;     /* the host peer is an inspector or a proxy */
	int16_t error;     /* errno of the socket: reset the guest when it has all data */
	uint16_t rule;     /* of the egress policy, or FLOW_NO_RULE */
};

static inline void tcp_note_peer(struct tcp_flow *f, const struct endpoint *host_peer)
{
	f->peer_is_dest = addr_eq(&host_peer->addr, &f->flow.key.dest) && host_peer->port == f->flow.key.dest_port;
}

#define TCP_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)

/* --- window, send backlog, out-of-order queue --- */

#define TCP_WSCALE 8                        /* shift of the windows advertised to the guest */
#define TCP_BACKLOG_BYTES (128u << 10)      /* window beyond what the socket has room for */
#define TCP_BACKLOG_TOTAL_BYTES (64u << 20) /* of all flows; more is not acknowledged, so the guest sends it again */
#define TCP_OOO_QUEUES 128                  /* flows that have an out-of-order queue at the same time */

/* --- reading at an offset --- */

#define TCP_PEEK_OFF UINT32_MAX /* SO_PEEK_OFF is not switched on: peeks begin at the first byte */
#define TCP_DISCARD_BYTES 65536 /* of one iovec that stands for SO_PEEK_OFF where the kernel lacks it */
#define TCP_DISCARD_IOVECS 16

/* --- limits --- */

#define TCP_NEW_FLOWS_PER_S 2000 /* segments of no connection; those that lead to an established one do not count */
#define TCP_NEW_FLOWS_BURST 8192
#define TCP_FREE_FOR_OTHERS 8 /* connect()s under way leave one descriptor of this many to others */

/* --- timers ---
 *
 * The guest's kernel acknowledges within its delayed-ACK timer, 200 ms. Losses are repaired here only between us and the guest. */

/* Retransmission. */
#define TCP_SYN_RTO_MS 1000 /* RFC 6298, 2 */
#define TCP_SYN_TRIES_MAX 5
#define TCP_RTO_MS 500
#define TCP_RTO_MAX_MS 16000
#define TCP_TRIES_MAX 10 /* about two minutes */

/* A connect() under way. A guest that still wants it repeats its SYN after 1 s (RFC 6298, 2; older kernels 3 s), then after at most
 * twice the last interval (RFC 6298, 5.5). We give up after TCP_SYN_LATE_FACTOR intervals plus TCP_SYN_LATE_MS; a later SYN
 * begins anew. */
#define TCP_SYN_LATE_FACTOR 3
#define TCP_SYN_LATE_MS 2000
#define TCP_SYN_FRESH_MS 100 /* most networks answer within this time: a younger connect() is not displaced */

#define TCP_PROBE_MS 30000 /* between unanswered probes of an idle guest */

/* --- tcp.c --- */

/* NULL: no room, memory or epoll entry. */
struct tcp_flow *tcp_new_flow(struct tcp *t, struct io *io, const struct flow_key *key, int fd, enum tcp_state state);
void tcp_add_work(struct tcp *t, struct tcp_flow *f);
/* The guest has sent the SYN of a connect() that is under way, for the first time or again. */
void tcp_refresh_connect(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Ends the connect() whose SYN is the oldest. 0; -ENOENT: none is under way; -EAGAIN: its answer may still be on its way. */
int tcp_displace(struct tcp *t, struct io *io);
/* Ends the flow. abort: the host peer gets a reset. reason, error: for those who read events (core/event.h). */
void tcp_close(struct tcp *t, struct io *io, struct tcp_flow *f, bool abort, enum flow_reason reason, int error);
/* Resets both sides and ends the flow. */
void tcp_reset(struct tcp *t, struct io *io, struct tcp_flow *f, enum flow_reason reason, int error);
void tcp_arm_timer(struct tcp *t, struct io *io, struct tcp_flow *f);
/* The guest has acknowledged data or closed its window, or data is in flight for the first time: the user timeout starts anew. */
static inline void tcp_restart_wait(const struct io *io, struct tcp_flow *f)
{
	f->waiting_ms = (uint32_t)io->loop->now_ms;
	f->timeouts = 0;
}
#define TCP_FLOW_STR_BYTES 176
const char *tcp_flow_str(const struct io *io, const struct tcp_flow *f, char out[TCP_FLOW_STR_BYTES]);
static inline uint32_t tcp_in_flight(const struct tcp_flow *f)
{
	return seq_diff(f->snd_nxt, f->snd_una);
}

/* --- tcp_event.c --- */

event_describe tcp_describe;
/* The same for the egress policy, which judges where a flow leads: a proxy or inspector is not given as the host peer. */
event_describe tcp_describe_to_gate;

/* --- tcp_sock.c --- */

/* connect() succeeded: the guest gets its SYN-ACK. */
void tcp_connected(struct tcp *t, struct io *io, struct tcp_flow *f);
/* connect() failed: the guest gets a reset, an ICMP error, or nothing after a timeout. Ends the flow. */
void tcp_connect_failed(struct tcp *t, struct io *io, struct tcp_flow *f, int error);
/* The same for another reason. */
void tcp_fail_connect(struct tcp *t, struct io *io, struct tcp_flow *f, enum flow_reason reason, int error);
/* The egress policy denies it: the guest gets a reset. */
void tcp_connect_denied(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Gives in-sequence bytes of the guest to the socket, and what does not fit to the backlog. Returns how many bytes were taken. */
uint32_t tcp_deliver(struct tcp *t, struct io *io, struct tcp_flow *f, const uint8_t *bytes, uint32_t len);
/* The same for payload of the frame that was read last. */
uint32_t tcp_deliver_payload(struct tcp *t, struct io *io, struct tcp_flow *f, const uint8_t *bytes, uint32_t len);
void tcp_free_backlog(struct tcp *t, struct tcp_flow *f);
/* Does all that the flow needs now. frames: data frames to the guest at most. True: only that limit stopped it. The flow may be
 * gone afterwards. */
bool tcp_service_flow(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t frames);
void tcp_retransmit_one(struct tcp *t, struct io *io, struct tcp_flow *f);

/* Sends up to `most` bytes of the backlog. Returns how many it sent. */
uint32_t tcp_drain_backlog(struct tcp *t, struct tcp_flow *f, uint32_t most);

/* --- tcp_detour.c --- */

/* The connection goes to an inspector or a proxy. False: there is no memory. */
bool tcp_detour_begin(struct io *io, struct tcp_flow *f, const struct detour *detour);
/* It is there, or has said something, or takes more. The flow may be gone afterwards. */
void tcp_detour_reached(struct tcp *t, struct io *io, struct tcp_flow *f);
/* It cannot be reached. Ends the flow. */
void tcp_detour_failed(struct tcp *t, struct io *io, struct tcp_flow *f, int error);

/* --- tcp_rate.c --- */

/* Whether what the guest sends in this flow has a limit. */
static inline bool tcp_is_held(const struct io *io, const struct tcp_flow *f)
{
	return UNLIKELY(io->rate_out) && !f->served;
}
/* Of len new bytes of such a flow, how many may go to its socket now. */
uint32_t tcp_rate_room(struct tcp *t, struct io *io, uint32_t len);
/* The window beyond the backlog's bytes that such a flow has. */
uint32_t tcp_rate_window(const struct io *io);
/* The backlog waits for the rate. */
void tcp_wait_for_rate(struct tcp *t, struct tcp_flow *f);
void tcp_release(struct tcp *t, struct tcp_flow *f);
/* Gives the flows that wait their shares, in turn. */
void tcp_serve_held(struct tcp *t, struct io *io);
/* Notes when flows that wait for a rate go on; a run queue is held by io->rate_in. */
void tcp_note_rate(struct tcp *t, const struct io *io, bool queue_held);

/* --- tcp_out_of_order.c --- */

/* Queues bytes behind a hole if there is room. */
void tcp_ooo_add(struct tcp *t, struct io *io, struct tcp_flow *f, seq_t at, const uint8_t *bytes, uint32_t len);
/* Delivers what is in sequence now. Frees the queue when it is empty. */
void tcp_ooo_deliver(struct tcp *t, struct io *io, struct tcp_flow *f);
/* The ranges for a SACK option; returns their count. */
uint32_t tcp_ooo_ranges(const struct tcp_flow *f, struct tcp_range out[TCP_SACK_RANGES_MAX]);
void tcp_ooo_free(struct tcp *t, struct tcp_flow *f);

/* --- tcp_probe.c --- */

/* The guest has sent a keepalive probe. */
void tcp_probed(struct tcp *t, struct io *io, struct tcp_flow *f);
/* While the guest's probe has no answer: answers it if the host peer has shown life. */
void tcp_check_host_peer(struct io *io, struct tcp_flow *f);
/* Time until the next check, ms. */
int64_t tcp_check_interval_ms(const struct io *io, const struct tcp_flow *f);

/* --- tcp_verify.c --- */

/* While it must name a name first. False: nothing passes yet, or the flow is gone. */
bool tcp_verify(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Time is up. */
void tcp_verify_late(struct tcp *t, struct io *io, struct tcp_flow *f);
/* The rules have changed: whether the flow may stay. */
bool tcp_verify_keeps(struct tcp *t, struct io *io, struct tcp_flow *f, struct gate_again *counts);
/* The flow ends. */
void tcp_forget_proof(struct tcp *t, const struct tcp_flow *f);
#define TCP_VERIFY_BYTES (32u << 10) /* the name is in these, or the flow ends */
#define TCP_VERIFY_MS 5000
/* Also in tcp_flow.verify: the time for it has begun. */
#define TCP_VERIFY_TIMED 1

/* --- tcp_segment.c --- */

void tcp_send(struct io *io, struct tcp_flow *f, uint8_t flags, seq_t sequence, const uint8_t *payload, uint32_t len);
void tcp_send_syn(struct io *io, struct tcp_flow *f);
/* The reply of RFC 9293, 3.10.7.1 to a segment of no connection. */
void tcp_send_rst_reply(struct io *io, const struct ip_view *ip, const struct tcp_view *seg);
/* A challenge ACK (RFC 5961), within its rate limit. */
void tcp_challenge(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Computes the window again. True: it has grown enough to advertise it at once. */
bool tcp_update_window(struct tcp *t, struct io *io, struct tcp_flow *f);

#endif
