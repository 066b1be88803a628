/* Purpose: the system calls that the two processes which follow the host may make once they are ready (docs/follow.md). Any other
 * fails with ENOSYS.
 *
 * How: both wait in C (follow.c), and start a Python when there is something to do, which has the same filter. So the table has what an
 * interpreter needs to start and to load modules. A row is as in seccomp_table.c. "Not here" marks a call of other architectures, C
 * libraries or machines.
 *
 * Conditions make sure of this: no file is opened for writing, no memory is writable and executable, the only sockets are rtnetlink's,
 * and the ones that are asked whether the kernel has a family. They are never connected: there is no connect().
 *
 * Rejected: killing the process, as the worker's filter does. The calls of an interpreter that loads modules differ from machine to
 * machine, and a call that fails does as little.
 */
#include "io/seccomp.h"
#include "io/seccomp_conditions.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/bytes.h"
#include "plane_api.h"

/* Only older architectures have these calls. */
#ifndef __NR_open
#define __NR_open SECCOMP_ABSENT
#endif
#ifndef __NR_stat
#define __NR_stat SECCOMP_ABSENT
#endif
#ifndef __NR_readlink
#define __NR_readlink SECCOMP_ABSENT
#endif
#ifndef __NR_poll
#define __NR_poll SECCOMP_ABSENT
#endif
#ifndef __NR_access
#define __NR_access SECCOMP_ABSENT
#endif
#ifndef __NR_dup2
#define __NR_dup2 SECCOMP_ABSENT
#endif
#ifndef __NR_arch_prctl
#define __NR_arch_prctl SECCOMP_ABSENT
#endif
#ifndef __NR_rseq
#define __NR_rseq 334
#endif
#ifndef __NR_statx
#define __NR_statx 332
#endif

/* Some headers are older than these calls, which have the same numbers on all architectures. */
#define LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_ADD_RULE 445
#define LANDLOCK_RESTRICT_SELF 446

#define BOTH (CONFINE_WATCHER | CONFINE_APPLIER)
#define WATCHER CONFINE_WATCHER
#define APPLIER CONFINE_APPLIER
#define READING (O_CLOEXEC | O_PATH | O_NONBLOCK | O_DIRECTORY | O_NOFOLLOW | O_LARGEFILE | O_NOCTTY)

/* clang-format off */
const struct seccomp_row seccomp_follow_table[] = {
	/* waiting, and what one process says to another */
	{__NR_poll, BOTH, {{0}}}, /* waits for a change, or for a time */
	{__NR_ppoll, BOTH, {{0}}}, /* not here: poll of aarch64 */
	{__NR_read, BOTH, {{0}}}, /* inotify events, files, the pipe from the watcher, results of a child */
	{__NR_write, BOTH, {{0}}}, /* the pipe to the applier, results for the parent */
	{__NR_sendto, BOTH, {{0}}}, /* requests to the kernel; updates for the worker */
	{__NR_sendmsg, BOTH, {{0}}}, /* not here: the same */
	{__NR_recvfrom, BOTH, {{0}}}, /* rtnetlink's answers and events */
	{__NR_recvmsg, BOTH, {{0}}}, /* not here: the same */
	{__NR_pipe2, BOTH, {{0}}}, /* for a child's result */
	{__NR_close, BOTH, {{0}}}, /* */
	/* children, which load what a change needs */
	{__NR_clone, BOTH, {IS(0, SIGCHLD)}}, /* fork */
	{__NR_dup2, BOTH, {{0}}}, /* the descriptors that a program gets */
	{__NR_dup3, BOTH, {{0}}}, /* not here: dup2 of aarch64 */
	{__NR_execve, BOTH, {{0}}}, /* a Python for a change */
	{__NR_wait4, BOTH, {{0}}}, /* its end */
	{__NR_arch_prctl, BOTH, {{0}}}, /* a program starts */
	{__NR_set_tid_address, BOTH, {{0}}}, /* the same */
	{__NR_set_robust_list, BOTH, {{0}}}, /* the same */
	{__NR_rseq, BOTH, {{0}}}, /* the same */
	{__NR_prlimit64, BOTH, {{0}}}, /* the same */
	{__NR_access, BOTH, {{0}}}, /* the same: /etc/ld.so.preload */
	{__NR_faccessat, BOTH, {{0}}}, /* not here: the same on aarch64 */
	{__NR_pread64, BOTH, {{0}}}, /* the same: libraries */
	{__NR_sigaltstack, BOTH, {{0}}}, /* not here: the same */
	{__NR_geteuid, BOTH, {{0}}}, /* the same: whether the environment can be trusted */
	{__NR_getuid, BOTH, {{0}}}, /* the same */
	{__NR_getegid, BOTH, {{0}}}, /* the same */
	{__NR_getgid, BOTH, {{0}}}, /* the same */
	{__NR_sysinfo, BOTH, {{0}}}, /* not here */
	{__NR_prctl, BOTH, {IS(0, PR_SET_NAME)}}, /* a program gives up what it does not need */
	{__NR_prctl, BOTH, {IS(0, PR_SET_DUMPABLE)}}, /* the same */
	{__NR_prctl, BOTH, {IS(0, PR_SET_NO_NEW_PRIVS)}}, /* the same */
	{__NR_prctl, BOTH, {IS(0, PR_CAPBSET_DROP)}}, /* the same */
	{__NR_prctl, BOTH, {IS(0, PR_CAP_AMBIENT), IS(1, PR_CAP_AMBIENT_CLEAR_ALL)}}, /* the same */
	{__NR_capget, BOTH, {{0}}}, /* the same */
	{__NR_capset, BOTH, {{0}}}, /* the same */
	{LANDLOCK_CREATE_RULESET, BOTH, {{0}}}, /* the same: what it may read */
	{LANDLOCK_ADD_RULE, BOTH, {{0}}}, /* the same */
	{LANDLOCK_RESTRICT_SELF, BOTH, {{0}}}, /* the same */
	{__NR_gettid, BOTH, {{0}}}, /* not here */
	{__NR_uname, WATCHER, {{0}}}, /* the host's name */
	{__NR_getpid, BOTH, {{0}}}, /* */
	/* files, for reading only */
	{__NR_openat, BOTH, {ONLY(2, READING)}}, /* modules, and resolv.conf */
	{__NR_open, BOTH, {ONLY(1, READING)}}, /* not here: the same with another C library */
	{__NR_newfstatat, BOTH, {{0}}}, /* the path of modules */
	{__NR_stat, BOTH, {{0}}}, /* not here: the same with another C library */
	{__NR_statx, BOTH, {{0}}}, /* not here: the same with another C library */
	{__NR_fstat, BOTH, {{0}}}, /* the size of a file */
	{__NR_lseek, BOTH, {{0}}}, /* the place in a file */
	{__NR_getdents64, BOTH, {{0}}}, /* directories of modules */
	{__NR_readlink, BOTH, {{0}}}, /* where resolv.conf leads to */
	{__NR_readlinkat, BOTH, {{0}}}, /* not here: the same on aarch64 */
	{__NR_ioctl, BOTH, {{0}}}, /* the C library asks whether a file is a terminal; no device is open */
	{__NR_fcntl, BOTH, {{0}}}, /* close-on-exec */
	{__NR_getcwd, BOTH, {{0}}}, /* the path of modules */
	{__NR_inotify_add_watch, WATCHER, {{0}}}, /* resolv.conf leads elsewhere */
	/* rtnetlink */
	{__NR_socket, BOTH, {IS(0, AF_NETLINK), TYPE(1, SOCK_RAW), IS(2, NETLINK_ROUTE)}}, /* links, addresses, routes */
	{__NR_socket, WATCHER, {IS(0, AF_INET), TYPE(1, SOCK_DGRAM), IS(2, 0)}}, /* whether the kernel has IPv4 */
	{__NR_socket, WATCHER, {IS(0, AF_INET6), TYPE(1, SOCK_DGRAM), IS(2, 0)}}, /* whether the kernel has IPv6 */
	{__NR_bind, BOTH, {{0}}}, /* the netlink socket gets its number */
	{__NR_getsockname, BOTH, {{0}}}, /* the kind of a socket that Python takes over */
	{__NR_getsockopt, BOTH, {{0}}}, /* the same */
	{__NR_setsockopt, BOTH, {IS(1, SOL_NETLINK)}}, /* short answers, filtered dumps */
	{__NR_setsockopt, WATCHER, {IS(1, SOL_SOCKET), IS(2, SO_ATTACH_FILTER)}}, /* which events matter */
	{__NR_setsockopt, WATCHER, {IS(1, SOL_SOCKET), IS(2, SO_DETACH_FILTER)}}, /* not here: all matter */
	/* the state between two changes, in a memory file */
	{__NR_pwrite64, WATCHER, {{0}}},
	{__NR_ftruncate, WATCHER, {{0}}},
	/* memory, time, signals, the end */
	{__NR_brk, BOTH, {{0}}}, /* memory */
	{__NR_mmap, BOTH, {ONLY(2, PROT_READ | PROT_WRITE)}}, /* data memory */
	{__NR_mmap, BOTH, {ONLY(2, PROT_READ | PROT_EXEC), OF(3, MAP_ANONYMOUS | MAP_SHARED, 0)}}, /* libraries */
	{__NR_mremap, BOTH, {{0}}}, /* memory of a table that grows */
	{__NR_munmap, BOTH, {{0}}}, /* memory given back */
	{__NR_madvise, BOTH, {{0}}}, /* memory given back */
	{__NR_mprotect, BOTH, {ONLY(2, PROT_READ | PROT_WRITE)}}, /* not here: the C library's last resort */
	{__NR_futex, BOTH, {{0}}}, /* Python's locks */
	{__NR_clock_gettime, BOTH, {{0}}}, /* not here: machines whose clock the vDSO cannot read */
	{__NR_clock_nanosleep, BOTH, {{0}}}, /* not here */
	{__NR_getrandom, BOTH, {{0}}}, /* hash seeds of modules */
	{__NR_restart_syscall, BOTH, {{0}}}, /* not here: a poll goes on after SIGSTOP and SIGCONT */
	{__NR_rt_sigaction, BOTH, {{0}}}, /* not here */
	{__NR_rt_sigprocmask, BOTH, {{0}}}, /* fork */
	{__NR_rt_sigreturn, BOTH, {{0}}}, /* not here */
	{__NR_exit, BOTH, {{0}}}, /* not here */
	{__NR_exit_group, BOTH, {{0}}}, /* the end */
};
/* clang-format on */

const size_t seccomp_follow_rows = ARRAY_LEN(seccomp_follow_table);
