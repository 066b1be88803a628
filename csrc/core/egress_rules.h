/* The compiled rules of an egress policy, for egress.c only: egress_read.c makes them, egress_match.c searches them. */
#ifndef PASTA_CORE_EGRESS_RULES_H
#define PASTA_CORE_EGRESS_RULES_H

#include "core/egress.h"

/* Groups of addresses. */
#define EGRESS_HOST 1
#define EGRESS_LAN 2
#define EGRESS_PRIVATE 4
#define EGRESS_METADATA 8
#define EGRESS_MULTICAST 16
#define EGRESS_INTERNET 128 /* in a rule: addresses in none of the groups above */
/* A rule that allows another group does not open these. */
#define EGRESS_GUARDED (EGRESS_HOST | EGRESS_METADATA | EGRESS_MULTICAST)

#define EGRESS_TCP 1
#define EGRESS_UDP 2
#define EGRESS_ECHO 4
#define EGRESS_ALL_PROTOCOLS 7
#define EGRESS_VERIFY (EGRESS_TLS | EGRESS_HTTP) /* with EGRESS_TCP, which they narrow */

/* What the destination of a rule is, and what a name may resolve into. */
enum egress_kind {
	EGRESS_ANY, /* as a limit: none was given */
	EGRESS_PREFIX,
	EGRESS_GROUPS,
	EGRESS_NAME,  /* only a destination */
	EGRESS_BELOW, /* only a destination: every name that ends in "." and this one */
};

struct egress_prefix {
	struct addr addr; /* zero behind the prefix */
	uint8_t bits;     /* of 128: an IPv4 prefix has 96 more than usual */
};

struct egress_rule {
	struct egress_prefix prefix; /* of the destination, or of the limit */
	uint32_t name_at;            /* in egress_rules.policy */
	uint16_t first_port, last_port;
	uint16_t next; /* the next rule with the same destination; EGRESS_NO_RULE: none */
	bool allow;
	uint8_t name_len;
	uint8_t protocols;
	uint8_t kind, limit; /* enum egress_kind */
	uint8_t groups;      /* of the destination, or of the limit */
};

/* Rules in order. */
struct egress_list {
	uint16_t first, last; /* EGRESS_NO_RULE: empty */
};

struct egress_prefix_node {
	struct egress_prefix prefix;
	uint8_t groups; /* of the addresses in it */
	bool used;
	struct egress_list rules;
};

struct egress_name_node {
	uint32_t hash;
	uint32_t at; /* in egress_rules.policy */
	uint8_t len;
	bool below; /* rules for the names that end in this one */
	bool used;
	bool above; /* a rule allows a name below this one */
	struct egress_list rules;
};

struct egress_rules {
	bool allow_others; /* the default */
	bool all_names;    /* a name that no rule denies is answered */
	bool no_names;     /* no name is answered */
	uint8_t verifies;  /* EGRESS_TLS, EGRESS_HTTP: a rule that allows has names verified so */
	uint32_t count;
	struct egress_rule *rule;
	struct egress_list any; /* for every address, or for groups */
	/* Open addressing, at most half full. */
	struct egress_prefix_node *by_prefix;
	struct egress_name_node *by_name;
	uint32_t prefix_mask, name_mask;
	uint64_t bits_used[3]; /* bit n: there is a prefix of n bits */
	uint32_t nat64_count;
	struct egress_prefix *nat64; /* an IPv4 address is embedded behind these (RFC 6052, 2.2) */
	uint32_t policy_len;
	uint8_t policy[]; /* what was compiled: the names are there */
};

/* An address that is judged. */
struct egress_view {
	struct addr addr;
	struct addr as_seen;  /* another address by which the guest knows it; ADDR_NONE: none */
	struct addr inner;    /* the IPv4 address that it embeds */
	uint8_t form_bits;    /* length of the prefix that says how it does; 0: it embeds none */
	uint8_t groups;       /* of addr and inner */
	uint8_t inner_groups; /* of inner */
};

/* --- egress_read.c --- */

/* 0, -EINVAL or -ENOMEM; egress_rules_free() in the case of success only. */
int egress_rules_read(const uint8_t *policy, uint32_t len, struct egress_rules **out);
void egress_rules_free(struct egress_rules *r);
/* The rule at the beginning of some rules, its name_at counted from there, and how many bytes it has; 0: there is none. */
uint32_t egress_rule_read(const uint8_t *rules, uint32_t len, struct egress_rule *rule);

/* --- egress_match.c --- */

struct egress_view egress_rules_view(const struct egress_rules *r, const struct addr *dest, const struct addr *host_dest);
/* The first rule that matches; EGRESS_NO_RULE: none. name: the address is pinned to it; NULL: none. */
uint16_t egress_rules_match(const struct egress_rules *r, const struct egress_view *v, uint8_t protocol, uint16_t port,
			    const char *name, uint32_t len);
/* Whether any flow to the address could be allowed under the name, by which rule. */
struct egress_verdict egress_rules_reach(const struct egress_rules *r, const struct egress_view *v, const char *name, uint32_t len);
struct egress_verdict egress_rules_name(const struct egress_rules *r, const char *name, uint32_t len);
uint32_t egress_rules_named(const struct egress_rules *r, const char *name, uint32_t len);

#endif
