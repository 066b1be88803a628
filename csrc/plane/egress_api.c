/* Purpose: the functions of plane_api.h for the egress policy. Shard 0 translates addresses here; its verdicts hold for all. */
#include <errno.h>
#include <sys/random.h>

#include "plane/plane.h"
#include "plane_api.h"

_Static_assert(PLANE_BY_RULE == (int)EGRESS_BY_RULE && PLANE_BY_DEFAULT == (int)EGRESS_BY_DEFAULT && PLANE_NAMED == EGRESS_NAMED &&
		       PLANE_NAMED_BELOW == EGRESS_NAMED_BELOW && PLANE_PIN_ENDED == (int)EGRESS_PIN_ENDED &&
		       PLANE_NO_RULE == EGRESS_NO_RULE && PLANE_TLS == EGRESS_TLS && PLANE_HTTP == EGRESS_HTTP &&
		       PLANE_NAME_BYTES == EGRESS_NAME_MAX,
	       "Python sees the core's own values");

int plane_egress(struct plane *p, const uint8_t *policy, uint32_t len)
{
	struct io *io = &p->shard[0]->io;
	struct siphash_key key;

	if (io->egress) {
		int rc = egress_replace(io->egress, policy, len);

		if (!rc)
			plane_wake_shards(p); /* each looks at the number of changes once a turn */
		return rc;
	}
	if (p->shard_count > 1)
		return -EBUSY;
	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	return egress_new(policy, len, &key, &io->egress);
}

int plane_detours(struct plane *p, const uint8_t *policy, uint32_t len, const uint8_t *targets, uint32_t targets_len,
		  const uint8_t *user, uint32_t user_len, const uint8_t *password, uint32_t password_len)
{
	struct io *io = &p->shard[0]->io;
	struct handshake_auth auth = {.user_len = (uint8_t)user_len, .password_len = (uint8_t)password_len};
	struct siphash_key key;

	if (!io->egress || io->detours || p->shard_count > 1)
		return -EBUSY;
	if (!targets_len || targets_len % DETOUR_TARGET_BYTES || user_len > HANDSHAKE_AUTH_MAX || password_len > HANDSHAKE_AUTH_MAX)
		return -EINVAL;
	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	memcpy(auth.user, user, user_len);
	memcpy(auth.password, password, password_len);
	return detours_new(policy, len, targets, targets_len / DETOUR_TARGET_BYTES, &auth, &key, &io->detours);
}

int plane_detours_follow(struct plane *p, const uint8_t *policy, uint32_t len)
{
	struct detours *detours = p->shard[0]->io.detours;
	int rc = detours ? egress_regroup(detours->rules, policy, len) : -EINVAL;

	return rc < 0 ? rc : 0;
}

uint32_t plane_egress_outcome(struct plane *p, uint32_t *kept, uint32_t *ended)
{
	struct egress_outcome outcome = egress_outcome(p->shard[0]->io.egress);

	*kept = outcome.kept;
	*ended = outcome.ended;
	return outcome.changes ? p->shard_count - outcome.shards : 0;
}

static void report(struct egress_verdict v, struct plane_verdict *out)
{
	*out = (struct plane_verdict){v.allow, v.reason, v.rule};
}

void plane_egress_flow(struct plane *p, int proto, const uint8_t dest[16], uint16_t port, struct plane_verdict *out)
{
	struct io *io = &p->shard[0]->io;
	struct endpoint to = {addr_from_v6(dest), port}, host_dest;

	mapping_outbound(io->mapping, (uint8_t)proto, &to, &host_dest);
	report(egress_verdict(io->egress, (uint8_t)proto, &to.addr, &host_dest.addr, port, loop_boot_ms()), out);
}

void plane_egress_by_name(struct plane *p, int proto, const char *name, uint32_t len, uint16_t port, struct plane_verdict *out)
{
	report(egress_verdict_by_name(p->shard[0]->io.egress, (uint8_t)proto, name, len, port), out);
}

void plane_egress_name(struct plane *p, const char *name, uint32_t len, struct plane_verdict *out)
{
	report(egress_name_verdict(p->shard[0]->io.egress, name, len), out);
}

void plane_egress_address(struct plane *p, const char *name, uint32_t len, const uint8_t addr[16], struct plane_verdict *out)
{
	struct addr a = addr_from_v6(addr);

	report(egress_address_verdict(p->shard[0]->io.egress, name, len, &a), out);
}

uint32_t plane_egress_named(struct plane *p, const char *name, uint32_t len)
{
	return egress_named(p->shard[0]->io.egress, name, len);
}

int plane_egress_pin(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len, uint64_t keep_ms)
{
	struct addr a = addr_from_v6(addr);
	int64_t now_ms = loop_boot_ms();

	int64_t until_ms = now_ms + (int64_t)keep_ms;
	struct io *io = &p->shard[0]->io;
	int rc = io->detours ? egress_pin(io->detours->rules, &a, name, len, now_ms, until_ms) : 0;

	return rc ? rc : egress_pin(io->egress, &a, name, len, now_ms, until_ms);
}

void plane_egress_answered(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len)
{
	struct addr a = addr_from_v6(addr);

	egress_answered(p->shard[0]->io.egress, &a, name, len, loop_boot_ms());
	plane_wake_shards(p);
}

uint32_t plane_egress_pinned(struct plane *p, const uint8_t addr[16], char *out, uint32_t space)
{
	struct addr a = addr_from_v6(addr);

	return egress_pinned(p->shard[0]->io.egress, &a, out, space);
}

uint32_t plane_egress_verifies(struct plane *p, uint32_t rule)
{
	return egress_verifies(p->shard[0]->io.egress, (uint16_t)rule);
}

uint32_t plane_egress_named_last(struct plane *p, const uint8_t dest[16], uint16_t port, char out[PLANE_NAME_BYTES])
{
	struct addr a = addr_from_v6(dest);

	return egress_noted_name(p->shard[0]->io.egress, &a, port, out);
}
