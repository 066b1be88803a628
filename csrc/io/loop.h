/* The event loop: epoll, a clock that is read once per round, and tags that tell whose descriptor it is. */
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
	int64_t now_ms;   /* CLOCK_MONOTONIC, when the last wait returned */
	int64_t now_us;   /* the same */
	int64_t slept_us; /* how long that wait took */
	bool precise;     /* waits may be shorter than a millisecond */
	int ready, taken;
	struct epoll_event events[LOOP_EVENTS];
};

/* A tag is owner (8 bits), generation (24), index (32): an event for a flow that was closed earlier in the same round is
 * recognised by its generation. */
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
/* Also makes an edge-triggered descriptor report again what is true now. */
int loop_modify(struct loop *l, int fd, uint32_t events, uint64_t tag);
int loop_remove(struct loop *l, int fd);
/* Waits until deadline_ms at most (TIMER_NEVER: for ever), or until_us if that is sooner (TIMER_NEVER; only where waits are
 * precise), and updates the clock. -errno, not -EINTR. */
int loop_wait(struct loop *l, int64_t deadline_ms, int64_t until_us);
/* The next event of the last wait, or NULL. */
const struct epoll_event *loop_next(struct loop *l);

#endif
