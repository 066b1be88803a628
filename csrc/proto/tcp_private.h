/* What the files of TCP share: tcp.c (states, timers), tcp_guest.c, tcp_out_of_order.c, tcp_probe.c, tcp_sock.c, tcp_segment.c. */
#ifndef PASTA_PROTO_TCP_PRIVATE_H
#define PASTA_PROTO_TCP_PRIVATE_H

#include "proto/tcp.h"
#include "wire/tcp.h"

/* RFC 9293's states, as far as they differ here; what has been closed is in the flags. */
#define TCP_STATES(X) \
	X(CONNECTING)   /* guest's SYN came; the host's connect() is under way; nothing sent yet */ \
	X(SYN_RECEIVED) /* connect() succeeded; SYN-ACK sent, its ACK not yet come */ \
	X(SYN_SENT)     /* a host client was accepted; SYN sent to the guest */ \
	X(ESTABLISHED)  /* data may flow; TCPF_ flags say which directions still do */

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
	TCPF_READABLE = 1 << 2,      /* the socket may have bytes, an end or an error for us */
	TCPF_RDHUP = 1 << 3,         /* epoll has reported the end: a short read is not the last word */
	TCPF_GUEST_FIN = 1 << 4,     /* the guest's FIN is in sequence and counted in rcv_nxt */
	TCPF_SOCK_SHUT = 1 << 5,     /* shutdown(SHUT_WR) done: every byte before the FIN was taken */
	TCPF_SOCK_EOF = 1 << 6,      /* the socket has nothing beyond snd_nxt, and never will */
	TCPF_FIN_SENT = 1 << 7,      /* snd_nxt counts our FIN */
	TCPF_FIN_ACKED = 1 << 8,     /* and the guest has it */
	TCPF_OUT_ARMED = 1 << 9,     /* EPOLLOUT will come: the window is limited by the socket */
	TCPF_WINDOW_STALE = 1 << 10, /* rcv_edge has to be computed again */
	TCPF_RECOVERY = 1 << 11,     /* a hole before `recover` is being filled (RFC 6582) */
	TCPF_KEEPALIVE = 1 << 12,    /* the host socket is ready to send probes of the guest's */
	TCPF_WSCALE = 1 << 13,       /* both sides scale windows */
	TCPF_PROGRESS = 1 << 14,     /* the guest has acknowledged something: the retransmission timer starts anew */
	TCPF_URGENT = 1 << 15,       /* a mark of urgent data may cut reads short (tcp(7), "SO_OOBINLINE") */
};

struct send_backlog {
	uint8_t *bytes;
	uint32_t from, len, space; /* data at [from, from + len) of space */
};

struct tcp_flow {
	struct flow flow;
	struct timer timer;
	struct work work;      /* in tcp.work */
	struct work run_entry; /* in tcp.run_queue; CONNECTING: in tcp.connecting */
	int fd;
	uint16_t flags; /* TCPF_ */
	uint8_t state;  /* enum tcp_state */
	uint8_t tos;    /* as set on the socket */

	/* guest to host */
	seq_t rcv_nxt;        /* everything before it is in the socket or the spill */
	seq_t rcv_edge;       /* right edge of the window: bytes before it are taken; never moves left */
	seq_t rcv_advertised; /* the edge as the guest last heard it */
	seq_t rcv_computed;   /* rcv_nxt when the window was last computed */
	struct send_backlog backlog;
	struct ooo_queue *ooo; /* NULL: there is no hole */

	/* host to guest: bytes from snd_una on are still in the socket's receive queue */
	seq_t snd_una;
	seq_t snd_nxt;
	seq_t wl1, wl2;       /* sequence and ACK of the last window update (RFC 9293, 3.8.6.1) */
	seq_t recover;        /* see TCPF_RECOVERY */
	uint32_t snd_wnd;     /* bytes from snd_una */
	uint32_t waiting_ms;  /* low 32 bits of the clock when the guest began to owe an acknowledgement, or we one (PROBED);
				  * CONNECTING: of the guest's last SYN */
	uint32_t acked_bytes; /* acknowledged, still to be dropped from the socket */
	uint32_t peek_offset; /* as the kernel has it, or TCP_PEEK_OFF */
	uint16_t mss;         /* of segments to the guest */
	uint8_t snd_wscale;
	uint8_t dup_acks;
	uint8_t sent_in; /* number of the period in which it last sent, see sched_window_share() */
	bool sack;       /* both sides tell what lies behind a hole (RFC 2018): we do, of what the guest has sent */
	uint8_t tries;   /* timeouts since the guest last answered */
	uint8_t repeats; /* timeouts since waiting_ms, as far as they matter */
	int error;       /* of the socket: goes to the guest as a reset when all data has */
};

#define TCP_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)
#define TCP_WSCALE 8                        /* ours */
#define TCP_BACKLOG_BYTES (128u << 10)      /* promised beyond what the socket has room for */
#define TCP_BACKLOG_TOTAL_BYTES (64u << 20) /* of all flows; what exceeds it is not acknowledged, so the guest sends it again */
#define TCP_OOO_QUEUES 128                  /* flows that may keep bytes behind a hole at the same time */
#define TCP_PEEK_OFF UINT32_MAX             /* SO_PEEK_OFF is not switched on: peeks begin at the first byte */
#define TCP_NEW_FLOWS_PER_S 2000            /* segments that belong to no connection; what becomes established does not count */
#define TCP_NEW_FLOWS_BURST 8192
#define TCP_DISCARD_BYTES 65536 /* one iovec of the replacement for SO_PEEK_OFF */
#define TCP_DISCARD_IOVECS 16

/* Timeouts. The guest's kernel answers within its delayed-ACK timer, 200 ms; only losses on the tap are repaired here. */
#define TCP_SYN_RTO_MS 1000 /* RFC 6298, 2 */
#define TCP_RTO_MS 500
#define TCP_RTO_MAX_MS 16000
#define TCP_TRIES_MAX 10           /* about two minutes */
#define TCP_USER_TIMEOUT_MS 120000 /* RFC 9293, 3.8.3: R2, at least 100 s; also for a guest that says other things meanwhile */
#define TCP_SYN_TRIES_MAX 5
/* A guest that still wants its connection repeats its SYN after 1 s (RFC 6298, 2; older ones 3 s), and then after twice the last
 * time at most (RFC 6298, 5.5). Later than this, it does not; if it does, it begins anew. */
#define TCP_SYN_LATE_FACTOR 3    /* of the last time, */
#define TCP_SYN_LATE_MS 2000     /* and beside that */
#define TCP_SYN_FRESH_MS 100     /* most networks answer within this time: no connect() gives way before */
#define TCP_FREE_FOR_OTHERS 8    /* connect()s leave one in so many descriptors to others */
#define TCP_HALF_CLOSED_MS 60000 /* then ask the guest whether it still wants the rest */
#define TCP_IDLE_MS 7440000      /* RFC 5382, REQ-5: 2 hours 4 minutes */
#define TCP_PROBE_MS 30000       /* between unanswered probes */

/* tcp.c */
struct tcp_flow *tcp_new_flow(struct tcp *t, struct io *io, const struct flow_key *key, int fd, enum tcp_state state);
void tcp_add_work(struct tcp *t, struct tcp_flow *f);
/* The guest's SYN for a connect() that is under way. */
void tcp_wanted(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Ends the connect() that the guest has asked for longest ago. 0, -ENOENT: there is none, or -EAGAIN: its answer may be under way. */
int tcp_displace(struct tcp *t, struct io *io);
/* Ends the flow. abort: the host's peer gets a reset. */
void tcp_close(struct tcp *t, struct io *io, struct tcp_flow *f, bool abort);
/* Ends the flow towards both sides. */
void tcp_reset(struct tcp *t, struct io *io, struct tcp_flow *f);
void tcp_arm_timer(struct tcp *t, struct io *io, struct tcp_flow *f);
/* The guest has shown that it is at work on what is in flight, or nothing was: the user timeout starts anew. */
static inline void tcp_restart_wait(const struct io *io, struct tcp_flow *f)
{
	f->waiting_ms = (uint32_t)io->loop->now_ms;
	f->repeats = 0;
}
const char *tcp_flow_str(const struct tcp_flow *f, char out[128]);
static inline uint32_t tcp_in_flight(const struct tcp_flow *f)
{
	return seq_diff(f->snd_nxt, f->snd_una);
}

/* tcp_sock.c */
/* What became of connect(). A failed one ends the flow. */
void tcp_connected(struct tcp *t, struct io *io, struct tcp_flow *f);
void tcp_connect_failed(struct tcp *t, struct io *io, struct tcp_flow *f, int error);
/* In-sequence bytes of the guest: to the socket, what does not fit to the spill. Returns how many were kept. */
uint32_t tcp_deliver(struct tcp *t, struct io *io, struct tcp_flow *f, const uint8_t *bytes, uint32_t len);
void tcp_free_backlog(struct tcp *t, struct tcp_flow *f);
/* Everything that the flow needs now; frames: data to the guest, at most. True: more could be done at once. The flow may be gone
 * afterwards. */
bool tcp_service_flow(struct tcp *t, struct io *io, struct tcp_flow *f, uint32_t frames);
void tcp_retransmit_one(struct tcp *t, struct io *io, struct tcp_flow *f);

/* tcp_out_of_order.c */
/* Keeps bytes behind a hole, as far as there is room. */
void tcp_ooo_add(struct tcp *t, struct io *io, struct tcp_flow *f, seq_t at, const uint8_t *bytes, uint32_t len);
/* Delivers what is in sequence now. */
void tcp_ooo_deliver(struct tcp *t, struct io *io, struct tcp_flow *f);
/* What is kept, for the guest to know. */
uint32_t tcp_ooo_ranges(const struct tcp_flow *f, struct tcp_range out[TCP_SACK_RANGES_MAX]);
void tcp_ooo_free(struct tcp *t, struct tcp_flow *f);

/* tcp_probe.c */
/* The guest has asked whether the host's peer lives. */
void tcp_probed(struct tcp *t, struct io *io, struct tcp_flow *f);
/* While it waits for the answer: gives it, if the peer has shown life. */
void tcp_look_for_life(struct io *io, struct tcp_flow *f);
/* Until the next look, ms. */
int64_t tcp_look_ms(const struct io *io, const struct tcp_flow *f);

/* tcp_segment.c */
void tcp_send(struct io *io, struct tcp_flow *f, uint8_t flags, seq_t sequence, const uint8_t *payload, uint32_t len);
void tcp_send_syn(struct io *io, struct tcp_flow *f);
/* The answer of RFC 9293, 3.10.7.1 to a segment that belongs to no flow. */
void tcp_send_rst_reply(struct io *io, const struct ip_view *ip, const struct tcp_view *seg);
void tcp_challenge(struct tcp *t, struct io *io, struct tcp_flow *f);
/* Computes the window again; true if the guest should hear of it without being asked. */
bool tcp_update_window(struct tcp *t, struct io *io, struct tcp_flow *f);

#endif
