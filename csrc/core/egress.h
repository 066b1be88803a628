/* Purpose: the egress policy: which flows the guest may open, and which names it may ask for. Pure but for a lock.
 *
 * egress.c has the verdicts and the addresses that names were resolved to, egress_rules.h the compiled rules.
 */
#ifndef PASTA_CORE_EGRESS_H
#define PASTA_CORE_EGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/siphash.h"

#define EGRESS_NO_RULE 0xffff
#define EGRESS_NAME_MAX 253 /* characters without a final dot (RFC 1035, 2.3.4) */

/* Why a verdict is what it is. */
enum egress_reason {
	EGRESS_BY_RULE,    /* the rule that the verdict names */
	EGRESS_BY_DEFAULT, /* no rule matches */
	EGRESS_PIN_ENDED,  /* denied; a name would allow it, but its pin has ended: the name may be asked again */
};

/* What has to name a name that the rules allow, before a flow may send anything: in a rule these come with TCP. */
#define EGRESS_TLS 8   /* the ClientHello */
#define EGRESS_HTTP 16 /* the Host field of the first request */

struct egress_verdict {
	bool allow;
	uint8_t reason; /* enum egress_reason */
	uint16_t rule;  /* EGRESS_NO_RULE: none */
	uint8_t verify; /* of a flow that is allowed, or was until its pin ended: 0, EGRESS_TLS or EGRESS_HTTP */
};

struct egress;

/* Compiles a policy (its form: plane_egress() of plane_api.h). key: any, for a hash table. 0, -EINVAL for other bytes, or -ENOMEM. */
int egress_new(const uint8_t *policy, uint32_t len, const struct siphash_key *key, struct egress **out);
/* Puts another policy in place of the present one, or changes nothing. Pins of names that are still allowed stay. 1: it is the same
 * as before; 0, -EINVAL, -ENOMEM. */
int egress_replace(struct egress *e, const uint8_t *policy, uint32_t len);
/* The same, with all pins: the rules are the same, and the host's prefixes are others. */
int egress_regroup(struct egress *e, const uint8_t *policy, uint32_t len);

/* After a change each shard judges its flows again, and says what became of them. `changes` counts changes. */
struct egress_outcome {
	uint32_t changes;
	uint32_t shards;      /* that have done so */
	uint32_t kept, ended; /* flows */
};
uint32_t egress_changes(const struct egress *e);
/* A shard has judged its flows: by the change that it had seen before. */
void egress_judged(struct egress *e, uint32_t change, uint32_t kept, uint32_t ended);
struct egress_outcome egress_outcome(struct egress *e);
void egress_free(struct egress *e);

/* The verdict on a flow that the guest opens. dest: as the guest sees it; host_dest: where it leads (equal unless it is mapped).
 * port: 0 for echo. now_ms: of CLOCK_BOOTTIME, as in all functions here. */
struct egress_verdict egress_verdict(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest,
				     uint16_t port, int64_t now_ms);
/* The verdict on such a flow once it has named this name, in the way of `verify`: whether the rules allow it as if the address were an
 * answer for that name alone. */
struct egress_verdict egress_verify(struct egress *e, uint8_t verify, const struct addr *dest, const struct addr *host_dest,
				    uint16_t port, const char *name, uint32_t len);
/* Keeps what a flow to this destination named and was reset for; the last ones are kept. */
void egress_note_named(struct egress *e, const struct addr *dest, uint16_t port, const char *name, uint32_t len);
/* The last such name, or 0; returns its length. */
uint32_t egress_noted_name(struct egress *e, const struct addr *dest, uint16_t port, char out[EGRESS_NAME_MAX]);
/* How a rule has names verified: EGRESS_TLS, EGRESS_HTTP or 0. EGRESS_NO_RULE: of all rules these bits. */
uint8_t egress_verifies(struct egress *e, uint16_t rule);
/* The verdict on a flow to a public address of this name, which no rule names by address. */
struct egress_verdict egress_verdict_by_name(struct egress *e, uint8_t proto, const char *name, uint32_t len, uint16_t port);
/* Whether the guest may send DNS queries there itself: a rule allows it and names the address or some ports. A rule for all
 * addresses, or for a name, does not mean to open a way around the names. */
bool egress_opens_dns(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest, uint16_t port,
		      int64_t now_ms);
/* The verdict on a spliced flow of the guest to a port of the host's loopback, which --tcp-ns or --udp-ns offers: it is allowed
 * unless a rule denies it. */
struct egress_verdict egress_splice_verdict(struct egress *e, uint8_t proto, const struct addr *host_dest, uint16_t port);

/* Names are lower-case A-labels without a final dot, of len bytes. */

#define EGRESS_NAMED 1       /* a rule allows this very name */
#define EGRESS_NAMED_BELOW 2 /* a rule allows a name below it */
/* How rules mention the name: these bits. */
uint32_t egress_named(struct egress *e, const char *name, uint32_t len);
/* Whether a query for this name is answered. */
struct egress_verdict egress_name_verdict(struct egress *e, const char *name, uint32_t len);
/* Whether an answer for this name may contain the address: whether any flow to it could be allowed then. */
struct egress_verdict egress_address_verdict(struct egress *e, const char *name, uint32_t len, const struct addr *a);
/* Pins an address to a name: until then the rules of the name count for the address. A pin that is there lasts longer at most.
 * 0; -ENOSPC: no more pins; -ENOMEM; -EINVAL: no such name. */
int egress_pin(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms, int64_t until_ms);
/* Flows whose name has to be asked again: the verdict was EGRESS_PIN_ENDED. Each thread may call these. */

/* Whether the flow may wait for it. The names whose pins have ended, and that would allow it, become questions, unless they have just
 * been asked. */
bool egress_ask_again(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest, uint16_t port,
		      int64_t now_ms);
bool egress_has_questions(const struct egress *e);
/* Takes one: a name, and an address that it was pinned to. Returns the length of the name; 0: there is none. */
uint32_t egress_take_question(struct egress *e, struct addr *a, char name[EGRESS_NAME_MAX]);
/* It has been asked, and what there was to pin is pinned. A pin that has still ended counts no more for a while. */
void egress_answered(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms);
/* How many questions were answered: after a change, flows that wait are judged again. */
uint32_t egress_answers(const struct egress *e);

/* The name of an address that the guest was told last, of those under which the policy allows a flow to it: a live pin. Returns its
 * length; 0: there is none. *several: there are others. */
uint32_t egress_last_name(struct egress *e, uint8_t proto, const struct addr *a, uint16_t port, int64_t now_ms,
			  char name[EGRESS_NAME_MAX], bool *several);
/* The names pinned to an address, ended pins too, each with a newline, cut at `space` bytes. Returns how many bytes. */
uint32_t egress_pinned(struct egress *e, const struct addr *a, char *out, uint32_t space);

#endif
