/* The capture: every frame exchanged with the guest, in a pcap or pcapng file or stream, written by a thread of its own.
 * All functions belong to one thread, the loop's, but for what capture_share() allows.
 *
 * System calls of the writer once capture_open() has returned, for the sandbox: write, pwritev2, poll, lseek, ftruncate,
 * futex, clock_gettime, and those with which the C library ends a thread (madvise, munmap, rt_sigprocmask, exit).
 * The loop's: futex, clock_gettime.
 */
#ifndef PASTA_IO_CAPTURE_H
#define PASTA_IO_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/pcap_format.h"

struct capture;

struct capture_counters {
	uint64_t frames;  /* in the file, or on their way to it */
	uint64_t bytes;   /* of these frames */
	uint64_t dropped; /* not in the file: no room in time, or after an error */
};

/* Writes the header of the file and starts the writer. fd may be of any kind; it stays the caller's, who must keep it
 * open until capture_stop(). Returns 0 or -errno (-EAGAIN: the reader of a stream does not even take the header). */
int capture_open(struct capture **out, int fd, bool pcapng);

/* What is still to be done to a frame, as in virtio_net (VIRTIO 1.2, 5.1.6.2). */
struct capture_offload {
	bool needs_csum; /* the 16-bit field at csum_start + csum_offset holds the folded pseudo-header sum only */
	uint16_t csum_start, csum_offset;
	uint16_t udp_size; /* these are several datagrams of so many bytes, behind one header; 0: this is one packet */
};

/* Takes a copy of one Ethernet frame, with the time of the call; the file gets whole checksums, and each of several datagrams
 * as a frame of its own. TCP segments stay together, as captures have them everywhere.
 *
 * Without room it waits for the writer: on a regular file as long as that moves within 2 s, on a stream 100 ms in all
 * until the reader has caught up. What finds no room after that is dropped and counted. */
void capture_frame(struct capture *c, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		   const struct capture_offload *offload);

/* From now on any thread may call capture_frame(). */
void capture_share(struct capture *c);

struct capture_counters capture_counters(struct capture *c);

/* An errno value that was not reported yet, or 0: each cause is reported once. EAGAIN and ETIMEDOUT mean that frames
 * are being dropped, all others that the capture has ended. Cheap enough to ask in every turn of the loop. */
int capture_error(struct capture *c);
/* The same as a line for the log. */
const char *capture_error_text(int error);

/* Writes what is queued (to a stream for at most 5 s, and 1 s without progress), ends the writer, frees everything.
 * Returns an error that was not reported yet, or 0; ECANCELED: the reader of a stream did not take the last frames. */
int capture_stop(struct capture *c);

#endif
