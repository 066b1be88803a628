/* Purpose: segments to the guest, and the window that they advertise.
 *
 * How: the window is what the socket will surely take, plus TCP_BACKLOG_BYTES less the send backlog. The kernel's accounting
 * says what the socket will take (SO_MEMINFO: send buffer less what is queued, overhead included). An eighth of that is left
 * for the overhead of buffers that the kernel has not made yet. So a byte inside the window is not dropped, except when all
 * send backlogs together reach their limit: then it is not acknowledged, and the guest sends it again.
 *
 * Bytes in the send backlog are acknowledged: they are as safe as bytes in the kernel's send buffer, and if their ACK waited
 * for a slow host peer the guest would retransmit.
 *
 * Invariants: rcv_edge, the right edge of the window, never moves left (RFC 9293, 3.8.6); bytes before it are taken.
 * rcv_advertised, the edge that the guest heard last, is not beyond it.
 *
 * Rejected: passing on the host peer's window, which is megabytes more than the socket has room for, so that retransmission
 * timeouts would have to repair the loss.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/checksum.h"
#include "proto/tcp_private.h"

#define CHALLENGES_PER_SECOND 100 /* RFC 5961, 7 asks for a limit */

/* The window field, as near to rcv_edge as its unit allows. It is rounded up, so that the edge stays, as long as there is no
 * send backlog. With a backlog it is rounded down: otherwise a guest that always stays just inside the edge would push it on
 * without end. Then the edge seems to move left by less than a unit (RFC 7323, 2.4), but bytes up to rcv_edge are taken.
 */
static uint16_t window_field(struct tcp_flow *f, bool syn)
{
	uint32_t shift = (f->flags & TCPF_WSCALE) && !syn ? TCP_WSCALE : 0;
	uint32_t bytes = seq_diff(f->rcv_edge, f->rcv_nxt);
	uint32_t field = u32_min((bytes + (f->backlog.len ? 0 : (1u << shift) - 1)) >> shift, 65535);

	f->rcv_advertised = seq_add(f->rcv_nxt, field << shift);
	f->rcv_edge = seq_max(f->rcv_edge, f->rcv_advertised);
	return (uint16_t)field;
}

/* Returns the number of frames: a link without segmentation offload takes several for a large segment. */
static uint32_t transmit(struct io *io, const struct flow_key *key, uint8_t *head, uint32_t l4, uint32_t tcp_len,
			 const uint8_t *payload, uint32_t len, uint16_t mss)
{
	struct link_tx tx = {.head = head,
			     .head_len = l4 + tcp_len,
			     .body = payload,
			     .body_len = len,
			     .csum_start = (uint16_t)l4,
			     .csum_offset = TCP_CSUM_OFFSET,
			     .gso_size = mss};
	uint64_t before = io->counters->v[CTR_tap_tx_frames];
	/* The lengths in the headers of a train (struct link_kind) are too short: those of each of its segments replace them. */
	uint16_t sum = csum_fold(ip_pseudo_sum(&key->dest, &key->guest, IPPROTO_TCP, (uint16_t)(tcp_len + len)));

	tx.gso_type = addr_is_v4(&key->guest) ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
	memcpy(head + l4 + TCP_CSUM_OFFSET, &sum, 2);
	link_send(io->link, &tx);
	return (uint32_t)(io->counters->v[CTR_tap_tx_frames] - before);
}

void tcp_send(struct io *io, struct tcp_flow *f, uint8_t flags, seq_t sequence, const uint8_t *payload, uint32_t len)
{
	const struct flow_key *key = &f->flow.key;
	uint8_t head[LINK_HEAD_MAX];
	struct tcp_range ranges[TCP_SACK_RANGES_MAX];
	uint32_t count = f->ooo && f->sack && !len ? tcp_ooo_ranges(f, ranges) : 0, option = count ? 4 + 8 * count : 0;
	uint32_t l4 =
		link_begin(io->link, head, &key->dest, &key->guest, IPPROTO_TCP, IP_TTL_DEFAULT, 0, true, TCP_HLEN + option + len);
	uint16_t tcp_len =
		tcp_emit(head + l4, key->dest_port, key->guest_port, sequence, f->rcv_nxt, flags, window_field(f, false), 0, 255);

	tcp_len = tcp_emit_sack(head + l4, tcp_len, ranges, count);
	f->flags &= (uint16_t)~TCPF_ACK_NOW;
	account_received(&f->account, transmit(io, key, head, l4, tcp_len, payload, len, f->mss), 0);
}

/* The payload of the host connection's segments, 0: not known. The kernel's segments are at most half of the widest window so
 * far, and a SYN can advertise only 64 KiB. Until the host peer opens its window, the MSS that the kernel announced to it is
 * the best guess, because both ends are on the same path. */
static uint32_t host_mss(const struct tcp_flow *f)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return info.tcpi_snd_mss == info.tcpi_snd_wnd / 2 ? info.tcpi_advmss : info.tcpi_snd_mss;
}

/* The MSS announced to the guest: what its link carries, rounded down to whole segments of the host's connection if their size
 * is known. Otherwise each frame would leave the host as full segments and a small one (measured at 65520 bytes: a quarter of
 * the throughput). */
static uint16_t announced_mss(const struct io *io, const struct tcp_flow *f)
{
	uint32_t mss = io->mtu - ip_header_bytes(addr_is_v4(&f->flow.key.guest)) - TCP_HLEN, host = host_mss(f);

	if (host && host < mss)
		mss -= mss % host;
	return (uint16_t)mss;
}

void tcp_send_syn(struct io *io, struct tcp_flow *f)
{
	const struct flow_key *key = &f->flow.key;
	bool answer = f->state == TCPS_SYN_RECEIVED;
	uint8_t wscale = !answer || (f->flags & TCPF_WSCALE) ? TCP_WSCALE : 255, head[LINK_HEAD_MAX];
	uint32_t options = 4 + (wscale == 255 ? 0 : 4) + (f->sack ? 4 : 0), l4;
	uint16_t tcp_len;

	l4 = link_begin(io->link, head, &key->dest, &key->guest, IPPROTO_TCP, IP_TTL_DEFAULT, 0, true, TCP_HLEN + options);
	tcp_len = tcp_emit(head + l4, key->dest_port, key->guest_port, seq_add(f->snd_una, (uint32_t)-1),
			   answer ? f->rcv_nxt : seq(0), (uint8_t)(TCP_SYN | (answer ? TCP_ACK : 0)),
			   answer ? window_field(f, true) : 65535, announced_mss(io, f), wscale);
	if (f->sack)
		tcp_len = tcp_emit_sack_permitted(head + l4, tcp_len);
	account_received(&f->account, transmit(io, key, head, l4, tcp_len, NULL, 0, 0), 0);
}

void tcp_send_rst_reply(struct io *io, const struct ip_view *ip, const struct tcp_view *seg)
{
	struct flow_key key = {ip->src, ip->dst, seg->src_port, seg->dst_port};
	bool ack = seg->flags & TCP_ACK;
	uint8_t head[LINK_HEAD_MAX];
	uint32_t l4, tcp_len;

	if (seg->flags & TCP_RST)
		return;
	l4 = link_begin(io->link, head, &key.dest, &key.guest, IPPROTO_TCP, IP_TTL_DEFAULT, 0, true, TCP_HLEN);
	tcp_len = tcp_emit(head + l4, key.dest_port, key.guest_port, ack ? seg->ack : seq(0),
			   ack ? seq(0) : seq_add(seg->seq, tcp_seq_len(seg)), ack ? TCP_RST : TCP_RST | TCP_ACK, 0, 0, 255);
	COUNT(io->counters, tcp_resets_sent);
	transmit(io, &key, head, l4, tcp_len, NULL, 0, 0);
}

void tcp_challenge(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	int64_t second = io->loop->now_ms / 1000;

	if (second != t->challenge_second) {
		t->challenge_second = second;
		t->challenges = 0;
	}
	if (t->challenges++ >= CHALLENGES_PER_SECOND)
		return;
	COUNT(io->counters, tcp_challenges);
	tcp_send(io, f, TCP_ACK, f->snd_nxt, NULL, 0);
}

/* Room in the socket's send buffer, bytes. *full: less than a third is free, so the kernel does not call the socket writable. */
static uint32_t socket_room(const struct tcp_flow *f, bool *full)
{
	uint32_t mem[SK_MEMINFO_VARS] = {0};
	socklen_t len = sizeof(mem);

	*full = false;
	/* Sockets that are not TCP (in tests) and kernels before 4.12 have no SO_MEMINFO: advertise the backlog alone. */
	if (getsockopt(f->fd, SOL_SOCKET, SO_MEMINFO, mem, &len) < 0)
		return 0;
	if (mem[SK_MEMINFO_WMEM_QUEUED] >= mem[SK_MEMINFO_SNDBUF]) {
		*full = true;
		return 0;
	}
	*full = mem[SK_MEMINFO_SNDBUF] - mem[SK_MEMINFO_WMEM_QUEUED] < mem[SK_MEMINFO_WMEM_QUEUED] / 2;
	return mem[SK_MEMINFO_SNDBUF] - mem[SK_MEMINFO_WMEM_QUEUED];
}

bool tcp_update_window(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	uint32_t before = seq_diff(f->rcv_edge, f->rcv_nxt);
	uint32_t advertised = seq_diff(seq_max(f->rcv_advertised, f->rcv_nxt), f->rcv_nxt);
	uint32_t room = 0, backlog = TCP_BACKLOG_BYTES, window;
	bool full = false;

	f->flags &= (uint16_t)~TCPF_WINDOW_STALE;
	f->rcv_computed = f->rcv_nxt;
	if (f->flags & (TCPF_GUEST_FIN | TCPF_SOCK_SHUT))
		return false;
	/* While there is a backlog the socket takes less than SO_MEMINFO says (tcp_notsent_lowat, short memory). */
	if (tcp_is_held(io, f))
		backlog = tcp_rate_window(io);
	else if (!f->backlog.len)
		room = socket_room(f, &full);
	if (t->backlog_bytes > t->backlog_max_bytes / 2)
		backlog /= 8; /* many host peers are slow: stay away from the limit of all backlogs */
	window = room - room / 8 + (f->backlog.len < backlog ? backlog - f->backlog.len : 0);
	window = u32_min(window, sched_window_share(&io->sched, io->loop->now_ms, &f->sent_in, TCP_BACKLOG_BYTES));
	/* The kernel reports new room only if EPOLLOUT is asked for while there is none. */
	if (full && !(f->flags & TCPF_OUT_ARMED)) {
		f->flags |= TCPF_OUT_ARMED;
		loop_modify(io->loop, f->fd, TCP_EVENTS, loop_tag(OWNER_TCP, f->flow.index, f->flow.generation));
	}
	if (!(f->flags & TCPF_WSCALE))
		window = u32_min(window, 65535);
	if (window <= before)
		return false;
	f->rcv_edge = seq_add(f->rcv_nxt, window);
	/* Not for a few bytes more than advertised (RFC 9293, 3.8.6.2.2); sooner if the guest cannot send a full frame. */
	return window - advertised >= (advertised < 65535 ? 16384 : SCHED_WINDOW_MAX_BYTES / 4);
}
