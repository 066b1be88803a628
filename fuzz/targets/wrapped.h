/* The system calls that the simulated kernel replaces: build.py links each with --wrap. */
#ifndef PASTA_FUZZ_WRAPPED_H
#define PASTA_FUZZ_WRAPPED_H

#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#define WRAPPED(type, name, ...) \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__);

WRAPPED(int, close, int)
WRAPPED(int, fcntl, int, int, ...)
WRAPPED(int, clock_gettime, clockid_t, struct timespec *)
WRAPPED(ssize_t, getrandom, void *, size_t, unsigned)
WRAPPED(ssize_t, read, int, void *, size_t)
WRAPPED(ssize_t, writev, int, const struct iovec *, int)
WRAPPED(int, epoll_create1, int)
WRAPPED(int, epoll_ctl, int, int, int, struct epoll_event *)
WRAPPED(int, epoll_wait, int, struct epoll_event *, int, int)
WRAPPED(int, epoll_pwait2, int, struct epoll_event *, int, const struct timespec *, const sigset_t *)
WRAPPED(int, socket, int, int, int)
WRAPPED(int, bind, int, const struct sockaddr *, socklen_t)
WRAPPED(int, connect, int, const struct sockaddr *, socklen_t)
WRAPPED(int, accept4, int, struct sockaddr *, socklen_t *, int)
WRAPPED(int, getsockname, int, struct sockaddr *, socklen_t *)
WRAPPED(int, getsockopt, int, int, int, void *, socklen_t *)
WRAPPED(int, setsockopt, int, int, int, const void *, socklen_t)
WRAPPED(int, shutdown, int, int)
WRAPPED(ssize_t, send, int, const void *, size_t, int)
WRAPPED(ssize_t, sendmsg, int, const struct msghdr *, int)
WRAPPED(ssize_t, recv, int, void *, size_t, int)
WRAPPED(ssize_t, recvmsg, int, struct msghdr *, int)
WRAPPED(int, recvmmsg, int, struct mmsghdr *, unsigned, int, struct timespec *)
WRAPPED(int, pipe2, int *, int)
WRAPPED(ssize_t, splice, int, off_t *, int, off_t *, size_t, unsigned)

/* Whether a call that can fail has to fail now, and with which errno. */
bool kernel_fails(int *error);

#endif
