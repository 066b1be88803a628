/* Owns the way of the guest's datagrams into host sockets.
 *
 * Path MTU: the guest's kernel sets "don't fragment" on everything and has a link of up to 64 KiB, so the flag alone says
 * little. A datagram that the host's own link could carry is sent with the flag, and what the path cannot carry comes back as
 * ICMP "fragmentation needed"; a larger one is what a program on the host would have had fragmented by its kernel, and is.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "io/icmp_error.h"
#include "proto/udp_private.h"

/* The socket address of a peer in the family of the socket. */
static socklen_t peer_address(const struct udp *u, const struct udp_socket *s, const struct endpoint *to, struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	if (!s->v6 || !addr_is_v4(&to->addr))
		return addr_to_sockaddr(&to->addr, to->port, u->sock.scope6, ss);
	*in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
	memcpy(&in6->sin6_addr, to->addr.b, 16);
	return sizeof(*in6);
}

static void set_discover(struct udp_socket *s, bool v4, bool df, bool oversize)
{
	uint8_t want = (uint8_t)(oversize ? IP_PMTUDISC_WANT : df ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT);

	_Static_assert(IP_PMTUDISC_DO == IPV6_PMTUDISC_DO && IP_PMTUDISC_WANT == IPV6_PMTUDISC_WANT, "one table for both");
	if (s->discover[v4 ? 0 : 1] == want)
		return;
	s->discover[v4 ? 0 : 1] = want;
	sock_set(s->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, want);
}

static void add_cmsg(struct msghdr *msg, int level, int type, const void *data, size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)msg->msg_control + msg->msg_controllen);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	msg->msg_controllen += CMSG_SPACE(len);
}

/* Where an answer from a forwarded port has to come from. */
static void add_source(struct msghdr *msg, const struct udp_socket *s, const struct addr *local)
{
	if (s->v6) {
		struct in6_pktinfo info = {0};

		memcpy(&info.ipi6_addr, local->b, 16);
		add_cmsg(msg, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	} else {
		struct in_pktinfo info = {0};

		memcpy(&info.ipi_spec_dst, local->b + 12, 4);
		add_cmsg(msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
}

/* Sends the datagram; 0 or -errno. */
static int send_datagram(const struct udp *u, struct udp_socket *s, const struct udp_flow *f, const struct ip_view *ip,
			 const struct udp_view *d, uint16_t gso_size)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in6_pktinfo)) + 3 * CMSG_SPACE(sizeof(int))] = {0};
	struct sockaddr_storage to;
	struct iovec iov = {(void *)(uintptr_t)d->payload, d->payload_len};
	struct msghdr msg = {.msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	bool v4 = addr_is_v4(&f->remote.addr);
	int value;

	msg.msg_namelen = peer_address(u, s, &f->remote, &to);
	if (ip->ttl != IP_TTL_DEFAULT) {
		value = ip->ttl;
		add_cmsg(&msg, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT, &value, sizeof(value));
	}
	if (ip->tos) {
		value = ip->tos;
		add_cmsg(&msg, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, &value, sizeof(value));
	}
	if (gso_size && gso_size < d->payload_len)
		add_cmsg(&msg, IPPROTO_UDP, UDP_SEGMENT, &gso_size, sizeof(gso_size));
	if (!addr_is_none(&f->local))
		add_source(&msg, s, &f->local);
	if (!msg.msg_controllen)
		msg.msg_control = NULL;
	while (sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* What a router, or the guest's own kernel, would have said. */
static void send_failed(struct io *io, const struct ip_view *ip, int error)
{
	struct icmp_error icmp;

	COUNT(io->counters, udp_tx_errors);
	if (icmp_error_from_errno(ip->v4, error, &icmp))
		icmp_error_send(io, &io->router[ip->v4 ? 0 : 1], &ip->src, &ip->dst, IPPROTO_UDP, ip->payload, ip->payload_len,
				ip->payload_len, &icmp);
}

static void send_to_host(struct udp *u, struct io *io, struct udp_flow *f, const struct ip_view *ip, const struct udp_view *d,
			 uint16_t gso_size)
{
	struct udp_socket *s = udp_socket_of(u, f);
	uint32_t index = f->flow.index, generation = f->flow.generation, packet = ip->header_len + UDP_HLEN;
	int rc;

	packet += gso_size ? gso_size : d->payload_len;
	set_discover(s, addr_is_v4(&f->remote.addr), ip->df, packet > io->link_mtu);
	rc = send_datagram(u, s, f, ip, d, gso_size);
	if (rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM) {
		COUNT(io->counters, udp_tx_errors); /* as lost as on any congested link */
		rc = 0;
	} else if (rc) {
		/* Either this datagram failed, and the queue has the details, or an earlier one did. */
		udp_read_errors(u, io, s);
		if (rc != -EMSGSIZE && flow_at_generation(&u->flows, index, generation))
			rc = send_datagram(u, s, f, ip, d, gso_size);
	}
	if (rc && rc != -EMSGSIZE)
		send_failed(io, ip, -rc);
}

static struct udp_flow *open_flow(struct udp *u, struct io *io, const struct flow_key *key)
{
	struct endpoint remote;
	struct udp_socket *s;

	if (!policy_outbound(io->policy, IPPROTO_UDP, &(struct endpoint){key->remote, key->remote_port}, &remote)) {
		COUNT(io->counters, drop_policy);
		return NULL;
	}
	s = udp_open_socket(u, io, &(struct endpoint){key->guest, key->guest_port}, &remote.addr);
	return s ? udp_add_flow(u, io, s, key, &remote) : NULL;
}

void udp_from_guest(struct udp *u, struct io *io, const struct ip_view *ip, const struct tap_frame *frame)
{
	uint16_t gso_size = frame->gso_type == VNET_GSO_UDP_L4 ? frame->gso_size : 0;
	struct flow_key key = {ip->src, ip->dst, 0, 0};
	struct udp_view d;
	struct udp_flow *f;

	if (!udp_parse(ip->payload, ip->payload_len, &d) || !d.src_port || !d.dst_port) {
		COUNT(io->counters, drop_malformed);
		return;
	}
	key.guest_port = d.src_port;
	key.remote_port = d.dst_port;
	f = (struct udp_flow *)flow_find(&u->flows, &key);
	if (!f)
		f = open_flow(u, io, &key);
	if (!f)
		return;
	f->sent += f->sent < 2;
	udp_touch(u, io, f);
	send_to_host(u, io, f, ip, &d, gso_size);
}
