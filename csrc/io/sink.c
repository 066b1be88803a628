/* How: write() serves files and devices. A stream is written without blocking: its reader may stop, and the writer must still end.
 *
 * Rejected: O_NONBLOCK, which would change the stream for all processes that share it; cancelling a blocked thread, for which the C
 * library loads another library, in a process without a file system.
 */
#include "io/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"

#define PIPE_ATOMIC_BYTES 4096 /* a pipe that polls writable takes these without blocking */
#define PIPE_WANTED_BYTES (1 << 20)

/* How long a stream may still take after a stop: without progress, and in total. */
#define STOP_STALL_NS (1000 * NS_PER_MS)
#define STOP_TOTAL_NS (5000 * NS_PER_MS)

#define POLL_MS 100

int sink_open(struct sink *s, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*s = (struct sink){
		.fd = fd,
		.regular = S_ISREG(st.st_mode),
		.stream = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd),
		.nowait = true,
	};
	if (S_ISFIFO(st.st_mode))
		(void)fcntl(fd, F_SETPIPE_SZ, PIPE_WANTED_BYTES); /* fewer switches between us and the reader */
	return 0;
}

void sink_cut(struct sink *s, size_t len)
{
	off_t end;

	if (!s->regular || !len)
		return;
	end = lseek(s->fd, 0, SEEK_CUR);
	if (end < (off_t)len || ftruncate(s->fd, end - (off_t)len) < 0)
		return;
	(void)lseek(s->fd, end - (off_t)len, SEEK_SET);
}

int sink_write_here(struct sink *s, const void *data, size_t len)
{
	const struct timespec zero = {0, 0};
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};
	sigset_t fatal, before, pending;
	bool was_pending;
	ssize_t n;
	int error;

	if (s->stream && poll(&p, 1, POLL_MS) == 0)
		return -EAGAIN;
	sigemptyset(&fatal);
	sigaddset(&fatal, SIGPIPE);
	sigaddset(&fatal, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &fatal, &before);
	sigpending(&pending);
	was_pending = sigismember(&pending, SIGPIPE) || sigismember(&pending, SIGXFSZ);
	do
		n = write(s->fd, data, len);
	while (n < 0 && errno == EINTR);
	error = n < 0 ? -errno : n < (ssize_t)len ? -ENOSPC : 0;
	if (n > 0 && error)
		sink_cut(s, (size_t)n);
	if (error && !was_pending)
		(void)sigtimedwait(&fatal, NULL, &zero);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

int sink_write_line(int fd, const void *data, size_t len)
{
	const struct iovec iov = {(void *)(uintptr_t)data, len};
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return -errno;
	n = S_ISREG(st.st_mode) ? write(fd, data, len) : pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (n < 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)) {
		if (poll(&p, 1, 0) <= 0)
			return -EAGAIN;
		n = write(fd, data, size_min(len, PIPE_ATOMIC_BYTES));
	}
	return n < 0 ? -errno : n < (ssize_t)len ? -ENOSPC : 0;
}

/* Whether there is a stop that has waited long enough for the stream. */
static bool stop_is_due(struct sink *s, const _Atomic bool *stop)
{
	int64_t now_ns;

	if (!atomic_load(stop))
		return false;
	now_ns = clock_ns(CLOCK_MONOTONIC);
	if (!s->stop_ns)
		s->stop_ns = s->progress_ns = now_ns;
	return now_ns - s->progress_ns > STOP_STALL_NS || now_ns - s->stop_ns > STOP_TOTAL_NS;
}

/* Waits until a stream takes bytes. Returns 0, or ECANCELED after a stop. */
static int wait_writable(struct sink *s, const _Atomic bool *stop)
{
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};

	while (!stop_is_due(s, stop))
		if (poll(&p, 1, POLL_MS) > 0)
			return 0;
	return ECANCELED;
}

/* Tries once to write to a stream. Returns like write(); after EAGAIN or EINTR the caller tries again. */
static ssize_t write_stream(struct sink *s, const uint8_t *data, size_t len, const _Atomic bool *stop)
{
	const struct iovec iov = {(void *)data, len};
	ssize_t n;

	if (s->nowait) {
		n = pwritev2(s->fd, &iov, 1, -1, RWF_NOWAIT);
		if (n >= 0)
			return n;
		if (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)
			s->nowait = false;
		else if (errno != EAGAIN)
			return n;
	}
	errno = wait_writable(s, stop);
	if (errno)
		return -1;
	if (s->nowait) {
		errno = EAGAIN;
		return -1;
	}
	return write(s->fd, data, size_min(len, PIPE_ATOMIC_BYTES));
}

int sink_write(struct sink *s, const uint8_t *data, size_t len, size_t *done, const _Atomic bool *stop)
{
	ssize_t n;

	for (*done = 0; *done < len; *done += (size_t)n) {
		if (s->stream)
			n = write_stream(s, data + *done, len - *done, stop);
		else
			n = write(s->fd, data + *done, len - *done);
		if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
			n = 0;
			continue;
		}
		if (n <= 0)
			return n ? errno : EIO;
		if (s->stop_ns)
			s->progress_ns = clock_ns(CLOCK_MONOTONIC);
	}
	return 0;
}
