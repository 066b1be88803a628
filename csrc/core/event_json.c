/* Purpose: records of flows as JSON objects (RFC 8259). docs/control.md says what the members mean.
 *
 * How: in C, because a busy guest opens thousands of flows a second, and Python would take ten times as long for each. All text is
 * ours: addresses, names from tables, what strerror() says. So nothing needs escapes.
 *
 * Invariant: an object is written whole or not at all.
 */
#include <string.h>
#include <time.h>

#include "core/event.h"

#define OBJECT_MAX_BYTES 1024 /* of one object: all members at their longest */

struct text {
	char *at;
	uint32_t len, room;
	int64_t stamp_s; /* the second that `stamp` says; 0: none */
	char stamp[32];
};

static void add(struct text *t, const char *string)
{
	uint32_t len = u32_min((uint32_t)strlen(string), t->room - t->len - 1);

	memcpy(t->at + t->len, string, len);
	t->len += len;
}

/* At least `digits` of them. printf() takes most of the time of a list otherwise. */
static void add_number(struct text *t, uint64_t number, uint32_t digits)
{
	char shown[24];
	uint32_t at = sizeof(shown) - 1;

	shown[at] = 0;
	do {
		shown[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number || at > sizeof(shown) - 1 - digits);
	add(t, shown + at);
}

static void add_member(struct text *t, const char *head, uint64_t number)
{
	add(t, head);
	add_number(t, number, 1);
}

static void add_string(struct text *t, const char *head, const char *value)
{
	add(t, head);
	add(t, value);
	add(t, "\"");
}

static void add_address(struct text *t, const struct addr *a)
{
	char shown[ADDR_STR_LEN];

	if (!addr_is_v4(a)) {
		add(t, addr_str(a, shown));
		return;
	}
	for (int i = 12; i < 16; i++) {
		add_number(t, a->b[i], 1);
		add(t, i < 15 ? "." : "");
	}
}

static void add_end(struct text *t, const char *head, const char *port_head, const uint8_t address[16], uint16_t port,
		    bool has_port)
{
	struct addr a = addr_from_v6(address);

	if (addr_is_none(&a))
		return;
	add(t, head);
	add_address(t, &a);
	add(t, "\"");
	if (has_port)
		add_member(t, port_head, port);
}

static const char *kind_name(uint8_t kind)
{
	static const char *const names[] = {"flow", "opened", "refused", "closed"};

	return names[kind % ARRAY_LEN(names)];
}

/* As 2026-11-29T14:43:40.123Z (RFC 3339, 5.6). */
static void add_time(struct text *t, int64_t real_ms)
{
	time_t seconds = (time_t)(real_ms / 1000);
	struct tm tm = {0};

	if (t->stamp_s != seconds || !seconds) {
		t->stamp_s = seconds;
		gmtime_r(&seconds, &tm);
		strftime(t->stamp, sizeof(t->stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	}
	add(t, ",\"time\":\"");
	add(t, t->stamp);
	add(t, ".");
	add_number(t, (uint64_t)(real_ms % 1000), 3);
	add(t, "Z\"");
}

static void add_details(struct text *t, const struct flow_event *e)
{
	if (!e->has_details)
		return;
	add_member(t, ",\"rtt_us\":", e->rtt_us);
	add_member(t, ",\"rtt_variation_us\":", e->rtt_variation_us);
	add_member(t, ",\"retransmits\":", e->retransmits);
	add_member(t, ",\"peer_window\":", e->peer_window);
	add_member(t, ",\"guest_window\":", e->guest_window);
	add_member(t, ",\"unacked_bytes\":", e->unacked_bytes);
	add_member(t, ",\"backlog_bytes\":", e->backlog_bytes);
}

static void add_counters(struct text *t, const struct flow_event *e)
{
	uint64_t ms = e->at_ms > e->opened_ms ? (uint64_t)(e->at_ms - e->opened_ms) : 0;

	add_member(t, ",\"duration_s\":", ms / 1000);
	add(t, ".");
	add_number(t, ms % 1000, 3);
	add_member(t, ",\"sent_bytes\":", e->sent_bytes);
	add_member(t, ",\"received_bytes\":", e->received_bytes);
	if (e->protocol == FLOW_SPLICE_TCP)
		return;
	add_member(t, ",\"sent_packets\":", e->sent_packets);
	add_member(t, ",\"received_packets\":", e->received_packets);
}

static void add_object(struct text *t, const struct flow_event *e, int64_t clock_ms)
{
	const char *protocol = flow_protocol_name(e->protocol), *reason = flow_reason_name(e->reason);
	const char *state = flow_state_name(e->state);
	bool ports = e->protocol != FLOW_PING;

	add_string(t, "{\"v\":1,\"event\":\"", kind_name(e->kind));
	add_time(t, e->at_ms + clock_ms);
	if (e->index != FLOW_NONE) {
		add_member(t, ",\"flow\":\"", e->shard);
		add_member(t, ".", e->protocol);
		add_member(t, ".", e->index);
		add_member(t, ".", e->generation / 2);
		add(t, "\"");
	}
	add_string(t, ",\"protocol\":\"", protocol ? protocol : "other");
	add_string(t, ",\"from\":\"", e->from_host ? "host" : "guest");
	add_end(t, ",\"guest\":\"", ",\"guest_port\":", e->guest, e->guest_port, ports);
	add_end(t, ",\"dest\":\"", ",\"dest_port\":", e->dest, e->dest_port, ports);
	add_end(t, ",\"peer\":\"", ",\"peer_port\":", e->peer, e->peer_port, ports);
	if (e->rule != FLOW_NO_RULE)
		add_member(t, ",\"rule\":", e->rule);
	if (e->kind == FLOW_LISTED)
		add_string(t, ",\"state\":\"", state ? state : "open");
	else if (e->reason)
		add_string(t, ",\"reason\":\"", reason ? reason : "error");
	if (e->error)
		add_string(t, ",\"error\":\"", strerror(e->error));
	if (e->kind == FLOW_LISTED || e->kind == FLOW_CLOSED)
		add_counters(t, e);
	add_details(t, e);
	add(t, "}");
}

uint32_t flow_events_json(const struct flow_event *events, uint32_t count, int64_t clock_ms, char separator, char *out,
			  uint32_t room, uint32_t *written)
{
	struct text t = {.at = out, .room = room};
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
