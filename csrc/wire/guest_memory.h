/* Purpose: a virtual machine's memory as a vhost-user front end shares it: a few regions, each mapped once, and the only ways from
 * an address in a message or a descriptor to a pointer. */
#ifndef PASTA_WIRE_GUEST_MEMORY_H
#define PASTA_WIRE_GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define GUEST_REGIONS_MAX 8 /* of VHOST_USER_SET_MEM_TABLE (vhost-user protocol, "Multiple memory regions description") */

/* No end of a region wraps around. at is a mapping of exactly these bytes. */
struct guest_region {
	uint64_t guest;     /* address of the first byte in the guest; descriptors have these */
	uint64_t front_end; /* address of the same byte in the front end's process; VHOST_USER_SET_VRING_ADDR has these */
	uint64_t bytes;
	uint8_t *at;
};

/* Guest addresses of two regions do not overlap. */
struct guest_memory {
	uint32_t count;
	struct guest_region region[GUEST_REGIONS_MAX];
};

/* Adds a region. False: there is no room, or the region is empty, wraps around or overlaps another. */
bool guest_memory_add(struct guest_memory *m, const struct guest_region *region);

/* The byte at a guest's address. *len: in, how many bytes are wanted, at least 1; out, how many of these follow in one piece. NULL: the
 * address is in no region. */
uint8_t *guest_memory_at(const struct guest_memory *m, uint64_t address, uint32_t *len);

/* len bytes, at least 1, at a front end's address, all in one region. NULL: they are not. */
uint8_t *guest_memory_of_front_end(const struct guest_memory *m, uint64_t address, uint64_t len);

#endif
