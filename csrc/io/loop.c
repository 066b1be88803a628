/* Owns the epoll descriptor and the batch of events being handled. Handlers run after loop_next() returned their event, one
 * at a time: nothing is dispatched from here, so there is no callback to re-enter.
 */
#include "io/loop.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "core/timer.h"

static void read_clock(struct loop *l)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	l->now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int loop_init(struct loop *l)
{
	*l = (struct loop){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
	read_clock(l);
	return l->epoll_fd < 0 ? -errno : 0;
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

int loop_wait(struct loop *l, int64_t deadline_ms)
{
	int timeout_ms = -1;

	if (deadline_ms != TIMER_NEVER) {
		int64_t left;

		read_clock(l);
		left = deadline_ms - l->now_ms;
		timeout_ms = left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
	}
	l->taken = 0;
	l->ready = epoll_wait(l->epoll_fd, l->events, LOOP_EVENTS, timeout_ms);
	read_clock(l);
	if (l->ready < 0) {
		int error = errno;

		l->ready = 0;
		return error == EINTR ? 0 : -error;
	}
	return 0;
}

const struct epoll_event *loop_next(struct loop *l)
{
	return l->taken < l->ready ? &l->events[l->taken++] : 0;
}
