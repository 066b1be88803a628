/* Purpose: copies of the DNS answers that the guest gets, for readers that show names (docs/control.md).
 *
 * How: Python reads them, because it has the one parser of DNS. They wait here until it shows flows the next time. The traffic itself
 * does not change. Nothing is copied while no reader wants names.
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

struct dns_copies {
	bool wanted;
	uint8_t *at;   /* DNS_COPIES_BYTES; NULL before the first reader. Each answer: 2 bytes of length, the message */
	uint32_t used; /* bytes */
};

/* 0 or -ENOMEM. What waits is forgotten when none is wanted any more. */
int dns_copies_want(struct dns_copies *c, bool wanted);
void dns_copies_free(struct dns_copies *c);
/* Copies an answer; one that is too long for any resolver is left out. */
void dns_copies_add(struct dns_copies *c, const uint8_t *message, uint32_t len);
/* Takes all that wait, as they stand in `at`, into DNS_COPIES_BYTES. Returns their bytes. */
uint32_t dns_copies_take(struct dns_copies *c, uint8_t *out);

/* Whether Python should take them before more of them get lost. */
static inline bool dns_copies_full(const struct dns_copies *c)
{
	return c->used > DNS_COPIES_BYTES / 2;
}

#endif
