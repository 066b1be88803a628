/* Owns what happens to a frame of the guest first: checks that are the same for all protocols, then the fast path, the slow
 * path, or a counter. Nothing here keeps state but the addresses the guest was seen to use.
 *
 * Invariants: a protocol module gets a packet only if its lengths, checksums and addresses are sound, and of UDP what its own
 * length says; a frame is handed to Python only within the rate of the slow path and with its checksum complete.
 */
#include <netinet/in.h>

#include "plane/plane.h"
#include "wire/icmp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define PORT_DHCP 67	/* RFC 2131, 4.1 */
#define PORT_DHCPV6 547 /* RFC 8415, 7.2 */

static void punt(struct plane *p, struct tap_frame *f)
{
	if (f->len > PUNT_MAX_BYTES || !bucket_take(&p->punts, p->loop.now_ms, PUNT_RATE_PER_S, PUNT_BURST)) {
		COUNT(&p->counters, punt_dropped);
		return;
	}
	tap_complete_checksum(f);
	memcpy(p->punt, f->data, f->len);
	p->punt_len = f->len;
	COUNT(&p->counters, punt_frames);
}

/* Whether the slow path serves this: neighbour discovery, router solicitations, DHCP, DHCPv6. */
static bool is_slow(const struct plane *p, const struct ip_view *ip)
{
	if (ip->proto == IPPROTO_ICMPV6 && !ip->v4 && ip->payload_len >= ICMP_HLEN)
		return ip->payload[0] >= ICMP6_ROUTER_SOLICITATION && ip->payload[0] < ICMP6_REDIRECT;
	if (ip->proto != IPPROTO_UDP)
		return false;
	if (ip->v4)
		return load_be16(ip->payload + 2) == PORT_DHCP &&
		       (addr_is_broadcast(&ip->dst) || !memcmp(ip->dst.b, p->config.gateway4, 16));
	return load_be16(ip->payload + 2) == PORT_DHCPV6 && (addr_is_multicast(&ip->dst) || addr_is_linklocal6(&ip->dst));
}

/* What was left to us may be the checksum of a packet inside this one, which a tunnel of the guest carries: this packet's own is
 * right only once that one is complete. False: it would change what was read already. */
static bool complete_inner(struct tap_frame *f, const struct ip_view *ip)
{
	uint32_t transport = (uint32_t)(ip->payload - f->data);

	/* Segments are finished one by one when they are cut. */
	if (f->csum_start > transport && !(f->gso_type & VNET_GSO_TUNNEL && ip->proto == IPPROTO_UDP))
		tap_complete_checksum(f);
	return f->csum_start >= transport;
}

static bool checksum_ok(const struct ip_view *ip, const struct tap_frame *f)
{
	if (f->partial_checksum)
		return true;
	if (ip->proto == IPPROTO_UDP && ip->v4 && !load_be16(ip->payload + UDP_CSUM_OFFSET))
		return true;
	return ip_transport_checksum_ok(ip);
}

/* A host-side client reaches the guest at the address that it was last seen to use: with SLAAC it chooses its own. False: no
 * guest can have this one. */
static bool learn_address(struct plane *p, const struct addr *src)
{
	struct addr *seen = &p->policy.guest_seen[policy_seen_index(src)];

	if (addr_eq(seen, src) && !addr_is_none(src))
		return true;
	if (!policy_is_source(&p->policy, src))
		return false;
	*seen = *src;
	if (p->shard)
		shard_tell_address(p, src);
	return true;
}

/* True: the packet belongs to another shard, which has it now. */
static bool hand_over(struct plane *p, const struct tap_frame *f, const struct ip_view *ip, bool reassembled_here)
{
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	bool tcp = ip->proto == IPPROTO_TCP && !ip->fragment && ip->payload_len >= TCP_HLEN;
	uint32_t to = 0;

	if (tcp) {
		key.guest_port = load_be16(ip->payload);
		key.dest_port = load_be16(ip->payload + 2);
		to = steering_shard(&p->tcp.steering, &key);
	}
	if (to == p->shard->index)
		return false;
	shard_send_frame(p, to, f, reassembled_here, tcp);
	return true;
}

static void trace(struct plane *p, const struct ip_view *ip)
{
	char src[ADDR_STR_LEN], dst[ADDR_STR_LEN];

	if (log_enabled(&p->log, LOG_LEVEL_TRACE))
		log_add(&p->log, LOG_LEVEL_TRACE, "from guest: %s > %s protocol %u, %u bytes", addr_str(&ip->src, src),
			addr_str(&ip->dst, dst), ip->proto, ip->payload_len);
}

static void demux_transport(struct plane *p, const struct ip_view *ip, const struct tap_frame *f)
{
	uint32_t need = ip->proto == IPPROTO_TCP ? PLANE_TCP : ip->proto == IPPROTO_UDP ? PLANE_UDP : PLANE_ICMP;

	if (!(p->config.flags & need)) {
		COUNT(&p->counters, drop_disabled);
		return;
	}
	if (!learn_address(p, &ip->src)) {
		COUNT(&p->counters, drop_source);
		return;
	}
	/* What is for all on the link no router passes on, but UDP has its own rules for that (proto/udp_guest.c). */
	if ((eth_is_group(eth_dst(f->data)) || addr_is_multicast(&ip->dst)) && ip->proto != IPPROTO_UDP) {
		COUNT(&p->counters, drop_unsupported);
		return;
	}
	if (ip->proto == IPPROTO_TCP)
		tcp_from_guest(&p->tcp, &p->io, ip);
	else if (ip->proto == IPPROTO_UDP)
		udp_from_guest(&p->udp, &p->io, ip, f);
	else
		icmp_from_guest(&p->icmp, &p->io, ip);
}

static void demux_ip(struct plane *p, struct tap_frame *f, bool v4, bool reassembled_here);

/* Puts fragments together; what they make is taken as if it had come in one frame. */
static void demux_fragment(struct plane *p, const struct tap_frame *f, const struct ip_view *ip)
{
	struct tap_frame whole = {0};
	uint8_t *packet;

	_Static_assert(ETH_HLEN <= REASSEMBLY_HEADROOM, "the Ethernet header goes before the packet");
	switch (reassembly_add(&p->reassembly, ip, p->loop.now_ms, &packet, &whole.len)) {
	case REASSEMBLY_HELD:
		return;
	case REASSEMBLY_REFUSED:
		COUNT(&p->counters, drop_fragment);
		return;
	case REASSEMBLY_WHOLE:
		COUNT(&p->counters, reassembled);
		whole.data = packet - ETH_HLEN;
		whole.len += ETH_HLEN;
		memcpy(whole.data, f->data, ETH_HLEN);
		demux_ip(p, &whole, ip->v4, true);
	}
}

static void demux_ip(struct plane *p, struct tap_frame *f, bool v4, bool reassembled_here)
{
	struct ip_view ip;

	if (!(p->config.flags & (v4 ? PLANE_IPV4 : PLANE_IPV6))) {
		COUNT(&p->counters, drop_disabled);
		return;
	}
	if (!ip_parse(f->data + ETH_HLEN, f->len - ETH_HLEN, v4, &ip) || (f->partial_checksum && !complete_inner(f, &ip))) {
		COUNT(&p->counters, drop_malformed);
		return;
	}
	if (UNLIKELY(p->shard != NULL) && hand_over(p, f, &ip, reassembled_here))
		return;
	trace(p, &ip);
	if (neighbour_learn_addr(&p->tap.neighbours, &ip.src) && p->shard)
		shard_tell_neighbour(p, &ip.src);
	if (ip.fragment && reassembled_here) {
		COUNT(&p->counters, drop_fragment); /* fragments of fragments serve no purpose */
		return;
	}
	if (ip.fragment) {
		demux_fragment(p, f, &ip);
		return;
	}
	if (reassembled_here)
		ip.df = false; /* the guest has chosen fragments, IPv6 too: the host may do the same */
	switch (ip.proto) {
	case IPPROTO_TCP:
		break;
	case IPPROTO_UDP:
		ip.payload_len = udp_bytes(ip.payload, ip.payload_len, v4);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (v4 == (ip.proto == IPPROTO_ICMP))
			break;
		/* fall through */
	default:
		COUNT(&p->counters, drop_unsupported);
		return;
	}
	if (!ip.payload_len || !checksum_ok(&ip, f))
		COUNT(&p->counters, drop_malformed);
	else if (is_slow(p, &ip)) {
		if (addr_is_linklocal6(&ip.src))
			learn_address(p, &ip.src);
		punt(p, f);
	}
	else
		demux_transport(p, &ip, f);
}

void demux_frame(struct plane *p, struct tap_frame *f)
{
	if (!eth_is_group(eth_dst(f->data)) && memcmp(eth_dst(f->data), p->tap.our_mac, ETH_ALEN) != 0) {
		COUNT(&p->counters, drop_unsupported);
		return;
	}
	if (!eth_is_group(eth_src(f->data)) && neighbour_learn_mac(&p->tap.neighbours, eth_src(f->data)) && p->shard)
		shard_tell_neighbour(p, NULL);
	switch (eth_type(f->data)) {
	case ETH_TYPE_IPV4:
		demux_ip(p, f, true, false);
		return;
	case ETH_TYPE_IPV6:
		demux_ip(p, f, false, false);
		return;
	case ETH_TYPE_ARP:
		if (!(p->config.flags & PLANE_IPV4))
			return;
		if (p->shard && p->shard->index)
			shard_send_frame(p, 0, f, false, false);
		else
			punt(p, f);
		return;
	default:
		if (tap_untag(f))
			demux_frame(p, f);
		else
			COUNT(&p->counters, drop_unsupported);
	}
}

void demux_handed(struct plane *p, struct tap_frame *f, bool reassembled_here)
{
	if (reassembled_here)
		demux_ip(p, f, eth_type(f->data) == ETH_TYPE_IPV4, true);
	else
		demux_frame(p, f);
}
