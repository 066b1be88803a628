/* Purpose: TCP segments (RFC 9293, 3.1) with the options that we use. */
#ifndef PASTA_WIRE_TCP_H
#define PASTA_WIRE_TCP_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/seq.h"

/* Lengths. */
#define TCP_HLEN 20
#define TCP_CSUM_OFFSET 16
#define TCP_MAX_OPTIONS_BYTES 40

/* Options. */
#define TCP_MSS_DEFAULT_V4 536  /* RFC 9293, 3.7.1 */
#define TCP_MSS_DEFAULT_V6 1220 /* RFC 9293, 3.7.1 */
#define TCP_WSCALE_MAX 14       /* RFC 7323, 2.3 */
#define TCP_SACK_RANGES_MAX 4   /* RFC 2018, 3 */

/* Flags: RFC 9293, 3.1. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

struct tcp_view {
	const uint8_t *payload;
	uint32_t payload_len;
	seq_t seq, ack;
	uint16_t src_port, dst_port;
	uint16_t window; /* as on the wire, not scaled */
	uint8_t flags;

	/* Options of a SYN. */
	uint16_t mss;   /* 0: there is none */
	uint8_t wscale; /* 255: there is none */
	bool sack_permitted;
};

/* Sequence numbers from `from` on, `to` excluded. */
struct tcp_range {
	seq_t from, to;
};

/* How many sequence numbers the segment takes: SYN and FIN have one each (RFC 9293, 3.4). */
static inline uint32_t tcp_seq_len(const struct tcp_view *t)
{
	return t->payload_len + !!(t->flags & TCP_SYN) + !!(t->flags & TCP_FIN);
}

/* False: the header length is wrong, or a port is 0. A malformed option of a SYN and those after it are ignored (RFC 9293, 3.1). */
bool tcp_parse(const uint8_t *segment, uint32_t len, struct tcp_view *view);

/* Writes a header with checksum 0 and returns its length. mss 0, wscale 255: without that option. */
uint16_t tcp_emit(uint8_t *segment, uint16_t src_port, uint16_t dst_port, seq_t sequence, seq_t ack, uint8_t flags, uint16_t window,
		  uint16_t mss, uint8_t wscale);
/* Append an option to a header of len bytes, and return its new length. count: at most TCP_SACK_RANGES_MAX; 0: no option. */
uint16_t tcp_emit_sack_permitted(uint8_t *segment, uint16_t len);
uint16_t tcp_emit_sack(uint8_t *segment, uint16_t len, const struct tcp_range ranges[], uint32_t count);

#endif
