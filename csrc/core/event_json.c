/* Purpose: records of flows as JSON objects (RFC 8259). docs/control.md says what the members mean.
 *
 * How: in C, because a busy guest opens thousands of flows a second, and Python would take ten times as long for each. All text is
 * ours: addresses, names from tables, what strerror() says. So nothing needs escapes. What a guest or a user has written, the name of a
 * destination and the rule, Python adds (pasta_py/worker/event_readers.py).
 *
 * Invariant: an object is written whole or not at all.
 */
#include <string.h>
#include <time.h>

#include "core/event.h"

#define OBJECT_MAX_BYTES 1024 /* of one object: all members at their longest */
#define STRING_MAX_BYTES 64u  /* of a name, and of what strerror() says */

/* Where an object is written. There is room for OBJECT_MAX_BYTES behind its beginning: nothing below looks again. */
struct text {
	char *at;
	int64_t stamp_s; /* the second that `stamp` says; 0: none */
	char stamp[32];
};

static void add_bytes(struct text *t, const char *bytes, size_t len)
{
	memcpy(t->at, bytes, len);
	t->at += len;
}

static void add(struct text *t, const char *string)
{
	add_bytes(t, string, strnlen(string, STRING_MAX_BYTES));
}

/* Of a string literal: its length is known here, and the copy is a move or two. A list of many flows spends much time in this file. */
#define LITERAL(literal) "" literal, sizeof(literal) - 1
#define ADD(t, literal) add_bytes(t, LITERAL(literal))

static uint32_t digits_of(uint64_t number)
{
	uint32_t digits = 1;

	for (; number >= 10000; number /= 10000)
		digits += 4;
	return digits + (number >= 10) + (number >= 100) + (number >= 1000);
}

/* At least `digits` of them. printf() takes most of the time of a list otherwise. */
static void add_number(struct text *t, uint64_t number, uint32_t digits)
{
	uint32_t count = u32_max(digits, digits_of(number));

	for (uint32_t at = count; at--; number /= 10)
		t->at[at] = (char)('0' + number % 10);
	t->at += count;
}

#define ADD_MEMBER(t, head, number) (ADD(t, head), add_number(t, number, 1))
#define ADD_STRING(t, head, value) (ADD(t, head), add(t, value), ADD(t, "\""))

static void add_address(struct text *t, const struct addr *a)
{
	char shown[ADDR_STR_LEN];

	if (!addr_is_v4(a)) {
		add(t, addr_str(a, shown));
		return;
	}
	for (int i = 12; i < 16; i++) {
		add_number(t, a->b[i], 1);
		if (i < 15)
			ADD(t, ".");
	}
}

/* An end of a flow: two members, whose heads these are. */
static void add_end(struct text *t, const char *head, size_t head_len, const char *port_head, size_t port_head_len,
		    const uint8_t address[16], uint16_t port, bool has_port)
{
	struct addr a = addr_from_v6(address);

	if (addr_is_none(&a))
		return;
	add_bytes(t, head, head_len);
	add_address(t, &a);
	ADD(t, "\"");
	if (!has_port)
		return;
	add_bytes(t, port_head, port_head_len);
	add_number(t, port, 1);
}

#define ADD_END(t, name, address, port, has_port) \
	add_end(t, LITERAL(",\"" name "\":\""), LITERAL(",\"" name "_port\":"), address, port, has_port)

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
	ADD(t, ",\"time\":\"");
	add_bytes(t, t->stamp, strlen(t->stamp));
	ADD(t, ".");
	add_number(t, (uint64_t)(real_ms % 1000), 3);
	ADD(t, "Z\"");
}

static void add_details(struct text *t, const struct flow_event *e)
{
	if (!e->has_details)
		return;
	ADD_MEMBER(t, ",\"rtt_us\":", e->rtt_us);
	ADD_MEMBER(t, ",\"rtt_variation_us\":", e->rtt_variation_us);
	ADD_MEMBER(t, ",\"retransmits\":", e->retransmits);
	ADD_MEMBER(t, ",\"peer_window\":", e->peer_window);
	ADD_MEMBER(t, ",\"guest_window\":", e->guest_window);
	ADD_MEMBER(t, ",\"unacked_bytes\":", e->unacked_bytes);
	ADD_MEMBER(t, ",\"backlog_bytes\":", e->backlog_bytes);
}

static void add_counters(struct text *t, const struct flow_event *e)
{
	uint64_t ms = e->at_ms > e->opened_ms ? (uint64_t)(e->at_ms - e->opened_ms) : 0;

	ADD_MEMBER(t, ",\"duration_s\":", ms / 1000);
	ADD(t, ".");
	add_number(t, ms % 1000, 3);
	ADD_MEMBER(t, ",\"sent_bytes\":", e->sent_bytes);
	ADD_MEMBER(t, ",\"received_bytes\":", e->received_bytes);
	if (e->protocol == FLOW_SPLICE_TCP)
		return;
	ADD_MEMBER(t, ",\"sent_packets\":", e->sent_packets);
	ADD_MEMBER(t, ",\"received_packets\":", e->received_packets);
}

static void add_object(struct text *t, const struct flow_event *e, int64_t clock_ms)
{
	const char *protocol = flow_protocol_name(e->protocol), *reason = flow_reason_name(e->reason);
	const char *state = flow_state_name(e->state);
	bool ports = e->protocol != FLOW_PING;

	ADD_STRING(t, "{\"v\":1,\"event\":\"", kind_name(e->kind));
	add_time(t, e->at_ms + clock_ms);
	if (e->index != FLOW_NONE) {
		ADD_MEMBER(t, ",\"flow\":\"", e->shard);
		ADD_MEMBER(t, ".", e->protocol);
		ADD_MEMBER(t, ".", e->index);
		ADD_MEMBER(t, ".", e->generation / 2);
		ADD(t, "\"");
	}
	ADD_STRING(t, ",\"protocol\":\"", protocol ? protocol : "other");
	ADD_STRING(t, ",\"from\":\"", e->from_host ? "host" : "guest");
	ADD_END(t, "guest", e->guest, e->guest_port, ports);
	ADD_END(t, "dest", e->dest, e->dest_port, ports);
	ADD_END(t, "peer", e->peer, e->peer_port, ports);
	if (e->kind == FLOW_LISTED)
		ADD_STRING(t, ",\"state\":\"", state ? state : "open");
	else if (e->reason)
		ADD_STRING(t, ",\"reason\":\"", reason ? reason : "error");
	if (e->error)
		ADD_STRING(t, ",\"error\":\"", strerror(e->error));
	if (e->kind == FLOW_LISTED || e->kind == FLOW_CLOSED)
		add_counters(t, e);
	add_details(t, e);
	ADD(t, "}");
}

uint32_t flow_events_json(const struct flow_event *events, uint32_t count, int64_t clock_ms, char separator, char *out,
			  uint32_t room, uint32_t *written)
{
	struct text t = {.at = out};
	uint32_t i;

	for (i = 0; i < count && room - (uint32_t)(t.at - out) > OBJECT_MAX_BYTES; i++) {
		add_object(&t, &events[i], clock_ms);
		*t.at++ = separator;
	}
	if (room)
		*t.at = 0;
	*written = i;
	return (uint32_t)(t.at - out);
}
