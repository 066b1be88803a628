/* Purpose: which of the guest's connections do not go straight to their destination, but to an inspector or a proxy. Pure.
 *
 * How: the flows are found as those of the egress policy are, by rules of the same form: the rule that matches first names the place.
 * One that denies, and a default that denies, mean the straight way.
 */
#ifndef PASTA_CORE_DETOUR_H
#define PASTA_CORE_DETOUR_H

#include "core/egress.h"
#include "core/handshake.h"

struct detour {
	struct endpoint to;
	enum handshake_kind kind;
};

struct detours {
	struct egress *rules; /* with pins of its own: rules may have names */
	uint32_t count;
	struct detour *by_rule; /* of each rule */
	struct detour others;   /* of what no rule matches */
	struct handshake_auth auth;
};

#define DETOUR_TARGET_BYTES 19 /* an address, a port (big-endian), a handshake_kind */

/* policy: as for egress_new(). targets: of each rule, and one more of what no rule matches. 0, -EINVAL or -ENOMEM. */
int detours_new(const uint8_t *policy, uint32_t len, const uint8_t *targets, uint32_t count, const struct handshake_auth *auth,
		const struct siphash_key *key, struct detours **out);
void detours_free(struct detours *d);
/* Where a flow to dest, which leads to host_dest, goes instead; NULL: nowhere else. */
const struct detour *detours_find(const struct detours *d, uint8_t proto, const struct addr *dest, const struct addr *host_dest,
				  uint16_t port, int64_t now_ms);

#endif
