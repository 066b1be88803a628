#include "base/addr.h"

#include <arpa/inet.h>

#include "base/bytes.h"

bool addr_is_loopback(const struct addr *a)
{
	static const struct addr one = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};

	return addr_is_v4(a) ? a->b[12] == 127 : addr_eq(a, &one);
}

bool addr_is_unspecified(const struct addr *a)
{
	return addr_is_v4(a) ? a->b[12] == 0 : addr_is_none(a);
}

bool addr_is_multicast(const struct addr *a)
{
	return addr_is_v4(a) ? (a->b[12] & 0xf0) == 0xe0 : a->b[0] == 0xff;
}

bool addr_is_broadcast(const struct addr *a)
{
	return addr_is_v4(a) && load_be32(a->b + 12) == UINT32_MAX;
}

bool addr_is_linklocal6(const struct addr *a)
{
	return !addr_is_v4(a) && a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

struct addr addr_linklocal6_of(const uint8_t mac[6])
{
	return (struct addr){{0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}};
}

bool addr_is_unicast_remote(const struct addr *a)
{
	static const uint8_t zero[10];

	if (addr_is_loopback(a) || addr_is_unspecified(a) || addr_is_multicast(a))
		return false;
	if (addr_is_v4(a))
		return a->b[12] < 240;
	return memcmp(a->b, zero, sizeof(zero)) != 0;
}

socklen_t addr_to_sockaddr(const struct addr *a, uint16_t port, uint32_t scope_id, struct sockaddr_storage *ss)
{
	if (addr_is_v4(a)) {
		struct sockaddr_in *in = (struct sockaddr_in *)ss;

		memset(in, 0, sizeof(*in));
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, a->b + 12, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	memset(in6, 0, sizeof(*in6));
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, a->b, 16);
	if (addr_is_linklocal6(a))
		in6->sin6_scope_id = scope_id;
	return sizeof(*in6);
}

struct endpoint addr_from_sockaddr(const struct sockaddr_storage *ss)
{
	struct endpoint e = {ADDR_NONE, 0};

	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)ss;

		e.addr = addr_from_v4(&in->sin_addr);
		e.port = ntohs(in->sin_port);
	} else if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

		e.addr = addr_from_v6(&in6->sin6_addr);
		e.port = ntohs(in6->sin6_port);
	}
	return e;
}

const char *addr_str(const struct addr *a, char out[ADDR_STR_LEN])
{
	bool v4 = addr_is_v4(a);

	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a->b + 12 : a->b, out, ADDR_STR_LEN);
	return out;
}
