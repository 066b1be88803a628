/* What every shard has to know about the guest's link: where the guest is, and under which addresses it speaks. */
#ifndef PASTA_PLANE_LINK_STATE_H
#define PASTA_PLANE_LINK_STATE_H

#include <pthread.h>

#include "core/neighbour.h"
#include "core/policy.h"

/* One copy for all shards, behind a lock. Each shard works on a copy of its own and compares `changes` once a turn. */
struct link_state {
	pthread_mutex_t lock; /* of guest_seen and neighbours */
	_Atomic uint32_t changes;
	struct addr guest_seen[3]; /* by policy_seen_index() */
	struct neighbour_table neighbours;
};

void link_state_init(struct link_state *l, const struct policy *policy, const struct neighbour_table *neighbours);
void link_state_free(struct link_state *l);

/* A shard has heard from the MAC address neighbours->last. from: the packet's source, NULL if only the MAC address is news. */
void link_state_learn_neighbour(struct link_state *l, const struct neighbour_table *neighbours, const struct addr *from);
/* The guest speaks from this address. */
void link_state_learn_address(struct link_state *l, const struct addr *seen);
/* Copies what has changed since *known, and updates it. */
void link_state_refresh(struct link_state *l, uint32_t *known, struct policy *policy, struct neighbour_table *neighbours);

#endif
