/* Purpose: the neighbour table of the guest's link: to which MAC address a frame for an IP address goes.
 *
 * How: usually there is one neighbour, which costs one comparison a frame. When a second is heard (a bridge in the guest's
 * namespace), the table keeps the MAC address from which each IP address was last heard. A frame for any other IP address goes to
 * the last sender. The table is direct-mapped: a guest that makes up addresses harms its own frames only. Consecutive addresses do
 * not collide.
 */
#ifndef PASTA_CORE_NEIGHBOUR_H
#define PASTA_CORE_NEIGHBOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "wire/eth.h"

#define NEIGHBOUR_SLOTS 64

struct neighbour_table {
	uint8_t last[ETH_ALEN]; /* of the last frame; until one has come, the address that we expect */
	bool heard;             /* a frame has come */
	bool several;           /* frames have come from more than one MAC address */
	struct neighbour {
		struct addr addr;
		uint8_t mac[ETH_ALEN];
	} slots[NEIGHBOUR_SLOTS];
};

static inline uint32_t neighbour_slot(const struct addr *a)
{
	return (uint32_t)(a->b[15] ^ a->b[14] << 3) % NEIGHBOUR_SLOTS;
}

/* A frame has come from this MAC address. True: the table has changed. */
static inline bool neighbour_learn_mac(struct neighbour_table *t, const uint8_t mac[ETH_ALEN])
{
	bool changed = !t->heard;

	if (memcmp(t->last, mac, ETH_ALEN) != 0) {
		t->several = t->heard;
		memcpy(t->last, mac, ETH_ALEN);
		changed = true;
	}
	t->heard = true;
	return changed;
}

/* The IP packet in that frame has this source. True: the table has changed. */
static inline bool neighbour_learn_addr(struct neighbour_table *t, const struct addr *from)
{
	struct neighbour *slot = &t->slots[neighbour_slot(from)];

	if (!t->several || (addr_eq(&slot->addr, from) && !memcmp(slot->mac, t->last, ETH_ALEN)))
		return false;
	slot->addr = *from;
	memcpy(slot->mac, t->last, ETH_ALEN);
	return true;
}

static inline const uint8_t *neighbour_lookup(const struct neighbour_table *t, const struct addr *to)
{
	const struct neighbour *slot = &t->slots[neighbour_slot(to)];

	return t->several && addr_eq(&slot->addr, to) ? slot->mac : t->last;
}

#endif
