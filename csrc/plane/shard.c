/* Purpose: the turn of one thread of the data plane. Its order is always:
 *
 *   1. the events of the last wait, one by one; the tap gives a bounded batch of frames per event;
 *   2. what is new of the host, and the messages of other shards;
 *   3. acknowledgements, windows and data that steps 1 and 2 made necessary;
 *   4. the timers, after all input: if the process was stopped, an answer that came meanwhile counts before its timeout;
 *   5. the wait for the next events.
 *
 * How: shard_turn() handles one event, or does steps 2 to 4 if no event is left. It returns what the caller has to do. The caller
 * can stop between any two of these and continue later.
 *
 * Invariants: other threads touch only a shard's message queue and the counters that threads.c publishes.
 *
 * Rejected: one loop with a thread for each system call: a hand-over per frame. Flow tables with locks.
 */
#include "plane/shard.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

#include "plane_api.h"

#define PUNT_RATE_PER_S 1000 /* a flood of slow-path frames must not stall the shard */
#define PUNT_BURST 100
#define TCP_LIMIT 65536
#define UDP_LIMIT 32768
#define ICMP_LIMIT 1024
#define SPLICE_LIMIT 65536

/* --- life --- */

static int init_protocols(struct shard *s, const struct plane_config *c)
{
	struct sock_options sock = host_state_sock(c);
	struct siphash_key key;
	int rc;

	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	rc = tcp_init(&s->tcp, TCP_LIMIT, &sock, &key, !(c->flags & PLANE_NO_PEEK_OFF));
	s->tcp.sack = c->flags & PLANE_LOSSY;
	if (!rc && c->rate_out)
		rc = tcp_keep_rate(&s->tcp);
	if (!rc)
		rc = udp_init(&s->udp, UDP_LIMIT, &sock, &key);
	if (!rc)
		rc = icmp_init(&s->icmp, ICMP_LIMIT, &sock, &key);
	if (!rc)
		rc = splice_init(&s->splice, SPLICE_LIMIT, &key);
	return rc;
}

/* Size of the virtio header before each frame on the tap. */
static uint8_t header_bytes(uint32_t flags)
{
	if (!(flags & PLANE_VNET_HDR))
		return 0;
	return flags & PLANE_TUNNELS ? sizeof(struct vnet_hdr_tunnel) : sizeof(struct vnet_hdr);
}

static const struct link_kind *link_kind(uint32_t flags)
{
	if (flags & PLANE_VHOST_USER)
		return &link_vhost_user;
	return flags & PLANE_STREAM ? &link_stream : flags & PLANE_VNET_HDR ? &link_tap : &link_datagram;
}

int shard_init(struct shard *s, const struct plane_config *c, int tap_fd, uint32_t index)
{
	int rc;

	s->index = s->events.shard = index;
	s->log.level = c->log_level;
	s->loop.epoll_fd = -1;
	s->messages.queue.fd = -1;
	host_state_mapping(&s->mapping, c);
	s->io = (struct io){.link = &s->link,
			    .loop = &s->loop,
			    .log = &s->log,
			    .counters = &s->counters,
			    .events = &s->events,
			    .answers = &s->udp.answers,
			    .mapping = &s->mapping,
			    .mtu = c->mtu,
			    .link_mtu = c->link_mtu,
			    .scratch = s->scratch,
			    .may_wait = c->flags & PLANE_SERVES_DNS, /* then Python asks */
			    .descriptors = descriptors_now()};
	s->demux = (struct demux){.flags = c->flags,
				  .self = index,
				  .gateway4 = s->mapping.gateway[0],
				  .io = &s->io,
				  .mapping = &s->mapping,
				  .tcp = &s->tcp,
				  .udp = &s->udp,
				  .icmp = &s->icmp};
	rc = loop_init(&s->loop);
	if (!rc)
		rc = link_init(&s->link, &s->loop, link_kind(c->flags), tap_fd, header_bytes(c->flags), c->flags & PLANE_USO,
			       &s->counters);
	if (!rc)
		rc = init_protocols(s, c);
	memcpy(s->link.neighbours.last, c->guest_mac, ETH_ALEN);
	memcpy(s->link.our_mac, c->our_mac, ETH_ALEN);
	return rc;
}

static bool hand_over(struct link *l, const struct iovec *from, int pieces)
{
	struct shard *s = (struct shard *)(void *)((uint8_t *)l - offsetof(struct shard, link));

	return messages_send_to_guest(&s->messages, from, pieces);
}

int shard_join_link(struct shard *s, struct shard *first)
{
	s->link.hand_over = hand_over;
	return first->link.kind->join ? link_join(&s->link, &first->link) : 0;
}

int shard_join(struct shard *s, const struct flow_steering *steering)
{
	tcp_share(&s->tcp, steering);
	splice_share(&s->splice, steering->shards);
	return messages_init(&s->messages, s->index, &s->loop, &s->counters);
}

void shard_free(struct shard *s)
{
	messages_free(&s->messages);
	icmp_free(&s->icmp);
	udp_free(&s->udp);
	tcp_free(&s->tcp);
	reassembly_free(&s->demux.reassembly);
	link_free(&s->link);
	loop_free(&s->loop);
	splice_free(&s->splice);
	mapping_free(&s->mapping);
	event_ring_free(&s->events);
	flow_list_free(&s->list);
	held_frames_free(&s->held);
}

/* --- frames of the guest --- */

/* Leaves a frame for Python. udp_at: where the UDP header of a DNS query is; 0: the frame is no DNS query. DNS queries have no limit
 * here: Python limits them by name. */
static void punt(struct shard *s, const struct link_frame *f, uint32_t udp_at)
{
	struct slow_path *slow = &s->slow;

	if (f->len > PUNT_MAX_BYTES || (!udp_at && !flood_limit_take(&slow->rate, s->loop.now_ms, PUNT_RATE_PER_S, PUNT_BURST))) {
		COUNT(&s->counters, punt_dropped);
		return;
	}
	memcpy(slow->frame, f->data, f->len);
	slow->len = f->len;
	slow->udp_at = udp_at;
	COUNT(&s->counters, punt_frames);
}

static void share_learned(struct shard *s)
{
	struct demux *d = &s->demux;

	if (d->learned & (DEMUX_LEARNED_MAC | DEMUX_LEARNED_NEIGHBOUR))
		link_state_learn_neighbour(s->link_state, &s->link.neighbours,
					   d->learned & DEMUX_LEARNED_NEIGHBOUR ? &d->source : NULL);
	if (d->learned & DEMUX_LEARNED_ADDRESS)
		link_state_learn_address(s->link_state, &d->source);
	d->learned = 0;
}

/* Keeps a frame until a name has been asked again. Wakes shard 0, which tells Python the question. */
static void hold(struct shard *s, const struct link_frame *f)
{
	held_frames_add(&s->held, f);
	s->io.may_wait = !held_frames_full(&s->held);
	if (s->index)
		messages_wake_reader(&s->messages);
}

static void act_on(struct shard *s, enum demux_verdict verdict)
{
	struct demux *d = &s->demux;

	if (UNLIKELY(d->learned))
		share_learned(s);
	if (verdict == DEMUX_SLOW_PATH)
		punt(s, &d->frame, 0);
	else if (verdict == DEMUX_DNS)
		punt(s, &d->frame, d->udp_at);
	else if (verdict == DEMUX_WAITS)
		hold(s, &d->frame);
	else if (verdict == DEMUX_OTHER_SHARD)
		messages_send_frame(&s->messages, d->to_shard, &d->frame, d->reassembled, d->is_tcp);
}

/* Reads a batch of frames. */
static void read_tap(struct shard *s)
{
	uint32_t bytes = 0;

	s->link.drained = false;
	for (int count = 0; count < SCHED_TAP_FRAMES && bytes < SCHED_TAP_BYTES && !s->slow.len && !s->link.drained; count++) {
		struct link_frame frame;
		int rc = link_read(&s->link, &frame);

		if (rc && rc != -EBADMSG) {
			if (rc != -EAGAIN)
				s->end = -rc;
			break;
		}
		if (!rc) {
			bytes += frame.len;
			act_on(s, demux_frame(&s->demux, &frame));
		}
	}
}

/* Logs what the guest's machine did wrong, once. */
static void tell_fault(struct shard *s)
{
	if (LIKELY(!s->link.fault))
		return;
	log_add(&s->log, LOG_LEVEL_WARNING, "vhost-user: the guest's machine gave us %s: %s", s->link.fault,
		s->end ? "it is disconnected" : "it has no network until it starts its device again");
	s->link.fault = NULL;
}

static void handle_tap(struct shard *s)
{
	read_tap(s);
	udp_flush(&s->udp, &s->io);
	messages_flush(&s->messages);
}

static void tap_event(struct shard *s, uint32_t which, uint32_t events)
{
	int rc = link_event(&s->link, which);

	if (rc)
		s->end = -rc;
	if (events & EPOLLOUT)
		link_flush(&s->link);
	if (!rc && events & ~(uint32_t)EPOLLOUT)
		handle_tap(s);
	tell_fault(s);
}

/* --- messages of other shards --- */

static void handle_frame(struct shard *s, struct message *message)
{
	struct frame_message head;

	memcpy(&head, message->data, sizeof(head));
	head.frame.data = message->data + sizeof(head);
	act_on(s, head.reassembled ? demux_reassembled(&s->demux, &head.frame) : demux_frame(&s->demux, &head.frame));
}

static void handle(struct shard *s, struct message *message)
{
	struct client_message client;
	struct splice_message sockets;

	switch ((enum message_kind)message->kind) {
	case MESSAGE_FRAME:
		handle_frame(s, message);
		break;
	case MESSAGE_CLIENT:
		memcpy(&client, message->data, sizeof(client));
		tcp_accepted(&s->tcp, &s->io, client.fd, &client.peer, &client.target);
		break;
	case MESSAGE_SPLICE:
		memcpy(&sockets, message->data, sizeof(sockets));
		splice_join(&s->splice, &s->io, sockets.accepted, sockets.connecting, &sockets.ends, sockets.from_host);
		break;
	case MESSAGE_LINE:
		log_add(&s->log, (enum log_level)message->detail, "%s", (const char *)message->data);
		break;
	case MESSAGE_END:
		s->end = (int)message->detail;
		break;
	case MESSAGE_TO_GUEST:
		link_put(&s->link, message->data, message->len);
		break;
	case MESSAGE_LIST:
		shard_list(s, message->detail);
		messages_wake_reader(&s->messages);
		break;
	}
}

/* Stops at a frame for the slow path: there is room for one. */
static void handle_messages(struct shard *s)
{
	uint64_t before = s->messages.handled;
	struct message *message;

	while (!s->slow.len && (message = messages_next(&s->messages))) {
		handle(s, message);
		free(message);
	}
	if (s->messages.handled == before)
		return;
	udp_flush(&s->udp, &s->io);
	messages_flush(&s->messages); /* a reassembled TCP segment can belong to another shard */
}

void shard_list(struct shard *s, uint32_t from)
{
	const struct flow_tables tables = {.shard = s->index,
					   .of = {[FLOW_TCP] = {&s->tcp.flows, tcp_describe_open},
						  [FLOW_UDP] = {&s->udp.flows, udp_describe},
						  [FLOW_PING] = {&s->icmp.flows, icmp_describe},
						  [FLOW_SPLICE_TCP] = {&s->splice.flows, splice_describe},
						  [FLOW_SPLICE_UDP] = {&s->udp.splices, udp_splice_describe}}};

	flow_list_fill(&s->list, &tables, s->loop.now_ms, from);
	atomic_store(&s->listed, true);
}

void shard_report(struct shard *s)
{
	const struct log_line *line;
	bool events = event_waiting(&s->events);

	if (events && !s->events_told)
		messages_wake_reader(&s->messages);
	s->events_told = events;
	while (log_take(&s->log, &line))
		s->log.lost += !messages_send_line(&s->messages, line);
	if (!s->end || s->end_sent)
		return;
	loop_remove(&s->loop, s->link.fd); /* a closed tap is always ready */
	s->end_sent = true;
	messages_send_end(&s->messages, s->end);
}

/* --- changes of the host --- */

/* Copies what is new about the host. Called between two turns, when no batch is under way. Without memory it is tried again at the
 * next turn. */
static void follow_host(struct shard *s)
{
	struct host_state *h = s->host_state;
	struct addr_list gone = {0};
	struct address_mapping next;
	int rc;

	pthread_mutex_lock(&h->lock);
	rc = mapping_copy(&next, &h->mapping);
	if (!rc)
		rc = addr_list_copy(&gone, &h->gone);
	if (!rc) {
		s->host_known = atomic_load_explicit(&h->changes, memory_order_relaxed);
		s->tcp.sock = s->udp.sock = s->icmp.sock = h->sock;
		s->demux.flags = h->flags;
		s->io.link_mtu = h->link_mtu;
	}
	pthread_mutex_unlock(&h->lock);
	if (rc) {
		mapping_free(&next);
		return;
	}
	memcpy(next.guest_seen, s->mapping.guest_seen, sizeof(next.guest_seen));
	mapping_free(&s->mapping);
	s->mapping = next;
	s->demux.gateway4 = next.gateway[0];
	if (gone.count) {
		tcp_end_bound(&s->tcp, &s->io, &gone);
		udp_end_bound(&s->udp, &s->io, &gone);
		icmp_end_bound(&s->icmp, &s->io, &gone);
	}
	addr_list_free(&gone);
}

/* Judges all flows by the changed rules of the egress policy. Called between two turns, as follow_host(). */
static void judge_again(struct shard *s)
{
	struct gate_again counts = {0};

	s->rules_known = egress_changes(s->io.egress);
	tcp_judge_again(&s->tcp, &s->io, &counts);
	udp_judge_again(&s->udp, &s->io, &counts);
	icmp_judge_again(&s->icmp, &s->io, &counts);
	splice_judge_again(&s->splice, &s->io, &counts);
	egress_judged(s->io.egress, s->rules_known, counts.kept, counts.ended);
}

/* Some names have been asked again: handles the frames that wait. A frame whose name has no answer yet waits again. */
static void let_go_on(struct shard *s)
{
	struct held_frame *held;

	s->answers_known = egress_answers(s->io.egress);
	for (uint32_t left = s->held.count; left && (held = held_frames_take(&s->held)); left--) {
		s->io.may_wait = true;
		act_on(s, demux_frame(&s->demux, &held->frame));
		free(held);
	}
	udp_flush(&s->udp, &s->io);
}

/* --- a turn --- */

static enum shard_step dispatch(struct shard *s, const struct epoll_event *e, struct plane_event *event)
{
	uint32_t index = loop_tag_index(e->data.u64), generation = loop_tag_generation(e->data.u64);

	switch (loop_tag_owner(e->data.u64)) {
	case OWNER_TAP:
		tap_event(s, index, e->events);
		break;
	case OWNER_WATCH:
		*event = (struct plane_event){.kind = PLANE_WATCH, .id = index};
		return SHARD_EVENT;
	case OWNER_MESSAGES:
		break; /* only ends the wait: shard_turn() reads the messages */
	case OWNER_LISTENER:
		*event = (struct plane_event){.kind = e->events, .id = index, .len = generation};
		return SHARD_LISTENER;
	case OWNER_SPLICE_ACCEPTED:
		splice_event(&s->splice, &s->io, index, generation, 0, e->events);
		break;
	case OWNER_SPLICE_CONNECTED:
		splice_event(&s->splice, &s->io, index, generation, 1, e->events);
		break;
	case OWNER_TCP:
		tcp_event(&s->tcp, &s->io, index, generation, e->events);
		break;
	case OWNER_UDP:
		udp_event(&s->udp, &s->io, index, generation, e->events);
		break;
	case OWNER_UDP_SPLICE:
		udp_splice_event(&s->udp, &s->io, index, generation);
		break;
	case OWNER_ICMP:
		icmp_event(&s->icmp, &s->io, index, generation, e->events);
		break;
	}
	return SHARD_BUSY;
}

enum shard_step shard_turn(struct shard *s, struct plane_event *event)
{
	const struct epoll_event *e = loop_next(&s->loop);

	if (e)
		return dispatch(s, e, event);
	if (UNLIKELY(atomic_load_explicit(&s->host_state->changes, memory_order_relaxed) != s->host_known))
		follow_host(s);
	if (UNLIKELY(s->io.egress) && egress_changes(s->io.egress) != s->rules_known)
		judge_again(s);
	if (UNLIKELY(s->held.count) && egress_answers(s->io.egress) != s->answers_known)
		let_go_on(s);
	link_state_refresh(s->link_state, &s->link_known, &s->mapping, &s->link.neighbours);
	if (s->link.buffered)
		handle_tap(s);
	handle_messages(s); /* after the events: between them, a flood of messages would delay each event */
	s->more = tcp_service(&s->tcp, &s->io);
	s->more |= splice_service(&s->splice, &s->io);
	tcp_timers(&s->tcp, &s->io);
	udp_timers(&s->udp, &s->io);
	icmp_timers(&s->icmp, &s->io);
	return SHARD_IDLE;
}

/* Sends what was kept for the guest, before the thread sleeps. If the link is blocked, the loop reports when it takes more. */
static void flush(struct shard *s)
{
	bool wanted;

	link_flush(&s->link);
	wanted = s->link.blocked && s->link.fd >= 0 && !s->link.kind->event; /* a link with events of its own reports this itself */
	if (LIKELY(wanted == s->out_wanted))
		return;
	s->out_wanted = wanted;
	loop_modify(&s->loop, s->link.fd, EPOLLIN | (wanted ? EPOLLOUT : 0), loop_tag(OWNER_TAP, 0, 0));
}

int shard_wait(struct shard *s, int64_t until_ms)
{
	bool work, blocked = s->link.blocked;
	int rc;

	flush(s);
	tell_fault(s);
	work = blocked && !s->link.blocked; /* flows have waited until the link takes more */
	work = work || s->more || s->log.count || (s->link.buffered && !s->slow.len);
	link_leave(&s->link);
	rc = loop_wait(&s->loop, work ? s->loop.now_ms : until_ms, udp_next_us(&s->udp));
	link_enter(&s->link);
	return rc;
}

/* --- a peer that comes and goes --- */

int shard_attach(struct shard *s, int fd)
{
	int rc = link_attach(&s->link, fd);

	if (!rc)
		rc = loop_add(&s->loop, fd, EPOLLIN, loop_tag(OWNER_TAP, 0, 0));
	if (rc && rc != -EBUSY && rc != -EOPNOTSUPP)
		link_detach(&s->link);
	s->out_wanted = false;
	return rc;
}

void shard_detach(struct shard *s)
{
	if (s->link.fd < 0 || !s->link.kind->attach)
		return;
	loop_remove(&s->loop, s->link.fd);
	link_detach(&s->link);
	s->end = 0;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t shard_next_ms(const struct shard *s)
{
	return earlier(tcp_next_ms(&s->tcp), earlier(udp_next_ms(&s->udp), icmp_next_ms(&s->icmp)));
}

bool shard_drain(struct shard *s)
{
	uint64_t before = s->counters.v[CTR_tap_rx_frames] + s->messages.handled;
	bool more;

	s->io.rate_in = s->io.rate_out = NULL; /* what waits because of a rate leaves now */
	s->slow.len = 0;
	handle_messages(s);
	s->slow.len = 0;
	if (!s->end && s->link.fd >= 0)
		read_tap(s);
	udp_flush(&s->udp, &s->io);
	messages_flush(&s->messages);
	tcp_service(&s->tcp, &s->io);
	more = splice_drain(&s->splice, &s->io);
	return more || s->counters.v[CTR_tap_rx_frames] + s->messages.handled != before;
}
