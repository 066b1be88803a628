/* How: rules with the same destination form a list. A prefix finds its list by hash, one look-up for each length in use; a name by
 * a hash over its bytes from the last to the first, so that one pass finds the lists of the name and of all names above it. Of all
 * lists that fit, the first rule counts whose port and protocol match.
 *
 * A mapped address and an IPv6 address that embeds an IPv4 address have two views. A rule that denies matches either. A rule that
 * allows needs more: it matches where the address leads; or the address as the guest sees it, exactly. A prefix that is shorter
 * than the form of an embedded address does not open what is not public behind it.
 *
 * Invariants: the lists are in the rules' order; indexes are below count.
 *
 * Rejected: a trie of bits: more code, and slower with the dozen lengths that real rules have.
 */
#include "core/egress_rules.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"

#define VERSION 1
#define HEADER_BYTES 12
#define PREFIX_BYTES 17
#define RULE_BYTES 8
#define IPV4_BITS_BEFORE 96

/* --- hashes --- */

#define FNV_BASIS 2166136261u
#define FNV_PRIME 16777619u

static uint32_t fnv(uint32_t hash, uint8_t byte)
{
	return (hash ^ byte) * FNV_PRIME;
}

static uint32_t prefix_hash(const struct egress_prefix *p)
{
	uint32_t hash = fnv(FNV_BASIS, p->bits);

	for (int i = 0; i < 16; i++)
		hash = fnv(hash, p->addr.b[i]);
	return hash ^ hash >> 15;
}

/* --- prefixes --- */

static struct egress_prefix prefix_of(const struct addr *a, uint8_t bits)
{
	struct egress_prefix p = {.bits = bits};
	uint32_t whole = bits / 8;

	memcpy(p.addr.b, a->b, whole);
	if (bits % 8)
		p.addr.b[whole] = a->b[whole] & (uint8_t)(0xff00 >> bits % 8);
	return p;
}

static bool prefix_eq(const struct egress_prefix *a, const struct egress_prefix *b)
{
	return a->bits == b->bits && addr_eq(&a->addr, &b->addr);
}

/* The length of the shortest prefix that can hold the address: no IPv6 prefix holds IPv4 addresses, which are v4-mapped here. */
static uint32_t first_bits(const struct addr *a)
{
	return addr_is_v4(a) ? IPV4_BITS_BEFORE : 0;
}

static bool prefix_has(const struct egress_prefix *p, const struct addr *a)
{
	struct egress_prefix same = prefix_of(a, p->bits);

	return p->bits >= first_bits(a) && addr_eq(&p->addr, &same.addr);
}

/* The node of a prefix, or the free place where it belongs. */
static struct egress_prefix_node *prefix_place(const struct egress_rules *r, const struct egress_prefix *p)
{
	uint32_t i = prefix_hash(p) & r->prefix_mask;

	while (r->by_prefix[i].used && !prefix_eq(&r->by_prefix[i].prefix, p))
		i = (i + 1) & r->prefix_mask;
	return &r->by_prefix[i];
}

static struct egress_prefix_node *prefix_add(struct egress_rules *r, const struct egress_prefix *p)
{
	struct egress_prefix_node *n = prefix_place(r, p);

	if (!n->used)
		*n = (struct egress_prefix_node){.prefix = *p, .used = true, .rules = {EGRESS_NO_RULE, EGRESS_NO_RULE}};
	r->bits_used[p->bits / 64] |= 1ull << p->bits % 64;
	return n;
}

/* The next node whose prefix holds the address, from prefixes of *bits bits on; NULL: there is none. */
static const struct egress_prefix_node *next_prefix(const struct egress_rules *r, const struct addr *a, uint32_t *bits)
{
	while (*bits <= 128) {
		uint64_t left = r->bits_used[*bits / 64] >> *bits % 64;
		const struct egress_prefix_node *n;
		struct egress_prefix p;

		if (!left) {
			*bits = (*bits / 64 + 1) * 64;
			continue;
		}
		*bits += (uint32_t)__builtin_ctzll(left);
		p = prefix_of(a, (uint8_t)(*bits)++);
		n = prefix_place(r, &p);
		if (n->used)
			return n;
	}
	return NULL;
}

static uint8_t groups_of(const struct egress_rules *r, const struct addr *a)
{
	const struct egress_prefix_node *n;
	uint32_t bits = first_bits(a);
	uint8_t groups = 0;

	while ((n = next_prefix(r, a, &bits)))
		groups |= n->groups;
	return groups;
}

/* --- names --- */

static const char *name_text(const struct egress_rules *r, uint32_t at)
{
	return (const char *)r->policy + at;
}

static struct egress_name_node *name_place(const struct egress_rules *r, uint32_t hash, const char *name, uint32_t len, bool below)
{
	uint32_t i = (hash ^ hash >> 15 ^ below) & r->name_mask;

	for (; r->by_name[i].used; i = (i + 1) & r->name_mask) {
		struct egress_name_node *n = &r->by_name[i];

		if (n->hash == hash && n->len == len && n->below == below && !memcmp(name_text(r, n->at), name, len))
			break;
	}
	return &r->by_name[i];
}

static struct egress_name_node *name_at(struct egress_rules *r, uint32_t hash, uint32_t at, uint8_t len, bool below)
{
	struct egress_name_node *n = name_place(r, hash, name_text(r, at), len, below);

	if (!n->used)
		*n = (struct egress_name_node){.hash = hash,
					       .at = at,
					       .len = len,
					       .below = below,
					       .used = true,
					       .rules = {EGRESS_NO_RULE, EGRESS_NO_RULE}};
	return n;
}

/* The node of a rule's name. The nodes of the names above it are marked if the rule allows. */
static struct egress_name_node *name_add(struct egress_rules *r, const struct egress_rule *rule)
{
	bool below = rule->kind == EGRESS_BELOW;
	const char *name = name_text(r, rule->name_at);
	uint32_t hash = FNV_BASIS;

	for (uint32_t i = rule->name_len; i-- > 0;) {
		hash = fnv(hash, (uint8_t)name[i]);
		if (rule->allow && (i ? name[i - 1] == '.' : below))
			name_at(r, hash, rule->name_at + i, (uint8_t)(rule->name_len - i), false)->above = true;
	}
	return name_at(r, hash, rule->name_at, rule->name_len, below);
}

static uint32_t labels(const struct egress_rules *r, const struct egress_rule *rule)
{
	uint32_t n = 2;

	for (uint32_t i = 0; i < rule->name_len; i++)
		n += name_text(r, rule->name_at)[i] == '.';
	return n;
}

/* Labels that begin with "_" name a service of the host behind them (RFC 8552). */
static void skip_service(const char **name, uint32_t *len)
{
	const char *dot;

	while (*len && **name == '_' && (dot = memchr(*name, '.', *len))) {
		*len -= (uint32_t)(dot + 1 - *name);
		*name = dot + 1;
	}
}

struct name_search {
	const char *name;
	uint32_t len, at; /* bytes of the name from `at` on are in the hash */
	uint32_t hash;
};

static struct name_search search_begin(const char *name, uint32_t len)
{
	skip_service(&name, &len);
	return (struct name_search){name, len, len, FNV_BASIS};
}

/* The next list of rules for the name: those of names above it first. NULL: there are no more. */
static const struct egress_list *next_name(const struct egress_rules *r, struct name_search *s)
{
	while (s->at) {
		const struct egress_name_node *n;
		bool below;

		s->hash = fnv(s->hash, (uint8_t)s->name[--s->at]);
		below = s->at > 1 && s->name[s->at - 1] == '.';
		if (!below && s->at)
			continue;
		n = name_place(r, s->hash, s->name + s->at, s->len - s->at, below);
		if (n->used)
			return &n->rules;
	}
	return NULL;
}

/* --- parsing --- */

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
	return prefix_of(&a, p[16]);
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
		append(r, &prefix_add(r, &rule->prefix)->rules, index);
	else if (rule->kind == EGRESS_NAME || rule->kind == EGRESS_BELOW)
		append(r, &name_add(r, rule)->rules, index);
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

/* The reader is behind the counts. The groups' prefixes come before the rules, so their places are known late: two passes. */
static int compile(struct egress_rules *r, struct reader *in, uint32_t group_prefixes)
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
		prefixes += r->rule[i].kind == EGRESS_PREFIX;
		names += r->rule[i].kind >= EGRESS_NAME && !in->bad ? labels(r, &r->rule[i]) : 0;
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

		prefix_add(r, &p)->groups |= take_byte(&groups);
	}
	for (uint32_t i = 0; i < r->count; i++)
		file_rule(r, (uint16_t)i);
	return groups.bad ? -EINVAL : 0;
}

int egress_rules_parse(const uint8_t *policy, uint32_t len, struct egress_rules **out)
{
	struct reader in = {policy, 0, len, false};
	const uint8_t *head = take(&in, HEADER_BYTES);
	struct egress_rules *r;
	uint32_t group_prefixes;
	int rc;

	/* version, default, names, 0; then 16 bits: NAT64 prefixes, prefixes of groups, rules, 0. */
	if (!head || head[0] != VERSION || head[1] > 1 || head[2] > 2 || load_be16(head + 8) == EGRESS_NO_RULE)
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
	rc = compile(r, &in, group_prefixes);
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

/* --- addresses --- */

static const struct egress_prefix SIX_TO_FOUR = {{{0x20, 0x02}}, 16};  /* RFC 3056, 2 */
static const struct egress_prefix TEREDO = {{{0x20, 0x01, 0, 0}}, 32}; /* RFC 4380, 4 */

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
		if (!prefix_has(&r->nat64[i], &v->addr))
			continue;
		v->form_bits = r->nat64[i].bits;
		v->inner = behind_nat64(&v->addr, v->form_bits);
	}
	if (!v->form_bits && prefix_has(&SIX_TO_FOUR, &v->addr)) {
		v->form_bits = SIX_TO_FOUR.bits;
		v->inner = addr_from_v4(b + 2);
	} else if (!v->form_bits && prefix_has(&TEREDO, &v->addr)) {
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
	/* Whether such an address is public, only what is embedded says. */
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

/* Whether a rule for the pinned name covers the address. */
static bool limit_matches(const struct egress_rule *rule, const struct egress_view *v)
{
	if (!rule->allow)
		return true;
	if (rule->limit == EGRESS_ANY)
		return !v->groups;
	if (rule->limit == EGRESS_GROUPS)
		return groups_match(true, rule->groups, v->groups);
	if (!prefix_has(&rule->prefix, &v->addr) && !(v->form_bits && prefix_has(&rule->prefix, &v->inner)))
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

/* What is looked for: the first rule for a port, or the first that could allow some flow and the first that denies all. */
struct search {
	const struct egress_view *view; /* NULL: a name alone is judged */
	uint8_t protocol;               /* 0: any flow */
	uint16_t port;
	uint16_t best;            /* protocol: the first that matches */
	uint16_t allows, forbids; /* no protocol */
};

static void search_list(const struct egress_rules *r, const struct egress_list *l, enum found found, struct search *s)
{
	for (uint16_t i = l->first; i != EGRESS_NO_RULE; i = r->rule[i].next) {
		const struct egress_rule *rule = &r->rule[i];

		if (i >= (s->protocol ? s->best : s->forbids))
			return;
		if (s->view ? !destination_matches(rule, found, s->view) : rule->kind == EGRESS_GROUPS)
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
	uint32_t bits = first_bits(a);

	while ((n = next_prefix(r, a, &bits)))
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
		struct name_search names = search_begin(name, len);
		const struct egress_list *l;

		while ((l = next_name(r, &names)))
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
		return (struct egress_verdict){others, EGRESS_BY_DEFAULT, EGRESS_NO_RULE};
	allow = s.allows < s.forbids;
	return (struct egress_verdict){allow, EGRESS_BY_RULE, allow ? s.allows : s.forbids};
}

struct egress_verdict egress_rules_reach(const struct egress_rules *r, const struct egress_view *v, const char *name, uint32_t len)
{
	return could(r, v, name, len, r->allow_others);
}

struct egress_verdict egress_rules_name(const struct egress_rules *r, const char *name, uint32_t len)
{
	if (r->no_names)
		return (struct egress_verdict){false, EGRESS_BY_DEFAULT, EGRESS_NO_RULE};
	return could(r, NULL, name, len, r->all_names);
}

uint32_t egress_rules_named(const struct egress_rules *r, const char *name, uint32_t len)
{
	uint32_t hash = FNV_BASIS, named = 0;
	const struct egress_name_node *n;

	for (uint32_t i = len; i-- > 0;)
		hash = fnv(hash, (uint8_t)name[i]);
	n = name_place(r, hash, name, len, false);
	if (n->used && n->above)
		named |= EGRESS_NAMED_BELOW;
	for (uint16_t i = n->used ? n->rules.first : EGRESS_NO_RULE; i != EGRESS_NO_RULE; i = r->rule[i].next)
		if (r->rule[i].allow)
			named |= EGRESS_NAMED;
	return named;
}
