/* What all shards know about the guest's link: its MAC addresses and the addresses that it uses. */
#ifndef PASTA_PLANE_LINK_STATE_H
#define PASTA_PLANE_LINK_STATE_H

#include <pthread.h>

#include "core/neighbour.h"
#include "core/mapping.h"

/* Shared by all shards, behind a lock. Each shard works on its own copy and compares `changes` once a turn. */
struct link_state {
	pthread_mutex_t lock; /* guards guest_seen and neighbours */
	_Atomic uint32_t changes;
	struct addr guest_seen[3]; /* by mapping_seen_index() */
	struct neighbour_table neighbours;
};

void link_state_init(struct link_state *l, const struct address_mapping *mapping, const struct neighbour_table *neighbours);
void link_state_free(struct link_state *l);

/* The guest has sent from the MAC address neighbours->last. from: the IP address that now has it, NULL: none is known. */
void link_state_learn_neighbour(struct link_state *l, const struct neighbour_table *neighbours, const struct addr *from);
/* The guest uses this address. */
void link_state_learn_address(struct link_state *l, const struct addr *seen);
/* If there were changes since *known: copies everything, sets *known. */
void link_state_refresh(struct link_state *l, uint32_t *known, struct address_mapping *mapping, struct neighbour_table *neighbours);

#endif
