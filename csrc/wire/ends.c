/* How: no checksum and no length of a packet counts, because the bytes behind the headers may be elsewhere. */
#include "wire/ends.h"

#include "base/bytes.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#define ECHO_BYTES 8 /* RFC 792, page 14; RFC 4443, 4.1 */

static bool is_echo(const uint8_t *message, bool v4)
{
	return v4 ? message[0] == 8 || message[0] == 0 : message[0] == 128 || message[0] == 129;
}

/* The length of the IP header, whose addresses and protocol *out gets; 0: there is none, or what follows is no transport header. */
static size_t ip_ends(const uint8_t *p, size_t len, bool v4, struct frame_ends *out)
{
	size_t header = v4 && len ? (size_t)(p[0] & 15) * 4 : IP6_HLEN;

	if (header < ip_header_bytes(v4) || len < header || (v4 && load_be16(p + 6) & IP4_FRAGMENT))
		return 0;
	out->src = v4 ? addr_from_v4(p + 12) : addr_from_v6(p + 8);
	out->dst = v4 ? addr_from_v4(p + 16) : addr_from_v6(p + 24);
	out->proto = v4 ? p[9] : p[6];
	return header;
}

bool frame_ends(const uint8_t *frame, size_t len, struct frame_ends *out)
{
	uint16_t type = len < ETH_HLEN ? 0 : eth_type(frame);
	bool v4 = type == ETH_TYPE_IPV4;
	const uint8_t *p;
	size_t header, left;

	if (!v4 && type != ETH_TYPE_IPV6)
		return false;
	header = ip_ends(frame + ETH_HLEN, len - ETH_HLEN, v4, out);
	left = len - ETH_HLEN - header;
	if (!header || left < ECHO_BYTES)
		return false;
	p = frame + ETH_HLEN + header;
	out->opens = false;
	if (out->proto == IPPROTO_TCP && left >= TCP_HLEN)
		out->opens = (p[13] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	else if (out->proto == (v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) && is_echo(p, v4))
		p += 4; /* the identifier */
	else if (out->proto != IPPROTO_UDP)
		return false;
	out->src_port = load_be16(p);
	out->dst_port = out->proto == IPPROTO_TCP || out->proto == IPPROTO_UDP ? load_be16(p + 2) : out->src_port;
	return true;
}
