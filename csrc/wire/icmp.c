#include "wire/icmp.h"

#include <netinet/in.h>

#include "base/checksum.h"
#include "wire/ip.h"

uint16_t icmp_emit_error(uint8_t *m, const struct addr *src, const struct addr *dst, const struct icmp_error *error,
			 const uint8_t *quote, uint32_t quote_len)
{
	bool v4 = addr_is_v4(src);
	uint32_t len = u32_min(quote_len, v4 ? ICMP_QUOTE_MAX_V4 : ICMP_QUOTE_MAX_V6);
	uint64_t sum;
	uint16_t folded;

	m[0] = error->type;
	m[1] = error->code;
	memset(m + 2, 0, 2);
	/* In IPv6 the MTU or the pointer has all 32 bits (RFC 4443, 3.2 and 3.4). In IPv4 the pointer has the first 8 (RFC 792),
	 * the MTU the last 16 (RFC 1191, 4). */
	if (!v4)
		store_be32(m + 4, error->info);
	else
		store_be32(m + 4, error->type == ICMP4_PARAMETER ? error->info << 24 : u32_min(error->info, 65535));
	memcpy(m + ICMP_HLEN, quote, len);
	sum = v4 ? 0 : ip_pseudo_sum(src, dst, IPPROTO_ICMPV6, ICMP_HLEN + len);
	folded = (uint16_t)~csum_fold(csum_add(m, ICMP_HLEN + len, sum));
	memcpy(m + ICMP_CSUM_OFFSET, &folded, 2);
	return (uint16_t)(ICMP_HLEN + len);
}
