#include "core/detour.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static bool read_target(const uint8_t *bytes, struct detour *out)
{
	out->to = (struct endpoint){addr_from_v6(bytes), load_be16(bytes + 16)};
	out->kind = (enum handshake_kind)bytes[18];
	return bytes[18] <= HANDSHAKE_HTTP;
}

int detours_new(const uint8_t *policy, uint32_t len, const uint8_t *targets, uint32_t count, const struct handshake_auth *auth,
		const struct siphash_key *key, struct detours **out)
{
	struct detours *d = calloc(1, sizeof(*d));
	int rc = -ENOMEM;

	if (d)
		d->by_rule = calloc(count, sizeof(*d->by_rule));
	if (d && d->by_rule)
		rc = egress_new(policy, len, key, &d->rules);
	for (uint32_t i = 0; !rc && i < count; i++)
		rc = read_target(targets + (size_t)i * DETOUR_TARGET_BYTES, &d->by_rule[i]) ? 0 : -EINVAL;
	if (rc) {
		detours_free(d);
		return rc;
	}
	d->count = count - 1;
	d->others = d->by_rule[d->count];
	d->auth = *auth;
	*out = d;
	return 0;
}

void detours_free(struct detours *d)
{
	if (!d)
		return;
	egress_free(d->rules);
	free(d->by_rule);
	free(d);
}

const struct detour *detours_find(const struct detours *d, uint8_t proto, const struct addr *dest, const struct addr *host_dest,
				  uint16_t port, int64_t now_ms)
{
	struct egress_verdict verdict = egress_verdict(d->rules, proto, dest, host_dest, port, now_ms);

	if (!verdict.allow)
		return NULL;
	return verdict.rule < d->count ? &d->by_rule[verdict.rule] : &d->others;
}
