/* Purpose: a token bucket. It limits how often something may happen, so that a flood of it leaves time for everything else. */
#ifndef PASTA_CORE_BUCKET_H
#define PASTA_CORE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

/* All zero: a full bucket. */
struct bucket {
	int64_t drained_ms;
	uint32_t taken; /* tokens not refilled yet */
};

/* Takes a token. False: the bucket is empty. per_s: a multiple of 1000 or a part of it, so that no fraction of a token is lost. */
static inline bool bucket_take(struct bucket *b, int64_t now_ms, uint32_t per_s, uint32_t burst)
{
	uint32_t every_ms = per_s < 1000 ? 1000 / per_s : 1;
	int64_t steps = (now_ms - b->drained_ms) / every_ms, back = steps * (int64_t)(per_s < 1000 ? 1 : per_s / 1000);

	if (back > 0) {
		b->drained_ms = back < b->taken ? b->drained_ms + steps * every_ms : now_ms;
		b->taken = back < b->taken ? b->taken - (uint32_t)back : 0;
	}
	if (b->taken >= burst)
		return false;
	b->taken++;
	return true;
}

/* Gives a token back: what it was taken for was no flood. */
static inline void bucket_return(struct bucket *b)
{
	b->taken -= b->taken > 0;
}

#endif
