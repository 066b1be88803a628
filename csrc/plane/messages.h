/* What shards send each other: frames, accepted clients, sockets to splice, log lines, the end of a queue of the tap,
 * questions for a list of flows. */
#ifndef PASTA_PLANE_MESSAGES_H
#define PASTA_PLANE_MESSAGES_H

#include "base/addr.h"
#include "base/log.h"
#include "core/counters.h"
#include "core/flow.h"
#include "io/loop.h"
#include "io/message_queue.h"
#include "io/link.h"
#include "plane_api.h"

enum message_kind { MESSAGE_FRAME, MESSAGE_CLIENT, MESSAGE_SPLICE, MESSAGE_LINE, MESSAGE_END, MESSAGE_LIST, MESSAGE_TO_GUEST };

struct frame_message {
	struct link_frame frame;
	bool reassembled; /* from fragments: the sender has checked the Ethernet header */
};

struct client_message {
	int fd;
	struct endpoint peer, target;
};

struct splice_message {
	int accepted, connecting;
	struct flow_key ends;
	bool from_host;
};

/* One shard's end. With a single shard it is all zero but queue.fd, which is -1. */
struct messages {
	uint32_t self;
	struct messages *shard[SHARDS_MAX]; /* all ends, by index of the shard */
	struct message_queue queue;
	struct message *inbox; /* taken from the queue, not handled yet */
	struct outbox {
		struct message *head, *last;
	} outbox[SHARDS_MAX]; /* frames since the last messages_flush() */
	uint32_t outbox_bits; /* bit n: outbox[n] is not empty */
	uint64_t handled;     /* number of messages that this shard has handled */
	struct counters *counters;
};

/* Makes the queue and adds it to the loop. 0 or -errno. */
int messages_init(struct messages *m, uint32_t self, struct loop *loop, struct counters *counters);
/* Discards the waiting messages and closes their sockets. */
void messages_free(struct messages *m);

/* Sends a frame to another shard, with the next messages_flush(). tcp: the frame has the larger room of TCP. */
void messages_send_frame(struct messages *m, uint32_t to, const struct link_frame *f, bool reassembled, bool tcp);
/* Has shard 0 put a frame, with the header of the link, into a queue of the guest's. False: no room or no memory. */
bool messages_send_to_guest(struct messages *m, const struct iovec *from, int pieces);
/* Sends the frames of the batch. Frames without room are dropped, as on any link, and counted. */
void messages_flush(struct messages *m);
/* Takes over the socket of an accepted client. */
void messages_send_client(struct messages *m, uint32_t to, const struct client_message *client);
/* Takes over two sockets to splice. False: no room or no memory; the sockets stay the caller's. */
bool messages_send_splice(struct messages *m, uint32_t to, const struct splice_message *sockets);
/* Sends a log line to shard 0, from where Python gets it. False: no room or no memory. */
bool messages_send_line(struct messages *m, const struct log_line *line);
/* Tells shard 0 that this shard's queue of the tap has ended. */
void messages_send_end(struct messages *m, int error);
/* Asks a shard for the piece of its list of flows that begins at `from`. False: no memory. */
bool messages_ask_list(struct messages *m, uint32_t to, uint32_t from);
/* Makes shard 0 look at this shard's events, or at the list that it has made. */
void messages_wake_reader(struct messages *m);

/* The next message for this shard, or NULL. The caller frees it. */
struct message *messages_next(struct messages *m);

#endif
