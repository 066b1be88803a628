/* How: all shards ask one policy, behind a lock: once for each flow, so it is rarely contended. A pin joins an address and a name.
 * A flow to a pinned address is judged once for each of its names, with the rules of that name; one that allows it is enough,
 * because names share addresses. The rules of a name are looked up then, so pins outlive a change of rules.
 *
 * A pin that has ended stays until its place is needed: its name may be asked again. Live pins are never dropped. A flow to the address
 * of such a pin may wait while Python asks: once for a name and address in ASKED_MS, and QUESTIONS_MAX names at a time.
 *
 * Invariants: `lock` guards everything. Each pin is in the bucket of its address.
 */
#include "core/egress.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/siphash.h"
#include "core/egress_rules.h"

#define PINS_MAX 65536
#define BUCKETS_MIN 64
#define QUESTIONS_MAX 64
#define ASKING_MS 20000 /* a question without an answer after this time was lost */
#define ASKED_MS 5000   /* for this time after an answer no flow waits for the same question again */
#define SWEEP_MS 1000   /* between two searches for ended pins: each reads all pins */

enum asked { NOT_ASKED, ASKING, ASKED };

struct pin {
	struct pin *next; /* in its bucket */
	struct addr addr;
	int64_t until_ms;
	uint32_t asked_ms; /* low bits of the clock: when Python began to ask for the name again, or got the answer */
	uint8_t asked;     /* enum asked */
	uint32_t told;     /* egress.told, when the guest last got it in an answer */
	uint8_t len;
	char name[];
};

/* A name that a flow gave in TLS or HTTP and was reset for: readers of decisions show it. */
#define NAMED_KEPT 16
struct named {
	struct addr dest;
	uint16_t port;
	uint8_t len; /* 0: none */
	char name[EGRESS_NAME_MAX];
};

struct egress {
	pthread_mutex_t lock;
	struct egress_rules *rules;
	struct siphash_key key; /* a nameserver chooses the addresses, so it must not be able to choose buckets */
	struct pin **bucket;
	uint32_t bucket_mask, pins;
	uint32_t told; /* how often a pin was added or renewed */
	int64_t swept_ms;
	_Atomic uint32_t changes; /* of the rules; shards compare it without the lock */
	struct egress_outcome outcome;
	struct named *named; /* NAMED_KEPT; NULL before the first */
	uint32_t named_next;
	/* Names to ask again. Copies, because pins may go before Python asks. */
	struct question {
		struct addr addr;
		uint8_t len;
		char name[EGRESS_NAME_MAX];
	} * question; /* QUESTIONS_MAX; NULL before the first */
	_Atomic uint32_t questions, answers;
};

int egress_new(const uint8_t *policy, uint32_t len, const struct siphash_key *key, struct egress **out)
{
	struct egress *e = calloc(1, sizeof(*e));
	int rc = -ENOMEM;

	if (e)
		e->bucket = calloc(BUCKETS_MIN, sizeof(struct pin *));
	if (e && e->bucket)
		rc = egress_rules_read(policy, len, &e->rules);
	if (rc) {
		if (e)
			free(e->bucket);
		free(e);
		return rc;
	}
	e->bucket_mask = BUCKETS_MIN - 1;
	e->key = *key;
	e->swept_ms = INT64_MIN / 2;
	pthread_mutex_init(&e->lock, NULL);
	*out = e;
	return 0;
}

/* Removes the pins that are not to stay: ended ones, or those whose names the rules do not allow. */
static void remove_pins(struct egress *e, bool (*stays)(const struct egress *e, const struct pin *pin, int64_t now_ms),
			int64_t now_ms)
{
	for (uint32_t i = 0; i <= e->bucket_mask; i++) {
		struct pin **at = &e->bucket[i];

		while (*at) {
			struct pin *pin = *at;

			if (stays && stays(e, pin, now_ms)) {
				at = &pin->next;
				continue;
			}
			*at = pin->next;
			free(pin);
			e->pins--;
		}
	}
}

static bool is_live(const struct egress *e, const struct pin *pin, int64_t now_ms)
{
	(void)e;
	return pin->until_ms > now_ms;
}

static bool is_allowed(const struct egress *e, const struct pin *pin, int64_t now_ms)
{
	(void)now_ms;
	return egress_rules_name(e->rules, pin->name, pin->len).allow;
}

void egress_free(struct egress *e)
{
	if (!e)
		return;
	remove_pins(e, NULL, 0);
	egress_rules_free(e->rules);
	pthread_mutex_destroy(&e->lock);
	free(e->bucket);
	free(e->named);
	free(e->question);
	free(e);
}

static int replace(struct egress *e, const uint8_t *policy, uint32_t len, bool keeps_pins)
{
	struct egress_rules *rules, *before;
	bool same;
	int rc = egress_rules_read(policy, len, &rules);

	if (rc)
		return rc;
	pthread_mutex_lock(&e->lock);
	before = e->rules;
	same = before->policy_len == len && !memcmp(before->policy, policy, len);
	if (!same) {
		e->rules = rules;
		if (!keeps_pins)
			remove_pins(e, is_allowed, 0);
		e->outcome = (struct egress_outcome){.changes = e->outcome.changes + 1};
		atomic_store_explicit(&e->changes, e->outcome.changes, memory_order_release);
	}
	pthread_mutex_unlock(&e->lock);
	egress_rules_free(same ? rules : before);
	return same;
}

int egress_replace(struct egress *e, const uint8_t *policy, uint32_t len)
{
	return replace(e, policy, len, false);
}

int egress_regroup(struct egress *e, const uint8_t *policy, uint32_t len)
{
	return replace(e, policy, len, true);
}

uint32_t egress_changes(const struct egress *e)
{
	return atomic_load_explicit(&e->changes, memory_order_acquire);
}

void egress_judged(struct egress *e, uint32_t change, uint32_t kept, uint32_t ended)
{
	pthread_mutex_lock(&e->lock);
	if (change == e->outcome.changes) {
		e->outcome.shards++;
		e->outcome.kept += kept;
		e->outcome.ended += ended;
	}
	pthread_mutex_unlock(&e->lock);
}

struct egress_outcome egress_outcome(struct egress *e)
{
	struct egress_outcome outcome;

	pthread_mutex_lock(&e->lock);
	outcome = e->outcome;
	pthread_mutex_unlock(&e->lock);
	return outcome;
}

/* --- verdicts --- */

static uint8_t protocol_bit(uint8_t proto)
{
	return proto == IPPROTO_TCP ? EGRESS_TCP : proto == IPPROTO_UDP ? EGRESS_UDP : EGRESS_ECHO;
}

static struct egress_verdict by_index(const struct egress_rules *r, uint16_t index, bool others)
{
	if (index == EGRESS_NO_RULE)
		return (struct egress_verdict){others, EGRESS_BY_DEFAULT, index, 0};
	return (struct egress_verdict){r->rule[index].allow, EGRESS_BY_RULE, index, r->rule[index].protocols & EGRESS_VERIFY};
}

static struct pin *bucket_of(const struct egress *e, const struct addr *a, struct pin ***head)
{
	*head = &e->bucket[siphash(&e->key, a->b, sizeof(a->b)) & e->bucket_mask];
	return **head;
}

/* The verdict on an address that has names. `bare`: the verdict on the address alone. A name that needs no proof comes before one
 * that needs it. */
static struct egress_verdict by_names(const struct egress *e, const struct egress_view *v, uint8_t protocol, uint16_t port,
				      int64_t now_ms, struct egress_verdict bare)
{
	struct egress_verdict ended = bare, live = bare, proved = {0};
	struct pin **head;
	bool named = false;

	for (const struct pin *pin = bucket_of(e, &v->addr, &head); pin; pin = pin->next) {
		struct egress_verdict one;

		if (!addr_eq(&pin->addr, &v->addr))
			continue;
		one = by_index(e->rules, egress_rules_match(e->rules, v, protocol, port, pin->name, pin->len),
			       e->rules->allow_others);
		if (pin->until_ms <= now_ms) {
			if (one.allow && !bare.allow) {
				ended.verify = ended.reason == EGRESS_PIN_ENDED && !ended.verify ? 0 : one.verify;
				ended.reason = EGRESS_PIN_ENDED;
			}
			continue;
		}
		if (one.allow && !one.verify)
			return one;
		if (one.allow && (!proved.allow || one.rule < proved.rule))
			proved = one;
		if (!named || one.rule < live.rule)
			live = one;
		named = true;
	}
	if (proved.allow)
		return proved;
	return !named || ended.reason == EGRESS_PIN_ENDED ? ended : live;
}

struct egress_verdict egress_verdict(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest,
				     uint16_t port, int64_t now_ms)
{
	uint8_t protocol = protocol_bit(proto);
	struct egress_verdict verdict;
	struct egress_view v;

	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, dest, host_dest);
	verdict = by_index(e->rules, egress_rules_match(e->rules, &v, protocol, port, NULL, 0), e->rules->allow_others);
	if (e->pins)
		verdict = by_names(e, &v, protocol, port, now_ms, verdict);
	pthread_mutex_unlock(&e->lock);
	return verdict;
}

struct egress_verdict egress_verify(struct egress *e, uint8_t verify, const struct addr *dest, const struct addr *host_dest,
				    uint16_t port, const char *name, uint32_t len)
{
	struct egress_verdict verdict;
	struct egress_view v;

	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, dest, host_dest);
	verdict = by_index(e->rules, egress_rules_match(e->rules, &v, EGRESS_TCP, port, name, len), e->rules->allow_others);
	pthread_mutex_unlock(&e->lock);
	verdict.allow = verdict.allow && (!verdict.verify || verdict.verify == verify);
	return verdict;
}

void egress_note_named(struct egress *e, const struct addr *dest, uint16_t port, const char *name, uint32_t len)
{
	pthread_mutex_lock(&e->lock);
	if (!e->named)
		e->named = calloc(NAMED_KEPT, sizeof(*e->named));
	if (e->named) {
		struct named *n = &e->named[e->named_next++ % NAMED_KEPT];

		*n = (struct named){.dest = *dest, .port = port, .len = (uint8_t)len};
		memcpy(n->name, name, len);
	}
	pthread_mutex_unlock(&e->lock);
}

uint32_t egress_noted_name(struct egress *e, const struct addr *dest, uint16_t port, char out[EGRESS_NAME_MAX])
{
	uint32_t len = 0;

	pthread_mutex_lock(&e->lock);
	for (uint32_t i = 0; e->named && i < NAMED_KEPT && !len; i++) { /* the latest first */
		const struct named *n = &e->named[(e->named_next - 1 - i) % NAMED_KEPT];

		if (n->len && n->port == port && addr_eq(&n->dest, dest)) {
			len = n->len;
			memcpy(out, n->name, len);
		}
	}
	pthread_mutex_unlock(&e->lock);
	return len;
}

uint8_t egress_verifies(struct egress *e, uint16_t rule)
{
	uint8_t verifies;

	pthread_mutex_lock(&e->lock);
	verifies = rule < e->rules->count ? e->rules->rule[rule].protocols & EGRESS_VERIFY : 0;
	if (rule == EGRESS_NO_RULE)
		verifies = e->rules->verifies;
	pthread_mutex_unlock(&e->lock);
	return verifies;
}

struct egress_verdict egress_verdict_by_name(struct egress *e, uint8_t proto, const char *name, uint32_t len, uint16_t port)
{
	struct egress_verdict verdict;

	pthread_mutex_lock(&e->lock);
	verdict = by_index(e->rules, egress_rules_match(e->rules, NULL, protocol_bit(proto), port, name, len),
			   e->rules->allow_others);
	pthread_mutex_unlock(&e->lock);
	return verdict;
}

bool egress_opens_dns(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest, uint16_t port,
		      int64_t now_ms)
{
	struct egress_verdict v = egress_verdict(e, proto, dest, host_dest, port, now_ms);
	const struct egress_rule *rule;
	bool names = false;

	if (!v.allow || v.reason != EGRESS_BY_RULE)
		return false;
	pthread_mutex_lock(&e->lock);
	if (v.rule < e->rules->count) { /* the rules may have been replaced since the verdict */
		rule = &e->rules->rule[v.rule];
		names = rule->kind == EGRESS_PREFIX || rule->first_port > 1 || rule->last_port < UINT16_MAX;
	}
	pthread_mutex_unlock(&e->lock);
	return names;
}

struct egress_verdict egress_splice_verdict(struct egress *e, uint8_t proto, const struct addr *host_dest, uint16_t port)
{
	struct egress_verdict verdict;
	struct egress_view v;

	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, host_dest, host_dest);
	verdict = by_index(e->rules, egress_rules_match(e->rules, &v, protocol_bit(proto), port, NULL, 0), true);
	pthread_mutex_unlock(&e->lock);
	return verdict;
}

struct egress_verdict egress_name_verdict(struct egress *e, const char *name, uint32_t len)
{
	struct egress_verdict verdict;

	pthread_mutex_lock(&e->lock);
	verdict = egress_rules_name(e->rules, name, len);
	pthread_mutex_unlock(&e->lock);
	return verdict;
}

uint32_t egress_named(struct egress *e, const char *name, uint32_t len)
{
	uint32_t named;

	pthread_mutex_lock(&e->lock);
	named = egress_rules_named(e->rules, name, len);
	pthread_mutex_unlock(&e->lock);
	return named;
}

struct egress_verdict egress_address_verdict(struct egress *e, const char *name, uint32_t len, const struct addr *a)
{
	struct egress_verdict verdict;
	struct egress_view v;

	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, a, a);
	verdict = egress_rules_reach(e->rules, &v, name, len);
	pthread_mutex_unlock(&e->lock);
	return verdict;
}

/* --- pins --- */

/* Twice the buckets, where there are as many pins as buckets. Without memory the lists are longer. */
static void grow(struct egress *e)
{
	uint32_t old = e->bucket_mask + 1;
	struct pin **before = e->bucket, **bucket;

	if (e->pins < old || old >= PINS_MAX)
		return;
	bucket = calloc(2 * (size_t)old, sizeof(struct pin *));
	if (!bucket)
		return;
	e->bucket = bucket;
	e->bucket_mask = 2 * old - 1;
	for (uint32_t i = 0; i < old; i++)
		for (struct pin *pin = before[i], *next; pin; pin = next) {
			struct pin **head;

			next = pin->next;
			pin->next = bucket_of(e, &pin->addr, &head);
			*head = pin;
		}
	free(before);
}

static int add_pin(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms, int64_t until_ms)
{
	struct pin **head, *pin;

	for (pin = bucket_of(e, a, &head); pin; pin = pin->next) {
		if (!addr_eq(&pin->addr, a) || pin->len != len || memcmp(pin->name, name, len) != 0)
			continue;
		pin->until_ms = pin->until_ms > until_ms ? pin->until_ms : until_ms;
		pin->told = ++e->told;
		return 0;
	}
	if (e->pins >= PINS_MAX && now_ms - e->swept_ms >= SWEEP_MS) {
		e->swept_ms = now_ms;
		remove_pins(e, is_live, now_ms);
	}
	if (e->pins >= PINS_MAX)
		return -ENOSPC;
	pin = malloc(sizeof(*pin) + len);
	if (!pin)
		return -ENOMEM;
	grow(e);
	*pin = (struct pin){.next = bucket_of(e, a, &head), .addr = *a, .until_ms = until_ms, .len = (uint8_t)len};
	memcpy(pin->name, name, len);
	pin->told = ++e->told;
	*head = pin;
	e->pins++;
	return 0;
}

int egress_pin(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms, int64_t until_ms)
{
	int rc;

	if (!len || len > EGRESS_NAME_MAX)
		return -EINVAL;
	pthread_mutex_lock(&e->lock);
	rc = add_pin(e, a, name, len, now_ms, until_ms);
	pthread_mutex_unlock(&e->lock);
	return rc;
}

/* --- names that are asked again --- */

/* Whether a flow may wait for the pin's name. */
static bool ask_pin(struct egress *e, struct pin *pin, int64_t now_ms)
{
	uint32_t ago_ms = (uint32_t)now_ms - pin->asked_ms, n = atomic_load_explicit(&e->questions, memory_order_relaxed);

	if (pin->asked == ASKING && ago_ms < ASKING_MS)
		return true;
	if (n == QUESTIONS_MAX || (pin->asked == ASKED && ago_ms < ASKED_MS))
		return false;
	if (!e->question)
		e->question = calloc(QUESTIONS_MAX, sizeof(*e->question));
	if (!e->question)
		return false;
	e->question[n].addr = pin->addr;
	e->question[n].len = pin->len;
	memcpy(e->question[n].name, pin->name, pin->len);
	pin->asked = ASKING;
	pin->asked_ms = (uint32_t)now_ms;
	atomic_store_explicit(&e->questions, n + 1, memory_order_release);
	return true;
}

bool egress_ask_again(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest, uint16_t port,
		      int64_t now_ms)
{
	uint8_t protocol = protocol_bit(proto);
	struct egress_view v;
	struct pin **head;
	bool waits = false;

	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, dest, host_dest);
	for (struct pin *pin = bucket_of(e, &v.addr, &head); pin; pin = pin->next) {
		if (pin->until_ms > now_ms || !addr_eq(&pin->addr, &v.addr))
			continue;
		if (by_index(e->rules, egress_rules_match(e->rules, &v, protocol, port, pin->name, pin->len),
			     e->rules->allow_others)
			    .allow)
			waits |= ask_pin(e, pin, now_ms);
	}
	pthread_mutex_unlock(&e->lock);
	return waits;
}

bool egress_has_questions(const struct egress *e)
{
	return atomic_load_explicit(&e->questions, memory_order_acquire);
}

uint32_t egress_take_question(struct egress *e, struct addr *a, char name[EGRESS_NAME_MAX])
{
	uint32_t n, len = 0;

	pthread_mutex_lock(&e->lock);
	n = atomic_load_explicit(&e->questions, memory_order_relaxed);
	if (n) {
		const struct question *q = &e->question[--n];

		*a = q->addr;
		len = q->len;
		memcpy(name, q->name, len);
		atomic_store_explicit(&e->questions, n, memory_order_release);
	}
	pthread_mutex_unlock(&e->lock);
	return len;
}

void egress_answered(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms)
{
	struct pin **head;

	pthread_mutex_lock(&e->lock);
	for (struct pin *pin = bucket_of(e, a, &head); pin; pin = pin->next) {
		if (!addr_eq(&pin->addr, a) || pin->len != len || memcmp(pin->name, name, len) != 0)
			continue;
		pin->asked = ASKED;
		pin->asked_ms = (uint32_t)now_ms;
	}
	atomic_fetch_add_explicit(&e->answers, 1, memory_order_release);
	pthread_mutex_unlock(&e->lock);
}

uint32_t egress_answers(const struct egress *e)
{
	return atomic_load_explicit(&e->answers, memory_order_acquire);
}

uint32_t egress_last_name(struct egress *e, uint8_t proto, const struct addr *a, uint16_t port, int64_t now_ms,
			  char name[EGRESS_NAME_MAX], bool *several)
{
	const struct pin *last = NULL;
	struct egress_view v;
	struct pin **head;
	uint32_t len;

	*several = false;
	pthread_mutex_lock(&e->lock);
	v = egress_rules_view(e->rules, a, a);
	for (const struct pin *pin = bucket_of(e, a, &head); pin; pin = pin->next) {
		if (!addr_eq(&pin->addr, a) || pin->until_ms <= now_ms || !is_allowed(e, pin, now_ms) ||
		    !by_index(e->rules, egress_rules_match(e->rules, &v, protocol_bit(proto), port, pin->name, pin->len),
			      e->rules->allow_others)
			     .allow)
			continue;
		*several |= last != NULL;
		if (!last || (int32_t)(pin->told - last->told) > 0)
			last = pin;
	}
	len = last ? last->len : 0;
	if (last)
		memcpy(name, last->name, len);
	pthread_mutex_unlock(&e->lock);
	return len;
}

uint32_t egress_pinned(struct egress *e, const struct addr *a, char *out, uint32_t space)
{
	struct pin **head;
	uint32_t at = 0;

	pthread_mutex_lock(&e->lock);
	for (const struct pin *pin = bucket_of(e, a, &head); pin; pin = pin->next) {
		if (!addr_eq(&pin->addr, a) || pin->len + 1u > space - at)
			continue;
		memcpy(out + at, pin->name, pin->len);
		at += pin->len;
		out[at++] = '\n';
	}
	pthread_mutex_unlock(&e->lock);
	return at;
}
