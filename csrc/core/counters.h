/* Event counters: one table gives the index, the name in --stats and in the documentation. */
#ifndef PASTA_CORE_COUNTERS_H
#define PASTA_CORE_COUNTERS_H

#include <stdint.h>

#define COUNTERS(X) \
	X(tap_rx_frames) /* frames from the guest */ \
	X(tap_rx_bytes) \
	X(tap_tx_frames) /* frames to the guest */ \
	X(tap_tx_bytes) \
	X(tap_tx_dropped)   /* the tap did not take them */ \
	X(drop_malformed)   /* lengths, checksums or options wrong */ \
	X(drop_unsupported) /* a protocol or a group address */ \
	X(reassembled)      /* packets made of fragments */ \
	X(drop_fragment)    /* fragments that contradict each other */ \
	X(drop_disabled)    /* --no-tcp, --no-udp, --no-icmp, -4, -6 */ \
	X(drop_policy)      /* a destination the rules do not allow */ \
	X(drop_source)      /* from an address that no guest can have */ \
	X(punt_frames)      /* handed to the slow path */ \
	X(punt_dropped)     /* over the rate of the slow path */ \
	X(shard_frames)     /* given to the thread they belong to */ \
	X(shard_sockets)    /* the same, connections */ \
	X(shard_dropped)    /* not given: too many waited for it */ \
	X(tcp_flows)        /* open now */ \
	X(tcp_opened) \
	X(tcp_refused)    /* connects that failed on the host */ \
	X(tcp_limit)      /* not opened: no flow or descriptor */ \
	X(tcp_displaced)  /* connects that made room for others */ \
	X(tcp_rate_limit) /* segments of no connection, over their rate */ \
	X(tcp_resets_sent) \
	X(tcp_retransmits)   /* segments sent to the guest again */ \
	X(tcp_out_of_order)  /* segments from the guest after a hole */ \
	X(tcp_ooo_limit)     /* of these, not kept: no room */ \
	X(tcp_challenges)    /* challenge ACKs, RFC 5961 */ \
	X(tcp_backlog_bytes) /* did not fit a socket at once */ \
	X(tcp_backlog_limit) /* segments not taken: spills are full */ \
	X(udp_flows) \
	X(udp_opened) \
	X(udp_limit) \
	X(udp_rate_limit)   /* new flows over their rate */ \
	X(udp_tx_errors)    /* datagrams a host socket did not take */ \
	X(udp_splice_flows) /* of splicing, open now */ \
	X(udp_polled)       /* times a socket was no longer waited for */ \
	X(udp_unsolicited)  /* from peers the guest has not written to */ \
	X(splice_flows)     /* local connections open now */ \
	X(splice_opened) \
	X(splice_limit) \
	X(icmp_flows) \
	X(icmp_limit) \
	X(icmp_rate_limit)  /* echo requests over their rate */ \
	X(icmp_unsolicited) /* replies from others than the one asked */ \
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
