/* Owns the segments to the guest, and the window they promise.
 *
 * The promise: what the socket will surely take, by the kernel's own accounting (SO_MEMINFO: send buffer less what is
 * queued, which counts the kernel's overhead too), plus TCP_BACKLOG_BYTES less what is spilled. An eighth is kept back for
 * the overhead of buffers still to be made. So a byte inside the window is not dropped, unless all spills together reach
 * their limit: then it is not acknowledged, and the guest sends it again. Rejected: passing on the far peer's window, which
 * promises megabytes that the socket does not have room for and repairs the damage with retransmission timeouts.
 *
 * Data in the spill is acknowledged: it is held as safely as what lies in the kernel's send buffer, and an ACK that waited
 * for a slow peer would make the guest retransmit.
 *
 * Invariants: rcv_edge, the right edge up to which bytes are taken, never moves left (RFC 9293, 3.8.6); rcv_advertised, what the
 * guest last heard of it, is not beyond it.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/checksum.h"
#include "proto/tcp_private.h"

#define CHALLENGES_PER_SECOND 100 /* RFC 5961, 7 asks for a limit */

/* The window field, as near to rcv_edge as its unit allows. Rounded up, so that the edge stays where it was, as long as the
 * socket takes what comes; rounded down once bytes are spilled, or a guest that always stays just inside the edge would push
 * it on for ever (the edge then seems to move left by less than a unit, RFC 7323, 2.4, but bytes up to rcv_edge are taken).
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

static void transmit(struct io *io, const struct flow_key *key, uint8_t *head, uint32_t l4, uint32_t tcp_len,
		     const uint8_t *payload, uint32_t len, uint16_t mss)
{
	struct link_tx tx = {.head = head,
			     .head_len = l4 + tcp_len,
			     .body = payload,
			     .body_len = len,
			     .csum_start = (uint16_t)l4,
			     .csum_offset = TCP_CSUM_OFFSET,
			     .gso_size = mss};
	uint16_t sum = csum_fold(ip_pseudo_sum(&key->dest, &key->guest, IPPROTO_TCP, tcp_len + len));

	tx.gso_type = addr_is_v4(&key->guest) ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
	memcpy(head + l4 + TCP_CSUM_OFFSET, &sum, 2);
	link_send(io->link, &tx);
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
	transmit(io, key, head, l4, tcp_len, payload, len, f->mss);
}

/* The payload of the host connection's segments, 0 if it is not known. The kernel sends half of the widest window so far at most,
 * here 32 KiB, since a SYN cannot promise more than 64. The peer will open it; until then what we told the peer is the best guess,
 * both ends being on the same path. */
static uint32_t host_mss(const struct tcp_flow *f)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return info.tcpi_snd_mss == info.tcpi_snd_wnd / 2 ? info.tcpi_advmss : info.tcpi_snd_mss;
}

/* The MSS that the guest is told: what its link carries, rounded down to whole segments of the host's connection where that
 * is known. Otherwise each frame would leave the host as full segments and a runt (measured at 65520 bytes: a quarter of the
 * throughput). */
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
	transmit(io, key, head, l4, tcp_len, NULL, 0, 0);
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

/* Room in the socket's send buffer, bytes; *full: less than the third at which the kernel calls it writable. */
static uint32_t socket_room(const struct tcp_flow *f, bool *full)
{
	uint32_t mem[SK_MEMINFO_VARS] = {0};
	socklen_t len = sizeof(mem);

	*full = false;
	/* Sockets that are not TCP (in tests) or kernels before 4.12: promise the spill only. */
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
	uint32_t before = seq_diff(f->rcv_edge, f->rcv_nxt), told = seq_diff(seq_max(f->rcv_advertised, f->rcv_nxt), f->rcv_nxt);
	uint32_t room = 0, backlog = TCP_BACKLOG_BYTES, window;
	bool full = false;

	f->flags &= (uint16_t)~TCPF_WINDOW_STALE;
	f->rcv_computed = f->rcv_nxt;
	if (f->flags & (TCPF_GUEST_FIN | TCPF_SOCK_SHUT))
		return false;
	/* While anything is spilled the socket does not take what SO_MEMINFO says (tcp_notsent_lowat, short memory). */
	if (!f->backlog.len)
		room = socket_room(f, &full);
	if (t->backlog_bytes > t->backlog_max_bytes / 2)
		backlog /= 8; /* many peers are slow: promise little that the limit of all spills could break */
	window = room - room / 8 + (f->backlog.len < backlog ? backlog - f->backlog.len : 0);
	window = u32_min(window, sched_window_share(&io->sched, io->loop->now_ms, &f->sent_in, TCP_BACKLOG_BYTES));
	/* The kernel only tells when room comes back if it has been asked while there was none. */
	if (full && !(f->flags & TCPF_OUT_ARMED)) {
		f->flags |= TCPF_OUT_ARMED;
		loop_modify(io->loop, f->fd, TCP_EVENTS, loop_tag(OWNER_TCP, f->flow.index, f->flow.generation));
	}
	if (!(f->flags & TCPF_WSCALE))
		window = u32_min(window, 65535);
	if (window <= before)
		return false;
	f->rcv_edge = seq_add(f->rcv_nxt, window);
	/* RFC 9293, 3.8.6.2.2: not for a few bytes more than were told; sooner if the guest cannot send a full frame. */
	return window - told >= (told < 65535 ? 16384 : SCHED_WINDOW_MAX_BYTES / 4);
}
