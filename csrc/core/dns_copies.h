/* Purpose: copies of the DNS answers that the guest gets, for readers that show names (docs/control.md).
 *
 * How: Python reads them, because it has the one parser of DNS. They wait here until it shows flows the next time. The traffic itself
 * does not change. Nothing is copied while no reader wants names. Over TCP an answer comes in pieces (RFC 1035, 4.2.2), which are
 * put together here, for the DNS_STREAMS connections that have begun last.
 *
 * Invariants: what waits takes DNS_COPIES_BYTES at most. A new answer takes the place of the oldest.
 */
#ifndef PASTA_CORE_DNS_COPIES_H
#define PASTA_CORE_DNS_COPIES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

#define DNS_COPIES_BYTES 32768u
#define DNS_COPY_MAX_BYTES 4096u /* of one answer: the largest that resolvers ask for (RFC 6891, 6.2.5) */

#define DNS_STREAMS 8

/* The answers of one connection. */
struct dns_stream {
	uint32_t flow, generation;
	uint64_t position; /* bytes of the connection so far; 0: this place is free */
	uint32_t used;     /* of the message that is not complete yet, with its length; those that have no room are counted only */
	uint8_t at[2 + DNS_COPY_MAX_BYTES];
};

struct dns_copies {
	bool wanted;
	uint8_t *at;   /* DNS_COPIES_BYTES; NULL before the first reader. Each answer: 2 bytes of length, the message */
	uint32_t used; /* bytes */
	struct dns_stream *streams; /* DNS_STREAMS; NULL before the first */
	uint32_t next_stream;
};

/* 0 or -ENOMEM. What waits is forgotten when none is wanted any more. */
int dns_copies_want(struct dns_copies *c, bool wanted);
void dns_copies_free(struct dns_copies *c);
/* Copies an answer; one that is too long for any resolver is left out. */
void dns_copies_add(struct dns_copies *c, const uint8_t *message, uint32_t len);
/* Copies the answers that are complete with these bytes of a connection. position: how many bytes came before. */
void dns_copies_add_piece(struct dns_copies *c, uint32_t flow, uint32_t generation, uint64_t position, const uint8_t *data,
			  uint32_t len);
/* Takes all that wait, as they stand in `at`, into DNS_COPIES_BYTES. Returns their bytes. */
uint32_t dns_copies_take(struct dns_copies *c, uint8_t *out);

/* Whether Python should take them before more of them get lost. */
static inline bool dns_copies_full(const struct dns_copies *c)
{
	return c->used > DNS_COPIES_BYTES / 2;
}

#endif
