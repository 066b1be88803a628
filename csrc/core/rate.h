/* Purpose: a limit of bytes a second for one direction, which all shards share. rate.c says how streams and datagrams share it. */
#ifndef PASTA_CORE_RATE_H
#define PASTA_CORE_RATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Clocks are CLOCK_MONOTONIC. */
struct rate {
	uint64_t bytes_per_s;
	_Atomic int64_t due_ns;           /* until then a link of this rate would be busy with what has passed */
	_Atomic int64_t datagrams_due_ns; /* the same of the datagrams that passed beside streams, at half of the rate */
	_Atomic int64_t waited_ns;        /* when a stream last waited */
};

/* Bytes that a stream may send at a time. */
uint32_t rate_share_bytes(const struct rate *r);
/* Whether a stream may send now; rate_took() says what it has sent. */
bool rate_passes(struct rate *r, int64_t now_us);
void rate_took(struct rate *r, int64_t now_us, uint32_t bytes);
/* When a stream may send again, in ms. */
int64_t rate_next_ms(const struct rate *r);
/* Whether a datagram passes; then it counts. bytes: with its headers. query: it is one of DNS. */
bool rate_takes_datagram(struct rate *r, int64_t now_us, uint32_t bytes, bool query);

#endif
