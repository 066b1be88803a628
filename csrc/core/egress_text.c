#include "core/egress_text.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/bytes.h"
#include "core/egress_rules.h"

#define MAX_PORT 65535
#define PORT_TLS 443 /* RFC 2818, 2.3 */
#define PORT_HTTP 80 /* RFC 9110, 4.2.1 */
#define LABEL_MAX 63 /* RFC 1035, 2.3.4 */
#define QUOTED 80    /* bytes of a text that a message repeats */
#define V4_BITS 96   /* before an IPv4 address in v4-mapped form */

_Static_assert(EGRESS_RULE_BYTES == 8 + 1 + EGRESS_NAME_MAX + 17, "a rule with the longest name and a prefix");

static const struct {
	const char *name;
	uint8_t bit;
} GROUPS[] = {{"@host", EGRESS_HOST},           {"@lan", EGRESS_LAN},
	      {"@private", EGRESS_PRIVATE},     {"@metadata", EGRESS_METADATA},
	      {"@multicast", EGRESS_MULTICAST}, {"@internet", EGRESS_INTERNET}};
static const struct {
	const char *name;
	uint8_t bit;
} PROTOCOLS[] = {{"tcp", EGRESS_TCP},
		 {"udp", EGRESS_UDP},
		 {"icmp", EGRESS_ECHO},
		 {"tls", EGRESS_TCP | EGRESS_TLS},
		 {"http", EGRESS_TCP | EGRESS_HTTP}};

#define COUNT_OF(table) (sizeof(table) / sizeof *(table))

/* Names that stand for the host without any query: runtimes write them into the guest's /etc/hosts. */
static const char *const HOST_NAMES[] = {"host.containers.internal", "host.docker.internal"};

/* --- reading --- */

struct text {
	const char *at;
	uint32_t len;
	struct egress_refusal *no;
};

struct rule {
	uint8_t protocols, kind, limit, groups, bits, name_len;
	uint16_t first, last;
	uint8_t addr[16];
	char name[EGRESS_NAME_MAX];
};

__attribute__((format(printf, 3, 4))) static bool refuse(const struct text *t, uint32_t at, const char *format, ...)
{
	va_list args;

	t->no->at = at;
	va_start(args, format);
	vsnprintf(t->no->why, sizeof(t->no->why), format, args);
	va_end(args);
	return false;
}

/* For "%.*s" of a part of the text: its length, and where it is. */
#define SHOWN(t, from, to) (int)((to) - (from) < QUOTED ? (to) - (from) : QUOTED), (t)->at + (from)

static bool has(const struct text *t, uint32_t at, char c)
{
	return at < t->len && t->at[at] == c;
}

static bool is(const struct text *t, uint32_t from, uint32_t to, const char *word)
{
	return to - from == strlen(word) && !memcmp(t->at + from, word, to - from);
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool all_digits(const struct text *t, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		if (!digit(t->at[i]))
			return false;
	return from < to;
}

/* A number, or -1: it has more digits, or other characters. */
static int32_t number(const struct text *t, uint32_t from, uint32_t to, uint32_t digits)
{
	int32_t n = 0;

	if (!all_digits(t, from, to) || to - from > digits)
		return -1;
	while (from < to)
		n = 10 * n + (t->at[from++] - '0');
	return n;
}

static uint32_t find(const struct text *t, uint32_t from, char c)
{
	const char *found = from < t->len ? memchr(t->at + from, c, t->len - from) : NULL;

	return found ? (uint32_t)(found - t->at) : t->len;
}

static uint32_t token_end(const struct text *t, uint32_t at)
{
	while (at < t->len && !strchr(":/=", t->at[at]))
		at++;
	return at;
}

static bool check_characters(const struct text *t)
{
	if (!t->len)
		return refuse(t, 0, "it is empty: give a destination such as example.org:443");
	for (uint32_t i = 0; i < t->len; i++) {
		uint8_t c = (uint8_t)t->at[i];

		if (c == ',')
			return refuse(t, i, "',' has no place in a rule: give one rule for each port or destination");
		if (c == ' ')
			return refuse(t, i, "' ' has no place in a rule");
		if (c < ' ' || c == 0x7f)
			return refuse(t, i, "'\\x%02x' has no place in a rule", c);
		if (c == ':' && has(t, i + 1, '/') && has(t, i + 2, '/'))
			return refuse(t, i, "a URL is no rule: give host and port alone, as in example.org:443");
	}
	return true;
}

/* --- addresses --- */

static bool inet(int family, const struct text *t, uint32_t from, uint32_t to, uint8_t *out)
{
	char copy[INET6_ADDRSTRLEN];

	if (to - from >= sizeof(copy))
		return false;
	memcpy(copy, t->at + from, to - from);
	copy[to - from] = '\0';
	return strlen(copy) == to - from && inet_pton(family, copy, out) == 1;
}

/* The address from `from` to `to`, and the length of its prefix from `slash` + 1 to `end`; slash == end: it has none. */
static bool read_prefix(const struct text *t, int family, uint32_t from, uint32_t to, uint32_t slash, uint32_t end,
			struct rule *out)
{
	bool v4 = family == AF_INET;
	uint32_t whole = v4 ? 32 : 128;
	uint8_t packed[16], first[16] = {0};
	char shown[INET6_ADDRSTRLEN];
	int32_t bits = (int32_t)whole;

	if (!inet(family, t, from, to, packed)) {
		uint32_t colon = find(t, from, ':');

		if (v4 && colon < t->len && find(t, colon + 1, ':') < t->len)
			return refuse(t, from, "put an IPv6 address into brackets, as [2001:db8::1]:443");
		return refuse(t, from, "'%.*s' is not an IPv%c address%s", SHOWN(t, from, to), v4 ? '4' : '6',
			      from ? ": a name is not expected here" : "");
	}
	if (slash < end) {
		bits = number(t, slash + 1, end, 3);
		if (bits < 0 || bits > (int32_t)whole)
			return refuse(t, slash + 1, "'%.*s' is no prefix length: expected a number from 0 to %u",
				      SHOWN(t, slash + 1, end), whole);
	}
	memcpy(first, packed, (uint32_t)bits / 8);
	if (bits % 8)
		first[bits / 8] = packed[bits / 8] & (uint8_t)(0xff00 >> bits % 8);
	if (memcmp(first, packed, whole / 8) != 0) {
		inet_ntop(family, first, shown, sizeof(shown));
		return refuse(t, from, "bits are set behind the prefix: %s/%d is the prefix, %.*s the address alone", shown,
			      (int)bits, SHOWN(t, from, to));
	}
	if (!v4) {
		struct addr a = addr_from_v6(packed);

		if (bits >= V4_BITS && addr_is_v4(&a))
			return refuse(t, from, "'%.*s' is an IPv4 address in IPv6 form: write it as IPv4, which covers this form",
				      SHOWN(t, from, to));
		memcpy(out->addr, packed, 16);
	} else {
		struct addr a = addr_from_v4(packed);

		memcpy(out->addr, a.b, 16);
		bits += V4_BITS;
	}
	out->bits = (uint8_t)bits;
	return true;
}

static bool read_group(const struct text *t, uint32_t at, uint32_t end, struct rule *out)
{
	for (uint32_t i = 0; i < COUNT_OF(GROUPS); i++)
		if (is(t, at, end, GROUPS[i].name))
			out->groups = GROUPS[i].bit;
	if (!out->groups)
		return refuse(t, at, "'%.*s' is no group: expected one of @host, @lan, @private, @metadata, @multicast, @internet",
			      SHOWN(t, at, end));
	if (out->groups == EGRESS_INTERNET && at)
		return refuse(t, at, "a name resolves into @internet without saying so: leave it out");
	return true;
}

/* An address, a prefix or a group from `at` on; *kind is what it is, *at where it ends. */
static bool read_addresses(const struct text *t, uint32_t *at, uint8_t *kind, struct rule *out)
{
	uint32_t from = *at, end = token_end(t, from), slash = end;

	if (has(t, from, '@')) {
		*kind = EGRESS_GROUPS;
		*at = end;
		return read_group(t, from, end, out);
	}
	*kind = EGRESS_PREFIX;
	if (has(t, from, '[')) {
		end = find(t, from, ']');
		if (end == t->len)
			return refuse(t, from, "']' is missing");
		slash = find(t, from, '/');
		slash = slash < end ? slash : end;
		*at = end + 1;
		return read_prefix(t, AF_INET6, from + 1, slash, slash, end, out);
	}
	if (has(t, end, '/') && end + 1 < t->len && digit(t->at[end + 1]))
		end = token_end(t, end + 1);
	*at = end;
	return read_prefix(t, AF_INET, from, slash, slash, end, out);
}

/* --- names --- */

/* Whether no name ends so, because an address does (RFC 1123, 2.1): the last label is a number. */
static bool ends_as_address(const struct text *t, uint32_t end)
{
	uint32_t from;

	while (end && t->at[end - 1] == '.')
		end--;
	for (from = end; from && t->at[from - 1] != '.'; from--)
		;
	if (from == end || !digit(t->at[from]))
		return false;
	return all_digits(t, from, end) || (end - from > 1 && t->at[from] == '0' && (t->at[from + 1] | 0x20) == 'x');
}

/* The name from `from` to `end` as lower-case A-labels without a final dot (RFC 5890, 2.3.2.1). */
static bool read_name(const struct text *t, uint32_t from, uint32_t end, struct rule *out)
{
	uint32_t to = end, label = from;

	for (uint32_t i = from; i < end; i++) {
		if (t->at[i] == '*')
			return refuse(t, i, "'*' stands alone or as the whole first label, as in *.example.org");
		if ((uint8_t)t->at[i] >= 0x80) {
			t->no->foreign = true;
			t->no->end = end;
			return refuse(t, from, "the name is not ASCII");
		}
	}
	if (to > from && t->at[to - 1] == '.')
		to--;
	if (to == from)
		return refuse(t, from, "a name is missing");
	for (uint32_t i = from; i <= to; i++) {
		char c = i < to ? t->at[i] : '.';

		if (c == '.') {
			if (i == label)
				return refuse(t, from, "'%.*s' has an empty label", SHOWN(t, from, end));
			if (i - label > LABEL_MAX)
				return refuse(t, from, "the label '%.20s'... has %u characters: %d are the most", t->at + label,
					      i - label, LABEL_MAX);
			label = i + 1;
			continue;
		}
		if (c >= 'A' && c <= 'Z')
			c |= 0x20;
		if (!digit(c) && !(c >= 'a' && c <= 'z') && c != '-' && c != '_')
			return refuse(t, i, "'%c' has no place in a name", c);
	}
	if (to - from > EGRESS_NAME_MAX)
		return refuse(t, from, "the name has %u characters: %d are the most", to - from, EGRESS_NAME_MAX);
	out->name_len = (uint8_t)(to - from);
	for (uint32_t i = 0; i < out->name_len; i++) {
		char c = t->at[from + i];

		out->name[i] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
	}
	return true;
}

static bool is_host_name(const struct rule *rule)
{
	for (uint32_t i = 0; i < COUNT_OF(HOST_NAMES); i++)
		if (rule->name_len == strlen(HOST_NAMES[i]) && !memcmp(rule->name, HOST_NAMES[i], rule->name_len))
			return true;
	return false;
}

/* What a word stands for that reads as more than the name of a host, or NULL. A host of that name has a dot at its end. */
static const char *meant_by(const char *word, uint32_t len)
{
	if (len == 3 && (!memcmp(word, "all", 3) || !memcmp(word, "any", 3)))
		return "*";
	for (uint32_t i = 0; i < COUNT_OF(GROUPS); i++)
		if (len == strlen(GROUPS[i].name) - 1 && !memcmp(word, GROUPS[i].name + 1, len))
			return GROUPS[i].name;
	return NULL;
}

/* Whether a word is more likely the next option, before which the rule is missing. A host of that name has a dot at its end. */
static bool is_option(const char *word, uint32_t len)
{
	return len && word[0] == '-' && !memchr(word, '.', len);
}

/* --- the parts of a rule --- */

static bool read_destination(const struct text *t, uint32_t *at, struct rule *out)
{
	uint32_t end = token_end(t, 0);
	const char *meant;
	bool below;

	if (has(t, 0, '[') || has(t, 0, '@'))
		return read_addresses(t, at, &out->kind, out);
	if (is(t, 0, end, "*")) {
		*at = end;
		return true;
	}
	if (ends_as_address(t, end))
		return read_addresses(t, at, &out->kind, out);
	if (is_option(t->at, end))
		return refuse(t, 0, "'%.*s' looks like an option: give a destination such as example.org:443 before it",
			      SHOWN(t, 0, end));
	below = end >= 2 && !memcmp(t->at, "*.", 2);
	meant = meant_by(t->at, end);
	if (meant)
		return refuse(t, 0, "did you mean %s? A host of that name is '%.*s.'", meant, SHOWN(t, 0, end));
	if (!read_name(t, below ? 2 : 0, end, out))
		return false;
	*at = end;
	out->kind = below ? EGRESS_BELOW : EGRESS_NAME;
	if (!below && is_host_name(out)) {
		out->name_len = 0;
		out->kind = EGRESS_GROUPS;
		out->groups = EGRESS_HOST;
	} else if (has(t, end, '=')) {
		*at = end + 1;
		return read_addresses(t, at, &out->limit, out);
	}
	return true;
}

static bool read_port(const struct text *t, uint32_t from, uint32_t to, uint16_t *out)
{
	int32_t n = number(t, from, to, 5);

	if (n < 1 || n > MAX_PORT)
		return refuse(t, from, "'%.*s' is no port: expected a number from 1 to %d", SHOWN(t, from, to), MAX_PORT);
	*out = (uint16_t)n;
	return true;
}

static bool read_ports(const struct text *t, uint32_t *at, struct rule *out)
{
	uint32_t from = *at, end = find(t, from, '/'), dash = find(t, from, '-'), colon = find(t, from, ':');

	if (colon < end)
		return refuse(t, colon, "a second ':': put an IPv6 address into brackets, as [2001:db8::1]:443");
	dash = dash < end ? dash : end;
	*at = end;
	if (!read_port(t, from, dash, &out->first) || !read_port(t, dash < end ? dash + 1 : from, end, &out->last))
		return false;
	if (out->last < out->first)
		return refuse(t, from, "the range %u-%u ends before it begins: did you mean %u-%u?", out->first, out->last,
			      out->last, out->first);
	return true;
}

static bool read_protocol(const struct text *t, uint32_t at, bool ports, struct rule *out)
{
	out->protocols = 0;
	for (uint32_t i = 0; i < COUNT_OF(PROTOCOLS); i++)
		if (is(t, at, t->len, PROTOCOLS[i].name))
			out->protocols = PROTOCOLS[i].bit;
	if (!out->protocols)
		return refuse(t, at, "'%.*s' is no protocol: expected one of tcp, udp, icmp, tls, http", SHOWN(t, at, t->len));
	if (out->protocols == EGRESS_ECHO && ports)
		return refuse(t, at, "icmp has no ports: leave the port or the protocol out");
	if (out->protocols & EGRESS_VERIFY && !out->name_len)
		return refuse(t, at, "'%.*s' proves a name, and this rule has none: give the port and tcp", SHOWN(t, at, t->len));
	if (out->protocols & EGRESS_VERIFY && !ports)
		out->first = out->last = out->protocols & EGRESS_TLS ? PORT_TLS : PORT_HTTP;
	return true;
}

static bool read_rule(const struct text *t, bool allow, struct rule *out)
{
	uint32_t at = 0;
	bool ports;

	*out = (struct rule){.last = MAX_PORT, .protocols = EGRESS_ALL_PROTOCOLS};
	if (!check_characters(t) || !read_destination(t, &at, out))
		return false;
	if (!allow && out->limit)
		return refuse(t, find(t, 0, '='), "'=' limits what is allowed: a deny takes the name alone");
	ports = has(t, at, ':');
	if (ports) {
		at++;
		out->protocols = EGRESS_TCP | EGRESS_UDP;
		if (!read_ports(t, &at, out))
			return false;
	}
	if (has(t, at, '/'))
		return read_protocol(t, at + 1, ports, out);
	if (at < t->len)
		return refuse(t, at, "'%.*s' is not expected here: a rule is DEST[:PORT[-PORT]][/PROTO]", SHOWN(t, at, t->len));
	return true;
}

uint32_t egress_text_read(const char *text, uint32_t len, bool allow, uint8_t *out, struct egress_refusal *no)
{
	const struct text t = {text, len, no};
	uint8_t *p = out + 8, what;
	struct rule rule;

	no->foreign = no->whole_line = false;
	if (!read_rule(&t, allow, &rule))
		return 0;
	what = rule.name_len ? rule.limit : rule.kind;
	out[0] = allow;
	out[1] = rule.protocols;
	out[2] = rule.kind;
	out[3] = rule.limit;
	store_be16(out + 4, rule.first);
	store_be16(out + 6, rule.last);
	if (rule.name_len) {
		*p++ = rule.name_len;
		memcpy(p, rule.name, rule.name_len);
		p += rule.name_len;
	}
	if (what == EGRESS_PREFIX) {
		memcpy(p, rule.addr, 16);
		p[16] = rule.bits;
		p += 17;
	} else if (what == EGRESS_GROUPS) {
		*p++ = rule.groups;
	}
	return (uint32_t)(p - out);
}

/* --- printing --- */

static char *put(char *p, const char *word)
{
	while (*word)
		*p++ = *word++;
	return p;
}

static char *put_prefix(char *p, const struct egress_prefix *prefix)
{
	char shown[INET6_ADDRSTRLEN];
	bool v4 = prefix->bits >= V4_BITS && addr_is_v4(&prefix->addr);
	uint32_t bits = prefix->bits - (v4 ? V4_BITS : 0), whole = v4 ? 32 : 128;

	inet_ntop(v4 ? AF_INET : AF_INET6, prefix->addr.b + (v4 ? 12 : 0), shown, sizeof(shown));
	p = put(put(p, v4 ? "" : "["), shown);
	if (bits < whole)
		p += sprintf(p, "/%u", bits);
	return put(p, v4 ? "" : "]");
}

static char *put_group(char *p, uint8_t groups)
{
	for (uint32_t i = 0; i < COUNT_OF(GROUPS); i++)
		if (GROUPS[i].bit == groups)
			return put(p, GROUPS[i].name);
	return p;
}

static char *put_end(char *p, const struct egress_rule *rule)
{
	bool every = rule->first_port == 0 && rule->last_port == MAX_PORT;

	if (!every)
		p += sprintf(p, rule->first_port == rule->last_port ? ":%u" : ":%u-%u", rule->first_port, rule->last_port);
	if (rule->protocols == (every ? EGRESS_ALL_PROTOCOLS : EGRESS_TCP | EGRESS_UDP))
		return p;
	for (uint32_t i = 0; i < COUNT_OF(PROTOCOLS); i++)
		if (PROTOCOLS[i].bit == rule->protocols)
			p = put(put(p, "/"), PROTOCOLS[i].name);
	return p;
}

uint32_t egress_text_print(const uint8_t *rules, uint32_t len, char *out, uint32_t *bytes)
{
	struct egress_rule rule;
	bool named;
	uint8_t what;
	char *p = out;

	*bytes = egress_rule_read(rules, len, &rule);
	if (!*bytes)
		return 0;
	named = rule.name_len > 0;
	what = named ? rule.limit : rule.kind;
	if (rule.kind == EGRESS_ANY || rule.kind == EGRESS_BELOW)
		p = put(p, rule.kind == EGRESS_ANY ? "*" : "*.");
	if (named) {
		const char *name = p;

		memcpy(p, rules + rule.name_at, rule.name_len);
		p += rule.name_len;
		if (rule.kind == EGRESS_NAME)
			p = put(p, meant_by(name, rule.name_len) || is_option(name, rule.name_len) ? "." : "");
		p = put(p, what ? "=" : "");
	}
	if (what == EGRESS_PREFIX)
		p = put_prefix(p, &rule.prefix);
	else if (what == EGRESS_GROUPS)
		p = put_group(p, rule.groups);
	return (uint32_t)(put_end(p, &rule) - out);
}
