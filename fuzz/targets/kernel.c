/* Purpose: descriptors, clock, tap and epoll of the simulated kernel. Its sockets are in sockets.c. */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wrapped.h"

#ifdef __SANITIZE_ADDRESS__
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif
#ifdef ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define WAITS_MAX 20000 /* turns of the loop for one command of the script */

struct kernel kernel;

_Noreturn void fail(const char *file, int line, const char *condition, const char *text)
{
	fprintf(stderr, "%s:%d: must hold: %s %s\n", file, line, condition, text);
	abort();
}

/* --- descriptors --- */

void kernel_start(void)
{
	memset(&kernel, 0, sizeof(kernel));
	kernel.now_ms = 1000000;
	kernel.running = true;
}

void kernel_stop(void)
{
	for (uint32_t i = 0; i < kernel.frame_count; i++)
		free(kernel.frames[i].bytes);
	for (int i = 0; i < FAKE_COUNT; i++)
		REQUIRE(kernel.fd[i].kind == FAKE_FREE, "a descriptor is left open");
	kernel.running = false;
}

int kernel_open(enum fake_kind kind, bool v6)
{
	for (int i = 0; i < FAKE_COUNT; i++) {
		struct fake *f = &kernel.fd[i];

		if (f->kind != FAKE_FREE)
			continue;
		memset(f, 0, sizeof(*f));
		f->kind = kind;
		f->v6 = v6;
		f->peek_offset = -1;
		f->sndbuf = 87040;
		return FAKE_BASE + i;
	}
	return -1;
}

struct fake *kernel_fd(int fd)
{
	if (!kernel.running || fd < FAKE_BASE || fd >= FAKE_BASE + FAKE_COUNT)
		return NULL;
	REQUIRE(kernel.fd[fd - FAKE_BASE].kind != FAKE_FREE, "a descriptor is used that is not open");
	return &kernel.fd[fd - FAKE_BASE];
}

struct fake *kernel_nth(enum fake_kind kind, uint32_t n)
{
	uint32_t count = 0;

	for (int i = 0; i < FAKE_COUNT; i++)
		count += kernel.fd[i].kind == kind;
	if (!count)
		return NULL;
	n %= count;
	for (int i = 0;; i++)
		if (kernel.fd[i].kind == kind && !n--)
			return &kernel.fd[i];
}

void kernel_changed(struct fake *f)
{
	f->edge = true;
}

void kernel_frame(const uint8_t *bytes, uint32_t len)
{
	uint8_t *copy;

	if (!len || kernel.frame_count == QUEUE_LEN)
		return;
	copy = malloc(len);
	REQUIRE(copy);
	memcpy(copy, bytes, len);
	kernel.frames[kernel.frame_count].bytes = copy;
	kernel.frames[kernel.frame_count++].len = len;
}

bool kernel_fails(int *error)
{
	if (!kernel.fail_errno || kernel.fail_after--)
		return false;
	*error = kernel.fail_errno;
	kernel.fail_errno = 0;
	return true;
}

int __wrap_close(int fd)
{
	struct fake *f = kernel_fd(fd);

	if (!f)
		return __real_close(fd);
	REQUIRE(!f->lent, "a descriptor is closed that belongs to the caller");
	if (f->kind == FAKE_PIPE && f->other_end >= 0)
		kernel.fd[f->other_end - FAKE_BASE].other_end = -1;
	f->kind = FAKE_FREE;
	return 0;
}

int __wrap_fcntl(int fd, int command, ...)
{
	struct fake *f = kernel_fd(fd);
	va_list list;
	void *argument;

	va_start(list, command);
	argument = va_arg(list, void *);
	va_end(list);
	return f ? 0 : __real_fcntl(fd, command, argument);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	if (!kernel.running || clock != CLOCK_MONOTONIC)
		return __real_clock_gettime(clock, ts);
	*ts = (struct timespec){kernel.now_ms / 1000, kernel.now_ms % 1000 * 1000000};
	return 0;
}

ssize_t __wrap_getrandom(void *p, size_t len, unsigned flags)
{
	if (!kernel.running)
		return __real_getrandom(p, len, flags);
	memset(p, 0x5a, len);
	return (ssize_t)len;
}

/* --- the tap --- */

ssize_t __wrap_read(int fd, void *to, size_t len)
{
	struct fake *f = kernel_fd(fd);
	uint32_t n;

	if (!f)
		return __real_read(fd, to, len);
	REQUIRE(f->kind == FAKE_TAP);
	if (!kernel.frame_count) {
		errno = EAGAIN;
		return -1;
	}
	n = kernel.frames[0].len < len ? kernel.frames[0].len : (uint32_t)len;
	/* The core must not read behind the frame, though the buffer is larger. */
	ASAN_UNPOISON_MEMORY_REGION(to, len);
	memcpy(to, kernel.frames[0].bytes, n);
	ASAN_POISON_MEMORY_REGION((uint8_t *)to + n, len - n);
	free(kernel.frames[0].bytes);
	memmove(kernel.frames, kernel.frames + 1, --kernel.frame_count * sizeof(kernel.frames[0]));
	return n;
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
	static uint8_t flat[1 << 18];
	struct fake *f = kernel_fd(fd);
	size_t len = 0;

	if (!f)
		return __real_writev(fd, iov, count);
	REQUIRE(f->kind == FAKE_TAP);
	for (int i = 0; i < count; i++) {
		REQUIRE(len + iov[i].iov_len <= sizeof(flat));
		if (iov[i].iov_len)
			memcpy(flat + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	check_frame(flat, (uint32_t)len);
	if (kernel.tap_refuses) {
		kernel.tap_refuses--;
		errno = EAGAIN;
		return -1;
	}
	return (ssize_t)len;
}

/* --- epoll --- */

static uint32_t stream_ready(const struct fake *f)
{
	uint32_t ready = 0;

	if (f->connecting)
		return 0;
	if (f->dead)
		return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | (f->error ? EPOLLERR : 0);
	if (!f->connected)
		return EPOLLOUT | EPOLLHUP;
	if (f->rx_written > f->rx_dropped || f->rx_eof)
		ready |= EPOLLIN;
	if (f->rx_eof)
		ready |= EPOLLRDHUP | (f->tx_shut ? EPOLLHUP : 0);
	/* sk_stream_is_writeable() */
	if (f->tx_shut || (f->sndbuf > f->queued && f->sndbuf - f->queued >= f->queued / 2))
		ready |= EPOLLOUT;
	return ready;
}

static uint32_t ready(const struct fake *f)
{
	switch (f->kind) {
	case FAKE_TAP:
		return kernel.frame_count ? EPOLLIN : 0;
	case FAKE_STREAM:
		return stream_ready(f);
	case FAKE_LISTENER:
		return f->clients ? EPOLLIN : 0;
	case FAKE_DGRAM:
	case FAKE_PING:
		return (f->in_count ? EPOLLIN : 0) | (f->error_count || f->error ? EPOLLERR : 0);
	default:
		return 0;
	}
}

int __wrap_epoll_create1(int flags)
{
	int fd = kernel.running ? kernel_open(FAKE_EPOLL, false) : __real_epoll_create1(flags);

	if (fd < 0)
		errno = EMFILE;
	return fd;
}

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	struct fake *f = kernel_fd(fd);
	int error;

	if (!f)
		return __real_epoll_ctl(epoll, op, fd, event);
	REQUIRE(kernel_fd(epoll)->kind == FAKE_EPOLL);
	REQUIRE((op == EPOLL_CTL_ADD) == !f->watched, "added twice, or changed without having been added");
	if (op == EPOLL_CTL_ADD && kernel_fails(&error)) {
		errno = error == EINTR ? ENOMEM : error;
		return -1;
	}
	f->watched = op != EPOLL_CTL_DEL;
	if (f->watched) {
		f->events = event->events;
		f->tag = event->data.u64;
		f->edge = true;
	}
	return 0;
}

static int collect(struct epoll_event *events, int max)
{
	int count = 0;

	for (int i = 0; i < FAKE_COUNT && count < max; i++) {
		struct fake *f = &kernel.fd[i];
		uint32_t now;

		if (f->kind == FAKE_FREE || !f->watched || f->kind == FAKE_SCRIPT)
			continue;
		now = ready(f) & (f->events | EPOLLERR | EPOLLHUP);
		if (!now || (f->events & EPOLLET && !f->edge))
			continue;
		f->edge = false;
		events[count].events = now;
		events[count++].data.u64 = f->tag;
	}
	return count;
}

int __wrap_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms)
{
	struct fake *script = kernel_nth(FAKE_SCRIPT, 0);
	int count;

	if (!kernel_fd(epoll))
		return __real_epoll_wait(epoll, events, max, timeout_ms);
	REQUIRE(++kernel.waits < WAITS_MAX, "the loop spins");
	count = collect(events, max);
	if (count || !timeout_ms)
		return count;
	if (kernel.finale && timeout_ms > 0) {
		kernel.now_ms += timeout_ms;
		return 0;
	}
	kernel.idle = timeout_ms < 0;
	events[0].events = EPOLLIN;
	events[0].data.u64 = script->tag;
	return 1;
}

/* A wait of less than a millisecond, the unit of this kernel's clock. */
int __wrap_epoll_pwait2(int epoll, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask)
{
	if (!kernel_fd(epoll))
		return __real_epoll_pwait2(epoll, events, max, timeout, mask);
	REQUIRE(timeout->tv_sec == 0 && timeout->tv_nsec >= 0 && timeout->tv_nsec < 1000000000 && !mask);
	return __wrap_epoll_wait(epoll, events, max, timeout->tv_nsec ? 1 : 0);
}
