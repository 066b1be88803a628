/* Purpose: Ethernet II frames (IEEE 802.3, 3.2.6; RFC 894). No accessor fails: io/link.c gives out no frame without a header. */
#ifndef PASTA_WIRE_ETH_H
#define PASTA_WIRE_ETH_H

#include <stdbool.h>

#include "base/bytes.h"

#define ETH_HLEN 14
#define ETH_ALEN 6
#define ETH_TYPE_IPV4 0x0800
#define ETH_TYPE_ARP 0x0806
#define ETH_TYPE_IPV6 0x86dd
#define ETH_TYPE_VLAN 0x8100  /* customer tag, IEEE 802.1Q, 9.5 */
#define ETH_TYPE_SVLAN 0x88a8 /* service tag, IEEE 802.1Q, 9.5 */
#define ETH_TAG_BYTES 4

static inline const uint8_t *eth_dst(const uint8_t *frame)
{
	return frame;
}

static inline const uint8_t *eth_src(const uint8_t *frame)
{
	return frame + 6;
}

static inline uint16_t eth_type(const uint8_t *frame)
{
	return load_be16(frame + 12);
}

static inline bool eth_is_group(const uint8_t mac[ETH_ALEN])
{
	return mac[0] & 1;
}

/* Whether the frame has a tag that gives a priority and no VLAN: VID 0 (IEEE 802.1Q, 9.6). */
static inline bool eth_is_priority_tagged(const uint8_t *frame, uint32_t len)
{
	uint16_t type = eth_type(frame);

	return (type == ETH_TYPE_VLAN || type == ETH_TYPE_SVLAN) && len >= ETH_HLEN + ETH_TAG_BYTES &&
	       !(load_be16(frame + ETH_HLEN) & 0xfff);
}

static inline void eth_emit(uint8_t *frame, const uint8_t dst[ETH_ALEN], const uint8_t src[ETH_ALEN], uint16_t type)
{
	memcpy(frame, dst, ETH_ALEN);
	memcpy(frame + 6, src, ETH_ALEN);
	store_be16(frame + 12, type);
}

#endif
