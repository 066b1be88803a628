/* The Internet checksum (RFC 1071), in native byte order: sums are accumulated in 64 bits and folded once. */
#ifndef PASTA_BASE_CHECKSUM_H
#define PASTA_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Adds len bytes at p, as 16-bit words in memory order, an odd last byte padded with zero, to sum. */
uint64_t csum_add(const void *p, size_t len, uint64_t sum);

/* The 16-bit ones' complement sum, not complemented, in memory order: store it with memcpy. */
static inline uint16_t csum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

#endif
