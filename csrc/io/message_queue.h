/* Purpose: what threads send to one: a bounded queue of messages, with a descriptor that becomes readable. */
#ifndef PASTA_IO_MESSAGE_QUEUE_H
#define PASTA_IO_MESSAGE_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct message {
	struct message *next;
	uint32_t max_count, max_bytes; /* a queue refuses the message if it would hold more with it */
	uint32_t kind, detail;         /* of the user */
	uint32_t len;                  /* of data */
	_Alignas(8) uint8_t data[];
};

struct message_queue {
	int fd; /* an eventfd, for EPOLLIN | EPOLLET: nothing reads it */
	pthread_mutex_t lock;
	struct message *head, *last;
	uint32_t count, bytes;
	_Atomic bool waiting; /* there may be messages; cheap enough to read in every turn */
};

int message_queue_init(struct message_queue *q);
/* Also frees the messages in it. No thread may put in any more. */
void message_queue_free(struct message_queue *q);

/* A message with room for len bytes, to be freed with free(); NULL without memory. The maxima are UINT32_MAX. */
struct message *message_new(uint32_t kind, uint32_t detail, uint32_t len);
/* Puts in the messages, linked by `next`, in order. Returns those that the queue refuses, linked likewise, or NULL. */
struct message *message_queue_put(struct message_queue *q, struct message *messages);
/* Takes all messages, in order, linked by `next`; NULL: there is none. */
struct message *message_queue_take(struct message_queue *q);
/* Makes the descriptor readable. */
void message_queue_wake(struct message_queue *q);

#endif
