/* Owns what shards leave in each other's message queues, and what becomes of it (shard.c has the whole picture).
 *
 *   frames      to the shard whose flow they belong to; to the first, what has only one place. Without room they are lost, as on
 *               any link, and counted: what a flood leaves no room for must not be TCP, so the rest has half of it
 *   clients     accepted by the first shard, to the one that their endpoints name
 *   pairs       of sockets to be joined, in turn
 *   log lines   and the end of a queue, to the first shard, which Python asks for them
 *
 * What all shards must know, but none has to answer - where the guest is - is kept in one place with a lock, and a number that
 * says when it has changed.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "plane/plane.h"

#define FRAMES_MAX 512
#define FRAMES_MAX_BYTES (1u << 20)
#define SOCKETS_MAX 8192 /* more than one turn of the first shard accepts */
#define LINES_MAX 1024

enum message_kind { MESSAGE_FRAME, MESSAGE_CLIENT, MESSAGE_SPLICE, MESSAGE_LINE, MESSAGE_END };

struct frame_message {
	struct tap_frame frame; /* its data follow */
	bool reassembled_here;
};

struct client_message {
	int fd;
	struct endpoint peer, target;
};

struct splice_message {
	int accepted, connecting;
};

void message_discard(struct message *message)
{
	struct client_message client;
	struct splice_message pair;

	if (message->kind == MESSAGE_CLIENT) {
		memcpy(&client, message->data, sizeof(client));
		sock_close(client.fd, true);
	} else if (message->kind == MESSAGE_SPLICE) {
		memcpy(&pair, message->data, sizeof(pair));
		sock_close(pair.accepted, true);
		sock_close(pair.connecting, true);
	}
	free(message);
}

/* --- to others --- */

static struct message_queue *box_of(struct plane *p, uint32_t shard)
{
	return &p->shard->all->at[shard]->shard->box;
}

/* Takes message over; false: nobody will see it, and it has been freed. */
static bool put(struct plane *p, uint32_t to, struct message *message, uint32_t max_count)
{
	if (message) {
		message->max_count = max_count;
		if (!message_queue_put(box_of(p, to), message)) {
			COUNT(&p->counters, shard_sockets);
			return true;
		}
	}
	COUNT(&p->counters, shard_dropped);
	free(message);
	return false;
}

void shard_send_frame(struct plane *p, uint32_t to, const struct tap_frame *f, bool reassembled_here, bool first_class)
{
	struct frame_message head = {*f, reassembled_here};
	struct message *message = message_new(MESSAGE_FRAME, 0, (uint32_t)sizeof(head) + f->len);
	struct outbox *out = &p->shard->out[to];

	if (!message) {
		COUNT(&p->counters, shard_dropped);
		return;
	}
	message->max_count = first_class ? FRAMES_MAX : FRAMES_MAX / 2;
	message->max_bytes = first_class ? FRAMES_MAX_BYTES : FRAMES_MAX_BYTES / 2;
	memcpy(message->data, &head, sizeof(head));
	memcpy(message->data + sizeof(head), f->data, f->len);
	if (out->head)
		out->last->next = message;
	else
		out->head = message;
	out->last = message;
	p->shard->out_to |= 1u << to;
	COUNT(&p->counters, shard_frames);
}

void shard_flush(struct plane *p)
{
	struct shard *l = p->shard;

	for (uint32_t to = 0; l->out_to >> to; to++) {
		struct message *refused = NULL;

		if (l->out[to].head)
			refused = message_queue_put(box_of(p, to), l->out[to].head);
		l->out[to].head = NULL;
		while (refused) {
			struct message *next = refused->next;

			COUNT_SUB(&p->counters, shard_frames, 1);
			COUNT(&p->counters, shard_dropped);
			free(refused);
			refused = next;
		}
	}
	l->out_to = 0;
}

bool shard_send_client(struct plane *p, int fd, const struct endpoint *peer, const struct endpoint *target)
{
	struct client_message client = {fd, *peer, *target};
	struct flow_key key;
	struct message *message;
	uint32_t to;

	if (!tcp_client_key(&p->io, peer, target, &key))
		return false;
	to = steering_shard(&p->tcp.steering, &key);
	if (to == p->shard->index)
		return false;
	client.target.addr = key.guest;
	message = message_new(MESSAGE_CLIENT, 0, sizeof(client));
	if (message)
		memcpy(message->data, &client, sizeof(client));
	if (!put(p, to, message, SOCKETS_MAX))
		sock_close(fd, true);
	return true;
}

bool shard_send_splice(struct plane *p, int accepted, int connecting)
{
	struct splice_message pair = {accepted, connecting};
	struct shards *all = p->shard->all;
	uint32_t to = all->next_splice_shard++ % all->count;
	struct message *message;

	if (to == p->shard->index)
		return false;
	message = message_new(MESSAGE_SPLICE, 0, sizeof(pair));
	if (message)
		memcpy(message->data, &pair, sizeof(pair));
	return put(p, to, message, SOCKETS_MAX);
}

/* One line each: Python will ask for them here no more than it can write. */
static void report_line(struct plane *p, const struct log_line *line)
{
	struct message *message = message_new(MESSAGE_LINE, line->level, line->len + 1);

	if (message) {
		memcpy(message->data, line->text, line->len);
		message->data[line->len] = '\0';
		message->max_count = LINES_MAX;
		if (!message_queue_put(box_of(p, 0), message))
			return;
		free(message);
	}
	p->log.lost++;
}

void shard_report(struct plane *p)
{
	const struct log_line *line;
	struct message *message;

	while (log_take(&p->log, &line))
		report_line(p, line);
	if (!p->end || p->shard->end_told)
		return;
	loop_remove(&p->loop, p->tap.fd); /* it would be ready for ever */
	p->shard->end_told = true;
	message = message_new(MESSAGE_END, (uint32_t)p->end, 0); /* without memory: the first shard's own queue ends as well */
	if (message)
		message_queue_put(box_of(p, 0), message);
}

/* --- from others --- */

static void open_frame(struct plane *p, struct message *message)
{
	struct frame_message head;

	memcpy(&head, message->data, sizeof(head));
	head.frame.data = message->data + sizeof(head);
	demux_handed(p, &head.frame, head.reassembled_here);
}

static void open_mail(struct plane *p, struct message *message)
{
	struct client_message client;
	struct splice_message pair;

	switch ((enum message_kind)message->kind) {
	case MESSAGE_FRAME:
		open_frame(p, message);
		break;
	case MESSAGE_CLIENT:
		memcpy(&client, message->data, sizeof(client));
		tcp_accepted(&p->tcp, &p->io, client.fd, &client.peer, &client.target);
		break;
	case MESSAGE_SPLICE:
		memcpy(&pair, message->data, sizeof(pair));
		splice_join(&p->splice, &p->io, pair.accepted, pair.connecting);
		break;
	case MESSAGE_LINE:
		log_add(&p->log, (enum log_level)message->detail, "%s", (const char *)message->data);
		break;
	case MESSAGE_END:
		p->end = (int)message->detail;
		break;
	}
	p->shard->opened++;
}

static void refresh(struct plane *p)
{
	struct shards *all = p->shard->all;

	pthread_mutex_lock(&all->lock);
	p->shard->known = atomic_load_explicit(&all->changes, memory_order_relaxed);
	memcpy(p->policy.guest_seen, all->guest_seen, sizeof(all->guest_seen));
	p->tap.neighbours = all->neighbours;
	pthread_mutex_unlock(&all->lock);
}

void shard_attend(struct plane *p)
{
	struct shard *l = p->shard;

	if (UNLIKELY(atomic_load_explicit(&l->all->changes, memory_order_relaxed) != l->known))
		refresh(p);
	if (!l->inbox)
		l->inbox = message_queue_take(&l->box);
	if (!l->inbox)
		return;
	while (l->inbox && !p->punt_len) {
		struct message *message = l->inbox;

		l->inbox = message->next;
		open_mail(p, message);
		free(message);
	}
	udp_flush(&p->udp, &p->io);
	shard_flush(p); /* fragments that have become a segment */
}

/* --- what all know --- */

void shard_tell_neighbour(struct plane *p, const struct addr *from)
{
	struct shards *all = p->shard->all;

	pthread_mutex_lock(&all->lock);
	neighbour_learn_mac(&all->neighbours, p->tap.neighbours.last);
	if (from)
		neighbour_learn_addr(&all->neighbours, from);
	atomic_fetch_add_explicit(&all->changes, 1, memory_order_relaxed);
	pthread_mutex_unlock(&all->lock);
}

void shard_tell_address(struct plane *p, const struct addr *seen)
{
	struct shards *all = p->shard->all;

	pthread_mutex_lock(&all->lock);
	all->guest_seen[policy_seen_index(seen)] = *seen;
	atomic_fetch_add_explicit(&all->changes, 1, memory_order_relaxed);
	pthread_mutex_unlock(&all->lock);
}
