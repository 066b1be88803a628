/* Purpose: records of flows as JSON objects (RFC 8259). docs/control.md says what the members mean.
 *
 * How: in C, because a busy guest opens thousands of flows a second, and Python would take ten times as long for each. All text is
 * ours: addresses, names from tables, what strerror() says. So nothing needs escapes.
 *
 * Invariant: an object is written whole or not at all.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/event.h"

#define OBJECT_MAX_BYTES 1024 /* of one object: all members at their longest */

struct text {
	char *at;
	uint32_t len, room;
};

static void add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(t->at + t->len, t->room - t->len, format, ap);
	va_end(ap);
	t->len += n < 0 ? 0 : u32_min((uint32_t)n, t->room - t->len - 1);
}

static void add_end(struct text *t, const char *name, const uint8_t address[16], uint16_t port, bool has_port)
{
	struct addr a = addr_from_v6(address);
	char shown[ADDR_STR_LEN];

	if (addr_is_none(&a))
		return;
	add(t, ",\"%s\":\"%s\"", name, addr_str(&a, shown));
	if (has_port)
		add(t, ",\"%s_port\":%u", name, port);
}

static const char *kind_name(uint8_t kind)
{
	static const char *const names[] = {"flow", "opened", "refused", "closed"};

	return names[kind % ARRAY_LEN(names)];
}

/* As 2026-11-29T14:43:40.123Z (RFC 3339, 5.6). */
static void add_time(struct text *t, const char *name, int64_t real_ms)
{
	time_t seconds = (time_t)(real_ms / 1000);
	struct tm tm = {0};
	char shown[32];

	gmtime_r(&seconds, &tm);
	strftime(shown, sizeof(shown), "%Y-%m-%dT%H:%M:%S", &tm);
	add(t, ",\"%s\":\"%s.%03dZ\"", name, shown, (int)(real_ms % 1000));
}

static void add_details(struct text *t, const struct flow_event *e)
{
	if (!e->has_details)
		return;
	add(t, ",\"rtt_us\":%u,\"rtt_variation_us\":%u,\"retransmits\":%u,\"peer_window\":%u", e->rtt_us, e->rtt_variation_us,
	    e->retransmits, e->peer_window);
	add(t, ",\"guest_window\":%u,\"unacked_bytes\":%u,\"backlog_bytes\":%u", e->guest_window, e->unacked_bytes,
	    e->backlog_bytes);
}

static void add_object(struct text *t, const struct flow_event *e, int64_t clock_ms)
{
	const char *protocol = flow_protocol_name(e->protocol), *reason = flow_reason_name(e->reason);
	bool ports = e->protocol != FLOW_PING;

	add(t, "{\"v\":1,\"event\":\"%s\"", kind_name(e->kind));
	add_time(t, "time", e->at_ms + clock_ms);
	if (e->index != FLOW_NONE)
		add(t, ",\"flow\":\"%u.%u.%u.%u\"", e->shard, e->protocol, e->index, e->generation / 2);
	add(t, ",\"protocol\":\"%s\",\"from\":\"%s\"", protocol ? protocol : "other", e->from_host ? "host" : "guest");
	add_end(t, "guest", e->guest, e->guest_port, ports);
	add_end(t, "dest", e->dest, e->dest_port, ports);
	add_end(t, "peer", e->peer, e->peer_port, ports);
	if (e->rule != FLOW_NO_RULE)
		add(t, ",\"rule\":%u", e->rule);
	if (e->kind == FLOW_LISTED)
		add(t, ",\"state\":\"%s\"", flow_state_name(e->state) ? flow_state_name(e->state) : "open");
	else if (e->reason)
		add(t, ",\"reason\":\"%s\"", reason ? reason : "error");
	if (e->error)
		add(t, ",\"error\":\"%s\"", strerror(e->error));
	if (e->kind == FLOW_LISTED || e->kind == FLOW_CLOSED) {
		int64_t ms = e->at_ms > e->opened_ms ? e->at_ms - e->opened_ms : 0;

		add(t, ",\"duration_s\":%" PRId64 ".%03d", ms / 1000, (int)(ms % 1000));
		add(t, ",\"sent_bytes\":%" PRIu64 ",\"received_bytes\":%" PRIu64, e->sent_bytes, e->received_bytes);
		if (e->protocol != FLOW_SPLICE_TCP)
			add(t, ",\"sent_packets\":%" PRIu64 ",\"received_packets\":%" PRIu64, e->sent_packets, e->received_packets);
	}
	add_details(t, e);
	add(t, "}");
}

uint32_t flow_events_json(const struct flow_event *events, uint32_t count, int64_t clock_ms, char separator, char *out,
			  uint32_t room, uint32_t *written)
{
	struct text t = {out, 0, room};
	uint32_t i;

	for (i = 0; i < count && t.room - t.len > OBJECT_MAX_BYTES; i++) {
		add_object(&t, &events[i], clock_ms);
		t.at[t.len++] = separator;
	}
	if (room)
		out[t.len] = 0;
	*written = i;
	return t.len;
}
