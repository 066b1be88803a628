/* Purpose: flow steering: which shard a TCP flow belongs to. A pure function of its endpoints, so that no shard has to ask
 * another. */
#ifndef PASTA_CORE_STEERING_H
#define PASTA_CORE_STEERING_H

#include "core/flow.h"

struct flow_steering {
	struct siphash_key key; /* the same in every shard; without one, a guest could put all its flows on one shard */
	uint32_t shards;        /* their number: 1 or more */
	uint32_t self;          /* index of this shard */
};

#define STEERING_PORT_DNS 53

/* DNS over TCP is for shard 0: Python may answer it. */
static inline uint32_t steering_shard(const struct flow_steering *s, const struct flow_key *flow)
{
	if (s->shards == 1 || flow->dest_port == STEERING_PORT_DNS)
		return 0;
	return (uint32_t)((uint64_t)(uint32_t)siphash(&s->key, flow, sizeof(*flow)) * s->shards >> 32);
}

static inline bool steering_is_own(const struct flow_steering *s, const struct flow_key *flow)
{
	return steering_shard(s, flow) == s->self;
}

#endif
