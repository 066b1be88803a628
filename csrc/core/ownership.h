/* Which lane a flow of TCP belongs to (plane/lane.h). A pure function of its endpoints: no lane has to ask another. */
#ifndef PASTA_CORE_OWNERSHIP_H
#define PASTA_CORE_OWNERSHIP_H

#include "core/flow.h"

struct ownership {
	struct siphash_key key; /* the same in every lane; keyed, so that a guest cannot heap its flows on one */
	uint32_t lanes;		/* 0: there is but one */
	uint32_t self;
};

static inline uint32_t owner_of(const struct ownership *o, const struct flow_key *flow)
{
	return (uint32_t)((uint64_t)(uint32_t)siphash(&o->key, flow, sizeof(*flow)) * o->lanes >> 32);
}

static inline bool owned(const struct ownership *o, const struct flow_key *flow)
{
	return !o->lanes || owner_of(o, flow) == o->self;
}

#endif
