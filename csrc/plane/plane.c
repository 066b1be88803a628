/* Owns the life of everything in the core, and the order of a turn of the loop:
 *
 *   lines for the log, a frame for the slow path, a tick - whatever Python has to see - come first;
 *   then the events of the last wait, one after the other; the tap gives a bounded batch of frames per event;
 *   then what other shards have left here, if there are any;
 *   then what these have made necessary (acknowledgements, windows, data);
 *   then the timers, last: an answer that has come while we were stopped counts before its timeout;
 *   then the wait for the next events.
 *
 * plane_run() may return between any two of these and goes on there when called again.
 */
#include "plane/plane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define TAP_BATCH_FRAMES 32
#define TAP_BATCH_BYTES (1u << 20) /* acknowledge before the guest's window runs dry; less costs an ACK more often */
#define TCP_LIMIT 65536
#define UDP_LIMIT 32768
#define ICMP_LIMIT 1024
#define SPLICE_LIMIT 65536

static void init_policy(struct policy *policy, const struct plane_config *c)
{
	memcpy(&policy->guest_seen[0], c->guest4, 16);
	memcpy(&policy->guest_seen[1], c->guest6, 16);
	if (memcmp(c->guest_mac, (uint8_t[ETH_ALEN]){0}, ETH_ALEN) != 0)
		policy->guest_seen[2] = addr_linklocal6_of(c->guest_mac);
	policy->guest_scope6 = c->guest_scope6;
	memcpy(&policy->gateway[0], c->gateway4, 16);
	memcpy(&policy->gateway[1], c->gateway6, 16);
	memcpy(&policy->map_host_loopback[0], c->map_host_loopback4, 16);
	memcpy(&policy->map_host_loopback[1], c->map_host_loopback6, 16);
	memcpy(&policy->map_guest_addr[0], c->map_guest_addr4, 16);
	memcpy(&policy->map_guest_addr[1], c->map_guest_addr6, 16);
	memcpy(&policy->host[0], c->host4, 16);
	memcpy(&policy->host[1], c->host6, 16);
	memcpy(&policy->dns_forward[0], c->dns_forward4, 16);
	memcpy(&policy->dns_forward[1], c->dns_forward6, 16);
	memcpy(&policy->dns_host[0], c->dns_host4, 16);
	memcpy(&policy->dns_host[1], c->dns_host6, 16);
	policy->dns_tls = c->flags & PLANE_DNS_TLS;
	policy->multicast = c->flags & PLANE_MULTICAST;
	policy->broadcast = c->flags & PLANE_BROADCAST;
}

static struct sock_options sock_options(const struct plane_config *c)
{
	struct sock_options o = {.scope6 = c->scope6, .link4 = c->link4};

	memcpy(&o.outbound[0], c->outbound4, 16);
	memcpy(&o.outbound[1], c->outbound6, 16);
	memcpy(o.outbound_if[0], c->outbound_if4, 15);
	memcpy(o.outbound_if[1], c->outbound_if6, 15);
	return o;
}

static int init_protocols(struct plane *p)
{
	struct sock_options sock = sock_options(&p->config);
	struct siphash_key key;
	int rc;

	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	rc = tcp_init(&p->tcp, TCP_LIMIT, &sock, &key, !(p->config.flags & PLANE_NO_PEEK_OFF));
	p->tcp.sack = p->config.flags & PLANE_LOSSY;
	if (!rc)
		rc = udp_init(&p->udp, UDP_LIMIT, &sock, &key);
	if (!rc)
		rc = icmp_init(&p->icmp, ICMP_LIMIT, &sock, &key);
	if (!rc)
		rc = splice_init(&p->splice, SPLICE_LIMIT, &key);
	return rc;
}

/* Of the virtio header before each frame on the tap. */
static uint8_t header_bytes(uint32_t flags)
{
	if (!(flags & PLANE_VNET_HDR))
		return 0;
	return flags & PLANE_TUNNELS ? sizeof(struct vnet_hdr_tunnel) : sizeof(struct vnet_hdr);
}

int plane_new(const struct plane_config *config, struct plane **out)
{
	struct plane *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return -ENOMEM;
	p->config = *config;
	p->log.level = config->log_level;
	p->loop.epoll_fd = -1;
	helper_init(&p->helper, -1);
	init_policy(&p->policy, config);
	p->io = (struct io){.tap = &p->tap, .loop = &p->loop, .log = &p->log, .counters = &p->counters, .policy = &p->policy,
			    .mtu = config->mtu, .link_mtu = config->link_mtu, .scratch = p->scratch, .descriptors = descriptors_now()};
	rc = loop_init(&p->loop);
	if (!rc)
		rc = tap_init(&p->tap, config->tap_fd, header_bytes(config->flags), config->flags & PLANE_USO, &p->counters);
	if (!rc)
		rc = loop_add(&p->loop, config->tap_fd, EPOLLIN, loop_tag(OWNER_TAP, 0, 0));
	if (!rc)
		rc = init_protocols(p);
	if (rc) {
		plane_free(p);
		return rc;
	}
	memcpy(p->tap.neighbours.last, config->guest_mac, ETH_ALEN);
	memcpy(p->tap.our_mac, config->our_mac, ETH_ALEN);
	p->complete = true;
	*out = p;
	return 0;
}

static int add_addr(struct plane *p, struct addr_list *l, const uint8_t addr[16])
{
	struct addr a = addr_from_v6(addr);

	return p->shard ? -EBUSY : addr_list_add(l, &a);
}

int plane_add_guest_addr(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->policy.guest_addrs, addr);
}

int plane_add_virtual_addr(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->policy.virtual_addrs, addr);
}

int plane_add_barred_source(struct plane *p, const uint8_t addr[16])
{
	return add_addr(p, &p->policy.barred_sources, addr);
}

int plane_add_listeners(struct plane *p, int proto, const int fds[], uint32_t count, int to_host, const uint8_t target[16],
			uint16_t target_port)
{
	struct listener l = {-1, 1, to_host, {addr_from_v6(target), target_port}};
	int rc = proto == IPPROTO_TCP || proto == IPPROTO_UDP ? 0 : -EPROTONOSUPPORT;

	for (uint32_t i = 0; i < count && !rc; i++) {
		l.fd = fds[i];
		rc = proto == IPPROTO_UDP ? udp_listen(&p->udp, &p->io, l.fd, to_host, &l.target) : listen_add(p, &l);
		l.target.port++;
		p->io.descriptors.ports += !rc;
	}
	return rc;
}

int plane_remove_listener(struct plane *p, int fd)
{
	int rc = listen_remove(p, fd);

	if (rc == -ENOENT)
		rc = udp_unlisten(&p->udp, &p->io, fd);
	p->io.descriptors.ports -= !rc;
	return rc;
}

void plane_set_helper(struct plane *p, int fd)
{
	helper_init(&p->helper, fd);
	p->udp.helper = &p->helper;
	p->udp.splice = p->config.flags & PLANE_SPLICE;
	p->udp.lo_to_lo = p->config.flags & PLANE_LO_TO_LO;
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

int plane_capture(struct plane *p, int fd, int pcapng)
{
	int rc = p->capture || p->shard ? -EBUSY : capture_open(&p->capture, fd, pcapng);

	p->tap.capture = p->capture;
	return rc;
}

int plane_log_line(int fd, const uint8_t *line, uint32_t len)
{
	return sink_write_line(fd, line, len);
}

int plane_watch(struct plane *p, int fd, uint32_t id)
{
	return loop_add(&p->loop, fd, EPOLLIN | EPOLLRDHUP, loop_tag(OWNER_WATCH, id, 0));
}

int plane_unwatch(struct plane *p, int fd)
{
	return loop_remove(&p->loop, fd);
}

void plane_tick(struct plane *p, uint32_t interval_ms)
{
	p->tick_ms = interval_ms;
	p->next_tick_ms = p->loop.now_ms + interval_ms;
}

/* --- a turn of the loop --- */

/* A guest that says one thing at a time is not asked for more: what it says is passed on a system call earlier. */
static void read_tap(struct plane *p)
{
	int most = loop_expects_one(&p->loop, p->tap_single_turns) ? 1 : TAP_BATCH_FRAMES, count = 0;
	uint32_t bytes = 0;

	while (count < most && bytes < TAP_BATCH_BYTES && !p->punt_len) {
		struct tap_frame frame;
		int rc = tap_read(&p->tap, &frame);

		if (rc && rc != -EBADMSG) {
			if (rc != -EAGAIN)
				p->end = -rc;
			break;
		}
		count++;
		if (!rc) {
			bytes += frame.len;
			demux_frame(p, &frame);
		}
	}
	p->tap_single_turns = loop_count_single(p->tap_single_turns, count);
}

bool plane_drain(struct plane *p)
{
	uint64_t before = p->counters.v[CTR_tap_rx_frames];
	bool more;

	p->punt_len = 0;
	if (!p->end)
		read_tap(p);
	udp_flush(&p->udp, &p->io);
	if (p->shard)
		shard_flush(p);
	tcp_service(&p->tcp, &p->io);
	more = splice_drain(&p->splice, &p->io);
	return more || p->counters.v[CTR_tap_rx_frames] != before;
}

/* What the guest has sent by now, also on local connections, is still passed on: a command that ends may have had last words. */
static void finish(struct plane *p)
{
	for (int i = 0; i < FINISH_BATCHES && plane_drain(p); i++)
		;
}

void plane_free(struct plane *p)
{
	if (!p)
		return;
	if (p->shard)
		shards_stop(p);
	else if (p->complete)
		finish(p);
	if (p->capture)
		capture_stop(p->capture);
	icmp_free(&p->icmp);
	udp_free(&p->udp);
	tcp_free(&p->tcp);
	reassembly_free(&p->reassembly);
	tap_free(&p->tap);
	loop_free(&p->loop);
	policy_free(&p->policy);
	free(p->listeners.at);
	helper_free(&p->helper);
	splice_free(&p->splice);
	free(p);
}

/* True if the event is Python's. */
static bool dispatch(struct plane *p, const struct epoll_event *e, struct plane_event *event)
{
	uint32_t index = loop_tag_index(e->data.u64), generation = loop_tag_generation(e->data.u64);

	switch (loop_tag_owner(e->data.u64)) {
	case OWNER_TAP:
		read_tap(p);
		udp_flush(&p->udp, &p->io);
		return false;
	case OWNER_WATCH:
		*event = (struct plane_event){.kind = PLANE_WATCH, .id = index};
		return true;
	case OWNER_MESSAGES:
		return false; /* it has ended the wait: shard_attend() comes after the events */
	case OWNER_LISTENER:
		listen_accept(p, index, generation, e->events);
		return false;
	case OWNER_SPLICE_ACCEPTED:
		splice_event(&p->splice, &p->io, index, generation, 0, e->events);
		return false;
	case OWNER_SPLICE_CONNECTED:
		splice_event(&p->splice, &p->io, index, generation, 1, e->events);
		return false;
	case OWNER_TCP:
		tcp_event(&p->tcp, &p->io, index, generation, e->events);
		return false;
	case OWNER_UDP:
		udp_event(&p->udp, &p->io, index, generation, e->events);
		return false;
	case OWNER_UDP_SPLICE:
		udp_splice_event(&p->udp, &p->io, index, generation);
		return false;
	case OWNER_ICMP:
		icmp_event(&p->icmp, &p->io, index, generation, e->events);
		return false;
	}
	return false;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t next_deadline(const struct plane *p)
{
	int64_t at = earlier(tcp_next_ms(&p->tcp), earlier(udp_next_ms(&p->udp), icmp_next_ms(&p->icmp)));

	if (p->tick_ms)
		at = earlier(at, p->next_tick_ms);
	if (p->listeners.resume_ms)
		at = earlier(at, p->listeners.resume_ms);
	return at;
}

static void run_timers(struct plane *p)
{
	tcp_timers(&p->tcp, &p->io);
	udp_timers(&p->udp, &p->io);
	icmp_timers(&p->icmp, &p->io);
	listen_timers(p);
}

static void check_capture(struct plane *p)
{
	int error = p->capture ? capture_error(p->capture) : 0;

	if (error)
		log_add(&p->log, LOG_LEVEL_WARNING, "capture: %s", capture_error_text(error));
}

/* What Python has to see before anything else. */
static bool pending(struct plane *p, struct plane_event *event)
{
	const struct log_line *line;

	if (log_take(&p->log, &line)) {
		*event = (struct plane_event){PLANE_LOG, line->level, line->len, (const uint8_t *)line->text};
		return true;
	}
	if (p->punt_len) {
		*event = (struct plane_event){PLANE_PUNT, 0, p->punt_len, p->punt};
		p->punt_len = 0;
		return true;
	}
	if (p->end) {
		*event = (struct plane_event){.kind = PLANE_END, .id = (uint32_t)p->end};
		return true;
	}
	if (p->tick_ms && p->next_tick_ms <= p->loop.now_ms) {
		p->next_tick_ms = p->loop.now_ms + p->tick_ms;
		*event = (struct plane_event){.kind = PLANE_TICK, .id = p->more || p->loop.taken < p->loop.ready};
		return true;
	}
	return false;
}

/* Inlined into plane_run(), for which a call in each turn would be all that other shards cost. */
static inline __attribute__((always_inline)) int turn(struct plane *p, struct plane_event *event)
{
	const struct epoll_event *e = loop_next(&p->loop);
	bool now;

	if (e) {
		bool pythons = dispatch(p, e, event);

		if (UNLIKELY(p->shard != NULL))
			shard_flush(p);
		return pythons;
	}
	if (UNLIKELY(p->shard != NULL))
		shard_attend(p); /* not between events: a flood on the wrong queue would come before each of them */
	p->more = tcp_service(&p->tcp, &p->io);
	p->more |= splice_service(&p->splice, &p->io);
	run_timers(p);
	check_capture(p);
	now = p->more || p->log.count;
	if (UNLIKELY(p->shard != NULL)) {
		if (p->shard->index)
			shard_publish(p); /* the first is asked by its own thread */
		now |= p->punt_len || (p->end && !p->shard->end_told);
	}
	/* With something for Python to see there is no wait, but what has come is asked for: other shards may always have something. */
	return loop_wait(&p->loop, now ? p->loop.now_ms : next_deadline(p), udp_next_us(&p->udp));
}

int plane_turn(struct plane *p, struct plane_event *event)
{
	return turn(p, event);
}

int plane_run(struct plane *p, struct plane_event *event)
{
	int rc;

	if (p->shard && !p->shard->all->open)
		shards_open(p);
	do {
		if (pending(p, event))
			return 0;
		rc = turn(p, event);
	} while (!rc);
	return rc < 0 ? rc : 0;
}

int plane_send(struct plane *p, const uint8_t *frame, uint32_t len)
{
	uint8_t head[TAP_HEAD_MAX];
	struct tap_tx tx = {.head = head, .head_len = u32_min(len, ETH_HLEN)};

	if (len < ETH_HLEN || len > TAP_FRAME_MAX)
		return -EMSGSIZE;
	memcpy(head, frame, tx.head_len);
	tx.body = frame + tx.head_len;
	tx.body_len = len - tx.head_len;
	return tap_send(&p->tap, &tx) ? 0 : -EAGAIN;
}

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
	if (index >= CTR_COUNT)
		return 0;
	return p->shard ? shards_counter(p, index) : p->counters.v[index];
}
