/* How: any number of threads put messages in, one thread takes all of them at once. So the lock is held for a few instructions, and
 * the messages of a batch of frames take it once. A put into an empty queue wakes the taker; messages put in before it takes need
 * no wakeup of their own.
 *
 * Invariants: last has no meaning while head is NULL; count and bytes are those of the list. No thread waits for a message.
 */
#include "io/message_queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int message_queue_init(struct message_queue *q)
{
	*q = (struct message_queue){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (q->fd < 0)
		return -errno;
	pthread_mutex_init(&q->lock, NULL);
	return 0;
}

void message_queue_free(struct message_queue *q)
{
	while (q->head) {
		struct message *message = q->head;

		q->head = message->next;
		free(message);
	}
	if (q->fd >= 0) {
		close(q->fd);
		pthread_mutex_destroy(&q->lock);
	}
	q->fd = -1;
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

void message_queue_wake(struct message_queue *q)
{
	ssize_t n = write(q->fd, &(uint64_t){1}, sizeof(uint64_t));

	(void)n; /* EAGAIN: the counter is at its limit, so it is readable */
}

static bool has_room(const struct message_queue *q, const struct message *message)
{
	return q->count < message->max_count && message->len <= message->max_bytes && q->bytes <= message->max_bytes - message->len;
}

static void append(struct message_queue *q, struct message *message)
{
	if (q->head)
		q->last->next = message;
	else
		q->head = message;
	q->last = message;
	message->next = NULL;
	q->count++;
	q->bytes += message->len;
}

struct message *message_queue_put(struct message_queue *q, struct message *messages)
{
	struct message *refused = NULL, **end = &refused, *next;
	bool was_empty, wake;

	pthread_mutex_lock(&q->lock);
	was_empty = !q->head;
	for (struct message *message = messages; message; message = next) {
		next = message->next;
		if (has_room(q, message)) {
			append(q, message);
			continue;
		}
		message->next = NULL;
		*end = message;
		end = &message->next;
	}
	wake = was_empty && q->head;
	if (wake)
		atomic_store_explicit(&q->waiting, true, memory_order_relaxed);
	pthread_mutex_unlock(&q->lock);
	if (wake)
		message_queue_wake(q);
	return refused;
}

struct message *message_queue_take(struct message_queue *q)
{
	struct message *all;

	if (!atomic_load_explicit(&q->waiting, memory_order_relaxed))
		return NULL;
	pthread_mutex_lock(&q->lock);
	all = q->head;
	q->head = NULL;
	q->count = q->bytes = 0;
	atomic_store_explicit(&q->waiting, false, memory_order_relaxed);
	pthread_mutex_unlock(&q->lock);
	return all;
}
