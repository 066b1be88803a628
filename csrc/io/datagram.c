/* How: control messages are those of ip(7), ipv6(7) and udp(7). An IPv4 datagram on an IPv6 socket has TTL and class in IPv4's
 * messages, its addresses in those of both.
 */
#include "io/datagram.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#include "base/bytes.h"
#include "io/sock.h"
#include "wire/ip.h"

#define SMALL_BYTES 552 /* Linux's least path MTU (net.ipv4.route.min_pmtu); IPv6 has 1280 (RFC 8200, 5) */

static int read_int(const struct cmsghdr *c)
{
	int value;

	memcpy(&value, CMSG_DATA(c), sizeof(value));
	return value;
}

static void read_v4(const struct cmsghdr *c, struct datagram_info *out)
{
	struct in_pktinfo info;

	if (c->cmsg_type == IP_TTL) {
		out->ttl = (uint8_t)read_int(c);
	} else if (c->cmsg_type == IP_TOS) {
		out->tos = *CMSG_DATA(c);
	} else if (c->cmsg_type == IP_PKTINFO) {
		memcpy(&info, CMSG_DATA(c), sizeof(info));
		out->local = addr_from_v4(&info.ipi_spec_dst);
		out->ifindex = (uint32_t)info.ipi_ifindex;
	}
}

static void read_v6(const struct cmsghdr *c, struct datagram_info *out)
{
	struct in6_pktinfo info;
	struct addr local;

	if (c->cmsg_type == IPV6_HOPLIMIT) {
		out->ttl = (uint8_t)read_int(c);
	} else if (c->cmsg_type == IPV6_TCLASS) {
		out->tos = (uint8_t)read_int(c);
	} else if (c->cmsg_type == IPV6_PKTINFO) {
		memcpy(&info, CMSG_DATA(c), sizeof(info));
		local = addr_from_v6(&info.ipi6_addr);
		out->ifindex = info.ipi6_ifindex;
		/* For IPv4, IP_PKTINFO is better: after a broadcast it has the address to answer from. */
		if (!addr_is_multicast(&local) && !addr_is_v4(&local))
			out->local = local;
	}
}

struct datagram_info datagram_read_info(struct msghdr *msg)
{
	struct datagram_info out = {.ttl = IP_TTL_DEFAULT};

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == IPPROTO_IP)
			read_v4(c, &out);
		else if (c->cmsg_level == IPPROTO_IPV6)
			read_v6(c, &out);
		else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
			out.gso_size = (uint16_t)read_int(c);
	}
	return out;
}

int datagram_receive(struct datagram_batch *b, int fd)
{
	int n;

	/* Set up only the messages that the last call has used: most calls find one datagram. */
	for (int i = 0; i < b->used; i++) {
		b->iov[i] = (struct iovec){b->data[i], IP_MAX_BYTES};
		b->message[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
							.msg_namelen = sizeof(b->from[i]),
							.msg_iov = &b->iov[i],
							.msg_iovlen = 1,
							.msg_control = b->control[i],
							.msg_controllen = DATAGRAM_CONTROL_BYTES};
	}
	do
		n = recvmmsg(fd, b->message, DATAGRAM_BATCH, MSG_DONTWAIT, NULL);
	while (n < 0 && errno == EINTR);
	/* The kernel may have begun with one message more. */
	b->used = n < 0 ? 1 : n < DATAGRAM_BATCH ? n + 1 : n;
	return n < 0 ? -errno : n;
}

struct datagram datagram_at(struct datagram_batch *b, int index)
{
	return (struct datagram){b->data[index], b->message[index].msg_len, addr_from_sockaddr(&b->from[index]),
				 datagram_read_info(&b->message[index].msg_hdr)};
}

void datagram_add_control(struct msghdr *msg, int level, int type, const void *data, size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)msg->msg_control + msg->msg_controllen);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	msg->msg_controllen += CMSG_SPACE(len);
}

void datagram_set_discover(int fd, bool v4, bool df, uint32_t bytes, uint32_t link_bytes, uint8_t *current)
{
	uint8_t want = (uint8_t)(!df ? IP_PMTUDISC_DONT : bytes > link_bytes ? IP_PMTUDISC_WANT : IP_PMTUDISC_DO);

	_Static_assert(IP_PMTUDISC_DO == IPV6_PMTUDISC_DO && IP_PMTUDISC_WANT == IPV6_PMTUDISC_WANT &&
			       IP_PMTUDISC_DONT == IPV6_PMTUDISC_DONT,
		       "the same values for both families");
	/* Only the sender fragments IPv6, so the kernel has to know the path MTU in any case. */
	if (!v4 && want == IP_PMTUDISC_DONT)
		want = IP_PMTUDISC_WANT;
	/* No path carries less, so the kernel's own setting does the same: most sockets need no other. */
	if (*current == want || (*current == DATAGRAM_DISCOVER_UNKNOWN && df && bytes <= SMALL_BYTES))
		return;
	*current = want;
	sock_set(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, want);
}
