/* Purpose: sends messages from one shard to another.
 *
 * How: every queue is bounded. Other protocols have half of TCP's room, so that a flood of theirs cannot push out TCP. Frames leave
 * once per batch: this wakes the receiver once. The receiver handles messages in shard.c.
 *
 * Invariants: a message owns the sockets in it: they are closed with it. A sender never waits for a receiver.
 */
#include "plane/messages.h"

#include <stdlib.h>
#include <string.h>

#include "io/sock.h"

#define FRAMES_MAX 512
#define FRAMES_MAX_BYTES (1u << 20)
#define SOCKETS_MAX 8192 /* more than shard 0 accepts in one turn */
#define LINES_MAX 1024

int messages_init(struct messages *m, uint32_t self, struct loop *loop, struct counters *counters)
{
	int rc = message_queue_init(&m->queue);

	m->self = self;
	m->counters = counters;
	if (!rc)
		rc = loop_add(loop, m->queue.fd, EPOLLIN | EPOLLET, loop_tag(OWNER_MESSAGES, 0, 0));
	return rc;
}

static void discard(struct message *list)
{
	while (list) {
		struct message *next = list->next;
		struct client_message client;
		struct splice_message sockets;

		if (list->kind == MESSAGE_CLIENT) {
			memcpy(&client, list->data, sizeof(client));
			sock_close(client.fd, true);
		} else if (list->kind == MESSAGE_SPLICE) {
			memcpy(&sockets, list->data, sizeof(sockets));
			sock_close(sockets.accepted, true);
			sock_close(sockets.connecting, true);
		}
		free(list);
		list = next;
	}
}

void messages_free(struct messages *m)
{
	discard(m->inbox);
	m->inbox = NULL;
	discard(message_queue_take(&m->queue));
	message_queue_free(&m->queue);
}

/* Sends one message with `data`. False: there is no room or no memory. */
static bool put(struct messages *m, uint32_t to, struct message *message, const void *data, uint32_t max_count)
{
	if (!message)
		return false;
	memcpy(message->data, data, message->len);
	message->max_count = max_count;
	if (!message_queue_put(&m->shard[to]->queue, message))
		return true;
	free(message);
	return false;
}

void messages_send_frame(struct messages *m, uint32_t to, const struct link_frame *f, bool reassembled, bool tcp)
{
	struct frame_message head = {*f, reassembled};
	struct message *message = message_new(MESSAGE_FRAME, 0, (uint32_t)sizeof(head) + f->len);
	struct outbox *out = &m->outbox[to];

	if (!message) {
		COUNT(m->counters, shard_dropped);
		return;
	}
	message->max_count = tcp ? FRAMES_MAX : FRAMES_MAX / 2;
	message->max_bytes = tcp ? FRAMES_MAX_BYTES : FRAMES_MAX_BYTES / 2;
	memcpy(message->data, &head, sizeof(head));
	memcpy(message->data + sizeof(head), f->data, f->len);
	if (out->head)
		out->last->next = message;
	else
		out->head = message;
	out->last = message;
	m->outbox_bits |= 1u << to;
	COUNT(m->counters, shard_frames);
}

bool messages_send_to_guest(struct messages *m, const struct iovec *from, int pieces)
{
	struct message *message;
	uint32_t bytes = 0, at = 0;

	for (int i = 0; i < pieces; i++)
		bytes += (uint32_t)from[i].iov_len;
	message = message_new(MESSAGE_TO_GUEST, 0, bytes);
	if (!message)
		return false;
	message->max_count = FRAMES_MAX;
	message->max_bytes = FRAMES_MAX_BYTES;
	for (int i = 0; i < pieces; i++) {
		if (from[i].iov_len) /* an empty piece has no address */
			memcpy(message->data + at, from[i].iov_base, from[i].iov_len);
		at += (uint32_t)from[i].iov_len;
	}
	if (!message_queue_put(&m->shard[0]->queue, message))
		return true;
	free(message);
	return false;
}

void messages_flush(struct messages *m)
{
	for (uint32_t to = 0; m->outbox_bits >> to; to++) {
		struct message *refused = NULL;

		if (m->outbox[to].head)
			refused = message_queue_put(&m->shard[to]->queue, m->outbox[to].head);
		m->outbox[to].head = NULL;
		for (struct message *r = refused; r; r = r->next) {
			COUNT_SUB(m->counters, shard_frames, 1);
			COUNT(m->counters, shard_dropped);
		}
		discard(refused);
	}
	m->outbox_bits = 0;
}

static bool send_sockets(struct messages *m, uint32_t to, enum message_kind kind, const void *data, uint32_t len)
{
	bool sent = put(m, to, message_new(kind, 0, len), data, SOCKETS_MAX);

	if (sent)
		COUNT(m->counters, shard_sockets);
	else
		COUNT(m->counters, shard_dropped);
	return sent;
}

void messages_send_client(struct messages *m, uint32_t to, const struct client_message *client)
{
	if (!send_sockets(m, to, MESSAGE_CLIENT, client, sizeof(*client)))
		sock_close(client->fd, true);
}

bool messages_send_splice(struct messages *m, uint32_t to, const struct splice_message *sockets)
{
	return send_sockets(m, to, MESSAGE_SPLICE, sockets, sizeof(*sockets));
}

bool messages_send_line(struct messages *m, const struct log_line *line)
{
	char text[LOG_LINE_BYTES + 1] = "";

	memcpy(text, line->text, line->len);
	return put(m, 0, message_new(MESSAGE_LINE, line->level, line->len + 1), text, LINES_MAX);
}

void messages_send_end(struct messages *m, int error)
{
	/* Without memory the message is lost. That does no harm: shard 0's own queue of the tap ends too. */
	(void)put(m, 0, message_new(MESSAGE_END, (uint32_t)error, 0), "", UINT32_MAX);
}

bool messages_ask_list(struct messages *m, uint32_t to, uint32_t from)
{
	return put(m, to, message_new(MESSAGE_LIST, from, 0), "", UINT32_MAX);
}

void messages_wake_reader(struct messages *m)
{
	message_queue_wake(&m->shard[0]->queue);
}

struct message *messages_next(struct messages *m)
{
	struct message *message;

	if (!m->inbox)
		m->inbox = message_queue_take(&m->queue);
	message = m->inbox;
	if (message) {
		m->inbox = message->next;
		m->handled++;
	}
	return message;
}
