/* Invariant: no sum of an address and a length wraps around, because only differences to a region's begin are compared. */
#include "wire/guest_memory.h"

#include <stddef.h>

static bool wraps(uint64_t begin, uint64_t bytes)
{
	return bytes - 1 > UINT64_MAX - begin;
}

static bool apart(const struct guest_region *a, const struct guest_region *b)
{
	return a->guest < b->guest ? b->guest - a->guest >= a->bytes : a->guest - b->guest >= b->bytes;
}

bool guest_memory_add(struct guest_memory *m, const struct guest_region *region)
{
	if (m->count == GUEST_REGIONS_MAX || !region->bytes || wraps(region->guest, region->bytes) ||
	    wraps(region->front_end, region->bytes))
		return false;
	for (uint32_t i = 0; i < m->count; i++)
		if (!apart(&m->region[i], region))
			return false;
	m->region[m->count++] = *region;
	return true;
}

uint8_t *guest_memory_at(const struct guest_memory *m, uint64_t address, uint32_t *len)
{
	for (uint32_t i = 0; i < m->count; i++) {
		const struct guest_region *r = &m->region[i];
		uint64_t offset = address - r->guest;

		if (address < r->guest || offset >= r->bytes)
			continue;
		if (*len > r->bytes - offset)
			*len = (uint32_t)(r->bytes - offset);
		return r->at + offset;
	}
	return NULL;
}

uint8_t *guest_memory_of_front_end(const struct guest_memory *m, uint64_t address, uint64_t len)
{
	for (uint32_t i = 0; i < m->count; i++) {
		const struct guest_region *r = &m->region[i];
		uint64_t offset = address - r->front_end;

		if (address >= r->front_end && offset < r->bytes && len <= r->bytes - offset)
			return r->at + offset;
	}
	return NULL;
}
