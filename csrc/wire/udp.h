/* UDP datagrams (RFC 768). */
#ifndef PASTA_WIRE_UDP_H
#define PASTA_WIRE_UDP_H

#include <stdbool.h>

#include "base/bytes.h"

#define UDP_HLEN 8
#define UDP_CSUM_OFFSET 6
#define UDP_SEGMENTS_MAX 128 /* datagrams: what Linux makes of one send */

struct udp_view {
	const uint8_t *payload;
	uint32_t payload_len;
	uint16_t src_port, dst_port;
};

/* Checks the lengths; a length field shorter than the packet cuts the payload. */
static inline bool udp_parse(const uint8_t *datagram, uint32_t len, struct udp_view *v)
{
	if (len < UDP_HLEN)
		return false;

	uint32_t total = load_be16(datagram + 4);

	if (total < UDP_HLEN || total > len)
		return false;
	v->src_port = load_be16(datagram);
	v->dst_port = load_be16(datagram + 2);
	v->payload = datagram + UDP_HLEN;
	v->payload_len = total - UDP_HLEN;
	return true;
}

/* Writes a header for payload_len bytes to come; the checksum field is left 0. Returns its length. */
static inline uint16_t udp_emit(uint8_t *datagram, uint16_t src_port, uint16_t dst_port, uint32_t payload_len)
{
	store_be16(datagram, src_port);
	store_be16(datagram + 2, dst_port);
	store_be16(datagram + 4, (uint16_t)(UDP_HLEN + payload_len));
	store_be16(datagram + 6, 0);
	return UDP_HLEN;
}

#endif
