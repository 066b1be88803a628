/* What one thread leaves for another: a bounded queue of messages, and a descriptor that becomes readable. */
#ifndef PASTA_IO_MAILBOX_H
#define PASTA_IO_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mail {
	struct mail *next;
	uint32_t max_count, max_bytes; /* a mailbox does not take it if it would have more then */
	uint32_t kind; /* these three are the users' business */
	uint32_t detail;
	uint32_t len;
	_Alignas(8) uint8_t data[];
};

struct mailbox {
	int fd; /* an eventfd, for EPOLLIN | EPOLLET: nothing has to be read from it */
	pthread_mutex_t lock;
	struct mail *head, *last;
	uint32_t count, bytes;
	_Atomic bool waiting; /* there may be some: cheap enough to ask in every turn */
};

int mailbox_init(struct mailbox *m);
/* Also what nobody has taken. Nobody may put anything in any more. */
void mailbox_free(struct mailbox *m);

/* A message with room for len bytes; NULL without memory. free() it. The maxima are those of the type. */
struct mail *mail_new(uint32_t kind, uint32_t detail, uint32_t len);
/* Puts these in, linked by `next`, in order. Returns those that it does not take, linked the same way, or NULL. */
struct mail *mailbox_put(struct mailbox *m, struct mail *mails);
/* Everything in it, in order, linked by `next`; NULL for nothing. */
struct mail *mailbox_take(struct mailbox *m);
/* Makes the descriptor readable. */
void mailbox_wake(struct mailbox *m);

#endif
