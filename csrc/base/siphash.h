/* Purpose: SipHash-2-4 (Aumasson and Bernstein, 2012). The hash has a key, so that a guest cannot choose flows that collide. */
#ifndef PASTA_BASE_SIPHASH_H
#define PASTA_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct siphash_key {
	uint64_t k[2];
};

uint64_t siphash(const struct siphash_key *key, const void *data, size_t len);

#endif
