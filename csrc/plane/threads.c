/* Purpose: the threads of the data plane (--threads). By default there is one shard, which Python runs.
 *
 * How: a shard has all that its flows need, so a frame meets no lock. Shard 0 alone has the slow path, the listeners, the helper,
 * UDP, ICMP and fragments. All shards have TCP flows and spliced connections. The endpoints of a TCP flow determine its shard
 * (core/steering.h), so the shard that reads a frame knows the right shard at once.
 *
 * Most frames arrive at the right shard. The kernel's tap remembers to which queue a flow was last written (tun.c,
 * tun_flow_update()) and delivers the guest's frames of that flow to the same queue, for 3 s after the last write. So a frame
 * changes shards if it is a SYN of the guest, or among the first after a silence. Later frames can overtake it; TCP sorts that
 * out.
 *
 * Threads start before the last layers of the sandbox. They read nothing from the guest before the first plane_run(). At the end
 * they stop first. Then the remaining thread passes on what the guest has sent by then.
 *
 * Limits are divided: each shard has its share of flows, backlogs, out-of-order queues and new flows (at least 1,000 new flows a
 * second). Each shard counts challenge ACKs for itself.
 *
 * Rejected: a BPF program that chooses the queue: TUNSETSTEERINGEBPF needs CAP_BPF in the initial namespace, or unprivileged BPF.
 */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "io/thread.h"
#include "plane/plane.h"

#define STACK_BYTES (512u << 10) /* address space; memory only where it was used */
#define DRAIN_BATCHES 64

static void publish(struct shard_thread *t)
{
	pthread_mutex_lock(&t->plane->lock);
	t->published = t->shard->counters;
	pthread_mutex_unlock(&t->plane->lock);
}

static void *run(void *arg)
{
	struct shard_thread *t = arg;
	struct shard *s = t->shard;
	struct plane_event none;
	char name[16];
	int rc = 0;

	snprintf(name, sizeof(name), "pasta-shard%u", s->index);
	pthread_setname_np(pthread_self(), name);
	pthread_mutex_lock(&t->plane->lock);
	t->started = true;
	pthread_cond_signal(&t->plane->started);
	pthread_mutex_unlock(&t->plane->lock);
	link_enter(&s->link);
	while (!atomic_load(&t->stop) && !rc) {
		if (shard_turn(s, &none) != SHARD_IDLE)
			continue;
		shard_report(s);
		publish(t);
		rc = shard_wait(s, shard_next_ms(s));
		if (rc < 0)
			s->end = -rc;
	}
	shard_report(s);
	link_leave(&s->link);
	return NULL;
}

static int start(struct plane *p, struct shard_thread *t)
{
	int rc = thread_start(&t->thread, STACK_BYTES, run, t);

	if (rc)
		return rc;
	pthread_mutex_lock(&p->lock);
	while (!t->started)
		pthread_cond_wait(&p->started, &p->lock);
	pthread_mutex_unlock(&p->lock);
	return 0;
}

/* Adds a shard with a thread. After a failure, threads_stop() and plane_free() clean up. */
static int add(struct plane *p, int tap_fd, struct flow_steering steering)
{
	struct shard *s = calloc(1, sizeof(*s)), *first = p->shard[0];
	struct shard_thread *t = &p->thread[p->shard_count];
	int rc;

	if (!s)
		return -ENOMEM;
	steering.self = p->shard_count;
	s->link_state = &p->link_state;
	s->host_state = &p->host_state;
	rc = shard_init(s, &p->config, tap_fd, p->shard_count);
	p->shard[p->shard_count++] = s;
	s->io.descriptors = first->io.descriptors;
	s->io.egress = first->io.egress;
	s->io.detours = first->io.detours;
	plane_add_rates(p, s);
	s->link.captures = p->captures.file ? &p->captures : NULL;
	if (!rc)
		rc = mapping_copy(&s->mapping, &first->mapping);
	if (!rc)
		rc = shard_join(s, &steering);
	if (!rc)
		rc = shard_join_link(s, first);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < p->shard_count; i++)
		for (uint32_t k = 0; k < p->shard_count; k++)
			p->shard[i]->messages.shard[k] = &p->shard[k]->messages;
	*t = (struct shard_thread){.plane = p, .shard = s};
	return start(p, t);
}

int plane_add_shards(struct plane *p, const int tap_fds[], uint32_t count)
{
	struct flow_steering steering = {.shards = count + 1};
	struct shard *first = p->shard[0];
	int rc;

	if (p->shard_count > 1 || !count || count >= SHARDS_MAX || first->tcp.flows.used || first->splice.flows.used)
		return -EINVAL;
	if (getrandom(&steering.key, sizeof(steering.key), 0) != sizeof(steering.key))
		return -EIO;
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 1); /* a heap for each thread costs more than a lock that is rarely taken */
#endif
	captures_share(&p->captures);
	rc = shard_join(first, &steering);
	for (uint32_t i = 0; i < count && !rc; i++)
		rc = add(p, tap_fds[i], steering);
	if (rc)
		threads_stop(p);
	return rc;
}

void threads_open(struct plane *p)
{
	p->open = true;
	for (uint32_t i = 1; i < p->shard_count; i++)
		if (!p->shard[i]->link.turns &&
		    loop_add(&p->shard[i]->loop, p->shard[i]->link.fd, EPOLLIN, loop_tag(OWNER_TAP, 0, 0)) < 0)
			p->shard[0]->end = EBADF;
}

uint64_t threads_counter(const struct plane *p, uint32_t index)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&p->lock;
	uint64_t sum = p->shard[0]->counters.v[index];

	pthread_mutex_lock(lock);
	for (uint32_t i = 1; i < p->shard_count; i++)
		sum += p->thread[i].published.v[index];
	pthread_mutex_unlock(lock);
	return sum;
}

void threads_drain(struct plane *p)
{
	bool moved = p->open || p->shard_count == 1;

	for (int i = 0; i < DRAIN_BATCHES && moved; i++) {
		moved = false;
		for (uint32_t n = 0; n < p->shard_count; n++)
			moved |= shard_drain(p->shard[n]);
	}
}

void threads_stop(struct plane *p)
{
	for (uint32_t i = 1; i < p->shard_count; i++) {
		if (!p->thread[i].started)
			continue;
		atomic_store(&p->thread[i].stop, true);
		message_queue_wake(&p->shard[i]->messages.queue);
		pthread_join(p->thread[i].thread, NULL);
		p->thread[i].started = false;
	}
}
