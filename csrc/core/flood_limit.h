/* Purpose: limits how often something may happen (a token bucket), so that a flood of it leaves time for everything else. */
#ifndef PASTA_CORE_FLOOD_LIMIT_H
#define PASTA_CORE_FLOOD_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

/* All zero: a full bucket. */
struct flood_limit {
	int64_t drained_ms;
	uint32_t taken; /* tokens not refilled yet */
};

/* Takes a token. False: the bucket is empty. per_s: a multiple of 1000 or a part of it, so that no fraction of a token is lost. */
static inline bool flood_limit_take(struct flood_limit *l, int64_t now_ms, uint32_t per_s, uint32_t burst)
{
	uint32_t every_ms = per_s < 1000 ? 1000 / per_s : 1;
	int64_t steps = (now_ms - l->drained_ms) / every_ms, back = steps * (int64_t)(per_s < 1000 ? 1 : per_s / 1000);

	if (back > 0) {
		l->drained_ms = back < l->taken ? l->drained_ms + steps * every_ms : now_ms;
		l->taken = back < l->taken ? l->taken - (uint32_t)back : 0;
	}
	if (l->taken >= burst)
		return false;
	l->taken++;
	return true;
}

/* Gives a token back: what it was taken for was no flood. */
static inline void flood_limit_return(struct flood_limit *l)
{
	l->taken -= l->taken > 0;
}

#endif
