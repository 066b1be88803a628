/* Purpose: finds the rules of an egress policy by the prefixes and names that are their destinations. For egress_read.c, which fills
 * the tables, and egress_match.c, which searches them. */
#ifndef PASTA_CORE_EGRESS_INDEX_H
#define PASTA_CORE_EGRESS_INDEX_H

#include "core/egress_rules.h"

/* --- prefixes --- */

struct egress_prefix egress_prefix_of(const struct addr *a, uint8_t bits);
bool egress_prefix_has(const struct egress_prefix *p, const struct addr *a);
/* The node of a prefix, which is made if there is none. */
struct egress_prefix_node *egress_prefix_add(struct egress_rules *r, const struct egress_prefix *p);
/* The length of the shortest prefix that can hold the address: no IPv6 prefix holds IPv4 addresses, which are v4-mapped here. */
uint32_t egress_first_bits(const struct addr *a);
/* The next node whose prefix holds the address, from prefixes of *bits bits on; NULL: there is none. */
const struct egress_prefix_node *egress_next_prefix(const struct egress_rules *r, const struct addr *a, uint32_t *bits);

/* --- names --- */

/* How many nodes the name of a rule needs at most. */
uint32_t egress_name_nodes(const struct egress_rules *r, const struct egress_rule *rule);
/* The node of a rule's name, which is made if there is none. The nodes of the names above it are marked if the rule allows. */
struct egress_name_node *egress_name_add(struct egress_rules *r, const struct egress_rule *rule);
/* The node of this very name, or of all names below it; NULL: there is none. */
const struct egress_name_node *egress_name_find(const struct egress_rules *r, const char *name, uint32_t len, bool below);

struct egress_name_search {
	const char *name;
	uint32_t len, at; /* bytes of the name from `at` on are in the hash */
	uint32_t hash;
};

/* Begins a search for the lists of rules that fit the name. */
struct egress_name_search egress_name_search(const char *name, uint32_t len);
/* The next of them: those of names above it first. NULL: there are no more. */
const struct egress_list *egress_next_name(const struct egress_rules *r, struct egress_name_search *s);

#endif
