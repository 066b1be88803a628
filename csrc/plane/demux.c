/* Purpose: checks each frame of the guest and gives it to TCP, UDP or ICMP.
 *
 * How: a frame for none of these gets a verdict that the caller acts on: slow path, other shard, or dropped and counted. The only
 * state is what was learnt about the guest's link, and fragments.
 *
 * Invariants: a protocol module gets only packets with valid lengths, checksums and addresses; a UDP packet ends where its own
 * length says. A frame for the slow path has a complete checksum. Nothing here calls shard.c.
 */
#include "plane/demux.h"

#include <netinet/in.h>

#include "io/gate.h"
#include "plane_api.h"
#include "wire/icmp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define PORT_DHCP 67    /* RFC 2131, 4.1 */
#define PORT_DHCPV6 547 /* RFC 8415, 7.2 */

static enum demux_verdict slow_path(struct demux *d, const struct link_frame *f)
{
	d->frame = *f;
	link_complete_checksum(&d->frame);
	return DEMUX_SLOW_PATH;
}

static enum demux_verdict other_shard(struct demux *d, const struct link_frame *f, uint32_t shard, bool reassembled, bool is_tcp)
{
	link_linearize(d->io->link);
	d->frame = *f;
	d->to_shard = shard;
	d->reassembled = reassembled;
	d->is_tcp = is_tcp;
	return DEMUX_OTHER_SHARD;
}

/* Whether this is for the slow path: neighbour discovery, router solicitation, DHCP, DHCPv6. */
static bool is_slow(const struct demux *d, const struct ip_view *ip)
{
	if (ip->proto == IPPROTO_ICMPV6 && !ip->v4 && ip->payload_len >= ICMP_HLEN)
		return ip->payload[0] >= ICMP6_ROUTER_SOLICITATION && ip->payload[0] < ICMP6_REDIRECT;
	if (ip->proto != IPPROTO_UDP)
		return false;
	if (ip->v4)
		return load_be16(ip->payload + 2) == PORT_DHCP && (addr_is_broadcast(&ip->dst) || addr_eq(&ip->dst, &d->gateway4));
	return load_be16(ip->payload + 2) == PORT_DHCPV6 && (addr_is_multicast(&ip->dst) || addr_is_linklocal6(&ip->dst));
}

/* The checksum that the guest left to us can be that of an inner packet, in a tunnel. The outer checksum covers the inner one, so
 * the inner one is completed first. False: the field lies before the transport header, in bytes that were parsed already. */
static bool complete_inner(struct link_frame *f, const struct ip_view *ip)
{
	uint32_t transport = (uint32_t)(ip->payload - f->data);

	/* Not for a batch of tunnelled segments: segmentation completes each. */
	if (f->csum_start > transport && !(f->gso_type & VNET_GSO_TUNNEL && ip->proto == IPPROTO_UDP))
		link_complete_checksum(f);
	return f->csum_start >= transport;
}

static bool checksum_ok(const struct ip_view *ip, const struct link_frame *f)
{
	if (f->partial_checksum)
		return true;
	if (ip->proto == IPPROTO_UDP && ip->v4 && !load_be16(ip->payload + UDP_CSUM_OFFSET))
		return true;
	return ip_transport_checksum_ok(ip);
}

/* Remembers the address that the guest uses: clients of forwarded ports go there, and with SLAAC the guest chooses it. False: the
 * guest cannot have this address. */
static bool learn_address(struct demux *d, const struct addr *src)
{
	struct addr *seen = &d->mapping->guest_seen[mapping_seen_index(src)];

	if (addr_eq(seen, src) && !addr_is_none(src))
		return true;
	if (!mapping_is_source(d->mapping, src))
		return false;
	*seen = *src;
	d->source = *src;
	d->learned |= DEMUX_LEARNED_ADDRESS;
	return true;
}

/* The shard of a packet: for TCP it follows from the endpoints, everything else belongs to shard 0. */
static uint32_t shard_of(const struct demux *d, const struct ip_view *ip, bool is_tcp)
{
	struct flow_key key = {ip->src, ip->dst, 0, 0};

	if (!is_tcp)
		return 0;
	key.guest_port = load_be16(ip->payload);
	key.dest_port = load_be16(ip->payload + 2);
	return steering_shard(&d->tcp->steering, &key);
}

static void trace(const struct demux *d, const struct ip_view *ip)
{
	char src[ADDR_STR_LEN], dst[ADDR_STR_LEN];

	if (log_enabled(d->io->log, LOG_LEVEL_TRACE))
		log_add(d->io->log, LOG_LEVEL_TRACE, "from guest: %s > %s protocol %u, %u bytes", addr_str(&ip->src, src),
			addr_str(&ip->dst, dst), ip->proto, ip->payload_len);
}

/* A datagram to port 53 that Python answers. */
static enum demux_verdict dns_query(struct demux *d, const struct link_frame *f, const struct ip_view *ip)
{
	if (!gate_passes_query(d->io, ip->payload + UDP_HLEN, ip->payload_len - UDP_HLEN))
		return DEMUX_DROPPED;
	slow_path(d, f);
	d->udp_at = (uint32_t)(ip->payload - f->data);
	d->frame.len = d->udp_at + ip->payload_len;
	return DEMUX_DNS;
}

static enum demux_verdict demux_transport(struct demux *d, const struct ip_view *ip, const struct link_frame *f)
{
	uint32_t need = ip->proto == IPPROTO_TCP ? PLANE_TCP : ip->proto == IPPROTO_UDP ? PLANE_UDP : PLANE_ICMP;

	if (!(d->flags & need)) {
		COUNT(d->io->counters, drop_disabled);
		return DEMUX_DROPPED;
	}
	if (!learn_address(d, &ip->src)) {
		COUNT(d->io->counters, drop_source);
		return DEMUX_DROPPED;
	}
	/* As a router, do not forward a group's packets. UDP has rules of its own (proto/udp_guest.c). */
	if ((eth_is_group(eth_dst(f->data)) || addr_is_multicast(&ip->dst)) && ip->proto != IPPROTO_UDP) {
		COUNT(d->io->counters, drop_unsupported);
		return DEMUX_DROPPED;
	}
	if (ip->proto == IPPROTO_TCP)
		tcp_from_guest(d->tcp, d->io, ip);
	else if (ip->proto == IPPROTO_ICMP || ip->proto == IPPROTO_ICMPV6)
		icmp_from_guest(d->icmp, d->io, ip);
	else if (!udp_from_guest(d->udp, d->io, ip, f))
		return dns_query(d, f, ip);
	if (LIKELY(!d->io->frame_waits))
		return DEMUX_TAKEN;
	d->io->frame_waits = false;
	link_linearize(d->io->link);
	d->frame = *f;
	return DEMUX_WAITS;
}

static enum demux_verdict demux_ip(struct demux *d, struct link_frame *f, bool v4, bool reassembled);

/* Puts fragments together. A whole packet is handled as if it had come in one frame. */
static enum demux_verdict demux_fragment(struct demux *d, const struct link_frame *f, const struct ip_view *ip)
{
	struct link_frame whole = {0};
	uint8_t *packet;

	_Static_assert(ETH_HLEN <= REASSEMBLY_HEADROOM, "the Ethernet header goes before the packet");
	switch (reassembly_add(&d->reassembly, ip, d->io->loop->now_ms, &packet, &whole.len)) {
	case REASSEMBLY_HELD:
		return DEMUX_TAKEN;
	case REASSEMBLY_REFUSED:
		COUNT(d->io->counters, drop_fragment);
		return DEMUX_DROPPED;
	case REASSEMBLY_WHOLE:
		break;
	}
	COUNT(d->io->counters, reassembled);
	whole.data = packet - ETH_HLEN;
	whole.len += ETH_HLEN;
	memcpy(whole.data, f->data, ETH_HLEN);
	return demux_ip(d, &whole, ip->v4, true);
}

static enum demux_verdict demux_ip(struct demux *d, struct link_frame *f, bool v4, bool reassembled)
{
	struct ip_view ip;
	bool is_tcp;

	if (!(d->flags & (v4 ? PLANE_IPV4 : PLANE_IPV6))) {
		COUNT(d->io->counters, drop_disabled);
		return DEMUX_DROPPED;
	}
	if (!ip_parse(f->data + ETH_HLEN, f->len - ETH_HLEN, v4, &ip) || (f->partial_checksum && !complete_inner(f, &ip))) {
		COUNT(d->io->counters, drop_malformed);
		return DEMUX_DROPPED;
	}
	if (UNLIKELY(d->tcp->steering.shards > 1)) {
		uint32_t shard;

		is_tcp = ip.proto == IPPROTO_TCP && !ip.fragment && ip.payload_len >= TCP_HLEN;
		shard = shard_of(d, &ip, is_tcp);
		if (shard != d->self)
			return other_shard(d, f, shard, reassembled, is_tcp);
	}
	trace(d, &ip);
	if (neighbour_learn_addr(&d->io->link->neighbours, &ip.src)) {
		d->source = ip.src;
		d->learned |= DEMUX_LEARNED_NEIGHBOUR;
	}
	if (ip.fragment && reassembled) {
		COUNT(d->io->counters, drop_fragment); /* fragments inside fragments */
		return DEMUX_DROPPED;
	}
	if (ip.fragment)
		return demux_fragment(d, f, &ip);
	if (reassembled)
		ip.df = false; /* the guest fragmented it: the host may too, also with IPv6 */
	if (ip.proto != IPPROTO_TCP && ip.proto != IPPROTO_UDP && ip.proto != (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		COUNT(d->io->counters, drop_unsupported);
		return DEMUX_DROPPED;
	}
	if (ip.proto == IPPROTO_UDP)
		ip.payload_len = udp_bytes(ip.payload, ip.payload_len, v4);
	if (!ip.payload_len || !checksum_ok(&ip, f)) {
		COUNT(d->io->counters, drop_malformed);
		return DEMUX_DROPPED;
	}
	if (!is_slow(d, &ip))
		return demux_transport(d, &ip, f);
	if (addr_is_linklocal6(&ip.src))
		learn_address(d, &ip.src);
	return slow_path(d, f);
}

enum demux_verdict demux_frame(struct demux *d, struct link_frame *f)
{
	struct link *link = d->io->link;

	if (!eth_is_group(eth_dst(f->data)) && memcmp(eth_dst(f->data), link->our_mac, ETH_ALEN) != 0) {
		COUNT(d->io->counters, drop_unsupported);
		return DEMUX_DROPPED;
	}
	if (!eth_is_group(eth_src(f->data)) && neighbour_learn_mac(&link->neighbours, eth_src(f->data)))
		d->learned |= DEMUX_LEARNED_MAC;
	switch (eth_type(f->data)) {
	case ETH_TYPE_IPV4:
		return demux_ip(d, f, true, false);
	case ETH_TYPE_IPV6:
		return demux_ip(d, f, false, false);
	case ETH_TYPE_ARP:
		if (!(d->flags & PLANE_IPV4))
			return DEMUX_DROPPED;
		return d->self ? other_shard(d, f, 0, false, false) : slow_path(d, f);
	default:
		if (link_untag(f))
			return demux_frame(d, f);
		COUNT(d->io->counters, drop_unsupported);
		return DEMUX_DROPPED;
	}
}

enum demux_verdict demux_reassembled(struct demux *d, struct link_frame *f)
{
	return demux_ip(d, f, eth_type(f->data) == ETH_TYPE_IPV4, true);
}
