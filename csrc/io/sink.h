/* Purpose: write a capture to a descriptor of any kind, from a thread that can be stopped. */
#ifndef PASTA_IO_SINK_H
#define PASTA_IO_SINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000ll

struct sink {
	int fd;
	bool regular; /* a file, which can be truncated */
	bool stream;  /* a pipe, socket or terminal, whose reader may be slow */
	bool nowait;  /* the descriptor may support RWF_NOWAIT */
	/* When the writer first saw the stop (0: not yet), and when it last wrote something after it. */
	int64_t stop_ns, progress_ns;
};

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * (1000 * NS_PER_MS) + t.tv_nsec;
}

/* Finds out what fd is. Returns 0 or -errno. */
int sink_open(struct sink *s, int fd);

/* Writes a log line whole or not at all, without waiting for a reader. Returns 0 or -errno (-EAGAIN: there is no room). */
int sink_write_line(int fd, const void *data, size_t len);

/* Writes a few bytes now, from any thread, without the signals of a failing write. Returns 0 or -errno (-EAGAIN: a stream takes
 * nothing for 100 ms). After an error a file has none of the bytes. */
int sink_write_here(struct sink *s, const void *data, size_t len);

/* Writes all bytes, for as long as it takes. Once *stop is set, a stream may take 5 s more, and 1 s without progress. The thread
 * must have SIGPIPE and SIGXFSZ blocked. Returns 0 or an errno value (ECANCELED: gave up after the stop). *done: bytes written. */
int sink_write(struct sink *s, const uint8_t *data, size_t len, size_t *done, const _Atomic bool *stop);

/* Removes the last len bytes from a file. Does nothing for anything else. */
void sink_cut(struct sink *s, size_t len);

#endif
