/* One address type for both families: 16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2). No code exists twice. */
#ifndef PASTA_BASE_ADDR_H
#define PASTA_BASE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct addr {
	uint8_t b[16];
};

struct endpoint {
	struct addr addr;
	uint16_t port; /* host byte order */
};

#define ADDR_STR_LEN 46

static const struct addr ADDR_NONE = {{0}};

static inline struct addr addr_from_v4(const void *four)
{
	struct addr a = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}};

	memcpy(a.b + 12, four, 4);
	return a;
}

static inline struct addr addr_from_v6(const void *sixteen)
{
	struct addr a;

	memcpy(a.b, sixteen, 16);
	return a;
}

static inline bool addr_eq(const struct addr *a, const struct addr *b)
{
	return memcmp(a->b, b->b, 16) == 0;
}

static inline bool addr_is_none(const struct addr *a)
{
	return addr_eq(a, &ADDR_NONE);
}

static inline bool addr_is_v4(const struct addr *a)
{
	static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	return memcmp(a->b, prefix, 12) == 0;
}

/* 127.0.0.0/8 (RFC 1122, 3.2.1.3) or ::1. */
bool addr_is_loopback(const struct addr *a);
/* 0.0.0.0/8 (RFC 1122, 3.2.1.3) or ::. */
bool addr_is_unspecified(const struct addr *a);
/* 224.0.0.0/4 or ff00::/8. */
bool addr_is_multicast(const struct addr *a);
/* 255.255.255.255 (RFC 1122, 3.2.1.3); the broadcast address of a subnet does not show. */
bool addr_is_broadcast(const struct addr *a);
/* fe80::/10 only: IPv4 link-local addresses need no scope. */
bool addr_is_linklocal6(const struct addr *a);
/* The link-local address that a kernel makes of a MAC address (RFC 4291, appendix A). */
struct addr addr_linklocal6_of(const uint8_t mac[6]);
/* May stand as the remote end of a unicast flow: no loopback, unspecified, multicast, 240.0.0.0/4, or an IPv4 address
 * in an IPv6 disguise (::/96, 64:ff9b:1::/48 is left to the network). */
bool addr_is_unicast_remote(const struct addr *a);

/* A socket address for a; scope_id only used for link-local IPv6. Returns its length. */
socklen_t addr_to_sockaddr(const struct addr *a, uint16_t port, uint32_t scope_id, struct sockaddr_storage *ss);
/* The reverse; v4-mapped IPv6 becomes IPv4. Unknown families give none:0. */
struct endpoint addr_from_sockaddr(const struct sockaddr_storage *ss);

const char *addr_str(const struct addr *a, char out[ADDR_STR_LEN]);

#endif
