/* Purpose: UDP datagrams (RFC 768). */
#ifndef PASTA_WIRE_UDP_H
#define PASTA_WIRE_UDP_H

#include <stdbool.h>

#include "base/bytes.h"

#define UDP_HLEN 8
#define UDP_CSUM_OFFSET 6
#define UDP_SEGMENTS_MAX 128 /* datagrams in one send, as in Linux (UDP_MAX_SEGMENTS) */

struct udp_view {
	const uint8_t *payload;
	uint32_t payload_len;
	uint16_t src_port, dst_port;
};

/* How many of len bytes are the datagram. As in Linux, bytes behind its own length do not count (RFC 9868, 7), and in IPv6 a length
 * of 0 means all bytes (RFC 2675, 4). 0: it is malformed. */
static inline uint32_t udp_bytes(const uint8_t *datagram, uint32_t len, bool v4)
{
	if (len < UDP_HLEN)
		return 0;

	uint32_t own = load_be16(datagram + 4);

	if (!own && !v4)
		return len;
	return own < UDP_HLEN || own > len ? 0 : own;
}

/* len: from udp_bytes(). */
static inline struct udp_view udp_parse(const uint8_t *datagram, uint32_t len)
{
	return (struct udp_view){.payload = datagram + UDP_HLEN,
				 .payload_len = len - UDP_HLEN,
				 .src_port = load_be16(datagram),
				 .dst_port = load_be16(datagram + 2)};
}

/* Writes a header with checksum 0, for payload_len bytes after it. Returns its length. */
static inline uint16_t udp_emit(uint8_t *datagram, uint16_t src_port, uint16_t dst_port, uint32_t payload_len)
{
	store_be16(datagram, src_port);
	store_be16(datagram + 2, dst_port);
	store_be16(datagram + 4, (uint16_t)(UDP_HLEN + payload_len));
	store_be16(datagram + 6, 0);
	return UDP_HLEN;
}

#endif
