/* Purpose: what readers learn of flows: a record when a flow is opened, refused or closed, and counters in each flow.
 *
 * How: the record is one struct for all protocols and readers (flow log, decision log, control socket). Each shard has a ring of
 * records, which it fills only while a reader wants events: that is one test when a flow begins or ends. Python empties the rings
 * (plane/events.c). Nothing is done for each packet but counting.
 *
 * What is counted. Bytes are payload, each byte once, however often it travels:
 *
 *   TCP       sent: bytes of the guest that we took in sequence, and so acknowledged; received: bytes given to the guest for the
 *             first time. Packets: segments of the connection as they pass the guest's link, where a segment may have up to 64 KiB,
 *             retransmissions and segments without data included.
 *   UDP, ping datagrams that the guest sent in this flow, also those that the host's socket refused (udp_tx_errors); datagrams
 *             for the guest, also those that the tap had no room for. Ping: the bytes behind the ICMP header.
 *   splice    bytes that the receiving socket took. UDP: datagrams. TCP has no packets there.
 *
 * Invariants: a flow gives one record when it is opened and one when it is closed, or a single one when it is refused. One thread
 * adds to a ring, one takes from it. A ring that has become empty begins at its first place again. So it takes no more memory, and
 * no more of the processor's cache, than records have waited at one time.
 */
#ifndef PASTA_CORE_EVENT_H
#define PASTA_CORE_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/bytes.h"
#include "core/flow.h"

/* cdef begin */
/* flow_event.kind */
#define FLOW_LISTED 0 /* it is open: from a list of flows */
#define FLOW_OPENED 1
#define FLOW_REFUSED 2
#define FLOW_CLOSED 3

/* flow_event.protocol */
#define FLOW_TCP 0
#define FLOW_UDP 1
#define FLOW_PING 2
#define FLOW_SPLICE_TCP 3
#define FLOW_SPLICE_UDP 4

#define FLOW_REASON_END 1 /* flow_event.reason: pasta-py ended */

#define FLOW_NO_RULE 65535 /* flow_event.rule: no rule of an egress policy was asked */

/* Addresses are 16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2). Sent and received are the guest's words. */
struct flow_event {
	int64_t at_ms, opened_ms; /* CLOCK_MONOTONIC; opened_ms of a refused flow: when it was asked for */
	uint64_t sent_bytes, received_bytes;
	uint64_t sent_packets, received_packets;
	uint8_t guest[16], dest[16],
		peer[16]; /* dest: the other end as the guest sees it; peer: as the host sees it, 0: not known */
	uint16_t guest_port, dest_port, peer_port;
	uint16_t rule; /* index of the rule that decided, or FLOW_NO_RULE */
	uint8_t kind, protocol;
	uint8_t reason;      /* why it was refused or closed: flow_reason_name() */
	uint8_t state;       /* of a listed flow: flow_state_name() */
	uint8_t from_host;   /* opened by the host peer */
	uint8_t has_details; /* the fields behind this line are known */
	uint16_t error;      /* errno that explains the reason, or 0 */
	/* These two and protocol and shard name a flow as long as the plane lives. */
	uint32_t index, generation;
	uint32_t shard;
	/* TCP on the host's network, as the kernel says (TCP_INFO, tcp(7)). */
	uint32_t rtt_us, rtt_variation_us;
	uint32_t retransmits; /* segments sent to the host peer again, since the beginning */
	uint32_t peer_window; /* of the host peer, bytes; 0 on Linux before 5.4 */
	/* TCP towards the guest. */
	uint32_t guest_window;  /* bytes */
	uint32_t unacked_bytes; /* given to the guest, not acknowledged yet */
	uint32_t backlog_bytes; /* taken from the guest, not in the host's socket yet */
};

/* The name of a reason, of a state, of a protocol; NULL behind the last. */
const char *flow_reason_name(uint32_t reason);
const char *flow_state_name(uint32_t state);
const char *flow_protocol_name(uint32_t protocol);
/* Writes each event as a JSON object and `separator`, and ends with a zero byte. Stops before the one for which there is no room.
 * clock_ms: what to add to CLOCK_MONOTONIC for the time of day. *written: number of events. Returns the length. */
uint32_t flow_events_json(const struct flow_event *events, uint32_t count, int64_t clock_ms, char separator, char *out,
			  uint32_t room, uint32_t *written);
/* cdef end */

/* Why a flow was refused or closed. docs/control.md explains them to users. */
#define FLOW_REASONS(X) \
	X(none) \
	X(end)           /* pasta-py ended */ \
	X(finished)      /* both ends have closed, or everything is answered */ \
	X(guest_reset)   /* the guest reset it, or gave up before it was open */ \
	X(peer_reset)    /* the host peer reset it, or left before it was open */ \
	X(timed_out)     /* an end was silent for too long */ \
	X(idle)          /* UDP and ping: nothing passed for a while */ \
	X(refused)       /* nothing listens there */ \
	X(unreachable)   /* no route, or a router said so */ \
	X(not_permitted) /* the host's kernel does not allow it */ \
	X(no_room)       /* a limit of flows, descriptors or memory; or it made room for a newer one */ \
	X(rate_limit)    /* too many new flows in a second */ \
	X(address)       /* an address that this guest cannot reach through us */ \
	X(rule)          /* the egress policy denies it */ \
	X(name_ended)    /* the egress policy allows a name of the address, which was resolved too long ago and has others now */ \
	X(other_name)    /* it named a name in TLS or HTTP that the egress policy does not allow */ \
	X(without_name)  /* the egress policy wants a name in TLS or HTTP, and there is none */ \
	X(not_verified)  /* the same; it sent no ClientHello, or no HTTP request */ \
	X(name_late)     /* the same; no name came in time */ \
	X(proxy)         /* a proxy or inspector refuses it, or carries no such traffic */ \
	X(port_removed)  /* the forwarded port is gone */ \
	X(address_gone)  /* the host's address that it used is gone */ \
	X(error)         /* another error of the host's socket */

enum flow_reason {
#define FLOW_REASON_ENUM(name) REASON_##name,
	FLOW_REASONS(FLOW_REASON_ENUM)
#undef FLOW_REASON_ENUM
};

#define FLOW_STATES(X) \
	X(open) \
	X(connecting)   /* TCP: the other end has not answered yet */ \
	X(guest_closed) /* TCP: the guest sends no more */ \
	X(peer_closed)  /* TCP: the host peer sends no more */ \
	X(closing)      /* TCP: both have ended, the last bytes are on their way */

enum flow_state {
#define FLOW_STATE_ENUM(name) FLOW_STATE_##name,
	FLOW_STATES(FLOW_STATE_ENUM)
#undef FLOW_STATE_ENUM
};

/* --- counters of one flow: 32 bytes, which is what knowing all this costs --- */

struct flow_account {
	uint64_t sent_bytes, received_bytes;
	uint64_t sent_packets : 44, opened_high : 20; /* opened: 40 bits of milliseconds are 34 years */
	uint64_t received_packets : 43, from_host : 1, opened_low : 20;
};

static inline void account_open(struct flow_account *a, int64_t now_ms, bool from_host)
{
	_Static_assert(sizeof(struct flow_account) == 32, "memory of each flow");
	a->opened_high = (uint64_t)now_ms >> 20 & 0xfffff;
	a->opened_low = (uint64_t)now_ms & 0xfffff;
	a->from_host = from_host;
}

static inline int64_t account_opened_ms(const struct flow_account *a)
{
	return (int64_t)((uint64_t)a->opened_high << 20 | (uint64_t)a->opened_low);
}

static inline void account_sent(struct flow_account *a, uint32_t packets, uint32_t bytes)
{
	a->sent_packets += packets;
	a->sent_bytes += bytes;
}

static inline void account_received(struct flow_account *a, uint32_t packets, uint32_t bytes)
{
	a->received_packets += packets;
	a->received_bytes += bytes;
}

/* Datagrams in a batch of len bytes, each but the last of gso_size bytes; 0: there is one. */
static inline uint32_t account_datagrams(uint32_t len, uint32_t gso_size)
{
	return gso_size && len > gso_size ? (len + gso_size - 1) / gso_size : 1;
}

/* --- the ring of a shard --- */

#define EVENT_RING 8192u /* records; a power of two */
#define EVENT_RECENT 64  /* refusals that are remembered */

struct event_ring {
	uint32_t shard;
	_Atomic bool wanted;   /* a reader is there */
	struct flow_event *at; /* EVENT_RING; NULL before the first reader */
	_Atomic uint32_t added, taken;
	_Atomic uint32_t base; /* what `added` was when the ring was last empty: the place of that record is the first */
	_Atomic uint64_t lost; /* records for which there was no room */
	/* A guest repeats a denied datagram: readers are told once in EVENT_REPEAT_MS. */
	struct event_recent {
		uint64_t hash;
		int64_t until_ms;
	} recent[EVENT_RECENT];
};

#define EVENT_REPEAT_MS 1000

/* 0 or -ENOMEM. For the thread that takes. */
int event_want(struct event_ring *r, bool wanted);
void event_ring_free(struct event_ring *r);
static inline bool event_wanted(const struct event_ring *r)
{
	return UNLIKELY(atomic_load_explicit(&r->wanted, memory_order_acquire));
}
static inline uint32_t event_waiting(const struct event_ring *r)
{
	return atomic_load_explicit(&r->added, memory_order_acquire) - atomic_load_explicit(&r->taken, memory_order_relaxed);
}
/* Describes a flow: each protocol has one. It fills all but what event_report() is told. */
typedef void event_describe(const struct flow *f, struct flow_event *e);
/* These two add a record with the shard's number, or count it as lost. Without a reader they do nothing. */
/* kind: a flow was opened, refused or closed (FLOW_). error: errno, or 0. */
void event_report(struct event_ring *r, int64_t now_ms, event_describe *describe, const struct flow *f, uint8_t kind,
		  enum flow_reason reason, int error);
/* A flow without an object was refused. peer: NULL for not known. repeats: it may come again and again. */
void event_refused(struct event_ring *r, int64_t now_ms, uint32_t protocol, const struct flow_key *key, const struct endpoint *peer,
		   enum flow_reason reason, int error, uint16_t rule, bool repeats);
/* Takes the oldest record. */
bool event_take(struct event_ring *r, struct flow_event *out);

/* The part of a description that all protocols fill alike. */
void event_fill(struct flow_event *e, uint32_t protocol, const struct flow *f, const struct flow_account *a,
		const struct endpoint *peer, uint16_t rule);
/* Why a flow that had this errno failed. */
enum flow_reason event_reason_of(int error);

#endif
