/* Purpose: the functions of plane_api.h that take a plane.
 *
 * How: plane_run() first returns what waits for Python: a log line, a frame for the slow path, the end, a tick. Otherwise shard 0
 * has its turn. plane_run() can return between any two steps. The next call continues there.
 */
#include <errno.h>
#include <stdlib.h>

#include "io/sink.h"
#include "plane/plane.h"

static void release(struct plane *p)
{
	struct detours *detours = p->shard[0]->io.detours;
	struct egress *egress = p->shard[0]->io.egress;

	if (p->captures.file)
		capture_stop(p->captures.file, NULL);
	captures_free(&p->captures);
	for (uint32_t i = 0; i < p->shard_count; i++) {
		shard_free(p->shard[i]);
		free(p->shard[i]);
	}
	detours_free(detours);
	egress_free(egress);
	free(p->listeners.at);
	helper_free(&p->helper);
	link_state_free(&p->link_state);
	host_state_free(&p->host_state);
	pthread_cond_destroy(&p->started);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int plane_new(const struct plane_config *config, struct plane **out)
{
	struct plane *p = calloc(1, sizeof(*p));
	struct shard *s = calloc(1, sizeof(*s));
	int rc;

	if (!p || !s) {
		free(p);
		free(s);
		return -ENOMEM;
	}
	p->config = *config;
	p->shard[0] = s;
	p->shard_count = 1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->started, NULL);
	helper_init(&p->helper, -1);
	captures_init(&p->captures);
	s->link_state = &p->link_state;
	s->host_state = &p->host_state;
	host_state_init(&p->host_state);
	p->rate_in.bytes_per_s = config->rate_in;
	p->rate_out.bytes_per_s = config->rate_out;
	rc = shard_init(s, config, config->tap_fd, 0);
	plane_add_rates(p, s);
	link_state_init(&p->link_state, &s->mapping, &s->link.neighbours);
	p->listeners = (struct listeners){.flags = config->flags,
					  .io = &s->io,
					  .tcp = &s->tcp,
					  .splice = &s->splice,
					  .helper = &p->helper,
					  .messages = &s->messages};
	if (!rc && config->tap_fd >= 0)
		rc = loop_add(&s->loop, config->tap_fd, EPOLLIN, loop_tag(OWNER_TAP, 0, 0));
	if (rc) {
		release(p);
		return rc;
	}
	*out = p;
	return 0;
}

void plane_add_rates(struct plane *p, struct shard *s)
{
	s->io.rate_in = p->rate_in.bytes_per_s ? &p->rate_in : NULL;
	s->io.rate_out = p->rate_out.bytes_per_s ? &p->rate_out : NULL;
}

void plane_finish(struct plane *p)
{
	threads_stop(p);
	threads_drain(p);
	p->finished = true;
}

void plane_free(struct plane *p)
{
	if (!p)
		return;
	plane_finish(p);
	release(p);
}

/* --- what is added --- */

static int add_addr(struct plane *p, struct addr_list *l, const uint8_t addr[16])
{
	struct addr a = addr_from_v6(addr);

	return p->shard_count > 1 ? -EBUSY : addr_list_add(l, &a);
}

int plane_add_guest_addr(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->shard[0]->mapping.guest_addrs, addr);
}

int plane_add_virtual_addr(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->shard[0]->mapping.virtual_addrs, addr);
}

int plane_add_barred_source(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->shard[0]->mapping.barred_sources, addr);
}

int plane_add_listeners(struct plane *p, int proto, const int fds[], uint32_t count, int to_host, const uint8_t target[16],
			uint16_t target_port)
{
	struct listener l = {.fd = -1, .count = 1, .to_host = to_host, .target = {addr_from_v6(target), target_port}};
	struct shard *s = p->shard[0];
	int rc = proto == IPPROTO_TCP || proto == IPPROTO_UDP ? 0 : -EPROTONOSUPPORT;

	for (uint32_t i = 0; i < count && !rc; i++) {
		l.fd = fds[i];
		rc = proto == IPPROTO_UDP ? udp_listen(&s->udp, &s->io, l.fd, to_host, &l.target) : listen_add(&p->listeners, &l);
		l.target.port++;
		s->io.descriptors.ports += !rc;
	}
	return rc;
}

int plane_remove_listener(struct plane *p, int fd)
{
	struct shard *s = p->shard[0];
	int rc = listen_remove(&p->listeners, fd);

	if (rc == -ENOENT)
		rc = udp_unlisten(&s->udp, &s->io, fd);
	s->io.descriptors.ports -= !rc;
	return rc;
}

void plane_set_helper(struct plane *p, int fd)
{
	struct udp *u = &p->shard[0]->udp;

	helper_init(&p->helper, fd);
	u->helper = &p->helper;
	u->splice = p->config.flags & PLANE_SPLICE;
	u->lo_to_lo = p->config.flags & PLANE_LO_TO_LO;
}

int plane_listen_in_guest(struct plane *p, int proto, const uint8_t addr[16], uint16_t port)
{
	struct addr a = addr_from_v6(addr);

	return helper_listen(&p->helper, proto == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM, &a, port);
}

int plane_diag_in_guest(struct plane *p)
{
	return helper_diag_socket(&p->helper);
}

int plane_log_line(int fd, const uint8_t *line, uint32_t len)
{
	return sink_write_line(fd, line, len);
}

int plane_attach(struct plane *p, int fd)
{
	return p->shard_count > 1 && !p->shard[1]->link.turns ? -EBUSY : shard_attach(p->shard[0], fd);
}

void plane_detach(struct plane *p)
{
	shard_detach(p->shard[0]);
}

int plane_watch(struct plane *p, int fd, uint32_t id)
{
	return loop_add(&p->shard[0]->loop, fd, EPOLLIN | EPOLLRDHUP, loop_tag(OWNER_WATCH, id, 0));
}

int plane_watch_connect(struct plane *p, int fd, uint32_t id)
{
	return loop_add(&p->shard[0]->loop, fd, EPOLLOUT | EPOLLONESHOT, loop_tag(OWNER_WATCH, id, 0));
}

int plane_await_room(struct plane *p, int fd, uint32_t id, int wanted)
{
	return loop_modify(&p->shard[0]->loop, fd, EPOLLIN | EPOLLRDHUP | (wanted ? EPOLLOUT : 0), loop_tag(OWNER_WATCH, id, 0));
}

int plane_unwatch(struct plane *p, int fd)
{
	return loop_remove(&p->shard[0]->loop, fd);
}

void plane_tick(struct plane *p, uint32_t interval_ms)
{
	p->tick_ms = interval_ms;
	p->next_tick_ms = p->shard[0]->loop.now_ms + interval_ms;
}

/* --- what changes --- */

int plane_follow(struct plane *p, const struct plane_config *config, const uint8_t *addrs, const uint32_t counts[4])
{
	int rc = host_state_replace(&p->host_state, config, addrs, counts);

	if (rc)
		return rc;
	for (int i = 0; i < 2; i++) {
		struct addr guest = addr_from_v6(config->family[i].guest), before = addr_from_v6(p->config.family[i].guest);

		if (!addr_eq(&guest, &before) && !addr_is_none(&guest))
			link_state_learn_address(&p->link_state, &guest);
	}
	memcpy(p->config.family, config->family, sizeof(p->config.family));
	plane_wake_shards(p);
	return 0;
}

void plane_wake_shards(struct plane *p)
{
	for (uint32_t i = 1; i < p->shard_count; i++)
		message_queue_wake(&p->shard[i]->messages.queue);
}

/* --- running --- */

static bool asks(const struct shard *s)
{
	return s->io.egress && egress_has_questions(s->io.egress);
}

static bool take_question(struct plane *p, struct plane_event *event)
{
	struct addr a;
	uint32_t len = egress_take_question(p->shard[0]->io.egress, &a, (char *)p->question + sizeof(a.b));

	memcpy(p->question, a.b, sizeof(a.b));
	*event = (struct plane_event){PLANE_ASK, 0, (uint32_t)sizeof(a.b) + len, p->question};
	return len;
}

/* Whether something waits for Python, and what. */
static bool pending(struct plane *p, struct plane_event *event)
{
	struct shard *s = p->shard[0];
	const struct log_line *line;

	if (events_pending(p, event))
		return true;
	if (log_take(&s->log, &line)) {
		*event = (struct plane_event){PLANE_LOG, line->level, line->len, (const uint8_t *)line->text};
		return true;
	}
	if (s->slow.len) {
		*event = (struct plane_event){s->slow.udp_at ? PLANE_DNS : PLANE_PUNT, s->slow.udp_at, s->slow.len, s->slow.frame};
		s->slow.len = 0;
		return true;
	}
	if (s->tcp.served.count) {
		struct tcp_served_stream *stream = &s->tcp.served.at[--s->tcp.served.count];

		*event = (struct plane_event){PLANE_DNS_STREAM, (uint32_t)stream->fd, sizeof(stream->guest), stream->guest.b};
		return true;
	}
	if (UNLIKELY(asks(s)) && take_question(p, event))
		return true;
	if (s->end) {
		*event = (struct plane_event){.kind = PLANE_END, .id = (uint32_t)s->end};
		return true;
	}
	if (p->tick_ms && p->next_tick_ms <= s->loop.now_ms) {
		p->next_tick_ms = s->loop.now_ms + p->tick_ms;
		*event = (struct plane_event){.kind = PLANE_TICK, .id = s->more || s->loop.taken < s->loop.ready};
		return true;
	}
	return false;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int wait_for_events(struct plane *p)
{
	struct shard *s = p->shard[0];
	int error = p->captures.file ? capture_error(p->captures.file) : 0;
	int64_t until = shard_next_ms(s);

	listen_timers(&p->listeners);
	if (error)
		log_add(&s->log, LOG_LEVEL_WARNING, "capture: %s", capture_error_text(error));
	if (p->tick_ms)
		until = earlier(until, p->next_tick_ms);
	events_note(p);
	if (p->events_due_ms)
		until = earlier(until, p->events_due_ms);
	if (p->listeners.resume_ms)
		until = earlier(until, p->listeners.resume_ms);
	/* Do not sleep while something waits for Python. Collect events all the same: other shards could send us frames for
	 * Python without end. */
	return shard_wait(s, s->slow.len || s->end || asks(s) || events_listing(p) ? s->loop.now_ms : until);
}

int plane_run(struct plane *p, struct plane_event *event)
{
	int rc = 0;

	if (!p->open)
		threads_open(p);
	while (!rc && !pending(p, event)) {
		switch (shard_turn(p->shard[0], event)) {
		case SHARD_EVENT:
			return 0;
		case SHARD_LISTENER:
			listen_accept(&p->listeners, event->id, event->len, event->kind);
			break;
		case SHARD_IDLE:
			rc = wait_for_events(p);
			break;
		case SHARD_BUSY:
			break;
		}
	}
	return rc;
}

int plane_send(struct plane *p, const uint8_t *frame, uint32_t len)
{
	uint8_t head[LINK_HEAD_MAX];
	struct link_tx tx = {.head = head, .head_len = u32_min(len, ETH_HLEN)};

	if (len < ETH_HLEN || len > LINK_FRAME_MAX)
		return -EMSGSIZE;
	memcpy(head, frame, tx.head_len);
	tx.body = frame + tx.head_len;
	tx.body_len = len - tx.head_len;
	return link_send(&p->shard[0]->link, &tx) ? 0 : -EAGAIN;
}

/* --- counters --- */

const char *plane_counter_name(uint32_t index)
{
	static const char *const names[] = {
#define COUNTER_NAME(name) #name,
		COUNTERS(COUNTER_NAME)
#undef COUNTER_NAME
	};

	return index < ARRAY_LEN(names) ? names[index] : NULL;
}

uint64_t plane_counter(const struct plane *p, uint32_t index)
{
	return index < CTR_COUNT ? threads_counter(p, index) : 0;
}
