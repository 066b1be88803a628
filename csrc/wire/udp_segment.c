/* Owns no state but the caller's. Checksums are carried on, not computed anew (RFC 1624): what was wrong in the whole frame is
 * as wrong in each datagram.
 */
#include "wire/udp_segment.h"

#include <netinet/in.h>

#include "base/checksum.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/udp.h"

#define IP4_HLEN_MAX 60
#define IP4_CSUM 10

static bool is_udp4(const uint8_t *ip, uint32_t ip_len)
{
	return ip_len >= IP4_HLEN && ip_len <= IP4_HLEN_MAX && ip[0] == (4 << 4 | ip_len / 4) && ip_len % 4 == 0 && ip[9] == IPPROTO_UDP &&
	       !(load_be16(ip + 6) & IP4_FRAGMENT);
}

/* Behind extension headers UDP is taken on trust: only the length in the fixed header changes. */
static bool is_udp6(const uint8_t *ip, uint32_t ip_len)
{
	return ip_len >= IP6_HLEN && ip[0] >> 4 == 6 && (ip_len > IP6_HLEN || ip[6] == IPPROTO_UDP);
}

bool udp_segment_begin(struct udp_segmenter *c, const uint8_t *frame, uint32_t linear, uint32_t len, uint32_t udp, uint32_t size)
{
	uint32_t ip_len = udp - ETH_HLEN, head_len = udp + UDP_HLEN;

	if (udp < ETH_HLEN + IP4_HLEN || head_len > linear || head_len > len || head_len > sizeof(c->head))
		return false;
	if (eth_type(frame) == ETH_TYPE_IPV4 ? !is_udp4(frame + ETH_HLEN, ip_len)
					     : eth_type(frame) != ETH_TYPE_IPV6 || !is_udp6(frame + ETH_HLEN, ip_len))
		return false;
	c->left = len - head_len;
	if (!size || c->left <= size || c->left > size * UDP_SEGMENTS_MAX)
		return false;
	memcpy(c->head, frame, head_len);
	c->head_len = head_len;
	c->size = size;
	c->number = 0;
	return true;
}

/* Replaces the word at p; sum, not complemented, goes on from what it was. */
static uint64_t replace(uint8_t *p, uint16_t value, uint64_t sum)
{
	uint16_t was, is;

	memcpy(&was, p, sizeof(was));
	store_be16(p, value);
	memcpy(&is, p, sizeof(is));
	return sum + (uint16_t)~was + is;
}

static void segment_ip4(uint8_t *ip, uint32_t total, uint16_t number)
{
	uint16_t csum;
	uint64_t sum;

	memcpy(&csum, ip + IP4_CSUM, sizeof(csum));
	sum = replace(ip + 2, (uint16_t)total, (uint16_t)~csum);
	sum = replace(ip + 4, (uint16_t)(load_be16(ip + 4) + (number ? 1 : 0)), sum);
	csum = (uint16_t)~csum_fold(sum);
	memcpy(ip + IP4_CSUM, &csum, sizeof(csum));
}

int32_t udp_segment_next(struct udp_segmenter *c)
{
	uint32_t part = u32_min(c->size, c->left), udp_len = UDP_HLEN + part, ip_len = c->head_len - UDP_HLEN - ETH_HLEN;
	uint8_t *ip = c->head + ETH_HLEN, *udp = ip + ip_len;
	uint16_t pseudo;

	if (!c->left)
		return -1;
	c->left -= part;
	memcpy(&pseudo, udp + UDP_CSUM_OFFSET, sizeof(pseudo));
	pseudo = csum_fold(replace(udp + 4, (uint16_t)udp_len, pseudo));
	memcpy(udp + UDP_CSUM_OFFSET, &pseudo, sizeof(pseudo));
	if (eth_type(c->head) == ETH_TYPE_IPV4)
		segment_ip4(ip, ip_len + udp_len, c->number);
	else
		store_be16(ip + 4, (uint16_t)(ip_len - IP6_HLEN + udp_len));
	c->number++;
	return (int32_t)part;
}
