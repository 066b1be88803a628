/* Purpose: the link of a virtual machine over vhost-user: frames are copied from and to the guest's memory, with its offloads, so that
 * a frame of 64 KiB costs as much as a small one. Here: the front end, and several links for one.
 *
 * How: vhost_user.c has what the front end said.
 *
 * Several queue pairs, each with a thread: a link for each, which has joined the first (link_join()). What the front end says is
 * handled by the first, while every other thread is between two turns, so no queue and no memory changes under one that is used. A
 * pair that the guest does not use has frames all the same, those of its thread's flows: they are handed over to the first.
 *
 * Invariant: a ring that the guest has broken is not touched again until the front end starts it anew.
 */
#include <errno.h>
#include <stdlib.h>

#include "io/link_vhost.h"

/* --- what the guest does wrong --- */

void vhost_link_broken(struct link *l, const struct vhost_queue *q)
{
	if (!vhost_link_is_gone(l) && !atomic_exchange(&((struct vhost_link *)l->state)->machine->told, true))
		l->fault = q->ring.broken;
}

/* --- several links --- */

/* All links of a front end that has come, with fd, or has left: -1. */
static void begin_anew(struct vhost_machine *m, int fd)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct vhost_link *v = m->link[i]->state;

		v->kept_from = v->kept_to = v->untold = v->lent = 0;
		v->held = false;
		m->link[i]->fd = fd;
		m->link[i]->tail.count = 0;
		m->link[i]->blocked = fd < 0 || !m->link[i]->turns;
		m->link[i]->buffered = false;
	}
	atomic_store(&m->gone, false);
	atomic_store(&m->told, false);
}

static int join(struct link *l, struct link *first)
{
	struct vhost_link *v = l->state;
	struct vhost_machine *own = v->machine, *m = ((struct vhost_link *)first->state)->machine;

	if (m->count == VHOST_PAIRS_MAX)
		return -EINVAL;
	v->machine = m;
	l->turns = &m->turns;
	v->device = &m->device;
	v->pair = m->count;
	free(own);
	m->loops[m->count] = l->loop;
	m->link[m->count++] = l;
	vhost_user_init(&m->device, m->count, m->loops);
	vhost_user_attach(&m->device, first->fd);
	begin_anew(m, first->fd);
	return 0;
}

static void put_handed_over(struct link *l, const uint8_t *bytes, uint32_t len)
{
	vhost_link_put(l, &(struct iovec){(void *)(uintptr_t)bytes, len}, 1);
}

/* --- the front end --- */

static bool any_is_broken(const struct vhost_user *d)
{
	for (uint32_t i = 0; i < 2 * d->pairs; i++)
		if (d->queue[i].ring.broken)
			return true;
	return false;
}

/* Messages of the front end: they are about all links. */
static int hear(struct link *l, struct vhost_machine *m)
{
	uint64_t before = m->device.handled;
	int rc;

	turns_close(&m->turns);
	for (uint32_t i = 0; i < m->count; i++) {
		vhost_link_give_back(m->link[i]);
		vhost_link_take_back(m->link[i]->state);
	}
	rc = vhost_user_receive(&m->device);
	COUNT_ADD(l->counters, vhost_messages, m->device.handled - before);
	l->fault = m->device.fault;
	if (!any_is_broken(&m->device))
		atomic_store(&m->told, false);
	for (uint32_t i = 0; i < m->count; i++) {
		struct vhost_link *v = m->link[i]->state;

		if (!vhost_queue_runs(v->device, vhost_link_queue(v, VHOST_TO_GUEST)))
			v->kept_from = v->kept_to = 0;
		vhost_link_put_kept(m->link[i]);
	}
	turns_open(&m->turns);
	return rc;
}

static int event(struct link *l, uint32_t which)
{
	struct vhost_link *v = l->state;

	l->buffered |= which == 1 + VHOST_FROM_GUEST; /* an edge that is not followed by a read must not be lost */
	if (which == 0)
		return hear(l, v->machine);
	if (l->blocked)
		vhost_link_put_kept(l);
	return 0;
}

static int make(struct link *l)
{
	struct vhost_link *v = l->state = calloc(1, sizeof(*v));
	struct vhost_machine *m = calloc(1, sizeof(*m));

	l->rx = malloc(sizeof(struct vhost_net_header) + LINK_FRAME_MAX);
	if (v)
		v->machine = m;
	else
		free(m);
	/* Headers are in the order of the machine here, and little-endian there (VIRTIO 1.2, 5.1.6.1). */
	if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
		return -EOPNOTSUPP;
	if (!v || !m || !l->rx)
		return -ENOMEM;
	v->device = &m->device;
	m->count = 1;
	m->link[0] = l;
	m->loops[0] = l->loop;
	turns_init(&m->turns);
	return vhost_memory_survive();
}

static void destroy(struct link *l)
{
	struct vhost_link *v = l->state;

	if (v && !l->turns) {
		if (v->machine && l->fd >= 0)
			link_detach(l);
		free(v->machine);
	}
	free(v);
	l->state = NULL;
}

static int attach(struct link *l)
{
	struct vhost_machine *m = ((struct vhost_link *)l->state)->machine;

	turns_close(&m->turns);
	begin_anew(m, l->fd);
	vhost_user_init(&m->device, m->count, m->loops);
	vhost_user_attach(&m->device, l->fd);
	turns_open(&m->turns);
	return 0;
}

static void detach(struct link *l)
{
	struct vhost_machine *m = ((struct vhost_link *)l->state)->machine;

	turns_close(&m->turns);
	begin_anew(m, -1);
	vhost_user_detach(&m->device);
	(void)vhost_memory_has_gone();
	turns_open(&m->turns);
}

const struct link_kind link_vhost_user = {.offloads = true,
					  .init = make,
					  .free = destroy,
					  .attach = attach,
					  .detach = detach,
					  .read = vhost_link_read,
					  .send = vhost_link_send,
					  .flush = vhost_link_flush,
					  .lend = vhost_link_lend,
					  .join = join,
					  .put = put_handed_over,
					  .event = event};
