/* A token bucket: something may happen so often a second and no more, so that a flood of it leaves time for all else. */
#ifndef PASTA_CORE_BUCKET_H
#define PASTA_CORE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

/* All zero is a full bucket. */
struct bucket {
	int64_t drained_ms;
	uint32_t taken; /* tokens that have not come back yet */
};

/* False: none left. per_s: a multiple of 1000, so that no fraction of a token is lost. */
static inline bool bucket_take(struct bucket *b, int64_t now_ms, uint32_t per_s, uint32_t burst)
{
	int64_t back = (now_ms - b->drained_ms) * (int64_t)(per_s / 1000);

	if (back > 0) {
		b->drained_ms = now_ms;
		b->taken = back < b->taken ? b->taken - (uint32_t)back : 0;
	}
	if (b->taken >= burst)
		return false;
	b->taken++;
	return true;
}

/* What a token was for has turned out to be honest. */
static inline void bucket_return(struct bucket *b)
{
	b->taken -= b->taken > 0;
}

#endif
