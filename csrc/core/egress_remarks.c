/* How: the compiled policy finds the lists of rules whose destination holds that of a rule. Of these, the rules before it that match
 * whatever it matches make it useless.
 */
#include <errno.h>

#include "core/egress_index.h"
#include "core/egress_text.h"

#define COMPARISONS_MAX (1u << 23) /* some tens of milliseconds */

struct search {
	const struct egress_rules *r;
	uint32_t comparisons;
};

static bool same_limit(const struct egress_rule *a, const struct egress_rule *b)
{
	return a->limit == b->limit && a->groups == b->groups && a->prefix.bits == b->prefix.bits &&
	       addr_eq(&a->prefix.addr, &b->prefix.addr);
}

/* Whether the earlier rule, whose destination holds the other's, matches whatever the other does. */
static bool covers(const struct egress_rule *earlier, const struct egress_rule *rule)
{
	bool named = earlier->kind == EGRESS_NAME || earlier->kind == EGRESS_BELOW;

	if (earlier->kind == EGRESS_GROUPS && (rule->kind != EGRESS_GROUPS || rule->groups != earlier->groups))
		return false;
	return earlier->first_port <= rule->first_port && rule->last_port <= earlier->last_port &&
	       !(rule->protocols & EGRESS_ALL_PROTOCOLS & ~earlier->protocols) &&
	       (!named || !earlier->allow || same_limit(earlier, rule));
}

static uint16_t in_list(struct search *s, const struct egress_list *l, uint16_t index)
{
	for (uint16_t i = l->first; i < index && s->comparisons < COMPARISONS_MAX; i = s->r->rule[i].next) {
		s->comparisons++;
		if (covers(&s->r->rule[i], &s->r->rule[index]))
			return i;
	}
	return EGRESS_NO_RULE;
}

static uint16_t by_prefix(struct search *s, uint16_t index)
{
	const struct egress_prefix *prefix = &s->r->rule[index].prefix;
	uint32_t bits = egress_first_bits(&prefix->addr);
	const struct egress_prefix_node *n;

	while ((n = egress_next_prefix(s->r, &prefix->addr, &bits)) && n->prefix.bits <= prefix->bits) {
		uint16_t found = in_list(s, &n->rules, index);

		if (found != EGRESS_NO_RULE)
			return found;
	}
	return EGRESS_NO_RULE;
}

static uint16_t by_name(struct search *s, uint16_t index)
{
	const struct egress_rule *rule = &s->r->rule[index];
	const char *name = (const char *)s->r->policy + rule->name_at;
	struct egress_name_search names = egress_name_search(name, rule->name_len);
	const struct egress_name_node *below;
	const struct egress_list *l;
	uint16_t found = EGRESS_NO_RULE;

	if (rule->kind == EGRESS_BELOW && (below = egress_name_find(s->r, name, rule->name_len, true)))
		found = in_list(s, &below->rules, index);
	while (found == EGRESS_NO_RULE && (l = egress_next_name(s->r, &names)))
		if (rule->kind != EGRESS_BELOW || names.at) /* "*.a.test" is not in "a.test" */
			found = in_list(s, l, index);
	return found;
}

static uint16_t earlier_of(struct search *s, uint16_t index)
{
	const struct egress_rule *rule = &s->r->rule[index];
	uint16_t found = EGRESS_NO_RULE;

	if (rule->kind == EGRESS_PREFIX)
		found = by_prefix(s, index);
	else if (rule->kind == EGRESS_NAME || rule->kind == EGRESS_BELOW)
		found = by_name(s, index);
	return found == EGRESS_NO_RULE ? in_list(s, &s->r->any, index) : found;
}

static bool too_wide(const struct egress_rules *r, const struct egress_rule *rule)
{
	const char *name = (const char *)r->policy + rule->name_at;

	return rule->allow && rule->kind == EGRESS_BELOW && !memchr(name, '.', rule->name_len);
}

int egress_remarks(const uint8_t *policy, uint32_t len, struct egress_remark *out, uint32_t room)
{
	struct egress_rules *r;
	struct search s;
	uint32_t n = 0;
	int rc = egress_rules_read(policy, len, &r);

	if (rc)
		return rc;
	s = (struct search){.r = r};
	for (uint32_t i = 0; i < r->count && n < room; i++) {
		uint16_t earlier = earlier_of(&s, (uint16_t)i);

		if (earlier != EGRESS_NO_RULE)
			out[n++] = (struct egress_remark){(uint16_t)i, earlier};
		else if (too_wide(r, &r->rule[i]))
			out[n++] = (struct egress_remark){(uint16_t)i, EGRESS_TOO_WIDE};
	}
	egress_rules_free(r);
	return (int)n;
}
