/* Purpose: event counters. One table gives each its index and its name in --stats. */
#ifndef PASTA_CORE_COUNTERS_H
#define PASTA_CORE_COUNTERS_H

#include <stdint.h>

#define COUNTERS(X) \
	X(tap_rx_frames) /* frames from the guest */ \
	X(tap_rx_bytes) \
	X(tap_tx_frames) /* frames to the guest */ \
	X(tap_tx_bytes) \
	X(tap_tx_dropped)   /* frames that the tap did not take */ \
	X(vhost_messages)   /* of a vhost-user front end */ \
	X(drop_malformed)   /* wrong lengths, checksums or options */ \
	X(drop_unsupported) /* other protocols or group addresses */ \
	X(reassembled)      /* packets made from fragments */ \
	X(drop_fragment)    /* fragments that contradict each other */ \
	X(drop_disabled)    /* --no-tcp, --no-udp, --no-icmp, -4, -6 */ \
	X(drop_policy)      /* destinations that the rules do not allow */ \
	X(drop_egress)      /* flows that the egress policy denies */ \
	X(drop_queries)     /* DNS queries for denied names over their rate */ \
	X(drop_source)      /* source addresses that no guest can have */ \
	X(drop_rate)        /* datagrams and pings over --rate-in or --rate-out */ \
	X(punt_frames)      /* handed to the slow path */ \
	X(punt_dropped)     /* over the slow path's rate */ \
	X(shard_frames)     /* frames passed to the shard of their flow */ \
	X(shard_sockets)    /* accepted clients and spliced sockets passed likewise */ \
	X(shard_dropped)    /* not passed: its message queue is full */ \
	X(tcp_flows)        /* open now; so are all *_flows */ \
	X(tcp_opened) \
	X(tcp_refused)    /* connections that failed on the host */ \
	X(tcp_limit)      /* not opened: no more flows or descriptors */ \
	X(tcp_displaced)  /* connects that made room for others */ \
	X(tcp_rate_limit) /* segments of no connection over their rate */ \
	X(tcp_resets_sent) \
	X(tcp_retransmits)   /* segments sent to the guest again */ \
	X(tcp_out_of_order)  /* segments from the guest behind a hole */ \
	X(tcp_ooo_limit)     /* of these, not kept: the out-of-order queue is full */ \
	X(tcp_challenges)    /* challenge ACKs (RFC 5961) */ \
	X(tcp_backlog_bytes) /* bytes that a host socket did not take at once */ \
	X(tcp_backlog_limit) /* segments refused: the send backlog is full */ \
	X(udp_flows) \
	X(udp_opened) \
	X(udp_limit) \
	X(udp_rate_limit)   /* new flows over their rate */ \
	X(udp_tx_errors)    /* datagrams a host socket did not take */ \
	X(udp_splice_flows) /* spliced */ \
	X(udp_polled)       /* times that a socket went over to polling */ \
	X(udp_unsolicited)  /* datagrams of peers that the guest has not written to */ \
	X(splice_flows)     /* spliced connections */ \
	X(splice_opened) \
	X(splice_limit) \
	X(icmp_flows) \
	X(icmp_limit) \
	X(icmp_rate_limit)  /* echo requests over their rate */ \
	X(icmp_unsolicited) /* replies of others than the asked peer */ \
	X(icmp_errors_sent)

enum counter {
#define COUNTER_ENUM(name) CTR_##name,
	COUNTERS(COUNTER_ENUM)
#undef COUNTER_ENUM
		CTR_COUNT
};

struct counters {
	uint64_t v[CTR_COUNT];
};

#define COUNT(counters, name) ((counters)->v[CTR_##name]++)
#define COUNT_ADD(counters, name, n) ((counters)->v[CTR_##name] += (uint64_t)(n))
#define COUNT_SUB(counters, name, n) ((counters)->v[CTR_##name] -= (uint64_t)(n))

#endif
