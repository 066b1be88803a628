/* Purpose: the event loop: epoll, a clock that is read once a round, and tags that name the owner of a descriptor. */
#ifndef PASTA_IO_LOOP_H
#define PASTA_IO_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

enum loop_owner {
	OWNER_TAP,
	OWNER_WATCH,
	OWNER_MESSAGES,
	OWNER_LISTENER,
	OWNER_TCP,
	OWNER_UDP,
	OWNER_UDP_SPLICE,
	OWNER_ICMP,
	OWNER_SPLICE_ACCEPTED,
	OWNER_SPLICE_CONNECTED,
};

#define LOOP_EVENTS 64

struct loop {
	int epoll_fd;
	int64_t now_ms; /* CLOCK_MONOTONIC, when the last wait returned */
	int64_t now_us; /* the same */
	bool precise;   /* waits can end between two milliseconds */
	int ready, taken;
	struct epoll_event events[LOOP_EVENTS];
};

/* A tag is owner (8 bits), generation (24), index (32). The generation tells an event for a flow that was closed earlier in the
 * same round from one for its successor. */
static inline uint64_t loop_tag(enum loop_owner owner, uint32_t index, uint32_t generation)
{
	return (uint64_t)owner << 56 | (uint64_t)(generation & 0xffffff) << 32 | index;
}

static inline enum loop_owner loop_tag_owner(uint64_t tag)
{
	return (enum loop_owner)(tag >> 56);
}

static inline uint32_t loop_tag_generation(uint64_t tag)
{
	return (uint32_t)(tag >> 32) & 0xffffff;
}

static inline uint32_t loop_tag_index(uint64_t tag)
{
	return (uint32_t)tag;
}

int loop_init(struct loop *l);
void loop_free(struct loop *l);
int loop_add(struct loop *l, int fd, uint32_t events, uint64_t tag);
/* Also makes an edge-triggered descriptor report its present state again. */
int loop_modify(struct loop *l, int fd, uint32_t events, uint64_t tag);
int loop_remove(struct loop *l, int fd);
/* Waits for events until deadline_ms (TIMER_NEVER: no limit) and updates the clock. until_us: where waits are precise, a moment
 * before deadline_ms and less than a second away; TIMER_NEVER: none. 0 or -errno; an interrupted wait returns 0. */
int loop_wait(struct loop *l, int64_t deadline_ms, int64_t until_us);
/* CLOCK_BOOTTIME in milliseconds, now: it also counts while the machine sleeps. */
int64_t loop_boot_ms(void);
/* The next event of the last wait, or NULL. */
const struct epoll_event *loop_next(struct loop *l);

#endif
