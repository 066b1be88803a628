/* Purpose: the system calls that the worker and its helper may make once they are ready. Any other kills them.
 *
 * How: a row is one line: the call, its processes, conditions on its arguments, the reason. "Not here" marks a call of other
 * architectures, C libraries or machines, or of rare accidents. tests/e2e/test_calls.py uses all other rows, and fails for one that
 * it does not use. docs/security.md shows the same table.
 *
 * Conditions make sure of this: no memory is executable, all sockets are those of flows, no file is opened. A condition costs a few
 * instructions a call, so calls of the data path have none. A condition cannot follow a pointer.
 */
#include "io/seccomp.h"
#include "io/seccomp_conditions.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/bytes.h"
#include "plane_api.h"

/* Some headers are older than this call. */
#ifndef __NR_epoll_pwait2
#define __NR_epoll_pwait2 441
#endif
/* Only older architectures have these calls. */
#ifndef __NR_epoll_wait
#define __NR_epoll_wait SECCOMP_ABSENT
#endif
#ifndef __NR_poll
#define __NR_poll SECCOMP_ABSENT
#endif

#define WORKER CONFINE_WORKER
#define HELPER CONFINE_HELPER
#define MACHINE CONFINE_VHOST_USER
#define BOTH (CONFINE_WORKER | CONFINE_HELPER)

/* Further calls of the sanitizers' run-time libraries, in builds for tests. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZERS {__NR_sigaltstack, BOTH, {{0}}}, {__NR_gettid, BOTH, {{0}}}, {__NR_getpid, BOTH, {{0}}},
#define ADVICE(advice) \
	{ \
		0 \
	}
#else
#define SANITIZERS
#define ADVICE(advice) IS(2, advice)
#endif

/* clang-format off */
const struct seccomp_row seccomp_table[] = {
	/* the loop */
	{__NR_epoll_wait, WORKER, {{0}}}, /* waits for events */
	{__NR_epoll_pwait, WORKER, {{0}}}, /* not here: epoll_wait of arm64, and of musl */
	{__NR_epoll_pwait2, WORKER, {{0}}}, /* waits for less than a millisecond: adaptive polling of UDP */
	{__NR_epoll_ctl, WORKER, {{0}}}, /* watches a descriptor, or no longer */
	{__NR_read, WORKER, {{0}}}, /* takes a frame from the tap, signals, events of the namespace's directory */
	{__NR_writev, WORKER, {{0}}}, /* gives a frame to the tap */
	/* flows */
	{__NR_recvmsg, BOTH, {{0}}}, /* reads from sockets; takes sockets from the helper and from control */
	{__NR_recvmmsg, WORKER, {{0}}}, /* reads the datagrams that wait */
	{__NR_sendmsg, BOTH, {{0}}}, /* sends datagrams, and frames to a virtual machine; asks the helper, and answers */
	{__NR_recvfrom, WORKER, {{0}}}, /* drops acknowledged bytes; the ends of spliced connections; control's messages; frames of a virtual machine */
	{__NR_sendto, WORKER, {{0}}}, /* writes to TCP sockets; messages to control and to syslog */
	{__NR_splice, WORKER, {{0}}}, /* spliced connections, between sockets and pipes */
	{__NR_getsockopt, WORKER, {{0}}}, /* free buffer, maximum segment, errors */
	{__NR_close, BOTH, {{0}}}, /* the end of a flow */
	{__NR_connect, WORKER, {{0}}}, /* a flow the guest has begun */
	{__NR_accept4, WORKER, {{0}}}, /* a flow from the host */
	{__NR_shutdown, WORKER, {{0}}}, /* the end of one direction */
	{__NR_bind, BOTH, {{0}}}, /* forwarded ports, and the source address of UDP flows */
	{__NR_listen, BOTH, {{0}}}, /* forwarded TCP ports */
	{__NR_getsockname, WORKER, {{0}}}, /* which address the host chose for a flow of UDP */
	{__NR_pipe2, WORKER, {{0}}}, /* for splice */
	{__NR_fcntl, WORKER, {IS(1, F_SETPIPE_SZ)}}, /* the size of that pipe */
	{__NR_fcntl, MACHINE, {IS(1, F_GETFL)}}, /* vhost-user: a descriptor that wakes a machine must not block us */
	{__NR_fcntl, MACHINE, {IS(1, F_SETFL)}}, /* vhost-user: a descriptor that wakes a machine must not block us */
	{__NR_socket, BOTH, {IS(0, AF_INET), TYPE(1, SOCK_STREAM), IS(2, 0)}}, /* TCP */
	{__NR_socket, BOTH, {IS(0, AF_INET6), TYPE(1, SOCK_STREAM), IS(2, 0)}}, /* TCP */
	{__NR_socket, BOTH, {IS(0, AF_INET), TYPE(1, SOCK_DGRAM), IS(2, 0)}}, /* UDP */
	{__NR_socket, BOTH, {IS(0, AF_INET6), TYPE(1, SOCK_DGRAM), IS(2, 0)}}, /* UDP */
	{__NR_socket, WORKER, {IS(0, AF_INET), TYPE(1, SOCK_DGRAM), IS(2, IPPROTO_ICMP)}}, /* ping */
	{__NR_socket, WORKER, {IS(0, AF_INET6), TYPE(1, SOCK_DGRAM), IS(2, IPPROTO_ICMPV6)}}, /* ping */
	{__NR_socket, HELPER, {IS(0, AF_NETLINK), TYPE(1, SOCK_DGRAM), IS(2, NETLINK_SOCK_DIAG)}}, /* automatic ports */
	{__NR_socketpair, WORKER, {IS(0, AF_UNIX), TYPE(1, SOCK_STREAM), IS(2, 0)}}, /* DNS over TCP that we answer ourselves */
	{__NR_getrandom, WORKER, {{0}}}, /* the ID and the case of our own DNS queries */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_PEEK_OFF)}}, /* sends again what was lost */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_TCP, TCP_NODELAY)}}, /* the guest has collected its data already */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_OOBINLINE)}}, /* urgent data stays in the stream */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_KEEPALIVE)}}, /* a guest asks whether its peer lives */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_TCP, TCP_KEEPIDLE)}}, /* a guest asks whether its peer lives */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_TCP, TCP_KEEPINTVL)}}, /* a guest asks whether its peer lives */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_TCP, TCP_KEEPCNT)}}, /* a guest asks whether its peer lives */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_LINGER)}}, /* a reset instead of an end */
	{__NR_setsockopt, BOTH, {OPTION(SOL_SOCKET, SO_BINDTODEVICE)}}, /* --outbound-if, and ports on one interface */
	{__NR_setsockopt, BOTH, {OPTION(SOL_SOCKET, SO_REUSEADDR)}}, /* ports bound at run time */
	{__NR_setsockopt, BOTH, {OPTION(IPPROTO_IPV6, IPV6_V6ONLY)}}, /* no IPv4 through an IPv6 socket */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_RCVBUF)}}, /* bursts of UDP */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_SNDBUF)}}, /* bursts of UDP, a machine that reads slowly */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_UDP, UDP_GRO)}}, /* many datagrams at once */
	{__NR_setsockopt, WORKER, {OPTION(SOL_SOCKET, SO_BROADCAST)}}, /* --broadcast; whether an address is a broadcast address */
	{__NR_setsockopt, BOTH, {OPTION(IPPROTO_IP, IP_PKTINFO)}}, /* which address a datagram was sent to */
	{__NR_setsockopt, BOTH, {OPTION(IPPROTO_IPV6, IPV6_RECVPKTINFO)}}, /* which address a datagram was sent to */
	{__NR_setsockopt, HELPER, {OPTION(IPPROTO_IP, IP_MULTICAST_ALL)}}, /* no multicast */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_TTL)}}, /* TTL of a ping passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS)}}, /* hop limit of a ping passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_TOS)}}, /* the class of a connection or a ping passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_TCLASS)}}, /* the class of a connection or a ping passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_RECVERR)}}, /* ICMP errors for the guest */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_RECVERR)}}, /* ICMP errors for the guest */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_MTU_DISCOVER)}}, /* path MTU discovery is the guest's */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_MTU_DISCOVER)}}, /* path MTU discovery is the guest's */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_RECVTTL)}}, /* TTL passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_RECVHOPLIMIT)}}, /* hop limit passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IP, IP_RECVTOS)}}, /* ECN passes through */
	{__NR_setsockopt, WORKER, {OPTION(IPPROTO_IPV6, IPV6_RECVTCLASS)}}, /* ECN passes through */
	/* the capture, and the log */
	{__NR_write, WORKER, {{0}}}, /* log lines, captured frames, signals for the loop, wakeups, spliced urgent data */
	{__NR_pwritev2, WORKER, {{0}}}, /* captured frames, to a stream without blocking */
	{__NR_pwrite64, WORKER, {{0}}}, /* a log file under a size */
	{__NR_pread64, WORKER, {{0}}}, /* its newest half, to be kept */
	{__NR_ftruncate, WORKER, {{0}}}, /* the log file's other half; half a record of a capture on a full disk */
	{__NR_lseek, WORKER, {{0}}}, /* the end of a capture on a full disk */
	{__NR_newfstatat, WORKER, {WITH(3, AT_EMPTY_PATH)}}, /* the size of the log file; which sockets are our own */
	{__NR_fstat, WORKER, {{0}}}, /* not here: the same with musl, or an older glibc */
	/* memory, time, signals, the end */
	{__NR_brk, WORKER, {{0}}}, /* memory */
	{__NR_mmap, WORKER, {ONLY(2, PROT_READ | PROT_WRITE), OF(3, MAP_ANONYMOUS | MAP_SHARED, MAP_ANONYMOUS)}}, /* data memory */
	{__NR_mmap, MACHINE, {ONLY(2, PROT_READ | PROT_WRITE), OF(3, MAP_ANONYMOUS | MAP_SHARED, MAP_SHARED)}}, /* vhost-user: a machine's memory */
	{__NR_mremap, WORKER, {{0}}}, /* memory of a table that grows */
	{__NR_munmap, WORKER, {{0}}}, /* memory given back */
	{__NR_madvise, WORKER, {ADVICE(MADV_DONTNEED)}}, /* the C library ends a thread */
	{__NR_mprotect, WORKER, {ONLY(2, PROT_READ | PROT_WRITE)}}, /* not here: the C library's last resort when memory runs out */
	{__NR_futex, WORKER, {{0}}}, /* threads wake each other */
	{__NR_poll, WORKER, {{0}}}, /* an answer of the helper, room in a stream, each with a limit of time */
	{__NR_ppoll, WORKER, {{0}}}, /* not here: poll of arm64 */
	{__NR_clock_gettime, WORKER, {{0}}}, /* not here: machines whose clock the vDSO cannot read */
	{__NR_restart_syscall, WORKER, {{0}}}, /* not here: the kernel goes on with a poll after SIGSTOP and SIGCONT */
	{__NR_rt_sigaction, WORKER, {{0}}}, /* let go by control: SIGINT and SIGHUP are ignored from then on */
	{__NR_rt_sigprocmask, WORKER, {{0}}}, /* the C library ends a thread */
	{__NR_rt_sigreturn, WORKER, {{0}}}, /* the end of a signal handler */
	{__NR_exit, WORKER, {{0}}}, /* the end of a thread */
	{__NR_exit_group, BOTH, {{0}}}, /* the end */
	SANITIZERS
};
/* clang-format on */

const size_t seccomp_rows = ARRAY_LEN(seccomp_table);
