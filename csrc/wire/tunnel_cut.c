/* Owns no state but the caller's. What the headers inside say is taken from them once, in tunnel_cut_begin(): later only their
 * lengths, numbers and checksums are written.
 */
#include "wire/tunnel_cut.h"

#include "base/checksum.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define IP4_CSUM 10
#define TCP_CWR 0x80 /* RFC 3168, 6.1.2 */

bool tunnel_cut_begin(struct tunnel_cut *c, const uint8_t *data, uint32_t len, uint32_t inner, uint32_t inner_l4, bool udp,
		      uint32_t size)
{
	uint32_t l4_len = udp ? UDP_HLEN : TCP_HLEN;

	if (!size || inner >= inner_l4 || inner_l4 + l4_len > len)
		return false;
	if (!udp)
		l4_len = (uint32_t)(data[inner_l4 + 12] >> 4) * 4;
	*c = (struct tunnel_cut){.head = data,
				 .head_len = inner_l4 + l4_len,
				 .inner = inner,
				 .inner_l4 = inner_l4,
				 .size = size,
				 .v4 = data[inner] >> 4 == 4,
				 .udp = udp};
	if (c->v4 ? (data[inner] & 15u) * 4 != inner_l4 - inner || inner_l4 - inner < IP4_HLEN
		  : data[inner] >> 4 != 6 || inner_l4 - inner < IP6_HLEN)
		return false;
	if ((!udp && l4_len < TCP_HLEN) || c->head_len > TUNNEL_HEAD_MAX || c->head_len >= len)
		return false;
	c->body = data + c->head_len;
	c->left = len - c->head_len;
	return c->left <= size * TUNNEL_SEGMENTS_MAX;
}

static void set_ip(const struct tunnel_cut *c, uint8_t *ip, uint32_t l4_len)
{
	uint32_t header = c->inner_l4 - c->inner;
	uint16_t sum;

	if (!c->v4) {
		store_be16(ip + 4, (uint16_t)(header - IP6_HLEN + l4_len));
		return;
	}
	store_be16(ip + 2, (uint16_t)(header + l4_len));
	store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + c->done / c->size));
	memset(ip + IP4_CSUM, 0, 2);
	sum = (uint16_t)~csum_fold(csum_add(ip, header, 0));
	memcpy(ip + IP4_CSUM, &sum, 2);
}

static void set_transport(const struct tunnel_cut *c, uint8_t *l4, uint32_t whole, uint32_t part, uint32_t l4_len)
{
	uint8_t *field = l4 + (c->udp ? UDP_CSUM_OFFSET : TCP_CSUM_OFFSET);
	uint16_t was, is, sum;

	if (c->udp) {
		store_be16(l4 + 4, (uint16_t)l4_len);
	} else {
		store_be32(l4 + 4, load_be32(l4 + 4) + c->done);
		if (c->left > part)
			l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		if (c->done)
			l4[13] &= (uint8_t)~TCP_CWR;
	}
	/* The field holds the sum of the pseudo-header with the length of all segments: RFC 1624, 3. */
	store_be16((uint8_t *)&was, (uint16_t)whole);
	store_be16((uint8_t *)&is, (uint16_t)l4_len);
	sum = (uint16_t)~csum_fold(csum_add(l4, l4_len, (uint64_t)(uint16_t)~was + is));
	if (c->udp && !sum)
		sum = 0xffff;
	memcpy(field, &sum, 2);
}

uint32_t tunnel_cut_next(struct tunnel_cut *c, uint8_t *out)
{
	uint32_t part = u32_min(c->size, c->left), l4_len = c->head_len - c->inner_l4 + part;
	uint32_t whole = c->head_len - c->inner_l4 + c->done + c->left;

	if (!c->left)
		return 0;
	memcpy(out, c->head, c->head_len);
	memcpy(out + c->head_len, c->body + c->done, part);
	set_ip(c, out + c->inner, l4_len);
	set_transport(c, out + c->inner_l4, whole, part, l4_len);
	c->left -= part;
	c->done += part;
	return c->head_len + part;
}
