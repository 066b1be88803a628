/* Purpose: checks every frame to the guest, every byte to a socket, and every flow whenever the core waits. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "guest.h"
#include "kernel.h"
#include "proto/tcp_private.h"
#include "wire/icmp.h"
#include "wire/udp.h"

#define SCRIPTED_BACKLOG_MAX (SCHED_WINDOW_MAX_BYTES + IP_MAX_BYTES)

/* --- the states that a run has seen: libFuzzer treats a new one as a new edge --- */

/* States of RFC 9293, 3.3.2, of the core's end towards the guest. A flow ends instead of entering TIME-WAIT or CLOSED. */
#define STATES(X) \
	X(CONNECTING) \
	X(SYN_RECEIVED) \
	X(SYN_SENT) \
	X(ESTABLISHED) \
	X(FIN_WAIT_1) \
	X(FIN_WAIT_2) \
	X(CLOSE_WAIT) \
	X(CLOSING) \
	X(LAST_ACK) \
	X(BACKLOG) \
	X(RECOVERING) \
	X(WINDOW_CLOSED) \
	X(RESET_BY_HOST)

enum state {
#define STATE_ENUM(name) STATE_##name,
	STATES(STATE_ENUM)
#undef STATE_ENUM
		STATE_COUNT
};

static const char *const state_names[] = {
#define STATE_NAME(name) #name,
	STATES(STATE_NAME)
#undef STATE_NAME
};

__attribute__((used, section("__libfuzzer_extra_counters"))) static uint8_t seen_now[4096];
static uint64_t seen[STATE_COUNT];

static void report(void)
{
	FILE *file = fopen(getenv("PASTA_FUZZ_STATES"), "a");

	for (int i = 0; file && i < STATE_COUNT; i++)
		fprintf(file, "%s %llu\n", state_names[i], (unsigned long long)seen[i]);
	if (file)
		fclose(file);
}

static void saw(enum state state)
{
	if (!seen[state]++ && getenv("PASTA_FUZZ_STATES")) {
		static bool registered;

		if (!registered)
			atexit(report);
		registered = true;
	}
}

static void saw_flow(const struct tcp_flow *f, struct fake *s)
{
	bool fin = f->flags & TCPF_GUEST_FIN, sent = f->flags & TCPF_FIN_SENT, acked = f->flags & TCPF_FIN_ACKED;

	seen_now[f->state << 9 | (f->flags >> 2 & 0x1ff)] = 1;
	if (f->state != TCPS_ESTABLISHED)
		saw((enum state)(STATE_CONNECTING + (int)f->state));
	else if (!fin && !sent)
		saw(STATE_ESTABLISHED);
	else if (!fin)
		saw(acked ? STATE_FIN_WAIT_2 : STATE_FIN_WAIT_1);
	else if (!sent)
		saw(STATE_CLOSE_WAIT);
	else if (!acked && s->first_end)
		saw(s->first_end == 'g' ? STATE_LAST_ACK : STATE_CLOSING);
	if (!s->first_end && fin != sent)
		s->first_end = fin ? 'g' : 'h';
	if (f->backlog.len)
		saw(STATE_BACKLOG);
	if (f->flags & TCPF_RECOVERY)
		saw(STATE_RECOVERING);
	if (f->state == TCPS_ESTABLISHED && !f->snd_wnd)
		saw(STATE_WINDOW_CLOSED);
	if (s->dead)
		saw(STATE_RESET_BY_HOST);
}

/* --- flows --- */

static void check_flow(const struct tcp_flow *f)
{
	struct fake *s = kernel_fd(f->fd);
	uint32_t sent = seq_diff(f->snd_nxt, f->snd_una) - (f->flags & TCPF_FIN_SENT && !(f->flags & TCPF_FIN_ACKED));
	uint32_t base;

	REQUIRE(s->kind == FAKE_STREAM && s->watched);
	saw_flow(f, s);
	if (f->state == TCPS_SYN_SENT)
		return;
	base = f->rcv_nxt.v - !!(f->flags & TCPF_GUEST_FIN) - f->backlog.len - (uint32_t)s->tx_taken;
	REQUIRE(s->lossy || !s->has_base || s->base == base, "bytes of the guest were lost or counted twice");
	s->base = base;
	s->has_base = true;
	REQUIRE(seq_le(f->rcv_nxt, f->rcv_edge));
	REQUIRE(seq_diff(f->rcv_edge, f->rcv_nxt) <= SCHED_WINDOW_MAX_BYTES + 256, "a window beyond its limit");
	REQUIRE(f->backlog.len <= SCRIPTED_BACKLOG_MAX && f->backlog.from + f->backlog.len <= f->backlog.space);
	REQUIRE(sent + f->acked_bytes <= s->rx_written - s->rx_dropped || s->dead, "more is in flight than there was");
	REQUIRE(!(f->flags & TCPF_FIN_SENT) || s->rx_eof || s->dead, "a FIN before the peer's end");
	REQUIRE(timer_running(&f->timer), "a flow without a timer could stay without end");
}

void check_flows(void)
{
	const struct tcp *t = &guest.plane->shard[0]->tcp;
	uint64_t backlog_bytes = 0, used = 0;

	for (uint32_t i = 0; i < t->flows.made; i++) {
		const struct tcp_flow *f = (const struct tcp_flow *)flow_at(&t->flows, i);

		if (!f)
			continue;
		used++;
		backlog_bytes += f->backlog.space;
		check_flow(f);
	}
	REQUIRE(backlog_bytes == t->backlog_bytes);
	REQUIRE(used == t->flows.used && used == guest.plane->shard[0]->counters.v[CTR_tcp_flows]);
	REQUIRE(guest.plane->shard[0]->udp.flows.used == guest.plane->shard[0]->counters.v[CTR_udp_flows]);
	REQUIRE(guest.plane->shard[0]->icmp.flows.used == guest.plane->shard[0]->counters.v[CTR_icmp_flows]);
	REQUIRE(guest.plane->shard[0]->splice.flows.used == guest.plane->shard[0]->counters.v[CTR_splice_flows]);
}

static const struct tcp_flow *flow_of_fd(int fd)
{
	const struct tcp *t = &guest.plane->shard[0]->tcp;

	for (uint32_t i = 0; i < t->flows.made; i++) {
		const struct tcp_flow *f = (const struct tcp_flow *)flow_at(&t->flows, i);

		if (f && f->fd == fd)
			return f;
	}
	return NULL;
}

void check_bytes_to_host(int fd, const struct fake *f, const uint8_t *bytes, uint32_t len)
{
	const struct tcp_flow *flow = flow_of_fd(fd);
	uint32_t first;

	(void)f;
	REQUIRE(flow, "bytes for a socket without a flow");
	REQUIRE(!(flow->flags & TCPF_SOCK_SHUT));
	/* rcv_nxt does not count the bytes of the present segment yet. It counts those of the backlog. */
	first = flow->rcv_nxt.v - !!(flow->flags & TCPF_GUEST_FIN) - flow->backlog.len;
	for (uint32_t i = 0; i < len; i++)
		REQUIRE(bytes[i] == content_from_guest(first + i), "not the bytes that the guest sent");
}

/* --- frames to the guest --- */

static void check_tcp(const struct ip_view *ip, const uint8_t *tcp)
{
	struct flow_key key = {ip->dst, ip->src, load_be16(tcp + 2), load_be16(tcp)};
	uint32_t header = (uint32_t)(tcp[12] >> 4) * 4, len = ip->payload_len - header, sequence = load_be32(tcp + 4), end, edge;
	const struct tcp_flow *f;
	struct fake *s;
	uint64_t at;

	REQUIRE(ip->payload_len >= TCP_HLEN && header >= TCP_HLEN && header <= ip->payload_len);
	REQUIRE(key.guest_port && key.dest_port);
	guest_heard(!ip->v4, key.dest_port, key.guest_port, &ip->src, tcp, len);
	f = (const struct tcp_flow *)flow_find(&guest.plane->shard[0]->tcp.flows, &key);
	if (!f || tcp[13] & TCP_RST) {
		REQUIRE(tcp[13] & TCP_RST && !len, "only a reset may speak for no flow");
		return;
	}
	s = kernel_fd(f->fd);
	edge = load_be32(tcp + 8) +
	       ((uint32_t)load_be16(tcp + 14) << (f->flags & TCPF_WSCALE && !(tcp[13] & TCP_SYN) ? TCP_WSCALE : 0));
	if (tcp[13] & TCP_SYN) {
		REQUIRE(!s->has_isn || s->isn == sequence, "another initial sequence number for the same connection");
		s->isn = sequence;
		s->has_isn = true;
		s->edge_advertised = edge;
		s->has_edge = tcp[13] & TCP_ACK;
		return;
	}
	REQUIRE(s->has_isn && tcp[13] & TCP_ACK);
	at = sequence - s->isn - 1;
	/* Positions wrap at 2^32. A script sends less. */
	REQUIRE(!len || at + len <= s->rx_written, "bytes that no peer has written");
	for (uint32_t i = 0; i < len; i++)
		REQUIRE(tcp[header + i] == content_from_host(at + i), "not the bytes that the peer wrote");
	end = (uint32_t)(s->rx_written + s->isn + 1);
	REQUIRE(!(tcp[13] & TCP_FIN) || (sequence + len == end && (s->rx_eof || s->dead)), "an end before the end");
	if (!s->has_edge) /* the core's SYN had no ACK: its window of 65535 bytes begins at rcv_nxt */
		s->edge_advertised = f->rcv_nxt.v + 65535;
	s->has_edge = true;
	REQUIRE((int32_t)(edge - s->edge_advertised) >= -256, "the window's edge moves left");
	if ((int32_t)(edge - s->edge_advertised) > 0)
		s->edge_advertised = edge;
}

/* Checks the transport checksum, after completing it as the guest's kernel would. */
static void check_checksum(uint8_t *frame, uint32_t len, const struct ip_view *ip, const struct vnet_hdr *vh)
{
	uint32_t l4 = (uint32_t)(ip->payload - frame), field;
	uint16_t sum;

	if (guest.vnet_hdr && vh->flags & VNET_NEEDS_CSUM) {
		field = (uint32_t)vh->csum_start + vh->csum_offset;
		REQUIRE(vh->csum_start == l4 && field + 2 <= len);
		sum = (uint16_t)~csum_fold(csum_add(frame + l4, len - l4, 0));
		if (vh->csum_offset == UDP_CSUM_OFFSET && !sum)
			sum = 0xffff;
		memcpy(frame + field, &sum, 2);
	} else {
		REQUIRE(vh->gso_type == VNET_GSO_NONE, "segmentation offload needs checksum offload");
	}
	REQUIRE(ip_transport_checksum_ok(ip), "a wrong checksum");
	REQUIRE(ip->proto != IPPROTO_UDP || load_be16(ip->payload + UDP_CSUM_OFFSET));
}

void check_frame(const uint8_t *bytes, uint32_t len)
{
	struct vnet_hdr vh = {0};
	struct ip_view ip;
	uint8_t *frame;
	bool v4;

	if (guest.vnet_hdr) {
		REQUIRE(len > guest.header_bytes);
		memcpy(&vh, bytes, sizeof(vh));
		bytes += guest.header_bytes;
		len -= guest.header_bytes;
	}
	/* An exact copy, so that AddressSanitizer sees a read beyond the end. */
	frame = malloc(len);
	REQUIRE(frame && len >= ETH_HLEN + IP4_HLEN);
	memcpy(frame, bytes, len);
	v4 = eth_type(frame) == ETH_TYPE_IPV4;
	REQUIRE(v4 || eth_type(frame) == ETH_TYPE_IPV6);
	REQUIRE(!memcmp(eth_src(frame), OUR_MAC, 6) && !(eth_dst(frame)[0] & 1));
	REQUIRE(vh.gso_type != VNET_GSO_NONE || len <= ETH_HLEN + guest.mtu, "longer than the guest's MTU");
	REQUIRE(ip_parse(frame + ETH_HLEN, len - ETH_HLEN, v4, &ip), "a malformed packet");
	REQUIRE(ip.payload + ip.payload_len == frame + len, "bytes behind the packet");
	if (!ip.fragment) {
		check_checksum(frame, len, &ip, &vh);
		REQUIRE(ip.proto == IPPROTO_TCP || ip.proto == IPPROTO_UDP || ip.proto == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6));
		if (ip.proto == IPPROTO_TCP)
			check_tcp(&ip, ip.payload);
	}
	free(frame);
}
