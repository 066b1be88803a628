/* Purpose: answers to the guest's keepalive probes (RFC 9293, 3.8.4).
 *
 * How: the guest's idle time, interval and count decide how long it waits for a silent host peer. For each of its probes we
 * probe the host peer once, and answer the guest when the host peer has shown life. TCP_INFO says when the kernel last heard
 * the host peer. An unprivileged process can make the kernel send one probe at once: setting TCP_KEEPIDLE starts the keepalive
 * timer anew, less the time for which the host peer was silent. The longest interval and the largest count keep the kernel from
 * probing, or ending the connection, by itself. No event reports the answer: the flow's timer checks for it, often at first,
 * then less often.
 *
 * Invariant: while PROBED is set nothing is in flight to the guest.
 *
 * Rejected: keepalive times on the host socket, which end connections that the guest wants to keep; an answer without a probe
 * of the host peer, which keeps connections that the guest wants to end.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "proto/tcp_private.h"

/* The limits of tcp(7). */
#define KEEP_IDLE_MIN_S 1
#define KEEP_INTERVAL_MAX_S 32767
#define KEEP_COUNT_MAX 127
#define LIFE_MS 900  /* a host peer heard within this time is not probed: less than the shortest idle time, 1 s */
#define SLACK_MS 100 /* the kernel counts silence in ticks, of 10 ms at most */
#define CHECK_MIN_MS 8

static bool socket_info(const struct tcp_flow *f, struct tcp_info *info)
{
	socklen_t len = sizeof(*info);

	*info = (struct tcp_info){0};
	return getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, info, &len) == 0;
}

/* The host peer was heard lately, or since it was probed. While data for it is unacknowledged, the kernel's retransmissions
 * decide whether it lives; a kernel does not send keepalive probes then either. */
static bool is_alive(const struct io *io, const struct tcp_flow *f, const struct tcp_info *info)
{
	uint32_t silent_ms = u32_min(info->tcpi_last_ack_recv, info->tcpi_last_data_recv);
	uint32_t probed_ms = (uint32_t)io->loop->now_ms - f->waiting_ms; /* ago; it had been silent for LIFE_MS then */

	return info->tcpi_unacked || info->tcpi_notsent_bytes ||
	       silent_ms < (f->flags & TCPF_PROBED ? probed_ms + SLACK_MS : LIFE_MS);
}

/* Makes the kernel send a probe. False: it cannot. */
static bool probe_host_peer(struct tcp_flow *f, const struct tcp_info *info)
{
	if (!(f->flags & TCPF_KEEPALIVE) &&
	    (sock_set(f->fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_MAX_S) < 0 ||
	     sock_set(f->fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT_MAX) < 0 || sock_set(f->fd, SOL_SOCKET, SO_KEEPALIVE, 1) < 0))
		return false;
	f->flags |= TCPF_KEEPALIVE;
	/* One probe more than KEEP_COUNT_MAX, and the kernel ends the connection. A guest with Linux counts no further. */
	return info->tcpi_probes >= KEEP_COUNT_MAX || sock_set(f->fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_MIN_S) == 0;
}

void tcp_probed(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	/* A probe of a closed window looks the same. Data in flight to the guest is a sign of life by itself. */
	bool known = f->state != TCPS_ESTABLISHED || seq_eq(f->rcv_advertised, f->rcv_nxt) || f->backlog.len || tcp_in_flight(f);
	struct tcp_info info;

	if (known || !socket_info(f, &info) || is_alive(io, f, &info) || !probe_host_peer(f, &info)) {
		f->flags &= (uint16_t)~TCPF_PROBED;
		f->flags |= TCPF_ACK_NOW;
	} else {
		f->flags |= TCPF_PROBED;
		f->waiting_ms = (uint32_t)io->loop->now_ms;
	}
	tcp_add_work(t, f); /* also arms the timer */
}

void tcp_check_host_peer(struct io *io, struct tcp_flow *f)
{
	struct tcp_info info;

	if (socket_info(f, &info) && !is_alive(io, f, &info))
		return;
	f->flags &= (uint16_t)~TCPF_PROBED;
	tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
}

int64_t tcp_check_interval_ms(const struct io *io, const struct tcp_flow *f)
{
	return CHECK_MIN_MS + ((uint32_t)io->loop->now_ms - f->waiting_ms) / 4;
}
