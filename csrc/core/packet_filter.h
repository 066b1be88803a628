/* Purpose: which frames a capture takes, by a program of classic BPF, as tcpdump's language is compiled to. Pure.
 *
 * Invariant: a program that packet_filter_check() accepts ends after at most as many steps as it has instructions, and reads and
 * writes nothing outside the frame and its own memory, whatever the frame is.
 *
 * Rejected: a socket filter in the kernel (SO_ATTACH_FILTER), for which each frame would have to pass a socket.
 */
#ifndef PASTA_CORE_PACKET_FILTER_H
#define PASTA_CORE_PACKET_FILTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define PACKET_FILTER_MAX 4096 /* instructions; the kernel's limit too (BPF_MAXINSNS) */

/* Laid out as struct sock_filter of linux/filter.h, and as libpcap's struct bpf_insn. */
struct packet_filter_insn {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

/* Whether the program may be run: instructions of the language only, jumps forward and inside, a return at the end. */
bool packet_filter_check(const struct packet_filter_insn *code, uint32_t count);

/* How many bytes of the frame to take; 0: the frame does not match. Needs a checked program. A load from outside the frame, and a
 * division by zero, end the program with 0. */
uint32_t packet_filter_run(const struct packet_filter_insn *code, const struct iovec *iov, int iovcnt);

#endif
