/* Owns the messages between two threads. Any number of threads put, one takes: all at once, so that the lock is held for a few
 * instructions, and what a batch of frames leaves costs one. Who finds the queue empty wakes the other end; as that takes
 * everything, one wake-up is enough for all that come before it has looked.
 *
 * Invariants: last is meaningless while head is NULL; count and bytes are those of the list. No message is ever waited for.
 */
#include "io/message_queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int message_queue_init(struct message_queue *m)
{
	*m = (struct message_queue){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (m->fd < 0)
		return -errno;
	pthread_mutex_init(&m->lock, NULL);
	return 0;
}

void message_queue_free(struct message_queue *m)
{
	while (m->head) {
		struct message *message = m->head;

		m->head = message->next;
		free(message);
	}
	if (m->fd >= 0) {
		close(m->fd);
		pthread_mutex_destroy(&m->lock);
	}
	m->fd = -1;
}

struct message *message_new(uint32_t kind, uint32_t detail, uint32_t len)
{
	struct message *message = malloc(sizeof(*message) + len);

	if (message) {
		message->next = NULL;
		message->max_count = message->max_bytes = UINT32_MAX;
		message->kind = kind;
		message->detail = detail;
		message->len = len;
	}
	return message;
}

void message_queue_wake(struct message_queue *m)
{
	ssize_t n = write(m->fd, &(uint64_t){1}, sizeof(uint64_t));

	(void)n; /* EAGAIN: it is readable, 2^64 times over */
}

static bool has_room(const struct message_queue *m, const struct message *message)
{
	return m->count < message->max_count && message->len <= message->max_bytes && m->bytes <= message->max_bytes - message->len;
}

static void append(struct message_queue *m, struct message *message)
{
	if (m->head)
		m->last->next = message;
	else
		m->head = message;
	m->last = message;
	message->next = NULL;
	m->count++;
	m->bytes += message->len;
}

struct message *message_queue_put(struct message_queue *m, struct message *messages)
{
	struct message *refused = NULL, **end = &refused, *next;
	bool was_empty, wake;

	pthread_mutex_lock(&m->lock);
	was_empty = !m->head;
	for (struct message *message = messages; message; message = next) {
		next = message->next;
		if (has_room(m, message)) {
			append(m, message);
			continue;
		}
		message->next = NULL;
		*end = message;
		end = &message->next;
	}
	wake = was_empty && m->head;
	if (wake)
		atomic_store_explicit(&m->waiting, true, memory_order_relaxed);
	pthread_mutex_unlock(&m->lock);
	if (wake)
		message_queue_wake(m);
	return refused;
}

struct message *message_queue_take(struct message_queue *m)
{
	struct message *all;

	if (!atomic_load_explicit(&m->waiting, memory_order_relaxed))
		return NULL;
	pthread_mutex_lock(&m->lock);
	all = m->head;
	m->head = NULL;
	m->count = m->bytes = 0;
	atomic_store_explicit(&m->waiting, false, memory_order_relaxed);
	pthread_mutex_unlock(&m->lock);
	return all;
}
