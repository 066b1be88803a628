/* Owns the messages between two threads. Any number of threads put, one takes: all at once, so that the lock is held for a few
 * instructions, and what a batch of frames leaves costs one. Who finds the queue empty wakes the other end; as that takes
 * everything, one wake-up is enough for all that come before it has looked.
 *
 * Invariants: last is meaningless while head is NULL; count and bytes are those of the list. No message is ever waited for.
 */
#include "io/mailbox.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int mailbox_init(struct mailbox *m)
{
	*m = (struct mailbox){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (m->fd < 0)
		return -errno;
	pthread_mutex_init(&m->lock, NULL);
	return 0;
}

void mailbox_free(struct mailbox *m)
{
	while (m->head) {
		struct mail *mail = m->head;

		m->head = mail->next;
		free(mail);
	}
	if (m->fd >= 0) {
		close(m->fd);
		pthread_mutex_destroy(&m->lock);
	}
	m->fd = -1;
}

struct mail *mail_new(uint32_t kind, uint32_t detail, uint32_t len)
{
	struct mail *mail = malloc(sizeof(*mail) + len);

	if (mail) {
		mail->next = NULL;
		mail->max_count = mail->max_bytes = UINT32_MAX;
		mail->kind = kind;
		mail->detail = detail;
		mail->len = len;
	}
	return mail;
}

void mailbox_wake(struct mailbox *m)
{
	ssize_t n = write(m->fd, &(uint64_t){1}, sizeof(uint64_t));

	(void)n; /* EAGAIN: it is readable, 2^64 times over */
}

static bool has_room(const struct mailbox *m, const struct mail *mail)
{
	return m->count < mail->max_count && mail->len <= mail->max_bytes && m->bytes <= mail->max_bytes - mail->len;
}

static void append(struct mailbox *m, struct mail *mail)
{
	if (m->head)
		m->last->next = mail;
	else
		m->head = mail;
	m->last = mail;
	mail->next = NULL;
	m->count++;
	m->bytes += mail->len;
}

struct mail *mailbox_put(struct mailbox *m, struct mail *mails)
{
	struct mail *refused = NULL, **end = &refused, *next;
	bool was_empty, wake;

	pthread_mutex_lock(&m->lock);
	was_empty = !m->head;
	for (struct mail *mail = mails; mail; mail = next) {
		next = mail->next;
		if (has_room(m, mail)) {
			append(m, mail);
			continue;
		}
		mail->next = NULL;
		*end = mail;
		end = &mail->next;
	}
	wake = was_empty && m->head;
	if (wake)
		atomic_store_explicit(&m->waiting, true, memory_order_relaxed);
	pthread_mutex_unlock(&m->lock);
	if (wake)
		mailbox_wake(m);
	return refused;
}

struct mail *mailbox_take(struct mailbox *m)
{
	struct mail *all;

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
