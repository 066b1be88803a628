/* Invariant: after tcp_parse(), payload_len bytes are readable at payload. */
#include "wire/tcp.h"

#define OPT_END 0            /* RFC 9293, 3.2 */
#define OPT_NOP 1            /* RFC 9293, 3.2 */
#define OPT_MSS 2            /* RFC 9293, 3.2 */
#define OPT_WSCALE 3         /* RFC 7323, 2.2 */
#define OPT_SACK_PERMITTED 4 /* RFC 2018, 2 */
#define OPT_SACK 5           /* RFC 2018, 3 */

static void syn_options(const uint8_t *opt, uint32_t len, struct tcp_view *v)
{
	for (uint32_t i = 0; i < len && opt[i] != OPT_END;) {
		if (opt[i] == OPT_NOP) {
			i++;
			continue;
		}
		if (i + 2 > len || opt[i + 1] < 2 || i + opt[i + 1] > len)
			return;
		if (opt[i] == OPT_MSS && opt[i + 1] == 4)
			v->mss = load_be16(opt + i + 2);
		else if (opt[i] == OPT_WSCALE && opt[i + 1] == 3)
			v->wscale = opt[i + 2] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : opt[i + 2];
		else if (opt[i] == OPT_SACK_PERMITTED && opt[i + 1] == 2)
			v->sack_permitted = true;
		i += opt[i + 1];
	}
}

bool tcp_parse(const uint8_t *s, uint32_t len, struct tcp_view *v)
{
	if (len < TCP_HLEN)
		return false;

	uint32_t header_len = (uint32_t)(s[12] >> 4) * 4;

	if (header_len < TCP_HLEN || header_len > len)
		return false;
	v->src_port = load_be16(s);
	v->dst_port = load_be16(s + 2);
	v->seq = seq(load_be32(s + 4));
	v->ack = seq(load_be32(s + 8));
	v->flags = s[13] & 0x3f;
	v->window = load_be16(s + 14);
	v->payload = s + header_len;
	v->payload_len = len - header_len;
	v->mss = 0;
	v->wscale = 255;
	v->sack_permitted = false;
	if (v->flags & TCP_SYN)
		syn_options(s + TCP_HLEN, header_len - TCP_HLEN, v);
	return v->src_port && v->dst_port;
}

uint16_t tcp_emit(uint8_t *s, uint16_t src_port, uint16_t dst_port, seq_t sequence, seq_t ack, uint8_t flags, uint16_t window,
		  uint16_t mss, uint8_t wscale)
{
	uint16_t len = TCP_HLEN;

	store_be16(s, src_port);
	store_be16(s + 2, dst_port);
	store_be32(s + 4, sequence.v);
	store_be32(s + 8, ack.v);
	s[13] = flags;
	store_be16(s + 14, window);
	memset(s + 16, 0, 4);
	if (mss) {
		s[len] = OPT_MSS;
		s[len + 1] = 4;
		store_be16(s + len + 2, mss);
		len += 4;
	}
	if (wscale != 255) {
		s[len] = OPT_NOP;
		s[len + 1] = OPT_WSCALE;
		s[len + 2] = 3;
		s[len + 3] = wscale;
		len += 4;
	}
	s[12] = (uint8_t)(len / 4 << 4);
	return len;
}

static uint16_t set_length(uint8_t *s, uint16_t len)
{
	s[12] = (uint8_t)(len / 4 << 4);
	return len;
}

uint16_t tcp_emit_sack_permitted(uint8_t *s, uint16_t len)
{
	const uint8_t option[4] = {OPT_NOP, OPT_NOP, OPT_SACK_PERMITTED, 2};

	memcpy(s + len, option, sizeof(option));
	return set_length(s, (uint16_t)(len + sizeof(option)));
}

uint16_t tcp_emit_sack(uint8_t *s, uint16_t len, const struct tcp_range ranges[], uint32_t count)
{
	if (!count)
		return len;
	s[len] = s[len + 1] = OPT_NOP;
	s[len + 2] = OPT_SACK;
	s[len + 3] = (uint8_t)(2 + 8 * count);
	len += 4;
	for (uint32_t i = 0; i < count; i++, len += 8) {
		store_be32(s + len, ranges[i].from.v);
		store_be32(s + len + 4, ranges[i].to.v);
	}
	return set_length(s, len);
}
