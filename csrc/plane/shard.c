/* Owns the threads of the data plane (--threads). With one, the default, nothing here is used.
 *
 * Theory of operation. A shard is a whole plane: loop, queue of the tap, flow tables, timers, scratch, log, counters. The first
 * one is run by Python, with everything that has only one place: the slow path, the listeners, the helper, UDP, ICMP, fragments.
 * The others run in threads without Python and have flows of TCP and local connections. Nothing is shared that is written
 * without a lock, and no lock is held on the way of a frame: what another shard must know is left in its message queue (messages.c).
 *
 * Which shard a flow of TCP belongs to follows from its endpoints (core/steering.h), so a shard that reads a frame knows whose it
 * is without asking. It is rarely another's: the kernel's tap remembers from which queue a flow was last written to (tun.c,
 * tun_flow_update()), and gives that queue what the guest sends in it, until it has not been written to for 3 s. So the frames
 * that change shards are a guest's SYN, and the first ones after silence. Those that come after them may overtake them: as on any
 * link, TCP puts that right.
 *
 * Threads start before the sandbox's last layers, and read nothing of the guest's until plane_run() is called for the first time.
 * At the end they stop first; what the guest has sent by then is passed on by the thread that is left.
 *
 * Limits are divided: each shard has its share of flows, spills, held bytes and openings (of these 1,000 a second at least).
 * Challenge ACKs are counted by each shard for itself.
 *
 * Rejected: one loop with a thread for each system call (a hand-over per frame); flow tables with locks; a queue chosen by a
 * program (TUNSETSTEERINGEBPF takes CAP_BPF in the initial namespace, or unprivileged BPF).
 */
#include "plane/shard.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "io/thread.h"
#include "plane/plane.h"

#define STACK_BYTES (512u << 10) /* as much of it is memory as was ever used */

static void *run(void *arg)
{
	struct plane *p = arg;
	struct shard *l = p->shard;
	struct plane_event none;
	char name[16];

	snprintf(name, sizeof(name), "pasta-shard%u", l->index);
	pthread_setname_np(pthread_self(), name);
	pthread_mutex_lock(&l->all->lock);
	l->started = true;
	pthread_cond_signal(&l->all->started);
	pthread_mutex_unlock(&l->all->lock);
	while (!atomic_load(&l->stop)) {
		int rc = plane_turn(p, &none);

		if (rc < 0)
			p->end = -rc;
		shard_report(p);
		if (rc < 0)
			break;
	}
	return NULL;
}

static int start(struct plane *p)
{
	struct shard *l = p->shard;
	int rc = thread_start(&l->thread, STACK_BYTES, run, p);

	if (rc)
		return rc;
	pthread_mutex_lock(&l->all->lock);
	while (!l->started)
		pthread_cond_wait(&l->all->started, &l->all->lock);
	pthread_mutex_unlock(&l->all->lock);
	return 0;
}

/* Makes p a shard among others. */
static int join(struct shards *all, struct plane *p, const struct siphash_key *key, uint32_t shards)
{
	struct flow_steering steering = {*key, shards, all->count};
	struct shard *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	rc = message_queue_init(&l->box);
	if (!rc)
		rc = loop_add(&p->loop, l->box.fd, EPOLLIN | EPOLLET, loop_tag(OWNER_MESSAGES, 0, 0));
	if (rc) {
		message_queue_free(&l->box);
		free(l);
		return rc;
	}
	l->all = all;
	l->index = all->count;
	p->shard = l;
	tcp_share(&p->tcp, &steering);
	splice_share(&p->splice, shards);
	all->at[all->count++] = p;
	return 0;
}

static int add(struct shards *all, const struct siphash_key *key, int tap_fd, uint32_t shards)
{
	struct plane *first = all->at[0], *p;
	struct plane_config config = first->config;
	int rc;

	config.tap_fd = tap_fd;
	rc = plane_new(&config, &p);
	if (rc)
		return rc;
	p->complete = false; /* it has no last words of its own */
	p->policy = first->policy;
	p->io.descriptors = first->io.descriptors;
	p->tap.capture = first->tap.capture;
	loop_remove(&p->loop, tap_fd);
	rc = join(all, p, key, shards);
	if (!rc)
		rc = start(p);
	if (rc && !p->shard) {
		p->policy = (struct policy){0}; /* its lists are the first shard's */
		plane_free(p);
	}
	return rc; /* a shard that has joined goes with the others */
}

int plane_add_shards(struct plane *p, const int tap_fds[], uint32_t count)
{
	struct siphash_key key;
	struct shards *all;
	int rc;

	if (p->shard || !count || count >= SHARDS_MAX || p->tcp.flows.used || p->splice.flows.used)
		return -EINVAL;
	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	all = calloc(1, sizeof(*all));
	if (!all)
		return -ENOMEM;
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 1); /* another heap for each thread costs more than a lock that is hardly ever taken */
#endif
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->started, NULL);
	memcpy(all->guest_seen, p->policy.guest_seen, sizeof(all->guest_seen));
	all->neighbours = p->tap.neighbours;
	if (p->capture)
		capture_share(p->capture);
	rc = join(all, p, &key, count + 1);
	if (rc) {
		free(all);
		return rc;
	}
	for (uint32_t i = 0; i < count && !rc; i++)
		rc = add(all, &key, tap_fds[i], count + 1);
	if (rc)
		shards_stop(p);
	return rc;
}

void shards_open(struct plane *p)
{
	struct shards *all = p->shard->all;

	all->open = true;
	for (uint32_t i = 1; i < all->count; i++)
		if (loop_add(&all->at[i]->loop, all->at[i]->config.tap_fd, EPOLLIN, loop_tag(OWNER_TAP, 0, 0)) < 0)
			p->end = EBADF;
}

void shard_publish(struct plane *p)
{
	pthread_mutex_lock(&p->shard->all->lock);
	p->shard->published = p->counters;
	pthread_mutex_unlock(&p->shard->all->lock);
}

uint64_t shards_counter(const struct plane *p, uint32_t index)
{
	struct shards *all = p->shard->all;
	uint64_t sum = p->counters.v[index];

	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 1; i < all->count; i++)
		sum += all->at[i]->shard->published.v[index];
	pthread_mutex_unlock(&all->lock);
	return sum;
}

/* --- the end --- */

/* What the guest has sent by now, and what shards have left for each other; all of it by this thread, the only one. */
static void finish(struct shards *all)
{
	bool moved = true;

	for (int i = 0; i < FINISH_BATCHES && moved; i++) {
		moved = false;
		for (uint32_t n = 0; n < all->count; n++) {
			struct plane *p = all->at[n];
			uint64_t opened = p->shard->opened;

			p->punt_len = 0;
			shard_attend(p);
			moved |= plane_drain(p) || p->shard->opened != opened;
		}
	}
}

static void discard(struct message *message)
{
	while (message) {
		struct message *next = message->next;

		message_discard(message);
		message = next;
	}
}

static void leave(struct plane *p)
{
	struct shard *l = p->shard;

	discard(l->inbox);
	discard(message_queue_take(&l->box));
	p->shard = NULL;
	message_queue_free(&l->box);
	free(l);
}

void shards_stop(struct plane *p)
{
	struct shards *all = p->shard->all;

	for (uint32_t i = 1; i < all->count; i++) {
		struct shard *l = all->at[i]->shard;

		if (!l->started)
			continue;
		atomic_store(&l->stop, true);
		message_queue_wake(&l->box);
		pthread_join(l->thread, NULL);
	}
	if (all->open)
		finish(all);
	for (uint32_t i = 0; i < all->count; i++)
		leave(all->at[i]);
	for (uint32_t i = 1; i < all->count; i++) {
		all->at[i]->policy = (struct policy){0}; /* its lists are the first shard's */
		plane_free(all->at[i]);
	}
	pthread_cond_destroy(&all->started);
	pthread_mutex_destroy(&all->lock);
	free(all);
}
