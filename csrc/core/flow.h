/* Purpose: the flows of one protocol, in a pool. They are found by their endpoints as the guest sees them, or by index. */
#ifndef PASTA_CORE_FLOW_H
#define PASTA_CORE_FLOW_H

#include <errno.h>
#include <stdbool.h>

#include "base/addr.h"
#include "base/siphash.h"

#define FLOW_NONE UINT32_MAX

struct flow_key {
	struct addr guest, dest; /* dest: the other end as the guest sees it */
	uint16_t guest_port, dest_port;
};

/* What each protocol's own flow struct begins with. */
struct flow {
	struct flow_key key;
	uint32_t next; /* in its bucket, or in the free list */
	uint32_t hash;
	uint32_t index;
	uint32_t generation; /* odd while in use; differs for each use, so that a stale reference finds nothing */
};

struct flow_table {
	struct siphash_key hash_key;
	uint8_t **chunk;
	uint32_t *bucket;
	uint32_t bucket_mask;
	uint32_t object_bytes;
	uint32_t limit, used;
	uint32_t made; /* objects that have been in use at some time */
	uint32_t free_head;
};

/* For at most limit objects of object_bytes, each beginning with a struct flow. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *t, uint32_t object_bytes, uint32_t limit, const struct siphash_key *key);
void flow_table_free(struct flow_table *t);

struct flow *flow_find(const struct flow_table *t, const struct flow_key *key);
/* A new object, zero behind its struct flow; NULL at the limit or without memory. The key must not be in the table. */
struct flow *flow_add(struct flow_table *t, const struct flow_key *key);
/* Why flow_add() has just failed: ENOMEM, or 0 for the limit. */
static inline int flow_no_room(const struct flow_table *t)
{
	return t->used == t->limit ? 0 : ENOMEM;
}
void flow_remove(struct flow_table *t, struct flow *f);
/* The object of this index; NULL if it is not in use. */
struct flow *flow_at(const struct flow_table *t, uint32_t index);
/* For a walk, which begins with *place 0: the next object in use; NULL: there are no more. The walk may remove objects. */
struct flow *flow_next(const struct flow_table *t, uint32_t *place);
/* The same; NULL also if it has another generation. The low 24 bits are compared. */
struct flow *flow_at_generation(const struct flow_table *t, uint32_t index, uint32_t generation);

#endif
