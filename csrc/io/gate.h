/* Purpose: ask the egress policy about a flow that the guest opens, and tell the guest of a no. */
#ifndef PASTA_IO_GATE_H
#define PASTA_IO_GATE_H

#include "io/io.h"
#include "wire/ip.h"
#include "wire/server_name.h"

/* How a flow passes: by which rule; TCP: what it has to name first, EGRESS_TLS or EGRESS_HTTP, or 0. */
struct gate_pass {
	uint16_t rule;
	uint8_t verify;
};

/* For gate_opens() only. */
bool gate_ask(struct io *io, uint32_t protocol, const struct flow_key *key, const struct endpoint *host_peer,
	      struct gate_pass *pass);

/* Whether the guest may open this flow. protocol: FLOW_TCP and following; host_peer: where it leads. A no is counted and told to readers
 * of events. Where a name has to be asked again first, it is false too, and io->frame_waits is set: the guest hears nothing yet. */
static inline bool gate_opens(struct io *io, uint32_t protocol, const struct flow_key *key, const struct endpoint *host_peer,
			      struct gate_pass *pass)
{
	*pass = (struct gate_pass){FLOW_NO_RULE, 0};
	return LIKELY(!io->egress) || gate_ask(io, protocol, key, host_peer, pass);
}

/* What a flow that has to name a name has sent so far: REASON_none if it may go on, and the name; another reason if it may not. False:
 * more bytes are needed. Where describe() gives no host peer, it is looked up as for a new flow. */
bool gate_verify(struct io *io, uint8_t verify, event_describe *describe, const struct flow *flow, const uint8_t *bytes,
		 uint32_t len, struct server_name *name, enum flow_reason *reason);

/* Where a TCP connection that the policy allows goes instead of host_peer; NULL: nowhere else. */
static inline const struct detour *gate_detour(const struct io *io, const struct flow_key *key, const struct endpoint *host_peer)
{
	if (LIKELY(!io->detours))
		return NULL;
	return detours_find(io->detours, IPPROTO_TCP, &key->dest, &host_peer->addr, key->dest_port, loop_boot_ms());
}

/* How the flows of a shard fared when the rules had changed. */
struct gate_again {
	uint32_t kept, ended;
};

/* What a TCP flow has named in the way of `verify`. len 0: it still has to, and nothing of it has passed. */
struct gate_proof {
	const char *name;
	uint8_t len;
	uint8_t verify;
};

/* The rules have changed: whether a flow may stay, by which rule. Where describe() gives no host peer, it is looked up as for a new
 * flow. The pins of a flow that is open may have ended. proof: NULL for a flow that has named nothing, and is open. */
bool gate_keeps(struct io *io, event_describe *describe, const struct flow *f, const struct gate_proof *proof, uint16_t *rule,
		struct gate_again *counts);

/* For gate_serves_dns() only. */
bool gate_ask_dns(struct io *io, uint32_t protocol, const struct flow_key *key);

/* Whether Python answers what the guest sends there: DNS queries, unless a rule opens that very way. */
static inline bool gate_serves_dns(struct io *io, uint32_t protocol, const struct flow_key *key)
{
	return UNLIKELY(io->mapping->serves_dns) && gate_ask_dns(io, protocol, key);
}

/* Whether Python may be given this query, the payload of a datagram: one for a name that the rules do not allow has a limited rate, so
 * that a flood of them leaves time for the others. */
bool gate_passes_query(struct io *io, const uint8_t *message, uint32_t len);

/* Answers the guest's datagram or echo request as a filtering router does (RFC 1812, 5.2.7.1; RFC 4443, 3.1), at a limited rate. */
void gate_answer(struct io *io, const struct ip_view *ip);

#endif
