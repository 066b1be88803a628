/* Where a capture goes: a descriptor of any kind, written to by a thread that must end when told to. */
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
	bool regular; /* a file: can be cut back */
	bool stream;  /* has a reader, who may be slow: pipe, socket, terminal */
	bool nowait;  /* the kernel knows RWF_NOWAIT for this descriptor */
	int64_t progress_ns, stop_ns;
};

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * (1000 * NS_PER_MS) + t.tv_nsec;
}

/* Looks at what fd is. Returns 0 or -errno. */
int sink_open(struct sink *s, int fd);

/* One line for a log, whole or not at all, and without waiting for a reader. Returns 0 or -errno (-EAGAIN: there is no room). */
int sink_write_line(int fd, const void *data, size_t len);

/* Writes a few bytes at once from any thread, without the signals of a failing write. Returns 0 or -errno (-EAGAIN: a
 * stream that takes nothing for 100 ms), and leaves no part of them in a file. */
int sink_write_here(struct sink *s, const void *data, size_t len);

/* Writes all, as long as it takes; once *stop is set a stream may take 5 s more, and 1 s without progress. The thread
 * blocks SIGPIPE and SIGXFSZ. Returns 0 or an errno value (ECANCELED: given up after the stop); *done says how far
 * it came. */
int sink_write(struct sink *s, const uint8_t *data, size_t len, size_t *done, const _Atomic bool *stop);

/* Takes the last len bytes off a file; of a stream nothing can be taken back. */
void sink_cut(struct sink *s, size_t len);

#endif
