/* Purpose: what readers learn of a TCP flow: the records of its beginning and end, and its description in a list of flows.
 *
 * How: a flow does not keep its host peer, because the socket knows it to the end.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/tcp_private.h"

void tcp_describe(const struct flow *flow, struct flow_event *e)
{
	const struct tcp_flow *f = (const struct tcp_flow *)flow;
	const struct flow_key *key = &flow->key;
	struct endpoint host_peer = f->peer_is_dest ? (struct endpoint){key->dest, key->dest_port} : sock_peer(f->fd, &key->dest);

	event_fill(e, FLOW_TCP, flow, &f->account, &host_peer, f->rule);
}

void tcp_describe_to_gate(const struct flow *flow, struct flow_event *e)
{
	tcp_describe(flow, e);
	if (((const struct tcp_flow *)flow)->detoured) {
		memset(e->peer, 0, sizeof(e->peer));
		e->peer_port = 0;
	}
}

static enum flow_state state_of(const struct tcp_flow *f)
{
	bool guest = f->flags & TCPF_GUEST_FIN, peer = f->flags & TCPF_SOCK_EOF;

	if (f->state == TCPS_CONNECTING || f->state == TCPS_SYN_SENT)
		return FLOW_STATE_connecting;
	if (guest && peer)
		return FLOW_STATE_closing;
	return guest ? FLOW_STATE_guest_closed : peer ? FLOW_STATE_peer_closed : FLOW_STATE_open;
}

void tcp_describe_open(const struct flow *flow, struct flow_event *e)
{
	const struct tcp_flow *f = (const struct tcp_flow *)flow;
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	tcp_describe(flow, e);
	e->state = (uint8_t)state_of(f);
	e->guest_window = f->snd_wnd;
	e->unacked_bytes = tcp_in_flight(f);
	e->backlog_bytes = f->backlog.len;
	if (e->state == FLOW_STATE_connecting || getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return;
	e->has_details = 1;
	e->rtt_us = info.tcpi_rtt;
	e->rtt_variation_us = info.tcpi_rttvar;
	e->retransmits = info.tcpi_total_retrans;
	if (len >= offsetof(struct tcp_info, tcpi_snd_wnd) + sizeof(info.tcpi_snd_wnd))
		e->peer_window = info.tcpi_snd_wnd;
}
