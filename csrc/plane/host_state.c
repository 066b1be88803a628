/* Purpose: gives all shards what Python has learnt about the host while flows live: new addresses, nameservers, interfaces.
 *
 * How: as link_state.c. A shard compares the number of changes without the lock, once a turn. Then it copies the record and owns its
 * copy, lists too. So a flow is made with the old record or with the new one, never with parts of both. A shard that sleeps is woken.
 *
 * `gone` is a state, not an event: it has every address that is gone now. So a shard that misses one change loses nothing.
 *
 * Rejected: a message to each shard: queues are bounded, and a change must not get lost. Lists that shards share: they would need a
 * count of their users.
 */
#include "plane/host_state.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "wire/eth.h"

void host_state_init(struct host_state *h)
{
	pthread_mutex_init(&h->lock, NULL);
}

void host_state_free(struct host_state *h)
{
	mapping_free(&h->mapping);
	addr_list_free(&h->gone);
	pthread_mutex_destroy(&h->lock);
}

void host_state_mapping(struct address_mapping *mapping, const struct plane_config *c)
{
	for (int i = 0; i < 2; i++) {
		const struct plane_family *f = &c->family[i];

		mapping->guest_seen[i] = addr_from_v6(f->guest);
		mapping->gateway[i] = addr_from_v6(f->gateway);
		mapping->map_host_loopback[i] = addr_from_v6(f->map_host_loopback);
		mapping->map_guest_addr[i] = addr_from_v6(f->map_guest_addr);
		mapping->host[i] = addr_from_v6(f->host);
		mapping->dns_forward[i] = addr_from_v6(f->dns_forward);
		mapping->dns_host[i] = addr_from_v6(f->dns_host);
	}
	if (memcmp(c->guest_mac, (uint8_t[ETH_ALEN]){0}, ETH_ALEN) != 0 && !eth_is_group(c->guest_mac))
		mapping->guest_seen[2] = addr_linklocal6_of(c->guest_mac);
	mapping->guest_scope6 = c->guest_scope6;
	mapping->dns_tls = c->flags & PLANE_DNS_TLS;
	mapping->serves_dns = c->flags & PLANE_SERVES_DNS;
	mapping->multicast = c->flags & PLANE_MULTICAST;
	mapping->broadcast = c->flags & PLANE_BROADCAST;
}

struct sock_options host_state_sock(const struct plane_config *c)
{
	struct sock_options o = {.link4 = c->family[0].ifindex, .scope6 = c->family[1].ifindex};

	for (int i = 0; i < 2; i++) {
		o.outbound[i] = addr_from_v6(c->family[i].outbound);
		memcpy(o.outbound_if[i], c->family[i].outbound_if, sizeof(o.outbound_if[i]) - 1);
	}
	return o;
}

static int fill(struct addr_list *l, const uint8_t **addrs, uint32_t count)
{
	int rc = 0;

	for (uint32_t i = 0; i < count && !rc; i++, *addrs += sizeof(struct addr)) {
		struct addr a = addr_from_v6(*addrs);

		rc = addr_list_add(l, &a);
	}
	return rc;
}

int host_state_replace(struct host_state *h, const struct plane_config *config, const uint8_t *addrs, const uint32_t counts[4])
{
	struct addr_list gone = {0}, old_gone;
	struct address_mapping mapping = {0}, old;
	struct addr_list *const lists[4] = {&mapping.guest_addrs, &mapping.virtual_addrs, &mapping.barred_sources, &gone};
	int rc = 0;

	host_state_mapping(&mapping, config);
	for (int i = 0; i < 4 && !rc; i++)
		rc = fill(lists[i], &addrs, counts[i]);
	if (rc) {
		mapping_free(&mapping);
		addr_list_free(&gone);
		return rc;
	}
	pthread_mutex_lock(&h->lock);
	old = h->mapping;
	old_gone = h->gone;
	h->mapping = mapping;
	h->gone = gone;
	h->sock = host_state_sock(config);
	h->flags = config->flags;
	h->link_mtu = config->link_mtu;
	atomic_fetch_add_explicit(&h->changes, 1, memory_order_relaxed);
	pthread_mutex_unlock(&h->lock);
	mapping_free(&old);
	addr_list_free(&old_gone);
	return 0;
}
