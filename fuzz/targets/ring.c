/* Purpose: fuzz target: a hostile guest's ring. The input is a script: the guest writes to its memory, we take chains and give them
 * back. Every byte of every chain must be the guest's.
 *
 * How: bits of the first byte: 0 event indexes, 1 chains to be written, 2 to 5 the size of the ring. Each command is one byte, with
 * arguments behind it.
 */
#include <stdlib.h>

#include "base/bytes.h"
#include "kernel.h"
#include "wire/virtqueue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define REGIONS 3
#define RINGS 0x10000 /* where the descriptors begin */

struct script {
	const uint8_t *at;
	size_t left;
};

static const uint64_t guest_begin[REGIONS] = {0, RINGS, RINGS + 0x1000};
static const uint64_t guest_bytes[REGIONS] = {0x800, 0x1000, 0x300};
static uint8_t *region[REGIONS]; /* each of exactly its size, so that AddressSanitizer sees a byte beyond it */
static struct iovec iov[VIRTQ_IOVECS_MAX];

static uint32_t next(struct script *s, uint32_t bytes)
{
	uint32_t value = 0;

	for (; bytes && s->left; bytes--, s->left--)
		value = value << 8 | *s->at++;
	return value;
}

static void store(uint64_t address, uint8_t value)
{
	for (int i = 0; i < REGIONS; i++)
		if (address >= guest_begin[i] && address - guest_begin[i] < guest_bytes[i])
			region[i][address - guest_begin[i]] = value;
}

static void store_all(uint64_t address, uint64_t value, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		store(address + i, (uint8_t)(value >> 8 * i));
}

static void store_descriptor(struct script *s, uint64_t table)
{
	uint64_t at = table + next(s, 1) * 16;

	store_all(at, next(s, 3), 8);
	store_all(at + 8, next(s, 2), 4);
	store_all(at + 12, next(s, 1), 2);
	store_all(at + 14, next(s, 1), 2);
}

static void check_part(const struct iovec *part)
{
	const volatile uint8_t *bytes = part->iov_base;

	REQUIRE(part->iov_len);
	for (size_t i = 0; i < part->iov_len; i++)
		(void)bytes[i];
}

/* Returns whether a chain was taken. */
static bool take(struct virtq *q, const struct guest_memory *m, bool writable, uint32_t room, uint16_t *head)
{
	struct virtq_chain chain;
	uint16_t before = q->taken;
	uint64_t bytes = 0;
	enum virtq_taken rc = virtq_take(q, m, writable, iov, room, &chain);

	REQUIRE((rc == VIRTQ_BROKEN) == (q->broken != NULL));
	REQUIRE(q->taken == (uint16_t)(before + (rc == VIRTQ_TAKEN)));
	if (rc != VIRTQ_TAKEN)
		return false;
	REQUIRE(chain.head < q->size && chain.parts <= room);
	for (uint32_t i = 0; i < chain.parts; i++) {
		check_part(&iov[i]);
		bytes += iov[i].iov_len;
	}
	REQUIRE(bytes == chain.bytes);
	*head = chain.head;
	return true;
}

static void run(struct script *s, struct virtq *q, const struct guest_memory *m, bool writable)
{
	uint16_t head = 0, held = 0;

	while (s->left) {
		switch (next(s, 1) % 9) {
		case 0:
			store_descriptor(s, RINGS);
			break;
		case 1:
			store_descriptor(s, 0x100);
			break;
		case 2:
			store_all(next(s, 3), next(s, 1), 1);
			break;
		case 3: /* offer: the entry, then the index behind the descriptors */
			store_all(RINGS + q->size * 16u + 4 + (uint64_t)(q->offered & (q->size - 1)) * 2, next(s, 1), 2);
			store_all(RINGS + q->size * 16u + 2, (uint16_t)(q->offered + 1), 2);
			break;
		case 4:
		case 5:
			held = (uint16_t)(held + take(q, m, writable, VIRTQ_IOVECS_MAX, &head));
			break;
		case 6:
			held = (uint16_t)(held + take(q, m, writable, next(s, 1) % 4, &head));
			break;
		case 7:
			if (held && !q->broken) {
				virtq_give(q, head, next(s, 2));
				held--;
			}
			(void)virtq_tell(q);
			break;
		case 8:
			if (held && next(s, 1) & 1) {
				virtq_untake(q, 1);
				held--;
			}
			(void)virtq_wait(q);
			virtq_poll(q);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct script s = {data, len};
	uint32_t first = next(&s, 1);
	uint16_t size = (uint16_t)(1u << (first >> 2 & 7));
	struct virtq_addresses at = {RINGS, RINGS + size * 16u, RINGS + size * 18u + 8};
	struct guest_memory m = {0};
	struct virtq q;

	for (int i = 0; i < REGIONS; i++) {
		region[i] = aligned_alloc(16, guest_bytes[i]);
		REQUIRE(region[i]);
		memset(region[i], 0, guest_bytes[i]);
		REQUIRE(guest_memory_add(&m, &(struct guest_region){guest_begin[i], guest_begin[i], guest_bytes[i], region[i]}));
	}
	if (virtq_start(&q, &m, size, &at, (uint16_t)next(&s, 2), first & 1))
		run(&s, &q, &m, first & 2);
	for (int i = 0; i < REGIONS; i++)
		free(region[i]);
	return 0;
}
