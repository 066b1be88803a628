/* How: the guest is hostile, and changes its memory while we read it. Each word of a ring is read once, by an atomic load, into a
 * local variable; what is checked is that copy, and only the copy is used. Our own counts are never read back from the ring.
 *
 * A chain ends after as many descriptors as the ring has entries, so one that leads in a circle ends too.
 *
 * Invariants: broken once, broken until the next virtq_start(). Between 0 and size chains are taken and not given back.
 *
 * Rejected: packed rings (VIRTIO 1.2, 2.8), which save the guest a cache line for each chain: with frames of 64 KiB there are too
 * few chains for that to be seen.
 */
#include "wire/virtqueue.h"

#include <endian.h>
#include <stddef.h>

#include "base/bytes.h"

/* struct virtq_desc (2.7.5). */
#define DESCRIPTOR_BYTES 16
#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define DESCRIPTOR_INDIRECT 4

/* struct virtq_avail (2.7.6): flags, idx, ring of 16 bits each, used_event. */
#define AVAILABLE_INDEX 2
#define AVAILABLE_RING 4
#define NO_INTERRUPT 1

/* struct virtq_used (2.7.8): flags, idx, ring of 2 x 32 bits each, avail_event. */
#define USED_INDEX 2
#define USED_RING 4
#define USED_ENTRY_BYTES 8
#define NO_NOTIFY 1

struct descriptor {
	uint64_t address;
	uint32_t len;
	uint16_t flags, next;
};

static uint16_t load16(const uint8_t *at)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED));
}

static void store16(uint8_t *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)at, htole16(value), __ATOMIC_RELAXED);
}

static void store32(uint8_t *at, uint32_t value)
{
	__atomic_store_n((uint32_t *)(void *)at, htole32(value), __ATOMIC_RELAXED);
}

static struct descriptor load_descriptor(const uint8_t *table, uint32_t index)
{
	const uint64_t *at = (const uint64_t *)(const void *)(table + (size_t)index * DESCRIPTOR_BYTES);
	uint64_t rest = le64toh(__atomic_load_n(at + 1, __ATOMIC_RELAXED));

	return (struct descriptor){.address = le64toh(__atomic_load_n(at, __ATOMIC_RELAXED)),
				   .len = (uint32_t)rest,
				   .flags = (uint16_t)(rest >> 32),
				   .next = (uint16_t)(rest >> 48)};
}

static bool aligned(const uint8_t *at, uintptr_t to)
{
	return !((uintptr_t)at % to);
}

bool virtq_start(struct virtq *q, const struct guest_memory *m, uint16_t size, const struct virtq_addresses *at, uint16_t base,
		 bool event_index)
{
	/* The event indexes stand behind the rings (2.7.7, 2.7.8). Without them nothing may be there. */
	uint64_t more = event_index ? sizeof(uint16_t) : 0;
	struct virtq s = {.size = size, .event_index = event_index, .taken = base, .offered = base};

	*q = (struct virtq){0};
	if (!size || size > VIRTQ_SIZE_MAX || size & (size - 1))
		return false;
	s.descriptors = guest_memory_of_front_end(m, at->descriptors, (uint64_t)size * DESCRIPTOR_BYTES);
	s.available = guest_memory_of_front_end(m, at->available, AVAILABLE_RING + (uint64_t)size * sizeof(uint16_t) + more);
	s.used = guest_memory_of_front_end(m, at->used, USED_RING + (uint64_t)size * USED_ENTRY_BYTES + more);
	if (!s.descriptors || !s.available || !s.used)
		return false;
	if (!aligned(s.descriptors, 16) || !aligned(s.available, 2) || !aligned(s.used, 4))
		return false;
	s.given = s.told = load16(s.used + USED_INDEX);
	*q = s;
	return true;
}

static enum virtq_taken broken(struct virtq *q, const char *why)
{
	q->broken = why;
	return VIRTQ_BROKEN;
}

/* Looks how many chains the guest offers. False: q->broken says why. */
static bool look(struct virtq *q)
{
	uint16_t offered =
		le16toh(__atomic_load_n((const uint16_t *)(const void *)(q->available + AVAILABLE_INDEX), __ATOMIC_ACQUIRE));

	if ((uint16_t)(offered - q->taken) > q->size)
		q->broken = "more chains than the ring has entries";
	else
		q->offered = offered;
	return !q->broken;
}

/* The table that an indirect descriptor points to (2.7.5.3), and its entries. NULL: q->broken says why. */
static const uint8_t *indirect_table(struct virtq *q, const struct guest_memory *m, const struct descriptor *d, uint32_t *entries)
{
	uint32_t len = d->len;
	const uint8_t *table = len ? guest_memory_at(m, d->address, &len) : NULL;

	*entries = d->len / DESCRIPTOR_BYTES;
	if (d->flags & DESCRIPTOR_NEXT)
		q->broken = "an indirect descriptor with a next one";
	else if (d->len % DESCRIPTOR_BYTES || !*entries || *entries > q->size)
		q->broken = "an indirect table of an impossible size";
	else if (!table || len < d->len || !aligned(table, sizeof(uint64_t)))
		q->broken = "an indirect table outside the guest's memory";
	return q->broken ? NULL : table;
}

/* Adds the parts of one buffer to the chain. False: there is no room, or q->broken says why. */
static bool add_parts(struct virtq *q, const struct guest_memory *m, const struct descriptor *d, struct iovec *iov, uint32_t room,
		      struct virtq_chain *chain)
{
	uint64_t address = d->address;
	uint32_t left = d->len;

	if (left > UINT32_MAX - chain->bytes) {
		q->broken = "a chain of more than 4 GiB";
		return false;
	}
	chain->bytes += left;
	while (left) {
		uint32_t len = left;
		uint8_t *at = guest_memory_at(m, address, &len);

		if (!at) {
			q->broken = "a buffer outside the guest's memory";
			return false;
		}
		if (chain->parts == room) {
			q->broken = room == VIRTQ_IOVECS_MAX ? "a chain of too many parts" : NULL;
			return false;
		}
		iov[chain->parts++] = (struct iovec){at, len};
		address += len; /* wraps around at worst, to an address that is looked up like any other */
		left -= len;
	}
	return true;
}

/* Follows a chain from its first descriptor. */
static enum virtq_taken follow(struct virtq *q, const struct guest_memory *m, bool writable, struct iovec *iov, uint32_t room,
			       struct virtq_chain *chain)
{
	const uint8_t *table = q->descriptors;
	uint32_t index = chain->head, entries = q->size;

	for (uint32_t followed = 0; followed < q->size; followed++) {
		struct descriptor d = load_descriptor(table, index);

		if (d.flags & DESCRIPTOR_INDIRECT) {
			if (table != q->descriptors)
				return broken(q, "an indirect descriptor in an indirect table");
			table = indirect_table(q, m, &d, &entries);
			if (!table)
				return VIRTQ_BROKEN;
			index = 0;
			continue;
		}
		if (!!(d.flags & DESCRIPTOR_WRITE) != writable)
			return broken(q, writable ? "a buffer to be read among those to be written"
						  : "a buffer to be written among those to be read");
		if (!add_parts(q, m, &d, iov, room, chain))
			return q->broken ? VIRTQ_BROKEN : VIRTQ_NO_ROOM;
		if (!(d.flags & DESCRIPTOR_NEXT))
			return VIRTQ_TAKEN;
		index = d.next;
		if (index >= entries)
			return broken(q, "a descriptor outside its table");
	}
	return broken(q, "a chain longer than the ring");
}

enum virtq_taken virtq_take(struct virtq *q, const struct guest_memory *m, bool writable, struct iovec *iov, uint32_t room,
			    struct virtq_chain *chain)
{
	enum virtq_taken rc;

	if (q->broken)
		return VIRTQ_BROKEN;
	if (!q->size)
		return VIRTQ_EMPTY;
	if (q->offered == q->taken && !look(q))
		return VIRTQ_BROKEN;
	if (q->offered == q->taken)
		return VIRTQ_EMPTY;
	*chain = (struct virtq_chain){
		.head = load16(q->available + AVAILABLE_RING + (size_t)(q->taken & (q->size - 1)) * sizeof(uint16_t))};
	if (chain->head >= q->size)
		return broken(q, "a chain that begins outside the ring");
	rc = follow(q, m, writable, iov, room, chain);
	q->taken = (uint16_t)(q->taken + (rc == VIRTQ_TAKEN));
	return rc;
}

void virtq_untake(struct virtq *q, uint16_t count)
{
	q->taken = (uint16_t)(q->taken - count);
}

void virtq_give(struct virtq *q, uint16_t head, uint32_t written)
{
	uint8_t *entry = q->used + USED_RING + (size_t)(q->given++ & (q->size - 1)) * USED_ENTRY_BYTES;

	store32(entry, head);
	store32(entry + sizeof(uint32_t), written);
}

bool virtq_tell(struct virtq *q)
{
	uint16_t before = q->told, event;

	if (q->given == before)
		return false;
	q->told = q->given;
	__atomic_store_n((uint16_t *)(void *)(q->used + USED_INDEX), htole16(q->told), __ATOMIC_RELEASE);
	/* The guest stores what it wants to be called for, then reads our index: we do the opposite. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_index)
		return !(load16(q->available) & NO_INTERRUPT);
	event = load16(q->available + AVAILABLE_RING + (size_t)q->size * sizeof(uint16_t));
	return (uint16_t)(q->told - event - 1) < (uint16_t)(q->told - before); /* 2.7.7.2 */
}

bool virtq_wait(struct virtq *q)
{
	uint16_t seen = q->offered;

	if (!q->size || q->broken)
		return true;
	if (q->event_index)
		store16(q->used + USED_RING + (size_t)q->size * USED_ENTRY_BYTES, seen);
	else
		store16(q->used, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return look(q) && q->offered == seen;
}

void virtq_poll(struct virtq *q)
{
	if (q->size && !q->broken && !q->event_index)
		store16(q->used, NO_NOTIFY); /* an event index that has passed asks for none */
}
