/* The neighbours of the guest's link: to which MAC address a frame for an IP address goes.
 *
 * One neighbour is the rule; it costs a comparison for each of its frames. From the second on (a bridge in the guest's namespace) the
 * MAC address that an IP address was last heard from is kept, and whatever is not known goes to whoever spoke last.
 *
 * Direct-mapped: a guest that makes up addresses costs nothing but its own frames. Neighbours in a network do not collide.
 */
#ifndef PASTA_CORE_NEIGHBOUR_H
#define PASTA_CORE_NEIGHBOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "wire/eth.h"

#define NEIGHBOUR_SLOTS 64

struct neighbour_table {
	uint8_t last[ETH_ALEN]; /* who spoke last; at the start who is expected */
	bool heard, several;
	struct neighbour {
		struct addr addr;
		uint8_t mac[ETH_ALEN];
	} slots[NEIGHBOUR_SLOTS];
};

static inline uint32_t neighbour_slot(const struct addr *a)
{
	return (uint32_t)(a->b[15] ^ a->b[14] << 3) % NEIGHBOUR_SLOTS;
}

/* A frame has come from there. True: that is news. */
static inline bool neighbour_learn_mac(struct neighbour_table *s, const uint8_t mac[ETH_ALEN])
{
	bool news = !s->heard;

	if (memcmp(s->last, mac, ETH_ALEN) != 0) {
		s->several = s->heard;
		memcpy(s->last, mac, ETH_ALEN);
		news = true;
	}
	s->heard = true;
	return news;
}

/* The packet in it has this source. True: that is news. */
static inline bool neighbour_learn_addr(struct neighbour_table *s, const struct addr *from)
{
	struct neighbour *slot = &s->slots[neighbour_slot(from)];

	if (!s->several || (addr_eq(&slot->addr, from) && !memcmp(slot->mac, s->last, ETH_ALEN)))
		return false;
	slot->addr = *from;
	memcpy(slot->mac, s->last, ETH_ALEN);
	return true;
}

static inline const uint8_t *neighbour_lookup(const struct neighbour_table *s, const struct addr *to)
{
	const struct neighbour *slot = &s->slots[neighbour_slot(to)];

	return s->several && addr_eq(&slot->addr, to) ? slot->mac : s->last;
}

#endif
