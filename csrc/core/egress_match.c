/* How: of all lists of rules that fit an address or a name, the first rule counts whose port and protocol match.
 *
 * A mapped address and an IPv6 address that embeds an IPv4 address have two views. A rule that denies matches either. A rule that
 * allows has to match the address on the host, or to name the address that the guest sees, with a prefix of full length. A prefix that
 * is shorter than the form of an embedded address does not open a private address in it.
 */
#include "core/egress_index.h"

/* --- addresses --- */

static const struct egress_prefix SIX_TO_FOUR = {{{0x20, 0x02}}, 16};  /* RFC 3056, 2 */
static const struct egress_prefix TEREDO = {{{0x20, 0x01, 0, 0}}, 32}; /* RFC 4380, 4 */

static uint8_t groups_of(const struct egress_rules *r, const struct addr *a)
{
	const struct egress_prefix_node *n;
	uint32_t bits = egress_first_bits(a);
	uint8_t groups = 0;

	while ((n = egress_next_prefix(r, a, &bits)))
		groups |= n->groups;
	return groups;
}

/* The bytes of the embedded address (RFC 6052, 2.2): byte 8 is never one of them. */
static struct addr behind_nat64(const struct addr *a, uint8_t bits)
{
	uint8_t four[4];

	for (uint32_t i = 0, from = bits / 8; i < 4; i++, from++) {
		from += from == 8;
		four[i] = a->b[from];
	}
	return addr_from_v4(four);
}

static void embedded(const struct egress_rules *r, struct egress_view *v)
{
	const uint8_t *b = v->addr.b;

	for (uint32_t i = 0; i < r->nat64_count && !v->form_bits; i++) {
		if (!egress_prefix_has(&r->nat64[i], &v->addr))
			continue;
		v->form_bits = r->nat64[i].bits;
		v->inner = behind_nat64(&v->addr, v->form_bits);
	}
	if (!v->form_bits && egress_prefix_has(&SIX_TO_FOUR, &v->addr)) {
		v->form_bits = SIX_TO_FOUR.bits;
		v->inner = addr_from_v4(b + 2);
	} else if (!v->form_bits && egress_prefix_has(&TEREDO, &v->addr)) {
		/* Of the client; its bits are inverted (RFC 4380, 4). */
		uint8_t four[4] = {(uint8_t)~b[12], (uint8_t)~b[13], (uint8_t)~b[14], (uint8_t)~b[15]};

		v->form_bits = TEREDO.bits;
		v->inner = addr_from_v4(four);
	}
}

struct egress_view egress_rules_view(const struct egress_rules *r, const struct addr *dest, const struct addr *host_dest)
{
	struct egress_view v = {.addr = *host_dest};

	if (!addr_eq(dest, host_dest))
		v.as_seen = *dest;
	if (!addr_is_v4(&v.addr))
		embedded(r, &v);
	if (v.form_bits)
		v.inner_groups = groups_of(r, &v.inner);
	v.groups = groups_of(r, &v.addr);
	/* Whether such an address is public depends on the embedded address alone. */
	if (v.form_bits)
		v.groups = (v.groups & (uint8_t)~EGRESS_PRIVATE) | v.inner_groups;
	if (v.groups & EGRESS_MULTICAST)
		v.groups = EGRESS_MULTICAST;
	return v;
}

static bool groups_match(bool allow, uint8_t rule, uint8_t groups)
{
	if (rule & EGRESS_INTERNET && !groups)
		return true;
	return groups & rule && !(allow && groups & EGRESS_GUARDED & ~rule);
}

/* Whether a rule for a name allows this address of the name. */
static bool limit_matches(const struct egress_rule *rule, const struct egress_view *v)
{
	if (!rule->allow)
		return true;
	if (rule->limit == EGRESS_ANY)
		return !v->groups;
	if (rule->limit == EGRESS_GROUPS)
		return groups_match(true, rule->groups, v->groups);
	if (!egress_prefix_has(&rule->prefix, &v->addr) && !(v->form_bits && egress_prefix_has(&rule->prefix, &v->inner)))
		return false;
	return rule->prefix.bits == 128 || !(v->groups & EGRESS_GUARDED);
}

/* How a list of rules was found. */
enum found { BY_NOTHING, BY_ADDR, BY_INNER, BY_AS_SEEN, BY_NAME };

static bool destination_matches(const struct egress_rule *rule, enum found found, const struct egress_view *v)
{
	switch (found) {
	case BY_NOTHING:
		return rule->kind == EGRESS_ANY || groups_match(rule->allow, rule->groups, v->groups);
	case BY_ADDR:
		return !(rule->allow && rule->prefix.bits < v->form_bits && v->inner_groups);
	case BY_INNER:
		return true;
	case BY_AS_SEEN:
		return !rule->allow || rule->prefix.bits == 128;
	case BY_NAME:
		return limit_matches(rule, v);
	}
	return false;
}

/* --- search --- */

static bool covers_all(const struct egress_rule *rule)
{
	return (rule->protocols & EGRESS_ALL_PROTOCOLS) == EGRESS_ALL_PROTOCOLS && !rule->first_port && rule->last_port == 65535;
}

/* A search with a protocol looks for the first rule that matches protocol and port. One without looks for the first rule that could
 * allow some flow, and for the first that denies all flows. Each result is the index of a rule. */
struct search {
	const struct egress_view *view; /* NULL: a name alone is judged */
	uint8_t protocol;               /* 0: any flow */
	uint16_t port;
	uint16_t best;            /* with a protocol */
	uint16_t allows, forbids; /* without */
};

/* Whether a rule matches where no address is known: it is about a name alone, or about a flow to a public address of the name. */
static bool matches_unseen(const struct egress_rule *rule, uint8_t protocol)
{
	return rule->kind != EGRESS_GROUPS || (protocol && rule->groups & EGRESS_INTERNET);
}

static void search_list(const struct egress_rules *r, const struct egress_list *l, enum found found, struct search *s)
{
	for (uint16_t i = l->first; i != EGRESS_NO_RULE; i = r->rule[i].next) {
		const struct egress_rule *rule = &r->rule[i];

		if (i >= (s->protocol ? s->best : s->forbids))
			return;
		if (s->view ? !destination_matches(rule, found, s->view) : !matches_unseen(rule, s->protocol))
			continue;
		if (s->protocol) {
			if (rule->protocols & s->protocol && s->port >= rule->first_port && s->port <= rule->last_port)
				s->best = i;
		} else if (rule->allow) {
			s->allows = i < s->allows ? i : s->allows;
		} else if (covers_all(rule)) {
			s->forbids = i;
		}
	}
}

static void search_prefixes(const struct egress_rules *r, const struct addr *a, enum found found, struct search *s)
{
	const struct egress_prefix_node *n;
	uint32_t bits = egress_first_bits(a);

	while ((n = egress_next_prefix(r, a, &bits)))
		search_list(r, &n->rules, found, s);
}

static void search_all(const struct egress_rules *r, struct search *s, const char *name, uint32_t len)
{
	const struct egress_view *v = s->view;

	search_list(r, &r->any, BY_NOTHING, s);
	if (v) {
		search_prefixes(r, &v->addr, BY_ADDR, s);
		if (v->form_bits)
			search_prefixes(r, &v->inner, BY_INNER, s);
		if (!addr_is_none(&v->as_seen))
			search_prefixes(r, &v->as_seen, BY_AS_SEEN, s);
	}
	if (name) {
		struct egress_name_search names = egress_name_search(name, len);
		const struct egress_list *l;

		while ((l = egress_next_name(r, &names)))
			search_list(r, l, BY_NAME, s);
	}
}

uint16_t egress_rules_match(const struct egress_rules *r, const struct egress_view *v, uint8_t protocol, uint16_t port,
			    const char *name, uint32_t len)
{
	struct search s = {.view = v, .protocol = protocol, .port = port, .best = EGRESS_NO_RULE};

	search_all(r, &s, name, len);
	return s.best;
}

static struct egress_verdict could(const struct egress_rules *r, const struct egress_view *v, const char *name, uint32_t len,
				   bool others)
{
	struct search s = {.view = v, .allows = EGRESS_NO_RULE, .forbids = EGRESS_NO_RULE};
	bool allow;

	search_all(r, &s, name, len);
	if (s.allows == s.forbids)
		return (struct egress_verdict){others, EGRESS_BY_DEFAULT, EGRESS_NO_RULE, 0};
	allow = s.allows < s.forbids;
	return (struct egress_verdict){allow, EGRESS_BY_RULE, allow ? s.allows : s.forbids, 0};
}

struct egress_verdict egress_rules_reach(const struct egress_rules *r, const struct egress_view *v, const char *name, uint32_t len)
{
	return could(r, v, name, len, r->allow_others);
}

struct egress_verdict egress_rules_name(const struct egress_rules *r, const char *name, uint32_t len)
{
	if (r->no_names)
		return (struct egress_verdict){false, EGRESS_BY_DEFAULT, EGRESS_NO_RULE, 0};
	return could(r, NULL, name, len, r->all_names);
}

uint32_t egress_rules_named(const struct egress_rules *r, const char *name, uint32_t len)
{
	const struct egress_name_node *n = egress_name_find(r, name, len, false);
	uint32_t named = n && n->above ? EGRESS_NAMED_BELOW : 0;

	for (uint16_t i = n ? n->rules.first : EGRESS_NO_RULE; i != EGRESS_NO_RULE; i = r->rule[i].next)
		if (r->rule[i].allow)
			named |= EGRESS_NAMED;
	return named;
}
