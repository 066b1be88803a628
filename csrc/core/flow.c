/* How: objects live in chunks that never move and are freed only with the table. So pointers stay valid, the limit bounds the
 * memory, and a burst of connections allocates once. Buckets are chained by index; their number doubles when there are as many
 * objects. The hash has a key, so that a guest cannot choose endpoints that collide.
 *
 * Rejected: open addressing, where removal leaves tombstones and the guest chooses when the table must be rebuilt.
 */
#include "core/flow.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"

#define CHUNK_OBJECTS 64
#define MIN_BUCKETS 64

static uint32_t key_hash(const struct flow_table *t, const struct flow_key *key)
{
	return (uint32_t)siphash(&t->hash_key, key, sizeof(*key));
}

static bool key_eq(const struct flow_key *a, const struct flow_key *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static struct flow *object(const struct flow_table *t, uint32_t index)
{
	return (struct flow *)(void *)(t->chunk[index / CHUNK_OBJECTS] + (size_t)(index % CHUNK_OBJECTS) * t->object_bytes);
}

int flow_table_init(struct flow_table *t, uint32_t object_bytes, uint32_t limit, const struct siphash_key *key)
{
	_Static_assert(sizeof(struct flow_key) == 36, "hashed and compared as bytes: no padding");
	memset(t, 0, sizeof(*t));
	t->hash_key = *key;
	t->object_bytes = (object_bytes + 15) & ~15u;
	t->limit = limit;
	t->free_head = FLOW_NONE;
	t->chunk = calloc((limit + CHUNK_OBJECTS - 1) / CHUNK_OBJECTS, sizeof(*t->chunk));
	t->bucket = malloc(MIN_BUCKETS * sizeof(*t->bucket));
	if (!t->chunk || !t->bucket) {
		flow_table_free(t);
		return -ENOMEM;
	}
	t->bucket_mask = MIN_BUCKETS - 1;
	memset(t->bucket, 0xff, MIN_BUCKETS * sizeof(*t->bucket));
	return 0;
}

void flow_table_free(struct flow_table *t)
{
	for (uint32_t i = 0; t->chunk && i * CHUNK_OBJECTS < t->made; i++)
		free(t->chunk[i]);
	free(t->chunk);
	free(t->bucket);
	memset(t, 0, sizeof(*t));
}

struct flow *flow_find(const struct flow_table *t, const struct flow_key *key)
{
	uint32_t hash = key_hash(t, key);

	for (uint32_t i = t->bucket[hash & t->bucket_mask]; i != FLOW_NONE;) {
		struct flow *f = object(t, i);

		if (f->hash == hash && key_eq(&f->key, key))
			return f;
		i = f->next;
	}
	return NULL;
}

static void link_object(struct flow_table *t, struct flow *f)
{
	uint32_t *head = &t->bucket[f->hash & t->bucket_mask];

	f->next = *head;
	*head = f->index;
}

/* Doubles the number of buckets. Without memory the chains get longer instead. */
static void grow_buckets(struct flow_table *t)
{
	uint32_t count = (t->bucket_mask + 1) * 2;
	uint32_t *bucket = malloc(count * sizeof(*bucket));

	if (!bucket)
		return;
	free(t->bucket);
	t->bucket = bucket;
	t->bucket_mask = count - 1;
	memset(bucket, 0xff, count * sizeof(*bucket));
	for (uint32_t i = 0; i < t->made; i++) {
		struct flow *f = object(t, i);

		if (f->generation & 1)
			link_object(t, f);
	}
}

static struct flow *take_object(struct flow_table *t)
{
	struct flow *f;

	if (t->free_head != FLOW_NONE) {
		f = object(t, t->free_head);
		t->free_head = f->next;
		return f;
	}
	if (t->made == t->limit)
		return NULL;
	if (t->made % CHUNK_OBJECTS == 0) {
		uint8_t *chunk = calloc(CHUNK_OBJECTS, t->object_bytes);

		if (!chunk)
			return NULL;
		t->chunk[t->made / CHUNK_OBJECTS] = chunk;
	}
	f = object(t, t->made);
	f->index = t->made++;
	return f;
}

struct flow *flow_add(struct flow_table *t, const struct flow_key *key)
{
	struct flow *f = take_object(t);

	if (!f)
		return NULL;
	memset(f + 1, 0, t->object_bytes - sizeof(*f));
	f->key = *key;
	f->hash = key_hash(t, key);
	if (++t->used > t->bucket_mask)
		grow_buckets(t);
	f->generation++;
	link_object(t, f);
	return f;
}

void flow_remove(struct flow_table *t, struct flow *f)
{
	uint32_t *link = &t->bucket[f->hash & t->bucket_mask];

	while (*link != f->index)
		link = &object(t, *link)->next;
	*link = f->next;
	f->generation++;
	f->next = t->free_head;
	t->free_head = f->index;
	t->used--;
}

struct flow *flow_at(const struct flow_table *t, uint32_t index)
{
	struct flow *f = index < t->made ? object(t, index) : NULL;

	return f && (f->generation & 1) ? f : NULL;
}

struct flow *flow_next(const struct flow_table *t, uint32_t *place)
{
	while (*place < t->made) {
		struct flow *f = flow_at(t, (*place)++);

		if (f)
			return f;
	}
	return NULL;
}

struct flow *flow_at_generation(const struct flow_table *t, uint32_t index, uint32_t generation)
{
	struct flow *f = flow_at(t, index);

	return f && !((f->generation ^ generation) & 0xffffff) ? f : NULL;
}
