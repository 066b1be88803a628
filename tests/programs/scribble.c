/* Purpose: a hostile guest on a processor of its own: writes to its rings and buffers without end, while a back end reads them.
 *
 *     scribble FD BYTES MODE {DESCRIPTORS AVAILABLE BUFFERS STRIDE LENGTH FLAGS}...    one group for each ring
 *
 * FD is the guest's memory. Values that a driver would write take turns with others at the same places, so what was checked is not
 * what is there a moment later. The first entries alone are written to: that is where the test has its frames. MODE is the number
 * of a field: length, address, flags, both; or 4: any of these and all else. Says "ready" when it has begun. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HOT 8u         /* entries that are written to */
#define RARELY 20000u  /* one change in this number stays wrong */
#define GROUP 6        /* arguments of a ring */
#define FIELDS 4u      /* modes that have one */
#define RIGHT_TURNS 30 /* of a loop: how long a value is right before it is wrong again */

struct ring {
	uint64_t descriptors, available, buffers, stride, length, flags;
};

static uint64_t state = 0x9e3779b97f4a7c15;

static uint32_t any(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16) % below;
}

/* One field of a descriptor: wrong, and at once right again unless it stays. */
static void descriptor(volatile uint8_t *memory, const struct ring *r, uint32_t field, int stays)
{
	uint32_t entry = any(HOT);
	volatile uint8_t *at = memory + r->descriptors + 16 * (uint64_t)entry;
	volatile uint64_t *address = (volatile uint64_t *)(volatile void *)at;
	volatile uint32_t *len = (volatile uint32_t *)(volatile void *)(at + 8);
	volatile uint16_t *flags = (volatile uint16_t *)(volatile void *)(at + 12);

	if (field == 0 || field == 3)
		*len = UINT32_MAX - any(64);
	if (field == 1 || field == 3)
		*address = UINT64_MAX - any(4096);
	if (field == 2)
		*flags = (uint16_t)any(8);
	if (stays)
		return;
	*flags = (uint16_t)r->flags;
	*address = r->buffers + r->stride * entry;
	*len = (uint32_t)r->length;
}

static void anything(volatile uint8_t *memory, const struct ring *r)
{
	volatile uint16_t *index = (volatile uint16_t *)(volatile void *)(memory + r->available + 2);

	if (any(RARELY) == 0)
		*index = (uint16_t)(*index + any(65536));
	else if (any(RARELY) == 0)
		index[1 + any(HOT)] = (uint16_t)any(65536);
	else if (any(8) == 0) /* a header, or the beginning of a frame */
		memory[r->buffers + r->stride * any(HOT) + any((uint32_t)r->length)] = (uint8_t)any(256);
	else
		descriptor(memory, r, any(FIELDS), any(RARELY) == 0);
}

int main(int argc, char **argv)
{
	struct ring rings[2] = {{0}};
	uint32_t count = 0;

	if (argc < 4 + GROUP)
		return 2;
	uint32_t mode = (uint32_t)strtoul(argv[3], NULL, 0);
	for (int at = 4; at + GROUP <= argc && count < 2; at += GROUP, count++) {
		uint64_t *member = &rings[count].descriptors;
		for (int i = 0; i < GROUP; i++)
			member[i] = strtoull(argv[at + i], NULL, 0);
	}
	void *mapped = mmap(NULL, strtoull(argv[2], NULL, 0), PROT_READ | PROT_WRITE, MAP_SHARED, (int)strtol(argv[1], NULL, 0), 0);
	if (mapped == MAP_FAILED)
		return 1;
	puts("ready");
	fflush(stdout);
	for (;;) {
		const struct ring *r = &rings[any(count)];

		if (mode >= FIELDS) {
			anything(mapped, r);
			continue;
		}
		descriptor(mapped, r, mode, 0);
		for (volatile int turn = 0; turn < RIGHT_TURNS; turn = turn + 1)
			;
	}
}
