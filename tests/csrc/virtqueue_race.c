/* `virtqueue_race ROUNDS`: takes chains from rings that another thread overwrites all the time. Prints how many chains were taken,
 * and how often the ring was broken. Exit status 1: a part of a chain lies outside the guest's memory. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "wire/virtqueue.h"

#define BYTES 8192
#define SIZE 16
#define AVAILABLE 1024
#define USED 2048
#define TABLE 4096

static _Alignas(16) _Atomic uint16_t words[BYTES / 2];
#define ROUNDS_PER_CHANGE 8   /* after at most this many rounds we wait for a change of the guest, */
#define CHANGES_PER_YIELD 256 /* which gives way after this many changes: the two may share one processor */

static atomic_bool stop;
static _Atomic uint32_t changes;

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static void store(uint32_t at, uint16_t value)
{
	atomic_store_explicit(&words[at / 2], value, memory_order_relaxed);
}

static void store_descriptor(uint32_t at, uint32_t address, uint32_t len, uint16_t flags, uint16_t next)
{
	store(at, (uint16_t)address);
	store(at + 2, (uint16_t)(address >> 16));
	store(at + 8, (uint16_t)len);
	store(at + 10, (uint16_t)(len >> 16));
	store(at + 12, flags);
	store(at + 14, next);
}

/* Mostly valid descriptors, so that a change in the middle of a chain counts. */
static void *guest(void *unused)
{
	uint32_t random = 1;

	(void)unused;
	while (!atomic_load(&stop)) {
		uint32_t r = next_random(&random), at = r % SIZE * 16, address = r >> 8 & 4095, len = r >> 20 & 255;

		if (r >> 29 == 0)
			store_descriptor(at, TABLE, (1 + (r >> 16) % SIZE) * 16, 4, 0);
		else
			store_descriptor(at + (r >> 28 & 1) * TABLE, r >> 28 == 15 ? r : address, r >> 28 == 14 ? r : len,
					 r >> 4 & 1, (uint16_t)(r >> 5 & (SIZE - 1)));
		if (atomic_fetch_add_explicit(&changes, 1, memory_order_relaxed) % CHANGES_PER_YIELD == 0)
			sched_yield();
	}
	return NULL;
}

static void require(bool held)
{
	if (!held) {
		fputs("a part lies outside the guest's memory\n", stderr);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 0, taken = 0, broken = 0;
	uint8_t *memory = (uint8_t *)(void *)words;
	struct guest_memory m = {0};
	struct virtq_addresses at = {0, AVAILABLE, USED};
	struct iovec *iov = calloc(VIRTQ_IOVECS_MAX, sizeof(*iov));
	struct virtq_chain chain;
	struct virtq q;
	pthread_t thread;
	uint16_t offered = 0;
	uint32_t seen = 0;

	if (!iov || !guest_memory_add(&m, &(struct guest_region){0, 0, BYTES, memory}) || !virtq_start(&q, &m, SIZE, &at, 0, true))
		return 2;
	if (pthread_create(&thread, NULL, guest, NULL))
		return 2;
	for (long i = 0; i < rounds; i++) {
		while (i % ROUNDS_PER_CHANGE == 0 && atomic_load_explicit(&changes, memory_order_relaxed) == seen)
			sched_yield();
		seen = atomic_load_explicit(&changes, memory_order_relaxed);
		store(AVAILABLE + 4 + offered % SIZE * 2u, (uint16_t)(i * 7 % SIZE));
		store(AVAILABLE + 2, ++offered);
		switch (virtq_take(&q, &m, false, iov, VIRTQ_IOVECS_MAX, &chain)) {
		case VIRTQ_TAKEN:
			taken++;
			for (uint32_t n = 0; n < chain.parts; n++) {
				uint8_t *begin = iov[n].iov_base;

				require(begin >= memory && begin < memory + BYTES);
				require(iov[n].iov_len <= (size_t)(memory + BYTES - begin));
			}
			virtq_give(&q, chain.head, 0);
			virtq_tell(&q);
			virtq_wait(&q);
			break;
		case VIRTQ_BROKEN:
			broken++;
			/* fall through */
		default:
			if (!virtq_start(&q, &m, SIZE, &at, offered, true))
				return 2;
		}
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	free(iov);
	printf("%ld %ld\n", taken, broken);
	return 0;
}
