/* Purpose: tells all shards what one shard has learnt about the guest's link.
 *
 * How: a shard compares the number of changes without the lock. Changes are rare: a new MAC address, a new address of the guest.
 *
 * Rejected: a message to each shard: messages must arrive in order, and a queue can be full.
 */
#include "plane/link_state.h"

#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"

void link_state_init(struct link_state *l, const struct address_mapping *mapping, const struct neighbour_table *neighbours)
{
	pthread_mutex_init(&l->lock, NULL);
	memcpy(l->guest_seen, mapping->guest_seen, sizeof(l->guest_seen));
	l->neighbours = *neighbours;
}

void link_state_free(struct link_state *l)
{
	pthread_mutex_destroy(&l->lock);
}

void link_state_learn_neighbour(struct link_state *l, const struct neighbour_table *neighbours, const struct addr *from)
{
	pthread_mutex_lock(&l->lock);
	neighbour_learn_mac(&l->neighbours, neighbours->last);
	if (from)
		neighbour_learn_addr(&l->neighbours, from);
	atomic_fetch_add_explicit(&l->changes, 1, memory_order_relaxed);
	pthread_mutex_unlock(&l->lock);
}

void link_state_learn_address(struct link_state *l, const struct addr *seen)
{
	pthread_mutex_lock(&l->lock);
	l->guest_seen[mapping_seen_index(seen)] = *seen;
	atomic_fetch_add_explicit(&l->changes, 1, memory_order_relaxed);
	pthread_mutex_unlock(&l->lock);
}

void link_state_refresh(struct link_state *l, uint32_t *known, struct address_mapping *mapping, struct neighbour_table *neighbours)
{
	if (LIKELY(atomic_load_explicit(&l->changes, memory_order_relaxed) == *known))
		return;
	pthread_mutex_lock(&l->lock);
	*known = atomic_load_explicit(&l->changes, memory_order_relaxed);
	memcpy(mapping->guest_seen, l->guest_seen, sizeof(l->guest_seen));
	*neighbours = l->neighbours;
	pthread_mutex_unlock(&l->lock);
}
