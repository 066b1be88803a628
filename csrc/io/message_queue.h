/* What one thread leaves for another: a bounded queue of messages, and a descriptor that becomes readable. */
#ifndef PASTA_IO_MESSAGE_QUEUE_H
#define PASTA_IO_MESSAGE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct message {
	struct message *next;
	uint32_t max_count, max_bytes; /* a message queue does not take it if it would have more then */
	uint32_t kind;                 /* these three are the users' business */
	uint32_t detail;
	uint32_t len;
	_Alignas(8) uint8_t data[];
};

struct message_queue {
	int fd; /* an eventfd, for EPOLLIN | EPOLLET: nothing has to be read from it */
	pthread_mutex_t lock;
	struct message *head, *last;
	uint32_t count, bytes;
	_Atomic bool waiting; /* there may be some: cheap enough to ask in every turn */
};

int message_queue_init(struct message_queue *m);
/* Also what nobody has taken. Nobody may put anything in any more. */
void message_queue_free(struct message_queue *m);

/* A message with room for len bytes; NULL without memory. free() it. The maxima are those of the type. */
struct message *message_new(uint32_t kind, uint32_t detail, uint32_t len);
/* Puts these in, linked by `next`, in order. Returns those that it does not take, linked the same way, or NULL. */
struct message *message_queue_put(struct message_queue *m, struct message *messages);
/* Everything in it, in order, linked by `next`; NULL for nothing. */
struct message *message_queue_take(struct message_queue *m);
/* Makes the descriptor readable. */
void message_queue_wake(struct message_queue *m);

#endif
