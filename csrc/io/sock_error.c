/* How: an ICMP error of the guest's family is passed on as it came. One of the other family (of a mapped nameserver) is translated
 * by way of its errno.
 */
#include "io/sock_error.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
/* errqueue.h needs struct timespec. */
#include <linux/errqueue.h>

#include "io/icmp_error.h"
#include "io/sock.h"

void sock_receive_errors(int fd, bool v4, bool v6)
{
	if (v6) {
		sock_set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
		sock_set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
		sock_set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
	}
	if (v4) {
		sock_set(fd, IPPROTO_IP, IP_RECVERR, 1);
		sock_set(fd, IPPROTO_IP, IP_RECVTTL, 1);
		sock_set(fd, IPPROTO_IP, IP_RECVTOS, 1);
	}
}

/* The error in the numbers of one family. False: it has none for it. */
static bool translate(const struct sock_extended_err *e, bool v4, struct icmp_error *out)
{
	if (e->ee_origin == (v4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6)) {
		*out = (struct icmp_error){e->ee_type, e->ee_code,
					   e->ee_errno == EMSGSIZE || e->ee_errno == EPROTO ? e->ee_info : 0};
		return true;
	}
	if (e->ee_errno == EMSGSIZE) {
		*out = (struct icmp_error){v4 ? ICMP4_UNREACHABLE : ICMP6_TOO_BIG, v4 ? ICMP4_FRAG_NEEDED : 0, e->ee_info};
		return true;
	}
	return icmp_error_from_errno(v4, (int)e->ee_errno, out);
}

static struct addr offender(const struct sock_extended_err *e)
{
	const struct sockaddr *from = SO_EE_OFFENDER(e);
	struct sockaddr_storage ss = {0};

	if (e->ee_origin == SO_EE_ORIGIN_LOCAL)
		return ADDR_NONE;
	memcpy(&ss, from, from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
	return addr_from_sockaddr(&ss).addr;
}

bool sock_next_error(int fd, struct sock_error *out)
{
	_Alignas(struct cmsghdr) char control[512];
	struct sockaddr_storage to = {0};
	struct iovec iov = {out->data, sizeof(out->data)};
	struct msghdr msg = {.msg_name = &to,
			     .msg_namelen = sizeof(to),
			     .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n;

	do
		n = recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return false;
	out->len = (uint32_t)n;
	out->to = addr_from_sockaddr(&to);
	out->known4 = out->known6 = false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		const struct sock_extended_err *e = (const void *)CMSG_DATA(c);

		if (!(c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) &&
		    !(c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR))
			continue;
		out->known4 = translate(e, true, &out->icmp4);
		out->known6 = translate(e, false, &out->icmp6);
		out->reporter = offender(e);
	}
	return true;
}
