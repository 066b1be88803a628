/* Purpose: sockets and pipes of the simulated kernel. Calls answer as in socket(7), tcp(7), udp(7) and icmp(7). */
#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/udp.h>
#include <string.h>
#include <time.h>
/* needs struct timespec */
#include <linux/errqueue.h>

#include "kernel.h"
#include "wrapped.h"

#define HALF_WINDOW 1000 /* half of a small peer's window; the kernel's segments are no larger */

static int failed(int error)
{
	errno = error;
	return -1;
}

int __wrap_socket(int family, int type, int protocol)
{
	int fd, error;

	if (!kernel.running)
		return __real_socket(family, type, protocol);
	REQUIRE(family == AF_INET || family == AF_INET6);
	REQUIRE(type & SOCK_NONBLOCK || protocol == 0, "a blocking socket stalls all flows");
	if (kernel_fails(&error))
		return failed(error == EINTR ? ENFILE : error);
	fd = kernel_open((type & 15) == SOCK_STREAM ? FAKE_STREAM : protocol ? FAKE_PING : FAKE_DGRAM, family == AF_INET6);
	return fd < 0 ? failed(EMFILE) : fd;
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len)
{
	int error;

	if (!kernel_fd(fd))
		return __real_bind(fd, address, len);
	return kernel_fails(&error) ? failed(error == EINTR ? EADDRINUSE : error) : 0;
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len)
{
	struct fake *f = kernel_fd(fd);
	int error;

	if (!f)
		return __real_connect(fd, address, len);
	REQUIRE(len == (f->v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)));
	REQUIRE(address->sa_family == (f->v6 ? AF_INET6 : AF_INET));
	if (kernel_fails(&error))
		return failed(error);
	if (f->kind != FAKE_STREAM)
		return 0;
	REQUIRE(!f->connecting && !f->connected);
	f->connecting = true;
	return failed(EINPROGRESS);
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	struct fake *f = kernel_fd(fd);
	struct sockaddr_storage ss;
	int accepted, error;

	if (!f)
		return __real_accept4(fd, address, len, flags);
	REQUIRE(f->kind == FAKE_LISTENER && flags & SOCK_NONBLOCK);
	if (!f->clients)
		return failed(EAGAIN);
	if (kernel_fails(&error))
		return failed(error);
	accepted = kernel_open(FAKE_STREAM, f->v6);
	if (accepted < 0)
		return failed(EMFILE);
	kernel_fd(accepted)->connected = true;
	*len = addr_to_sockaddr(&f->client[0].addr, f->client[0].port, 0, &ss);
	memcpy(address, &ss, *len);
	memmove(f->client, f->client + 1, --f->clients * sizeof(f->client[0]));
	return accepted;
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
	struct fake *f = kernel_fd(fd);
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (!f)
		return __real_getsockname(fd, address, len);
	*len = f->v6 ? sizeof(in6) : sizeof(in);
	memcpy(address, f->v6 ? (void *)&in6 : (void *)&in, *len);
	return 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	struct fake *f = kernel_fd(fd);
	uint32_t mem[SK_MEMINFO_VARS] = {0};
	struct tcp_info info = {0};
	int out = 0;

	if (!f)
		return __real_getsockopt(fd, level, name, value, len);
	if (level == SOL_SOCKET && name == SO_MEMINFO) {
		if (f->kind != FAKE_STREAM)
			return failed(EOPNOTSUPP);
		mem[SK_MEMINFO_SNDBUF] = f->sndbuf;
		mem[SK_MEMINFO_WMEM_QUEUED] = f->queued;
		REQUIRE(*len >= sizeof(mem));
		memcpy(value, mem, sizeof(mem));
		return 0;
	}
	if (level == IPPROTO_TCP && name == TCP_INFO) {
		REQUIRE(f->kind == FAKE_STREAM && *len >= sizeof(info));
		info.tcpi_advmss = f->v6 ? 1440 : 1460;
		info.tcpi_snd_wnd = fd & 1 ? 2 * HALF_WINDOW : 65535;
		info.tcpi_snd_mss = fd & 1 ? HALF_WINDOW : info.tcpi_advmss;
		memcpy(value, &info, sizeof(info));
		return 0;
	}
	if (level == SOL_SOCKET && name == SO_BINDTODEVICE) {
		*len = 0;
		return 0;
	}
	if (level == SOL_SOCKET && name == SO_ERROR) {
		out = f->error;
		f->lossy |= out != 0;
		f->error = 0;
	} else if (level == SOL_SOCKET && name == SO_DOMAIN) {
		out = f->v6 ? AF_INET6 : AF_INET;
	}
	REQUIRE(*len >= sizeof(out));
	memcpy(value, &out, sizeof(out));
	*len = sizeof(out);
	return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	struct fake *f = kernel_fd(fd);
	int v = 0;

	if (!f)
		return __real_setsockopt(fd, level, name, value, len);
	if (level == SOL_SOCKET && name == SO_PEEK_OFF) {
		memcpy(&v, value, sizeof(v));
		if (kernel.no_peek_offset || f->kind != FAKE_STREAM)
			return failed(EOPNOTSUPP);
		REQUIRE(v >= 0);
		f->peek_offset = v;
	}
	f->error_queue |= (level == IPPROTO_IP && name == IP_RECVERR) || (level == IPPROTO_IPV6 && name == IPV6_RECVERR);
	return 0;
}

int __wrap_shutdown(int fd, int how)
{
	struct fake *f = kernel_fd(fd);

	if (!f)
		return __real_shutdown(fd, how);
	REQUIRE(f->kind == FAKE_STREAM && how == SHUT_WR);
	if (f->dead || !f->connected)
		return failed(ENOTCONN);
	f->tx_shut = true;
	kernel_changed(f);
	return 0;
}

/* --- streams --- */

/* Fails with the stream's pending error, once; later with `afterwards`. */
static int stream_error(struct fake *f, int afterwards)
{
	int error = f->error ? f->error : afterwards;

	f->error = 0;
	f->lossy = true;
	return failed(error);
}

/* The result of reading when no bytes wait. */
static ssize_t stream_empty(struct fake *f)
{
	if (f->dead)
		return f->error ? stream_error(f, 0) : 0;
	return f->rx_eof ? 0 : failed(EAGAIN);
}

static ssize_t stream_send(int fd, struct fake *f, const void *bytes, size_t len)
{
	uint32_t room, n;
	int error;

	REQUIRE(f->connected || f->dead, "bytes for a socket that is not connected");
	REQUIRE(!f->tx_shut || f->dead, "bytes after the end");
	if (kernel_fails(&error)) {
		f->lossy |= error != EINTR && error != EAGAIN && error != ENOBUFS && error != ENOMEM;
		return failed(error);
	}
	if (f->dead)
		return stream_error(f, EPIPE);
	room = f->sndbuf > f->queued ? f->sndbuf - f->queued : 0;
	n = (uint32_t)len < room ? (uint32_t)len : room;
	if (!n)
		return failed(EAGAIN);
	check_bytes_to_host(fd, f, bytes, n);
	f->tx_taken += n;
	f->queued += n;
	return n;
}

static ssize_t stream_peek(struct fake *f, struct msghdr *msg)
{
	uint64_t at = f->rx_dropped + (f->peek_offset > 0 ? (uint64_t)f->peek_offset : 0);
	size_t n = 0;

	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		uint8_t *to = msg->msg_iov[i].iov_base;

		for (size_t j = 0; j < msg->msg_iov[i].iov_len && at < f->rx_written; j++, n++)
			to[j] = content_from_host(at++);
	}
	if (!n)
		return stream_empty(f);
	if (f->peek_offset >= 0)
		f->peek_offset += (int64_t)n;
	return (ssize_t)n;
}

ssize_t __wrap_send(int fd, const void *bytes, size_t len, int flags)
{
	struct fake *f = kernel_fd(fd);
	int error;

	if (!f)
		return __real_send(fd, bytes, len, flags);
	REQUIRE(flags & MSG_DONTWAIT && flags & MSG_NOSIGNAL);
	if (f->kind == FAKE_STREAM)
		return stream_send(fd, f, bytes, len);
	REQUIRE(f->kind == FAKE_PING);
	return kernel_fails(&error) ? failed(error) : (ssize_t)len;
}

ssize_t __wrap_recv(int fd, void *to, size_t len, int flags)
{
	struct fake *f = kernel_fd(fd);
	uint64_t n;

	if (!f)
		return __real_recv(fd, to, len, flags);
	n = f->rx_written - f->rx_dropped;
	/* The core copies bytes only behind an urgent mark; these peers send no urgent data. */
	REQUIRE(f->kind == FAKE_STREAM && (to ? !n && flags == MSG_DONTWAIT : flags == (MSG_TRUNC | MSG_DONTWAIT)));
	if (to)
		return stream_empty(f);
	if (n > len)
		n = len;
	f->rx_dropped += n;
	if (f->peek_offset >= 0)
		f->peek_offset = f->peek_offset > (int64_t)n ? f->peek_offset - (int64_t)n : 0;
	return n ? (ssize_t)n : failed(EAGAIN);
}

/* --- datagrams --- */

static void put_control(struct msghdr *msg, size_t *used, int level, int type, const void *data, size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)msg->msg_control + *used);

	if (*used + CMSG_SPACE(len) > msg->msg_controllen) {
		msg->msg_flags |= MSG_CTRUNC;
		return;
	}
	memset(c, 0, CMSG_SPACE(len));
	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	*used += CMSG_SPACE(len);
}

static void put_name(struct msghdr *msg, const struct fake *f, const struct endpoint *from)
{
	struct sockaddr_storage ss;
	socklen_t len = addr_to_sockaddr(&from->addr, from->port, 0, &ss);
	struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = htons(from->port)};

	if (f->v6 && ss.ss_family == AF_INET) {
		memcpy(&mapped.sin6_addr, from->addr.b, 16);
		memcpy(&ss, &mapped, sizeof(mapped));
		len = sizeof(mapped);
	}
	if (!msg->msg_name)
		return;
	REQUIRE(msg->msg_namelen >= len);
	memcpy(msg->msg_name, &ss, len);
	msg->msg_namelen = len;
}

static uint32_t put_bytes(struct msghdr *msg, const struct fake_datagram *d)
{
	uint32_t n = d->len < msg->msg_iov[0].iov_len ? d->len : (uint32_t)msg->msg_iov[0].iov_len;

	REQUIRE(msg->msg_iovlen == 1);
	memset(msg->msg_iov[0].iov_base, 0xd6, n);
	return n;
}

static ssize_t read_error(struct fake *f, struct msghdr *msg)
{
	struct {
		struct sock_extended_err error;
		struct sockaddr_in6 offender;
	} e = {0};
	const struct fake_datagram d = f->errors[0];
	bool v4 = addr_is_v4(&d.from.addr);
	struct sockaddr_storage ss;
	size_t used = 0;

	if (!f->error_count)
		return failed(EAGAIN);
	memmove(f->errors, f->errors + 1, --f->error_count * sizeof(f->errors[0]));
	e.error = (struct sock_extended_err){
		.ee_errno = (uint32_t)d.error, .ee_origin = d.origin, .ee_type = d.type, .ee_code = d.code, .ee_info = d.info};
	memcpy(&e.offender, &ss, addr_to_sockaddr(&d.from.addr, 0, 0, &ss));
	put_name(msg, f, &d.from);
	put_control(msg, &used, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_RECVERR : IPV6_RECVERR, &e, sizeof(e));
	msg->msg_controllen = used;
	return put_bytes(msg, &d);
}

static ssize_t read_datagram(struct fake *f, struct msghdr *msg)
{
	const struct fake_datagram d = f->in[0];
	struct in6_pktinfo info6 = {.ipi6_addr.s6_addr = {0xfd, [15] = 1}, .ipi6_ifindex = 2};
	struct in_pktinfo info = {.ipi_ifindex = 2, .ipi_spec_dst.s_addr = htonl(0xc0000202)};
	int ttl = d.ttl, tos = d.tos, gro = d.gro;
	bool v4 = addr_is_v4(&d.from.addr);
	size_t used = 0;

	if (!f->in_count)
		return failed(EAGAIN);
	memmove(f->in, f->in + 1, --f->in_count * sizeof(f->in[0]));
	put_name(msg, f, &d.from);
	if (v4)
		put_control(msg, &used, IPPROTO_IP, IP_TTL, &ttl, sizeof(ttl));
	else
		put_control(msg, &used, IPPROTO_IPV6, IPV6_HOPLIMIT, &ttl, sizeof(ttl));
	if (v4)
		put_control(msg, &used, IPPROTO_IP, IP_TOS, &tos, 1);
	else
		put_control(msg, &used, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
	if (d.pktinfo && v4)
		put_control(msg, &used, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	if (d.pktinfo && f->v6)
		put_control(msg, &used, IPPROTO_IPV6, IPV6_PKTINFO, &info6, sizeof(info6));
	if (d.gro)
		put_control(msg, &used, IPPROTO_UDP, UDP_GRO, &gro, sizeof(gro));
	REQUIRE(!(msg->msg_flags & MSG_CTRUNC), "too little room for control messages");
	msg->msg_controllen = used;
	return put_bytes(msg, &d);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct fake *f = kernel_fd(fd);
	int error;

	if (!f)
		return __real_recvmsg(fd, msg, flags);
	REQUIRE(flags & MSG_DONTWAIT);
	msg->msg_flags = 0;
	if (kernel.fail_errno == EINTR && kernel_fails(&error))
		return failed(error);
	if (f->kind == FAKE_STREAM) {
		REQUIRE(flags & MSG_PEEK);
		return stream_peek(f, msg);
	}
	if (f->error && !(flags & MSG_ERRQUEUE)) {
		error = f->error;
		f->error = 0;
		return failed(error);
	}
	return flags & MSG_ERRQUEUE ? read_error(f, msg) : read_datagram(f, msg);
}

/* recvmmsg(2): the next call reports an error that follows the first message. */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
	struct fake *f = kernel_fd(fd);
	unsigned n = 0;

	if (!f)
		return __real_recvmmsg(fd, messages, count, flags, timeout);
	REQUIRE(f->kind == FAKE_DGRAM && flags == MSG_DONTWAIT && !timeout);
	while (n < count) {
		ssize_t len = n && f->error ? -1 : __wrap_recvmsg(fd, &messages[n].msg_hdr, flags);

		if (len < 0)
			return n ? (int)n : -1;
		messages[n++].msg_len = (unsigned)len;
	}
	return (int)n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct fake *f = kernel_fd(fd);
	volatile uint8_t last;
	uint16_t segment = 0;
	size_t len = 0;
	int error;

	if (!f)
		return __real_sendmsg(fd, msg, flags);
	REQUIRE(f->kind == FAKE_DGRAM && flags & MSG_DONTWAIT && flags & MSG_NOSIGNAL);
	if (msg->msg_name)
		REQUIRE(((const struct sockaddr *)msg->msg_name)->sa_family == (f->v6 ? AF_INET6 : AF_INET));
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		len += msg->msg_iov[i].iov_len;
		for (size_t j = 0; j < msg->msg_iov[i].iov_len; j++)
			last = ((const uint8_t *)msg->msg_iov[i].iov_base)[j];
	}
	(void)last;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, c))
		if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_SEGMENT)
			memcpy(&segment, CMSG_DATA(c), sizeof(segment));
	REQUIRE(!segment || len <= (size_t)segment * 128, "more segments than UDP_MAX_SEGMENTS");
	if (kernel_fails(&error))
		return failed(error);
	return len > 65527 ? failed(EMSGSIZE) : (ssize_t)len;
}

/* --- pipes --- */

int __wrap_pipe2(int *fds, int flags)
{
	int a, b, error;

	if (!kernel.running)
		return __real_pipe2(fds, flags);
	if (kernel_fails(&error))
		return failed(EMFILE);
	a = kernel_open(FAKE_PIPE, false);
	b = a < 0 ? -1 : kernel_open(FAKE_PIPE, false);
	if (b < 0) {
		if (a >= 0)
			__wrap_close(a);
		return failed(EMFILE);
	}
	kernel_fd(a)->other_end = b;
	kernel_fd(b)->other_end = a;
	fds[0] = a;
	fds[1] = b;
	return 0;
}

ssize_t __wrap_splice(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
	struct fake *a = kernel_fd(from), *b = kernel_fd(to);
	uint64_t n;

	if (!a || !b)
		return __real_splice(from, from_at, to, to_at, len, flags);
	if (a->kind == FAKE_STREAM) { /* into the pipe */
		n = a->rx_written - a->rx_dropped;
		if (!n)
			return stream_empty(a);
		n = n < len ? n : len;
		a->rx_dropped += n;
		kernel_fd(b->other_end)->held += n;
		return (ssize_t)n;
	}
	if (b->dead)
		return stream_error(b, EPIPE);
	n = b->sndbuf > b->queued ? b->sndbuf - b->queued : 0;
	n = n < len ? n : len;
	n = n < a->held ? n : a->held;
	if (!n)
		return failed(EAGAIN);
	a->held -= n;
	b->queued += (uint32_t)n;
	b->tx_taken += n;
	return (ssize_t)n;
}
