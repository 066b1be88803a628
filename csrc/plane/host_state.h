/* What all shards know about the host: addresses, mappings, interfaces. It can be replaced while flows live. */
#ifndef PASTA_PLANE_HOST_STATE_H
#define PASTA_PLANE_HOST_STATE_H

#include <pthread.h>

#include "core/mapping.h"
#include "io/sock.h"
#include "plane_api.h"

/* Shared by all shards, behind a lock. Each shard works on its own copy and compares `changes` once a turn. */
struct host_state {
	pthread_mutex_t lock; /* guards the rest, but for changes */
	_Atomic uint32_t changes;
	struct address_mapping mapping; /* guest_seen is not used: link_state has it */
	struct sock_options sock;
	uint32_t flags, link_mtu; /* as in struct plane_config */
	struct addr_list gone;    /* addresses that the host had and has no more: flows bound to them end */
};

void host_state_init(struct host_state *h);
void host_state_free(struct host_state *h);

/* The parts of a configuration that the mapping and sockets consist of, without the lists. */
void host_state_mapping(struct address_mapping *mapping, const struct plane_config *config);
struct sock_options host_state_sock(const struct plane_config *config);

/* Replaces everything. addrs, counts: as in plane_follow(). 0 or -ENOMEM: nothing is changed. */
int host_state_replace(struct host_state *h, const struct plane_config *config, const uint8_t *addrs, const uint32_t counts[4]);

#endif
