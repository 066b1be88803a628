/* How: a denied datagram or echo request gets "administratively prohibited". A denied SYN gets a reset, as connect() to a closed port
 * does.
 *
 * Rejected: the ICMP error for a SYN. Linux ignores it while connect() still holds the socket (net/ipv4/tcp_ipv4.c, tcp_v4_err()),
 * and we answer so fast that this is the case for half of all connections over IPv4, and nearly all over IPv6: these would wait a
 * second for the SYN's retransmission.
 */
#include "io/gate.h"

#include <errno.h>

#include "io/icmp_error.h"

#define ANSWERS_PER_S 1000
#define ANSWERS_BURST 200
#define QUERIES_PER_S 50    /* Python takes about 0.15 ms for each: a flood of them costs less than 1 % of a processor */
#define QUERIES_BURST 1000  /* a page of a browser asks for hundreds of names, each with several types */
#define DNS_HEADER_BYTES 12 /* RFC 1035, 4.1.1 */

static struct egress_verdict ask(struct io *io, uint32_t protocol, const struct flow_key *key, const struct endpoint *host_peer)
{
	static const uint8_t numbers[] = {
		[FLOW_TCP] = IPPROTO_TCP,        [FLOW_UDP] = IPPROTO_UDP,        [FLOW_PING] = IPPROTO_ICMP,
		[FLOW_SPLICE_TCP] = IPPROTO_TCP, [FLOW_SPLICE_UDP] = IPPROTO_UDP,
	};

	if (protocol == FLOW_SPLICE_TCP || protocol == FLOW_SPLICE_UDP)
		return egress_splice_verdict(io->egress, numbers[protocol], &host_peer->addr, host_peer->port);
	return egress_verdict(io->egress, numbers[protocol], &key->dest, &host_peer->addr, key->dest_port, loop_boot_ms());
}

/* Whether it would have to go through an inspector or a proxy, which carry only TCP. Beside it, it would be seen by nothing. */
static bool lacks_way(struct io *io, uint32_t protocol, const struct flow_key *key, const struct endpoint *host_peer)
{
	uint8_t number = protocol == FLOW_UDP ? IPPROTO_UDP : IPPROTO_ICMP;
	char text[ADDR_STR_LEN];

	if ((protocol != FLOW_UDP && protocol != FLOW_PING) ||
	    !detours_find(io->detours, number, &key->dest, &host_peer->addr, key->dest_port, loop_boot_ms()))
		return false;
	if (log_due(&io->only_tcp_logged_ms, io->loop->now_ms))
		log_add(io->log, LOG_LEVEL_WARNING, "%s to %s is refused: --proxy and --redirect carry only TCP",
			protocol == FLOW_UDP ? "UDP" : "ping", addr_str(&key->dest, text));
	return true;
}

bool gate_ask(struct io *io, uint32_t protocol, const struct flow_key *key, const struct endpoint *host_peer,
	      struct gate_pass *pass)
{
	struct egress_verdict verdict = ask(io, protocol, key, host_peer);

	*pass = (struct gate_pass){verdict.rule, verdict.verify};
	if (verdict.allow && !(io->detours && lacks_way(io, protocol, key, host_peer)))
		return true;
	if (verdict.reason == EGRESS_PIN_ENDED && io->may_wait && (protocol == FLOW_TCP || protocol == FLOW_UDP)) {
		io->frame_waits = egress_ask_again(io->egress, protocol == FLOW_TCP ? IPPROTO_TCP : IPPROTO_UDP, &key->dest,
						   &host_peer->addr, key->dest_port, loop_boot_ms());
		if (io->frame_waits)
			return false;
	}
	COUNT(io->counters, drop_egress);
	if (verdict.allow) {
		event_refused(io->events, io->loop->now_ms, protocol, key, host_peer, REASON_proxy, 0, verdict.rule, true);
		return false;
	}
	event_refused(io->events, io->loop->now_ms, protocol, key, host_peer,
		      verdict.reason == EGRESS_PIN_ENDED ? REASON_name_ended : REASON_rule, 0, verdict.rule, true);
	return false;
}

/* Where a flow that is open leads. */
static struct endpoint leads_to(struct io *io, event_describe *describe, const struct flow *f, struct flow_event *e)
{
	static const uint8_t numbers[] = {[FLOW_TCP] = IPPROTO_TCP, [FLOW_UDP] = IPPROTO_UDP, [FLOW_PING] = IPPROTO_ICMP};
	struct endpoint to = {f->key.dest, f->key.dest_port}, host_peer;

	describe(f, e);
	host_peer = (struct endpoint){addr_from_v6(e->peer), e->peer_port};
	if (addr_is_none(&host_peer.addr) && e->protocol < ARRAY_LEN(numbers))
		mapping_outbound(io->mapping, numbers[e->protocol], &to, &host_peer);
	return host_peer;
}

bool gate_verify(struct io *io, uint8_t verify, event_describe *describe, const struct flow *flow, const uint8_t *bytes,
		 uint32_t len, struct server_name *name, enum flow_reason *reason)
{
	const struct addr *dest = &flow->key.dest;
	struct endpoint host_peer;
	struct flow_event e;

	*reason = REASON_none;
	switch (verify == EGRESS_TLS ? server_name_in_hello(bytes, len, name) : server_name_in_request(bytes, len, name)) {
	case SERVER_NAME_MORE:
		return false;
	case SERVER_NAME_NONE:
		*reason = REASON_without_name;
		return true;
	case SERVER_NAME_WRONG:
		*reason = REASON_not_verified;
		return true;
	case SERVER_NAME_FOUND:
		break;
	}
	host_peer = leads_to(io, describe, flow, &e);
	if (egress_verify(io->egress, verify, dest, &host_peer.addr, flow->key.dest_port, name->text, name->len).allow)
		return true;
	egress_note_named(io->egress, dest, flow->key.dest_port, name->text, name->len);
	*reason = REASON_other_name;
	return true;
}

bool gate_keeps(struct io *io, event_describe *describe, const struct flow *f, const struct gate_proof *proof, uint16_t *rule,
		struct gate_again *counts)
{
	struct egress_verdict verdict;
	struct endpoint host_peer;
	struct flow_event e;

	host_peer = leads_to(io, describe, f, &e);
	if (e.from_host)
		return true;
	verdict = ask(io, e.protocol, &f->key, &host_peer);
	if (proof && proof->len && (!verdict.allow || verdict.verify))
		verdict = egress_verify(io->egress, proof->verify, &f->key.dest, &host_peer.addr, f->key.dest_port, proof->name,
					proof->len);
	else if (!proof && verdict.verify)
		verdict.allow = false;
	if (!verdict.allow && (verdict.reason != EGRESS_PIN_ENDED || verdict.verify)) {
		counts->ended++;
		return false;
	}
	if (verdict.allow)
		*rule = verdict.rule;
	counts->kept++;
	return true;
}

bool gate_ask_dns(struct io *io, uint32_t protocol, const struct flow_key *key)
{
	struct endpoint to = {key->dest, key->dest_port}, host_peer;
	uint8_t number = protocol == FLOW_TCP ? IPPROTO_TCP : IPPROTO_UDP;

	if (!mapping_serves_dns(io->mapping, &to))
		return false;
	return !io->egress || !mapping_outbound(io->mapping, number, &to, &host_peer) ||
	       addr_eq(&to.addr, &io->mapping->dns_forward[addr_family_index(&to.addr)]) ||
	       !egress_opens_dns(io->egress, number, &to.addr, &host_peer.addr, to.port, loop_boot_ms());
}

/* The name of the first question as text in lower case, and its length; 0: there is none, or it is the root. */
static uint32_t question(const uint8_t *message, uint32_t len, char name[EGRESS_NAME_MAX])
{
	uint32_t at = DNS_HEADER_BYTES, n = 0;

	while (at < len && message[at]) {
		uint32_t label = message[at++];

		if (label > 63 || label > len - at ||
		    n + label + 1 > EGRESS_NAME_MAX) /* RFC 1035, 2.3.4; a first name is not compressed */
			return 0;
		if (n)
			name[n++] = '.';
		for (uint32_t i = 0; i < label; i++) {
			uint8_t c = message[at++];

			name[n++] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
		}
	}
	return at < len ? n : 0;
}

bool gate_passes_query(struct io *io, const uint8_t *message, uint32_t len)
{
	char name[EGRESS_NAME_MAX];
	uint32_t n;

	if (!io->egress)
		return true;
	n = question(message, len, name);
	if (n && egress_name_verdict(io->egress, name, n).allow)
		return true;
	if (flood_limit_take(&io->queries, io->loop->now_ms, QUERIES_PER_S, QUERIES_BURST))
		return true;
	COUNT(io->counters, drop_queries);
	return false;
}

void gate_answer(struct io *io, const struct ip_view *ip)
{
	if (flood_limit_take(&io->denials, io->loop->now_ms, ANSWERS_PER_S, ANSWERS_BURST))
		icmp_error_answer(io, ip, EACCES);
}
