/* What shards send each other: frames, accepted clients, sockets to splice, log lines, the end of a queue of the tap. */
#ifndef PASTA_PLANE_MESSAGES_H
#define PASTA_PLANE_MESSAGES_H

#include "base/addr.h"
#include "base/log.h"
#include "core/counters.h"
#include "io/loop.h"
#include "io/message_queue.h"
#include "io/link.h"
#include "plane_api.h"

enum message_kind { MESSAGE_FRAME, MESSAGE_CLIENT, MESSAGE_SPLICE, MESSAGE_LINE, MESSAGE_END };

struct frame_message {
	struct link_frame frame;
	bool reassembled; /* the packet was put together from fragments: the sender has looked at its Ethernet header */
};

struct client_message {
	int fd;
	struct endpoint peer, target;
};

struct splice_message {
	int accepted, connecting;
};

/* One shard's end. All zero, with queue.fd -1: there is no other shard. */
struct messages {
	uint32_t self;
	struct messages *shard[SHARDS_MAX]; /* the ends of all shards */
	struct message_queue queue;
	struct message *inbox; /* taken from the queue, not yet handled */
	struct outbox {
		struct message *head, *last;
	} outbox[SHARDS_MAX]; /* frames, since messages_flush() */
	uint32_t outbox_bits; /* which outboxes hold something */
	uint64_t handled;     /* messages, ever */
	struct counters *counters;
};

/* Makes the queue and reports it to the loop. 0 or -errno. */
int messages_init(struct messages *m, uint32_t self, struct loop *loop, struct counters *counters);
/* Discards what waits, closes the sockets in it. */
void messages_free(struct messages *m);

/* A frame for another shard. It leaves with the next messages_flush(). tcp: TCP has twice the room of everything else. */
void messages_send_frame(struct messages *m, uint32_t to, const struct link_frame *f, bool reassembled, bool tcp);
/* Sends the frames of a batch. A frame that finds no room is lost, as on any link, and counted. */
void messages_flush(struct messages *m);
/* Takes over the socket of an accepted client. */
void messages_send_client(struct messages *m, uint32_t to, const struct client_message *client);
/* Takes over two sockets to splice. False: there was no room, the sockets stay the caller's. */
bool messages_send_splice(struct messages *m, uint32_t to, const struct splice_message *sockets);
/* To shard 0, which Python asks for log lines. False: the line is lost. */
bool messages_send_line(struct messages *m, const struct log_line *line);
/* To shard 0: this shard's queue of the tap has ended. */
void messages_send_end(struct messages *m, int error);

/* The next message for this shard, to free(); NULL: there is none. */
struct message *messages_next(struct messages *m);

#endif
