/* Purpose: datagrams of the guest into host sockets.
 *
 * How: the guest's kernel sends most datagrams one by one, and a system call costs far more than a copy. So datagrams of one
 * flow that follow each other in a batch of frames become a GSO batch and are sent with UDP_SEGMENT. No datagram waits for one
 * that has not come yet.
 *
 * Path MTU: the guest's kernel sets "don't fragment" on every packet and has a link of up to 64 KiB, so the flag alone says
 * little. A datagram that the host's own link could carry is sent with the flag, and if the path cannot carry it, ICMP
 * "fragmentation needed" comes back. A larger datagram is fragmented, as the host's kernel would do for a program on the host.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "io/datagram.h"
#include "io/gate.h"
#include "io/icmp_error.h"
#include "proto/udp_private.h"
#include "wire/tunnel_segment.h"

#define RETRIES 2
#define NEW_FLOWS_PER_S 4000 /* new flows; a flow that gets an answer does not count */
#define NEW_FLOWS_BURST 8192

socklen_t udp_peer_address(const struct udp *u, const struct udp_socket *s, const struct endpoint *to, uint32_t scope,
			   struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	if (!s->v6 || !addr_is_v4(&to->addr))
		return addr_to_sockaddr(&to->addr, to->port, scope ? scope : u->sock.scope6, ss);
	*in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
	memcpy(&in6->sin6_addr, to->addr.b, 16);
	return sizeof(*in6);
}

void udp_add_source(struct msghdr *msg, const struct udp_socket *s, const struct addr *source, uint32_t ifindex)
{
	if (s->v6) {
		struct in6_pktinfo info = {.ipi6_ifindex = ifindex};

		memcpy(&info.ipi6_addr, source->b, 16);
		datagram_add_control(msg, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	} else {
		struct in_pktinfo info = {.ipi_ifindex = (int)ifindex};

		memcpy(&info.ipi_spec_dst, source->b + 12, 4);
		datagram_add_control(msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
}

/* Has multicast and 255.255.255.255 leave by the interface that the guest's addresses come from, not by the routing table's
 * choice. */
static void add_link(struct msghdr *msg, const struct udp *u, const struct udp_socket *s, const struct addr *group)
{
	bool v4 = addr_is_v4(group);
	struct addr any = v4 ? addr_from_v4("\0\0\0\0") : ADDR_NONE;

	if (!u->sock.outbound_if[v4 ? 0 : 1][0] && (addr_is_multicast(group) || addr_is_broadcast(group)))
		udp_add_source(msg, s, &any, v4 ? u->sock.link4 : u->sock.scope6);
}

static bool has_link(const struct udp *u, bool v4)
{
	return u->sock.outbound_if[v4 ? 0 : 1][0] || (v4 ? u->sock.link4 : u->sock.scope6);
}

/* Sends the datagram; 0 or -errno. */
static int send_datagram(const struct udp *u, struct udp_socket *s, const struct udp_flow *f, const struct ip_view *ip,
			 const struct udp_view *d, uint16_t gso_size)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in6_pktinfo)) + 3 * CMSG_SPACE(sizeof(int))] = {0};
	struct sockaddr_storage to;
	struct iovec iov = {(void *)(uintptr_t)d->payload, d->payload_len};
	struct msghdr msg = {.msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	bool v4 = addr_is_v4(&f->host_peer.addr);
	int value;

	msg.msg_namelen = udp_peer_address(u, s, &f->host_peer, f->scope, &to);
	if (ip->ttl != IP_TTL_DEFAULT || f->group) { /* the kernel's own choice for multicast is 1 */
		value = ip_ttl_onward(ip);
		datagram_add_control(&msg, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT, &value, sizeof(value));
	}
	if (ip->tos) {
		value = ip->tos;
		datagram_add_control(&msg, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, &value, sizeof(value));
	}
	if (gso_size)
		datagram_add_control(&msg, IPPROTO_UDP, UDP_SEGMENT, &gso_size, sizeof(gso_size));
	if (f->group)
		add_link(&msg, u, s, &f->host_peer.addr);
	else if (!addr_is_none(&f->local))
		udp_add_source(&msg, s, &f->local, 0);
	if (!msg.msg_controllen)
		msg.msg_control = NULL;
	while (sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Sends the ICMP error that a router, or the guest's own kernel, would have sent. */
static void send_failed(const struct udp *u, struct io *io, const struct udp_flow *f, const struct ip_view *ip,
			const struct udp_view *d, int error)
{
	uint8_t quote[UDP_HLEN + ICMP_QUOTE_MAX_V6];
	uint32_t len = u32_min(d->payload_len, ICMP_QUOTE_MAX_V6);
	struct icmp_error icmp;

	COUNT(io->counters, udp_tx_errors);
	if (f->group || !icmp_error_from_errno(ip->v4, error, &icmp) ||
	    (error == EACCES && sock_is_broadcast(&u->sock, &f->host_peer)))
		return;
	udp_emit(quote, d->src_port, d->dst_port, d->payload_len);
	memcpy(quote + UDP_HLEN, d->payload, len);
	icmp_error_send(io, &io->mapping->gateway[ip->v4 ? 0 : 1], &ip->src, &ip->dst, IPPROTO_UDP, quote, UDP_HLEN + len,
			UDP_HLEN + d->payload_len, &icmp);
}

/* Sends one datagram. Errors become ICMP. */
static void send_one(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_flow *f, const struct ip_view *ip,
		     const struct udp_view *d)
{
	int rc = send_datagram(u, s, f, ip, d, 0);

	/* The error may be an earlier datagram's, which is in the error queue (ECONNREFUSED always is, as the socket is not
	 * connected). If it is this one's, it comes again. */
	for (int i = 0; i < RETRIES && rc && rc != -EAGAIN && rc != -EMSGSIZE; i++) {
		udp_read_errors(u, io, s, NULL);
		rc = send_datagram(u, s, f, ip, d, 0);
	}
	if (rc == -EMSGSIZE)
		udp_read_errors(u, io, s, &(struct udp_refused){f, d});
	if (rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM || rc == -ECONNREFUSED || rc == -EMSGSIZE)
		COUNT(io->counters, udp_tx_errors); /* lost as on a congested link, or already passed on */
	else if (rc)
		send_failed(u, io, f, ip, d, -rc);
}

/* Sends several datagrams with one call. If a segment exceeds the path MTU, that call refuses all: then one by one. */
static void send_segments(struct udp *u, struct io *io, struct udp_socket *s, const struct udp_flow *f, const struct ip_view *ip,
			  const struct udp_view *d, uint16_t gso_size)
{
	struct udp_view part = *d;

	if (!send_datagram(u, s, f, ip, d, gso_size))
		return;
	for (uint32_t done = 0; done < d->payload_len; done += part.payload_len) {
		part.payload = d->payload + done;
		part.payload_len = u32_min(gso_size, d->payload_len - done);
		send_one(u, io, s, f, ip, &part);
	}
}

/* Bytes of a packet to the host peer with this payload. */
static uint32_t packet_bytes(const struct udp_flow *f, uint32_t len)
{
	return (uint32_t)ip_header_bytes(addr_is_v4(&f->host_peer.addr)) + UDP_HLEN + len;
}

/* gso_size: bytes of each datagram but the last; 0: there is one. */
static void send_to_host(struct udp *u, struct io *io, const struct udp_flow *f, const struct ip_view *ip, const struct udp_view *d,
			 uint16_t gso_size)
{
	struct udp_socket *s = udp_socket_of(u, f);
	bool v4 = addr_is_v4(&f->host_peer.addr);

	datagram_set_discover(s->fd, v4, ip->df, packet_bytes(f, gso_size ? gso_size : d->payload_len), io->link_mtu,
			      &s->discover[v4 ? 0 : 1]);
	/* Only for this call: a datagram that the guest sends to a broadcast address in a unicast frame must not get there. */
	if (f->group == UDP_BROADCAST)
		sock_set(s->fd, SOL_SOCKET, SO_BROADCAST, 1);
	if (gso_size) {
		udp_expect_many(s);
		send_segments(u, io, s, f, ip, d, gso_size);
	} else {
		send_one(u, io, s, f, ip, d);
	}
	if (f->group == UDP_BROADCAST)
		sock_set(s->fd, SOL_SOCKET, SO_BROADCAST, 0);
}

void udp_flush(struct udp *u, struct io *io)
{
	struct udp_gso_batch *b = &u->to_host;
	const struct udp_flow *f;
	struct udp_view d;

	if (!b->count)
		return;
	f = (const struct udp_flow *)flow_at(&u->flows, b->flow);
	d = (struct udp_view){.payload = u->to_host_data,
			      .payload_len = b->bytes,
			      .src_port = f->flow.key.guest_port,
			      .dst_port = f->flow.key.dest_port};
	send_to_host(u, io, f, &u->to_host_ip, &d, b->count > 1 ? b->size : 0);
	b->count = 0;
}

/* Adds a datagram to the GSO batch, or sends it if no other can join it. */
static void add_to_batch(struct udp *u, struct io *io, const struct udp_flow *f, const struct ip_view *ip, const struct udp_view *d)
{
	struct udp_gso_batch *b = &u->to_host;
	struct udp_gso_batch next = {f->flow.index, d->payload_len, (uint16_t)d->payload_len, 1, ip->ttl, ip->tos};

	if (!udp_batch_takes(b, &next) || u->to_host_ip.df != ip->df) {
		udp_flush(u, io);
		if (!d->payload_len || d->payload_len > UDP_BATCH_BYTES || packet_bytes(f, d->payload_len) > io->link_mtu) {
			send_to_host(u, io, f, ip, d, 0);
			return;
		}
		u->to_host_ip = *ip;
		*b = next;
		memcpy(u->to_host_data, d->payload, d->payload_len);
		return;
	}
	memcpy(u->to_host_data + b->bytes, d->payload, d->payload_len);
	if (udp_batch_add(b, &next))
		udp_flush(u, io);
}

/* The host peer of a destination. False: the guest may not reach it. to_link: see open_flow(). */
static bool find_host_peer(const struct udp *u, const struct io *io, const struct endpoint *to, bool to_link,
			   struct endpoint *host_peer, uint8_t *group)
{
	*host_peer = *to;
	*group = addr_is_multicast(&to->addr) ? UDP_MULTICAST : to_link ? UDP_BROADCAST : UDP_UNICAST;
	if (*group && !has_link(u, addr_is_v4(&to->addr)))
		return false;
	if (*group != UDP_BROADCAST)
		return mapping_outbound(io->mapping, IPPROTO_UDP, to, host_peer);
	return addr_is_v4(&to->addr) && mapping_broadcast(io->mapping, to->port);
}

/* For the egress policy, a frame to a group address leads to all of the host's link. */
static bool may_open(struct io *io, const struct ip_view *ip, const struct flow_key *key, const struct endpoint *host_peer,
		     uint8_t group, struct gate_pass *pass)
{
	struct endpoint all = {addr_from_v4("\xff\xff\xff\xff"), key->dest_port};
	bool opens = gate_opens(io, FLOW_UDP, key, group == UDP_BROADCAST ? &all : host_peer, pass);

	if (!opens && !group && !io->frame_waits)
		gate_answer(io, ip);
	return opens;
}

/* to_link: the datagram came in a frame to a group address. */
static struct udp_flow *open_flow(struct udp *u, struct io *io, const struct ip_view *ip, const struct flow_key *key, bool to_link)
{
	struct endpoint host_peer;
	struct udp_socket *s;
	struct udp_flow *f;
	struct gate_pass pass;
	uint8_t group;

	if (!find_host_peer(u, io, &(struct endpoint){key->dest, key->dest_port}, to_link, &host_peer, &group)) {
		COUNT(io->counters, drop_policy);
		udp_report_refused(io, key, NULL, REASON_address, 0);
		if (!group && mapping_is_virtual(io->mapping, &ip->dst))
			icmp_error_answer(io, ip, ENETUNREACH);
		return NULL;
	}
	if (!may_open(io, ip, key, &host_peer, group, &pass))
		return NULL;
	if (!flood_limit_take(&u->new_flows, io->loop->now_ms, NEW_FLOWS_PER_S, NEW_FLOWS_BURST)) {
		COUNT(io->counters, udp_rate_limit);
		udp_report_refused(io, key, &host_peer, REASON_rate_limit, 0);
		if (log_due(&u->rate_logged_ms, io->loop->now_ms))
			log_add(io->log, LOG_LEVEL_WARNING,
				"UDP: the guest begins more than %u flows a second that get no answer: some are lost",
				NEW_FLOWS_PER_S);
		return NULL;
	}
	/* The broadcast address of a subnet that the host is not in becomes that of the host's link. */
	if (group == UDP_BROADCAST && !sock_is_broadcast(&u->sock, &host_peer))
		host_peer.addr = addr_from_v4("\xff\xff\xff\xff");
	s = udp_open_socket(u, io, &(struct endpoint){key->guest, key->guest_port}, &host_peer.addr);
	f = s ? udp_add_flow(u, io, s, key, &host_peer, false, pass.rule) : NULL;
	if (!s)
		udp_report_refused(io, key, &host_peer, REASON_no_room, 0);
	if (f && group) {
		f->group = group;
		s->groups++;
	}
	return f;
}

/* A tunnel's datagram whose inner packet is a large segment: each part of that becomes a datagram. */
static void from_tunnel(struct udp *u, struct io *io, struct udp_flow *f, const struct ip_view *ip, const struct udp_view *d,
			const struct link_frame *frame)
{
	uint32_t at = (uint32_t)(d->payload - frame->data);
	bool udp = (frame->gso_type & ~VNET_GSO_TUNNEL) == VNET_GSO_UDP_L4;
	struct udp_view one = *d;
	struct tunnel_segmenter segmenter;

	if (frame->inner < at || !tunnel_segment_begin(&segmenter, d->payload, d->payload_len, frame->inner - at,
						       frame->csum_start - at, udp, frame->gso_size)) {
		COUNT(io->counters, drop_malformed);
		return;
	}
	one.payload = io->scratch;
	while ((one.payload_len = tunnel_segment_next(&segmenter, io->scratch))) {
		account_sent(&f->account, 1, one.payload_len);
		add_to_batch(u, io, f, ip, &one);
	}
}

bool udp_from_guest(struct udp *u, struct io *io, const struct ip_view *ip, const struct link_frame *frame)
{
	uint16_t gso_size = frame->gso_type == VNET_GSO_UDP_L4 ? frame->gso_size : 0;
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	struct udp_view d = udp_parse(ip->payload, ip->payload_len);
	struct udp_flow *f;

	/* No kernel makes more segments: a flood of tiny ones would only cost time. */
	if (!d.src_port || !d.dst_port || (gso_size && d.payload_len > (uint32_t)gso_size * UDP_SEGMENTS_MAX)) {
		COUNT(io->counters, drop_malformed);
		return true;
	}
	key.guest_port = d.src_port;
	key.dest_port = d.dst_port;
	f = (struct udp_flow *)flow_find(&u->flows, &key);
	if (!f && !eth_is_group(eth_dst(frame->data)) && gate_serves_dns(io, FLOW_UDP, &key))
		return gso_size; /* no resolver sends queries in batches */
	if (!f)
		f = open_flow(u, io, ip, &key, eth_is_group(eth_dst(frame->data)));
	if (!f)
		return true;
	if (UNLIKELY(f->member)) {
		struct gate_pass pass;

		if (!may_open(io, ip, &key, &f->host_peer, UDP_UNICAST, &pass))
			return true;
		f->rule = pass.rule;
		f->member = false;
	}
	if (UNLIKELY(f->group))
		udp_socket_of(u, f)->asked_ms = io->loop->now_ms;
	if (UNLIKELY(io->rate_out) &&
	    !rate_takes_datagram(io->rate_out, io->loop->now_us, udp_wire_bytes(f, d.payload_len, gso_size), udp_is_query(f))) {
		COUNT_ADD(io->counters, drop_rate, account_datagrams(d.payload_len, gso_size));
		return true;
	}
	f->sent += f->sent < 2;
	udp_note_direction(io, f, true);
	udp_touch(u, io, f);
	udp_claim_peer(u, f);
	if (frame->gso_type & VNET_GSO_TUNNEL) {
		from_tunnel(u, io, f, ip, &d, frame);
		return true;
	}
	account_sent(&f->account, account_datagrams(d.payload_len, gso_size), d.payload_len);
	if (gso_size && gso_size < d.payload_len) {
		udp_flush(u, io);
		send_to_host(u, io, f, ip, &d, gso_size);
	} else {
		add_to_batch(u, io, f, ip, &d);
	}
	return true;
}
