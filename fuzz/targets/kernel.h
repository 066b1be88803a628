/* Purpose: simulates the kernel for a run of a fuzz target: sockets, epoll and clock follow the script.
 *
 * How: --wrap replaces every system call of the core, so the core itself is compiled unchanged. Descriptors of this kernel begin at
 * FAKE_BASE; calls for all others (libFuzzer's own) go to the real kernel.
 *
 * Invariants: the core uses and closes only open descriptors, and leaves none open. It does not spin. Bytes reach a socket in the
 * guest's order (content_from_guest()).
 *
 * Rejected: real sockets: a hundred times slower, not reproducible, and their timers take real time.
 */
#ifndef PASTA_FUZZ_KERNEL_H
#define PASTA_FUZZ_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

#define FAKE_BASE 4096
#define FAKE_COUNT 64 /* small, so that a script can use them all up */
#define QUEUE_LEN 32

/* Prints the failed condition and aborts. */
#define REQUIRE(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *condition, const char *text);

enum fake_kind { FAKE_FREE, FAKE_TAP, FAKE_EPOLL, FAKE_SCRIPT, FAKE_STREAM, FAKE_LISTENER, FAKE_DGRAM, FAKE_PING, FAKE_PIPE };

/* A waiting datagram, or an entry of an error queue. */
struct fake_datagram {
	struct endpoint from;
	uint32_t len;
	uint16_t gro; /* 0: one datagram */
	uint8_t ttl, tos;
	bool pktinfo;
	uint8_t origin, type, code; /* of an error: SO_EE_ORIGIN_ */
	int error;
	uint32_t info;
};

struct fake {
	enum fake_kind kind;
	bool v6;
	bool lent; /* the core must not close it */
	/* epoll */
	bool watched, edge;
	uint32_t events;
	uint64_t tag;
	/* FAKE_STREAM: the peer has written rx_written bytes; the core has taken rx_dropped of them from the queue. */
	bool connected, connecting, rx_eof, tx_shut, dead;
	bool lossy; /* an error was reported: later bytes of the core may be lost */
	int error;
	uint64_t rx_written, rx_dropped, tx_taken;
	int64_t peek_offset; /* -1: SO_PEEK_OFF is not on */
	uint32_t sndbuf, queued;
	/* What frames to the guest have shown about this stream (check.c). */
	bool has_isn, has_base, has_edge;
	uint32_t isn, base, edge_advertised;
	char first_end; /* 'g': the guest's, 'h': the host's */
	/* FAKE_LISTENER */
	struct endpoint client[QUEUE_LEN];
	uint32_t clients;
	/* FAKE_DGRAM, FAKE_PING */
	struct fake_datagram in[QUEUE_LEN], errors[QUEUE_LEN];
	uint32_t in_count, error_count;
	bool error_queue; /* IP_RECVERR is on; otherwise only `error` is set */
	/* FAKE_PIPE */
	int other_end;
	uint64_t held;
};

struct kernel {
	bool running;
	struct fake fd[FAKE_COUNT];
	int64_t now_ms;
	bool finale;          /* the script is over: waits end at their deadline */
	bool idle;            /* the core waits without a deadline */
	uint32_t waits;       /* calls of epoll_wait() since the last command */
	int fail_errno;       /* of the call that fails; 0: none fails */
	uint32_t fail_after;  /* calls that succeed before it */
	uint32_t tap_refuses; /* writes to the tap that fail */
	bool no_peek_offset;
	/* Frames of the guest that the core has not read. */
	struct {
		uint8_t *bytes;
		uint32_t len;
	} frames[QUEUE_LEN];
	uint32_t frame_count;
};

extern struct kernel kernel;

void kernel_start(void);
/* Requires that the core has closed all its descriptors. */
void kernel_stop(void);
int kernel_open(enum fake_kind kind, bool v6);
/* NULL: a descriptor of the real kernel. */
struct fake *kernel_fd(int fd);
/* The n-th open descriptor of a kind, modulo their number; NULL: there is none. */
struct fake *kernel_nth(enum fake_kind kind, uint32_t n);
/* Its state has changed: an edge-triggered descriptor reports again. */
void kernel_changed(struct fake *f);
void kernel_frame(const uint8_t *bytes, uint32_t len);

/* The byte of the guest at a sequence number. It is the same in all streams, so that bytes for a socket can be checked without a
 * model of the guest. */
static inline uint8_t content_from_guest(uint32_t sequence)
{
	return (uint8_t)(sequence * 167 ^ sequence >> 8 ^ sequence >> 19);
}

/* The byte of a peer at a position of its stream. */
static inline uint8_t content_from_host(uint64_t position)
{
	return (uint8_t)(position * 59 ^ position >> 7 ^ position >> 17);
}

/* Called by the kernel (check.c): for a frame to the guest, and for bytes of the guest that go to a socket. */
void check_frame(const uint8_t *bytes, uint32_t len);
void check_bytes_to_host(int fd, const struct fake *f, const uint8_t *bytes, uint32_t len);

#endif
