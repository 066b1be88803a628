/* How: the IP header in the quote is written anew. The guest's kernel looks only at addresses, protocol, ports and sequence number
 * of the quoted packet.
 */
#include "io/icmp_error.h"

#include <errno.h>

bool icmp_error_from_errno(bool v4, int error, struct icmp_error *out)
{
	/* The reverse of Linux' icmp_err_convert[] (net/ipv4/icmp.c) and icmpv6_err_convert() (net/ipv6/icmp.c): the guest's kernel
	 * turns the error back into the same errno, or where IPv6 has no such error into the nearest. The last three errno values
	 * come from the host's own kernel. */
	static const struct {
		int error;
		uint8_t v4_type, v4_code, v6_type, v6_code;
	} table[] = {
		{ENETUNREACH, ICMP4_UNREACHABLE, ICMP4_NET_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE},
		{EHOSTUNREACH, ICMP4_UNREACHABLE, ICMP4_HOST_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_ADDR_UNREACHABLE},
		{ENOPROTOOPT, ICMP4_UNREACHABLE, ICMP4_PROTOCOL_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_PORT_UNREACHABLE},
		{ECONNREFUSED, ICMP4_UNREACHABLE, ICMP4_PORT_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_PORT_UNREACHABLE},
		{EOPNOTSUPP, ICMP4_UNREACHABLE, ICMP4_SOURCE_ROUTE_FAILED, ICMP6_UNREACHABLE, ICMP6_ADDR_UNREACHABLE},
		{EHOSTDOWN, ICMP4_UNREACHABLE, ICMP4_HOST_UNKNOWN, ICMP6_UNREACHABLE, ICMP6_ADDR_UNREACHABLE},
		{ENONET, ICMP4_UNREACHABLE, ICMP4_HOST_ISOLATED, ICMP6_UNREACHABLE, ICMP6_ADDR_UNREACHABLE},
		{EACCES, ICMP4_UNREACHABLE, ICMP4_ADMIN_PROHIBITED, ICMP6_UNREACHABLE, ICMP6_ADMIN_PROHIBITED},
		{EPROTO, ICMP4_PARAMETER, 0, ICMP6_PARAMETER, 0},
		{EPERM, ICMP4_UNREACHABLE, ICMP4_ADMIN_PROHIBITED, ICMP6_UNREACHABLE, ICMP6_ADMIN_PROHIBITED},
		{ENETDOWN, ICMP4_UNREACHABLE, ICMP4_NET_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE},
		{ENODEV, ICMP4_UNREACHABLE, ICMP4_NET_UNREACHABLE, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].error != error)
			continue;
		*out = (struct icmp_error){v4 ? table[i].v4_type : table[i].v6_type, v4 ? table[i].v4_code : table[i].v6_code, 0};
		return true;
	}
	return false;
}

struct addr icmp_error_reporter(const struct io *io, const struct addr *reporter, const struct addr *host_peer,
				const struct addr *dest)
{
	int family = addr_family_index(dest);
	struct addr mapped;

	if (addr_eq(reporter, host_peer))
		return *dest;
	/* mapping_inbound_source() hides addresses that the guest shares with the host: its kernel would drop an error from its
	 * own. */
	if (addr_is_none(reporter) || addr_family_index(reporter) != family ||
	    !mapping_inbound_source(io->mapping, reporter, &mapped))
		return io->mapping->gateway[family];
	return mapped;
}

void icmp_error_send(struct io *io, const struct addr *from, const struct addr *guest, const struct addr *dest, uint8_t proto,
		     const uint8_t *transport, uint32_t transport_len, uint32_t transport_total, const struct icmp_error *error)
{
	uint8_t quote[ICMP_QUOTE_MAX_V6 + IP6_HLEN], head[LINK_HEAD_MAX], message[ICMP_HLEN + ICMP_QUOTE_MAX_V6];
	bool v4 = addr_is_v4(guest);
	uint32_t quote_len, room = (v4 ? ICMP_QUOTE_MAX_V4 : ICMP_QUOTE_MAX_V6) - ip_header_bytes(v4), message_len;
	const struct addr *src = addr_is_v4(from) == v4 && !addr_is_none(from) ? from : dest;

	quote_len = ip_emit(quote, guest, dest, proto, IP_TTL_DEFAULT, 0, true, transport_total);
	transport_len = u32_min(transport_len, room);
	memcpy(quote + quote_len, transport, transport_len);
	message_len = icmp_emit_error(message, src, guest, error, quote, quote_len + transport_len);

	struct link_tx tx = {.head = head, .body = message, .body_len = message_len};

	tx.head_len =
		link_begin(io->link, head, src, guest, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, IP_TTL_DEFAULT, 0, false, message_len);
	COUNT(io->counters, icmp_errors_sent);
	link_send(io->link, &tx);
}

void icmp_error_answer(struct io *io, const struct ip_view *ip, int error)
{
	struct icmp_error icmp;

	if (icmp_error_from_errno(ip->v4, error, &icmp))
		icmp_error_send(io, &io->mapping->gateway[ip->v4 ? 0 : 1], &ip->src, &ip->dst, ip->proto, ip->payload,
				ip->payload_len, ip->payload_len, &icmp);
}
