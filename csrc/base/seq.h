/* Purpose: TCP sequence numbers (RFC 9293, 3.4), as a type of their own: a raw comparison does not compile. */
#ifndef PASTA_BASE_SEQ_H
#define PASTA_BASE_SEQ_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
	uint32_t v;
} seq_t;

static inline seq_t seq(uint32_t v)
{
	return (seq_t){v};
}

static inline seq_t seq_add(seq_t a, uint32_t n)
{
	return (seq_t){a.v + n};
}

/* How far b is ahead of a, modulo 2^32. */
static inline uint32_t seq_diff(seq_t b, seq_t a)
{
	return b.v - a.v;
}

static inline bool seq_lt(seq_t a, seq_t b)
{
	return (int32_t)(a.v - b.v) < 0;
}

static inline bool seq_le(seq_t a, seq_t b)
{
	return (int32_t)(a.v - b.v) <= 0;
}

static inline bool seq_eq(seq_t a, seq_t b)
{
	return a.v == b.v;
}

static inline seq_t seq_max(seq_t a, seq_t b)
{
	return seq_lt(a, b) ? b : a;
}

#endif
