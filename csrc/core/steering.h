/* Which shard a flow of TCP belongs to (plane/shard.h). A pure function of its endpoints: no shard has to ask another. */
#ifndef PASTA_CORE_STEERING_H
#define PASTA_CORE_STEERING_H

#include "core/flow.h"

struct flow_steering {
	struct siphash_key key; /* the same in every shard; keyed, so that a guest cannot heap its flows on one */
	uint32_t shards;        /* 1 or more */
	uint32_t self;
};

static inline uint32_t steering_shard(const struct flow_steering *o, const struct flow_key *flow)
{
	return o->shards == 1 ? 0 : (uint32_t)((uint64_t)(uint32_t)siphash(&o->key, flow, sizeof(*flow)) * o->shards >> 32);
}

static inline bool steering_is_own(const struct flow_steering *o, const struct flow_key *flow)
{
	return steering_shard(o, flow) == o->self;
}

#endif
