/* Purpose: capture the frames exchanged with the guest, in a pcap or pcapng file, a ring of files, or a stream. A thread of its own
 * writes it.
 *
 * Only the loop's thread may call these functions; capture_share() allows others to call capture_frame().
 *
 * System calls after capture_open(), for the sandbox. The writer: write, pwritev2, poll, lseek, ftruncate, futex, clock_gettime,
 * and those with which the C library ends a thread (madvise, munmap, rt_sigprocmask, exit). The loop: futex, clock_gettime.
 */
#ifndef PASTA_IO_CAPTURE_H
#define PASTA_IO_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/capture_names.h"
#include "io/capture_packet.h"

struct capture;

struct capture_counters {
	uint64_t frames;  /* in the file, or on the way to it */
	uint64_t bytes;   /* of these frames */
	uint64_t dropped; /* frames that found no room in time, or came after an error */
};

struct capture_config {
	const int *fds; /* of any kind; files, if there are several */
	uint32_t files; /* up to CAPTURE_FILES_MAX of io/capture_files.h */
	uint64_t
		file_bytes; /* a file that has no room for another record is left for the next one, which is emptied; 0: no limit */
	bool pcapng;
	uint32_t snaplen;                        /* bytes of a frame, at most; 0: all */
	const struct packet_filter_insn *filter; /* checked; capture_open() copies it */
	uint32_t filter_len;                     /* 0: all frames */
	const struct capture_names *names;       /* for pcapng; NULL: none. They change only where frames come from */
};

/* Writes the header of the first file and starts the writer. The caller keeps the descriptors open until capture_stop(), and closes
 * them. Returns 0 or -errno (-EAGAIN: the reader of a stream does not take the header). */
int capture_open(struct capture **out, const struct capture_config *config);

/* Records one Ethernet frame with the time of the call, if the filter takes it. The file gets complete checksums, and several datagrams in one frame each
 * as a frame of its own, which the filter sees. Large TCP segments stay as they are, as in other captures. A frame that is cut keeps an
 * incomplete checksum, which its reader cannot check.
 *
 * Without room it waits for the writer: for a stream 100 ms in total, until the reader has caught up; for anything else while the
 * writer makes progress within 2 s. A frame that then finds no room is dropped and counted. */
void capture_frame(struct capture *c, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		   const struct capture_offload *offload);

/* From now on any thread may call capture_frame(). */
void capture_share(struct capture *c);

struct capture_counters capture_counters(struct capture *c);

/* An errno value that was not returned before, or 0. EAGAIN and ETIMEDOUT: frames are being dropped; any other: the capture has
 * ended. Cheap enough for every turn of the loop. */
int capture_error(struct capture *c);
/* A line for the log about such an errno value. */
const char *capture_error_text(int error);

/* Writes the frames in the queue (to a stream for at most 5 s, and 1 s without progress), ends the writer, frees everything.
 * Returns like capture_error(); ECANCELED: the reader of a stream did not take the last frames. counters: the last ones, or NULL. */
int capture_stop(struct capture *c, struct capture_counters *counters);

#endif
