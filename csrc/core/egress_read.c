/* How: reads the bytes that plane_egress() of plane_api.h gets, once, and makes lists of rules. egress_index.c finds rules in them.
 *
 * Invariants: the lists are in the rules' order; indexes are below count.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "core/egress_index.h"

#define VERSION 1
#define HEADER_BYTES 12
#define PREFIX_BYTES 17
#define RULE_BYTES 8
#define PORT_TLS 443 /* RFC 2818, 2.3 */
#define PORT_HTTP 80 /* RFC 9110, 4.2.1 */

struct reader {
	const uint8_t *data;
	uint32_t at, len;
	bool bad;
};

/* The next bytes, or NULL if there are too few. */
static const uint8_t *take(struct reader *in, uint32_t bytes)
{
	const uint8_t *p = in->data + in->at;

	if (in->bad || in->len - in->at < bytes) {
		in->bad = true;
		return NULL;
	}
	in->at += bytes;
	return p;
}

static struct egress_prefix take_prefix(struct reader *in)
{
	const uint8_t *p = take(in, PREFIX_BYTES);
	struct addr a;

	if (!p || p[16] > 128) {
		in->bad = true;
		return (struct egress_prefix){0};
	}
	a = addr_from_v6(p);
	return egress_prefix_of(&a, p[16]);
}

static uint8_t take_byte(struct reader *in)
{
	const uint8_t *p = take(in, 1);

	return p ? *p : 0;
}

/* verdict, protocols, kind, limit, first port, last port; then a name, a prefix, groups, as the kind and the limit need. */
static struct egress_rule take_rule(struct reader *in)
{
	const uint8_t *p = take(in, RULE_BYTES);
	struct egress_rule rule = {.next = EGRESS_NO_RULE};
	bool named;

	if (!p)
		return rule;
	rule.allow = p[0];
	rule.protocols = p[1];
	rule.kind = p[2];
	rule.limit = p[3];
	rule.first_port = load_be16(p + 4);
	rule.last_port = load_be16(p + 6);
	named = rule.kind == EGRESS_NAME || rule.kind == EGRESS_BELOW;
	if (p[0] > 1 || rule.kind > EGRESS_BELOW || rule.limit > EGRESS_GROUPS || (rule.limit && !named))
		in->bad = true;
	if (named) {
		rule.name_len = take_byte(in);
		rule.name_at = in->at;
		in->bad |= !rule.name_len || rule.name_len > EGRESS_NAME_MAX || !take(in, rule.name_len);
	}
	if (rule.kind == EGRESS_PREFIX || rule.limit == EGRESS_PREFIX)
		rule.prefix = take_prefix(in);
	if (rule.kind == EGRESS_GROUPS || rule.limit == EGRESS_GROUPS)
		rule.groups = take_byte(in);
	return rule;
}

uint32_t egress_rule_read(const uint8_t *rules, uint32_t len, struct egress_rule *rule)
{
	struct reader in = {rules, 0, len, false};

	*rule = take_rule(&in);
	return in.bad ? 0 : in.at;
}

/* Where names are verified, a rule that allows a name at one of these ports, and says no protocol, means TLS or HTTP. */
static void verify_names(struct egress_rule *rule)
{
	bool tls = rule->first_port == PORT_TLS && rule->last_port == PORT_TLS;
	bool http = rule->first_port == PORT_HTTP && rule->last_port == PORT_HTTP;

	if (rule->allow && rule->name_len && rule->protocols == (EGRESS_TCP | EGRESS_UDP) && (tls || http))
		rule->protocols = EGRESS_TCP | (tls ? EGRESS_TLS : EGRESS_HTTP);
}

static void append(struct egress_rules *r, struct egress_list *l, uint16_t index)
{
	if (l->first == EGRESS_NO_RULE)
		l->first = index;
	else
		r->rule[l->last].next = index;
	l->last = index;
}

static void file_rule(struct egress_rules *r, uint16_t index)
{
	struct egress_rule *rule = &r->rule[index];

	if (rule->kind == EGRESS_PREFIX)
		append(r, &egress_prefix_add(r, &rule->prefix)->rules, index);
	else if (rule->kind == EGRESS_NAME || rule->kind == EGRESS_BELOW)
		append(r, &egress_name_add(r, rule)->rules, index);
	else
		append(r, &r->any, index);
}

/* Places for n nodes, and as many free ones. */
static uint32_t mask_for(uint32_t n)
{
	uint32_t size = 4;

	while (size < 2 * n)
		size *= 2;
	return size - 1;
}

static bool read_nat64(struct egress_rules *r, struct reader *in)
{
	static const uint8_t lengths[] = {32, 40, 48, 56, 64, 96}; /* RFC 6052, 2.2 */

	for (uint32_t i = 0; i < r->nat64_count; i++) {
		r->nat64[i] = take_prefix(in);
		in->bad |= !memchr(lengths, r->nat64[i].bits, sizeof(lengths));
	}
	return !in->bad;
}

/* `in` is at the first byte after the counts. The groups' prefixes come before the rules, but the size of the table that they go into
 * is known only when the rules are read. So the prefixes are skipped first and read in the end. */
static int compile(struct egress_rules *r, struct reader *in, uint32_t group_prefixes, bool verify)
{
	struct reader groups;
	uint32_t prefixes = group_prefixes, names = 0;

	r->nat64 = calloc(r->nat64_count + 1, sizeof(*r->nat64));
	r->rule = calloc(r->count + 1, sizeof(*r->rule));
	if (!r->nat64 || !r->rule)
		return -ENOMEM;
	if (!read_nat64(r, in))
		return -EINVAL;
	groups = *in;
	if (!take(in, group_prefixes * (PREFIX_BYTES + 1)))
		return -EINVAL;
	for (uint32_t i = 0; i < r->count; i++) {
		r->rule[i] = take_rule(in);
		if (verify)
			verify_names(&r->rule[i]);
		if (r->rule[i].allow)
			r->verifies |= r->rule[i].protocols & EGRESS_VERIFY;
		prefixes += r->rule[i].kind == EGRESS_PREFIX;
		names += r->rule[i].kind >= EGRESS_NAME && !in->bad ? egress_name_nodes(r, &r->rule[i]) : 0;
	}
	if (in->bad || in->at != in->len)
		return -EINVAL;
	r->prefix_mask = mask_for(prefixes);
	r->name_mask = mask_for(names);
	r->by_prefix = calloc(r->prefix_mask + 1, sizeof(*r->by_prefix));
	r->by_name = calloc(r->name_mask + 1, sizeof(*r->by_name));
	if (!r->by_prefix || !r->by_name)
		return -ENOMEM;
	for (uint32_t i = 0; i < group_prefixes; i++) {
		struct egress_prefix p = take_prefix(&groups);

		egress_prefix_add(r, &p)->groups |= take_byte(&groups);
	}
	for (uint32_t i = 0; i < r->count; i++)
		file_rule(r, (uint16_t)i);
	return groups.bad ? -EINVAL : 0;
}

int egress_rules_read(const uint8_t *policy, uint32_t len, struct egress_rules **out)
{
	struct reader in = {policy, 0, len, false};
	const uint8_t *head = take(&in, HEADER_BYTES);
	struct egress_rules *r;
	uint32_t group_prefixes;
	int rc;

	/* version, default, names, verify; then 16 bits: NAT64 prefixes, prefixes of groups, rules, 0. */
	if (!head || head[0] != VERSION || head[1] > 1 || head[2] > 2 || head[3] > 1 || load_be16(head + 8) == EGRESS_NO_RULE)
		return -EINVAL;
	r = calloc(1, sizeof(*r) + len);
	if (!r)
		return -ENOMEM;
	memcpy(r->policy, policy, len);
	r->policy_len = len;
	r->allow_others = head[1];
	r->no_names = head[2] == 0;
	r->all_names = head[2] == 2;
	r->nat64_count = load_be16(head + 4);
	group_prefixes = load_be16(head + 6);
	r->count = load_be16(head + 8);
	r->any = (struct egress_list){EGRESS_NO_RULE, EGRESS_NO_RULE};
	rc = compile(r, &in, group_prefixes, head[3]);
	if (rc) {
		egress_rules_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void egress_rules_free(struct egress_rules *r)
{
	if (!r)
		return;
	free(r->rule);
	free(r->by_prefix);
	free(r->by_name);
	free(r->nat64);
	free(r);
}
