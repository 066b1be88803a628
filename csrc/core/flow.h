/* Flows of one protocol: objects in a pool, found by their endpoints as the guest sees them, or by index. */
#ifndef PASTA_CORE_FLOW_H
#define PASTA_CORE_FLOW_H

#include <errno.h>
#include <stdbool.h>

#include "base/addr.h"
#include "base/siphash.h"

#define FLOW_NONE UINT32_MAX

struct flow_key {
	struct addr guest, dest; /* remote: the address that the guest knows the other side by */
	uint16_t guest_port, dest_port;
};

/* The head of every flow object; the modules' own structs begin with it. */
struct flow {
	struct flow_key key;
	uint32_t next; /* in its bucket, or in the free list */
	uint32_t hash;
	uint32_t index;
	uint32_t generation; /* odd while in use: a stale reference does not find a successor */
};

struct flow_table {
	struct siphash_key hash_key;
	uint8_t **chunk; /* objects never move */
	uint32_t *bucket;
	uint32_t bucket_mask;
	uint32_t object_bytes;
	uint32_t limit, used, made;
	uint32_t free_head;
};

/* Objects of object_bytes (beginning with a struct flow), at most limit of them. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *t, uint32_t object_bytes, uint32_t limit, const struct siphash_key *key);
void flow_table_free(struct flow_table *t);

struct flow *flow_find(const struct flow_table *t, const struct flow_key *key);
/* A new object, zeroed after its head; NULL at the limit or without memory. The key must not be in the table. */
struct flow *flow_add(struct flow_table *t, const struct flow_key *key);
/* Why it has just failed: ENOMEM, or 0 for the limit. */
static inline int flow_no_room(const struct flow_table *t)
{
	return t->used == t->limit ? 0 : ENOMEM;
}
void flow_remove(struct flow_table *t, struct flow *f);
/* The object by index if it is in use. */
struct flow *flow_at(const struct flow_table *t, uint32_t index);
/* The same, only if it is still the one of that generation (low 24 bits compared). */
struct flow *flow_at_generation(const struct flow_table *t, uint32_t index, uint32_t generation);

#endif
