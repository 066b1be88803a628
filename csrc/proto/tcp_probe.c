/* Owns the answers to the guest's keepalive probes (RFC 9293, 3.8.4).
 *
 * The guest's own idle time, interval and count decide how long it waits for a silent peer. So a probe is an order to ask the
 * host's peer once, and it is answered when the peer has shown life. The kernel tells when it last heard the peer (TCP_INFO).
 * An unprivileged process can make it send one probe at once: setting TCP_KEEPIDLE starts the keepalive timer anew, less the
 * time the peer has been silent. The longest interval and the largest count keep the kernel from any probe or verdict of its
 * own. There is no event for the answer: the flow's timer looks for it, at first often, then less and less.
 *
 * Rejected: keepalive times of our own on the host socket, which end connections that the guest wants to keep; answers without
 * asking the peer, which keep connections that the guest wants to end.
 *
 * Invariant: while PROBED is set nothing is in flight to the guest.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "proto/tcp_private.h"

/* What tcp(7) takes. */
#define KEEP_IDLE_MIN_S 1
#define KEEP_INTERVAL_MAX_S 32767
#define KEEP_COUNT_MAX 127
#define LIFE_MS 900  /* no need to ask a peer that was heard within this time: less than the shortest idle time */
#define SLACK_MS 100 /* the kernel tells silence in ticks, of 10 ms at most */
#define LOOK_MIN_MS 8

static bool socket_info(const struct tcp_flow *f, struct tcp_info *info)
{
	socklen_t len = sizeof(*info);

	*info = (struct tcp_info){0};
	return getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, info, &len) == 0;
}

/* The peer was heard lately, or since it was asked. While the peer owes an acknowledgement the kernel's retransmissions decide,
 * and the guest's own kernel would not probe either. */
static bool is_alive(const struct io *io, const struct tcp_flow *f, const struct tcp_info *info)
{
	uint32_t silent_ms = u32_min(info->tcpi_last_ack_recv, info->tcpi_last_data_recv);
	uint32_t asked_ms = (uint32_t)io->loop->now_ms - f->waiting_ms; /* ago; a peer that was asked had been silent for LIFE_MS */

	return info->tcpi_unacked || info->tcpi_notsent_bytes ||
	       silent_ms < (f->flags & TCPF_PROBED ? asked_ms + SLACK_MS : LIFE_MS);
}

/* Has the kernel send a probe. False: it cannot. */
static bool ask_peer(struct tcp_flow *f, const struct tcp_info *info)
{
	if (!(f->flags & TCPF_KEEPALIVE) &&
	    (sock_set(f->fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_MAX_S) < 0 ||
	     sock_set(f->fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT_MAX) < 0 || sock_set(f->fd, SOL_SOCKET, SO_KEEPALIVE, 1) < 0))
		return false;
	f->flags |= TCPF_KEEPALIVE;
	/* With one more than the count the kernel would end the connection. No guest of Linux counts further. */
	return info->tcpi_probes >= KEEP_COUNT_MAX || sock_set(f->fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_MIN_S) == 0;
}

void tcp_probed(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	/* A probe of a closed window looks the same, and what is in flight is life enough. */
	bool known = f->state != TCPS_ESTABLISHED || seq_eq(f->rcv_advertised, f->rcv_nxt) || f->backlog.len || tcp_in_flight(f);
	struct tcp_info info;

	if (known || !socket_info(f, &info) || is_alive(io, f, &info) || !ask_peer(f, &info)) {
		f->flags &= (uint16_t)~TCPF_PROBED;
		f->flags |= TCPF_ACK_NOW;
	} else {
		f->flags |= TCPF_PROBED;
		f->waiting_ms = (uint32_t)io->loop->now_ms;
	}
	tcp_add_work(t, f); /* which arms the timer, too */
}

void tcp_look_for_life(struct io *io, struct tcp_flow *f)
{
	struct tcp_info info;

	if (socket_info(f, &info) && !is_alive(io, f, &info))
		return;
	f->flags &= (uint16_t)~TCPF_PROBED;
	tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
}

int64_t tcp_look_ms(const struct io *io, const struct tcp_flow *f)
{
	return LOOK_MIN_MS + ((uint32_t)io->loop->now_ms - f->waiting_ms) / 4;
}
