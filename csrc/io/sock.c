/* How: --outbound and --outbound-if do not apply to loopback destinations, which a socket bound so cannot reach.
 */
#include "io/sock.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"

int sock_set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

void sock_close(int fd, bool abort)
{
	if (abort)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(fd);
}

bool sock_is_bound(int fd, const struct addr_list *addrs)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	struct addr own;

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return false;
	own = addr_from_sockaddr(&ss).addr;
	return addr_list_has(addrs, &own);
}

static int bind_outbound(const struct sock_options *o, int fd, const struct addr *host_peer, uint16_t local_port)
{
	int f = addr_is_v4(host_peer) ? 0 : 1;
	bool local = addr_is_loopback(host_peer);
	struct addr any = ADDR_NONE;
	struct sockaddr_storage ss;
	socklen_t len;

	if (!local && o->outbound_if[f][0] &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->outbound_if[f], (socklen_t)strlen(o->outbound_if[f])) < 0)
		return -errno;
	if (!local && !addr_is_none(&o->outbound[f]))
		any = o->outbound[f];
	else if (!local_port)
		return 0;
	else if (f == 0)
		any = addr_from_v4("\0\0\0\0");
	len = addr_to_sockaddr(&any, local_port, o->scope6, &ss);
	return bind(fd, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
}

int sock_open(const struct sock_options *o, const struct addr *host_peer, int type, int protocol, uint16_t local_port)
{
	int fd = socket(addr_is_v4(host_peer) ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol), rc = 0;

	if (fd < 0)
		return -errno;
	if (!addr_is_v4(host_peer))
		rc = sock_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	/* Ping sockets share an identifier by default, and then only one of them gets the replies. */
	if (!rc && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6))
		rc = sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 0);
	if (!rc)
		rc = bind_outbound(o, fd, host_peer, local_port);
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

int sock_connect(int fd, const struct endpoint *to, uint32_t scope6)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&to->addr, to->port, scope6, &ss);

	return connect(fd, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
}

struct endpoint sock_peer(int fd, const struct addr *like)
{
	/* Unlike getpeername(), the option knows the peer of an ended connection. It takes only the address's own length. */
	static const socklen_t lengths[] = {sizeof(struct sockaddr_in), sizeof(struct sockaddr_in6)};
	size_t first = addr_is_v4(like) ? 0 : 1;

	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		struct sockaddr_storage ss = {0};
		socklen_t len = lengths[i ^ first];

		if (!getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &ss, &len))
			return addr_from_sockaddr(&ss);
	}
	return (struct endpoint){ADDR_NONE, 0};
}

bool sock_is_broadcast(const struct sock_options *o, const struct endpoint *host_peer)
{
	int fd = addr_is_v4(&host_peer->addr) ? sock_open(o, &host_peer->addr, SOCK_DGRAM, 0, 0) : -1;
	bool found;

	if (fd < 0)
		return false;
	/* A "prohibit" route gives EACCES too, and still does with SO_BROADCAST. */
	found = sock_connect(fd, host_peer, 0) == -EACCES && !sock_set(fd, SOL_SOCKET, SO_BROADCAST, 1) &&
		!sock_connect(fd, host_peer, 0);
	close(fd);
	return found;
}
