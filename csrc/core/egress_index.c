/* How: rules with the same destination form a list. A prefix finds its list by hash, one look-up for each length in use; a name by
 * a hash over its bytes from the last to the first, so that one pass finds the lists of the name and of all names above it.
 *
 * Rejected: a trie of bits: more code, and slower with the dozen lengths that real rules have.
 */
#include "core/egress_index.h"

#include "base/bytes.h"

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

struct egress_prefix egress_prefix_of(const struct addr *a, uint8_t bits)
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

uint32_t egress_first_bits(const struct addr *a)
{
	return addr_is_v4(a) ? IPV4_BITS_BEFORE : 0;
}

bool egress_prefix_has(const struct egress_prefix *p, const struct addr *a)
{
	struct egress_prefix same = egress_prefix_of(a, p->bits);

	return p->bits >= egress_first_bits(a) && addr_eq(&p->addr, &same.addr);
}

/* The node of a prefix, or the free place where it belongs. */
static struct egress_prefix_node *prefix_place(const struct egress_rules *r, const struct egress_prefix *p)
{
	uint32_t i = prefix_hash(p) & r->prefix_mask;

	while (r->by_prefix[i].used && !prefix_eq(&r->by_prefix[i].prefix, p))
		i = (i + 1) & r->prefix_mask;
	return &r->by_prefix[i];
}

struct egress_prefix_node *egress_prefix_add(struct egress_rules *r, const struct egress_prefix *p)
{
	struct egress_prefix_node *n = prefix_place(r, p);

	if (!n->used)
		*n = (struct egress_prefix_node){.prefix = *p, .used = true, .rules = {EGRESS_NO_RULE, EGRESS_NO_RULE}};
	r->bits_used[p->bits / 64] |= 1ull << p->bits % 64;
	return n;
}

const struct egress_prefix_node *egress_next_prefix(const struct egress_rules *r, const struct addr *a, uint32_t *bits)
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
		p = egress_prefix_of(a, (uint8_t)(*bits)++);
		n = prefix_place(r, &p);
		if (n->used)
			return n;
	}
	return NULL;
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

struct egress_name_node *egress_name_add(struct egress_rules *r, const struct egress_rule *rule)
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

uint32_t egress_name_nodes(const struct egress_rules *r, const struct egress_rule *rule)
{
	uint32_t n = 2;

	for (uint32_t i = 0; i < rule->name_len; i++)
		n += name_text(r, rule->name_at)[i] == '.';
	return n;
}

struct egress_name_search egress_name_search(const char *name, uint32_t len)
{
	return (struct egress_name_search){name, len, len, FNV_BASIS};
}

const struct egress_list *egress_next_name(const struct egress_rules *r, struct egress_name_search *s)
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

const struct egress_name_node *egress_name_find(const struct egress_rules *r, const char *name, uint32_t len, bool below)
{
	const struct egress_name_node *n;
	uint32_t hash = FNV_BASIS;

	for (uint32_t i = len; i-- > 0;)
		hash = fnv(hash, (uint8_t)name[i]);
	n = name_place(r, hash, name, len, below);
	return n->used ? n : NULL;
}
