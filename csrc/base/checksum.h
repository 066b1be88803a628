/* Purpose: the Internet checksum (RFC 1071). Sums are in native byte order, have 64 bits, and are folded once. */
#ifndef PASTA_BASE_CHECKSUM_H
#define PASTA_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Adds len bytes at p to sum, as 16-bit words in memory order. A last odd byte is padded with zero. */
uint64_t csum_add(const void *p, size_t len, uint64_t sum);

/* The 16-bit ones' complement sum, not complemented. It is in memory order: store it with memcpy. */
static inline uint16_t csum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

#endif
