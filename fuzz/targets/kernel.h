/* A kernel made for one run of a fuzz target: its sockets, its epoll and its clock do what the script says.
 *
 * The targets are linked with --wrap for every system call of the core, so that the core under test is the one that users get,
 * to the byte. Rejected: real sockets, which are a hundred times slower, never the same twice, and whose timers nobody can wait
 * for. Descriptors of this kernel begin at FAKE_BASE; all others (libFuzzer's own) go to the real one.
 *
 * What it checks by itself: no descriptor is used or closed that is not open; none is left open; the core neither spins nor
 * waits for ever; bytes leave for a socket exactly in the guest's order (see content_from_guest()).
 */
#ifndef PASTA_FUZZ_KERNEL_H
#define PASTA_FUZZ_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

#define FAKE_BASE 4096
#define FAKE_COUNT 64 /* few enough for scripts to run out of them */
#define QUEUE_LEN 32

/* Says what is wrong, and aborts. */
#define REQUIRE(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *condition, const char *text);

enum fake_kind { FAKE_FREE, FAKE_TAP, FAKE_EPOLL, FAKE_SCRIPT, FAKE_STREAM, FAKE_LISTENER, FAKE_DGRAM, FAKE_PING, FAKE_PIPE };

/* A datagram, or an entry of an error queue, that waits to be read. */
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
	bool lent; /* not the core's to close */
	/* epoll */
	bool watched, edge;
	uint32_t events;
	uint64_t tag;
	/* FAKE_STREAM; the peer has written rx_written bytes, rx_dropped of them were taken from the queue */
	bool connected, connecting, rx_eof, tx_shut, dead;
	bool lossy; /* an error was reported: what the core gives it afterwards may be lost */
	int error;
	uint64_t rx_written, rx_dropped, tx_taken;
	int64_t peek_offset; /* -1: SO_PEEK_OFF is not on */
	uint32_t sndbuf, queued;
	/* what the frames to the guest have shown of it: check.c */
	bool has_isn, has_base, has_edge;
	uint32_t isn, base, edge_told;
	char first_end; /* 'g': the guest's, 'h': the host's */
	/* FAKE_LISTENER */
	struct endpoint client[QUEUE_LEN];
	uint32_t clients;
	/* FAKE_DGRAM, FAKE_PING */
	struct fake_datagram in[QUEUE_LEN], errors[QUEUE_LEN];
	uint32_t in_count, error_count;
	bool error_queue; /* IP_RECVERR: otherwise there is just `error` */
	/* FAKE_PIPE */
	int other_end;
	uint64_t held;
};

struct kernel {
	bool running;
	struct fake fd[FAKE_COUNT];
	int64_t now_ms;
	bool finale;         /* nobody says anything any more: waits end at their deadline */
	bool waits_for_ever; /* nothing is left to wait for */
	uint32_t waits;      /* since the script said something */
	int fail_errno;      /* the fail_after-th call that can fail from now on fails so; 0: none */
	uint32_t fail_after;
	uint32_t tap_refuses; /* that many writes to the tap */
	bool no_peek_offset;
	/* frames of the guest that the core has not read */
	struct {
		uint8_t *bytes;
		uint32_t len;
	} frames[QUEUE_LEN];
	uint32_t frame_count;
};

extern struct kernel kernel;

void kernel_start(void);
/* Every descriptor of the core must be closed. */
void kernel_stop(void);
int kernel_open(enum fake_kind kind, bool v6);
/* NULL if fd is not one of ours. */
struct fake *kernel_fd(int fd);
/* The n-th open one of a kind, modulo how many there are; NULL: none. */
struct fake *kernel_nth(enum fake_kind kind, uint32_t n);
/* Something about it has changed: what is edge-triggered reports again. */
void kernel_changed(struct fake *f);
void kernel_frame(const uint8_t *bytes, uint32_t len);

/* The byte of the guest's streams at a sequence number: all of them say the same, so that every byte that reaches a socket can
 * be checked without a model of the guest. */
static inline uint8_t content_from_guest(uint32_t sequence)
{
	return (uint8_t)(sequence * 167 ^ sequence >> 8 ^ sequence >> 19);
}

/* The byte that a peer writes at a position of its stream. */
static inline uint8_t content_from_host(uint64_t position)
{
	return (uint8_t)(position * 59 ^ position >> 7 ^ position >> 17);
}

/* check.c: called from the kernel. A frame to the guest; bytes of the guest's stream for a socket. */
void check_frame(const uint8_t *bytes, uint32_t len);
void check_bytes_to_host(int fd, const struct fake *f, const uint8_t *bytes, uint32_t len);

#endif
