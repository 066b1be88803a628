/* How: loop_wait() fills a batch of events, and loop_next() returns one at a time for the caller to handle. The loop calls nothing,
 * so there is no callback to re-enter.
 */
#include "io/loop.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "core/timer.h"

#define US_MAX 1000000 /* longer waits are in milliseconds */

/* Weak: musl does not have it. Linux 5.11 and later. */
int epoll_pwait2(int epoll, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask)
	__attribute__((weak));

static void read_clock(struct loop *l)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	l->now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	l->now_us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t loop_boot_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int loop_init(struct loop *l)
{
	*l = (struct loop){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
	if (l->epoll_fd < 0)
		return -errno;
	read_clock(l);
	l->precise = epoll_pwait2 && epoll_pwait2(l->epoll_fd, l->events, LOOP_EVENTS, &(struct timespec){0, 0}, NULL) == 0;
	return 0;
}

void loop_free(struct loop *l)
{
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	l->epoll_fd = -1;
}

static int control(struct loop *l, int op, int fd, uint32_t events, uint64_t tag)
{
	struct epoll_event event = {.events = events, .data.u64 = tag};

	return epoll_ctl(l->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

int loop_add(struct loop *l, int fd, uint32_t events, uint64_t tag)
{
	return control(l, EPOLL_CTL_ADD, fd, events, tag);
}

int loop_modify(struct loop *l, int fd, uint32_t events, uint64_t tag)
{
	return control(l, EPOLL_CTL_MOD, fd, events, tag);
}

int loop_remove(struct loop *l, int fd)
{
	return control(l, EPOLL_CTL_DEL, fd, 0, 0);
}

/* The time until a moment; 0 if it has passed. */
static int64_t left(int64_t until, int64_t now)
{
	return until > now ? until - now : 0;
}

static int wait_ms(struct loop *l, int64_t deadline_ms)
{
	int64_t ms = deadline_ms == TIMER_NEVER ? -1 : left(deadline_ms, l->now_ms);

	return epoll_wait(l->epoll_fd, l->events, LOOP_EVENTS, ms > 3600000 ? 3600000 : (int)ms);
}

int loop_wait(struct loop *l, int64_t deadline_ms, int64_t until_us)
{
	struct timespec ts = {0};

	read_clock(l);
	l->taken = 0;
	if (until_us == TIMER_NEVER || until_us - l->now_us > US_MAX || deadline_ms <= l->now_ms) {
		l->ready = wait_ms(l, deadline_ms);
	} else {
		ts.tv_nsec = (long)(left(until_us, l->now_us) * 1000);
		l->ready = epoll_pwait2(l->epoll_fd, l->events, LOOP_EVENTS, &ts, NULL);
	}
	if (l->ready < 0) {
		l->ready = 0;
		/* SIGSTOP and SIGCONT interrupt the wait (signal(7)). The next one returns its events, and reads the clock. */
		return errno == EINTR ? 0 : -errno;
	}
	read_clock(l);
	return 0;
}

const struct epoll_event *loop_next(struct loop *l)
{
	return l->taken < l->ready ? &l->events[l->taken++] : 0;
}
