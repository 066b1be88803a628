/* Purpose: one address type for both families, so that no code exists twice: 16 bytes, IPv4 in v4-mapped form (RFC 4291,
 * 2.5.5.2). */
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

#define ADDR_STR_LEN 46 /* INET6_ADDRSTRLEN */

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
/* 255.255.255.255 (RFC 1122, 3.2.1.3) only: a subnet's broadcast address cannot be recognised without its prefix length. */
bool addr_is_broadcast(const struct addr *a);
/* fe80::/10 only: IPv4 link-local addresses need no scope. */
bool addr_is_linklocal6(const struct addr *a);
/* The link-local address that a kernel derives from a MAC address (RFC 4291, appendix A). */
struct addr addr_linklocal6_of(const uint8_t mac[6]);
/* Whether the address can be the other end of a unicast flow. Not loopback, unspecified, multicast, 240.0.0.0/4 or ::/80, where
 * IPv4-compatible addresses are (RFC 4291, 2.5.5.1). NAT64 addresses (RFC 6052, RFC 8215) can: the network translates them. */
bool addr_is_unicast_remote(const struct addr *a);

/* Writes a socket address and returns its length. scope_id is for link-local IPv6 addresses only. */
socklen_t addr_to_sockaddr(const struct addr *a, uint16_t port, uint32_t scope_id, struct sockaddr_storage *ss);
/* The reverse. A v4-mapped address of AF_INET6 counts as IPv4; an unknown family gives ADDR_NONE, port 0. */
struct endpoint addr_from_sockaddr(const struct sockaddr_storage *ss);

const char *addr_str(const struct addr *a, char out[ADDR_STR_LEN]);

#endif
