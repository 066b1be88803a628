/* Which host address a guest's destination stands for, and which address a host's peer is shown under. Pure. */
#ifndef PASTA_CORE_POLICY_H
#define PASTA_CORE_POLICY_H

#include <stdbool.h>

#include "base/addr.h"

/* Indexed by family: 0 IPv4, 1 IPv6. "None" is all zero. */
struct policy {
	struct addr guest[2];
	struct addr guest_seen[2]; /* what the guest uses: where inbound traffic goes unless a rule says otherwise */
	struct addr router[2]; /* the guest's gateways: whom ICMP errors of our own come from, and the host without a mapping */
	struct addr map_host_loopback[2];
	struct addr map_guest_addr[2];
	struct addr dns_forward[2];
	struct addr refused[2]; /* leads nowhere, but for DNS: a gateway that is nobody on the host's network */
	struct addr dns_host[2]; /* may be of the other family, or a loopback address */
	struct addr *host_addrs;
	uint32_t host_addr_count;
};

static inline int addr_family_index(const struct addr *a)
{
	return addr_is_v4(a) ? 0 : 1;
}

/* Translates a destination as the guest names it into where the host socket goes. False: the rules do not allow it. */
bool policy_outbound(const struct policy *p, uint8_t proto, const struct endpoint *guest_dst, struct endpoint *host_dst);

/* Translates the source of traffic that the host side started into the address shown to the guest; false if it has none. */
bool policy_inbound_source(const struct policy *p, const struct addr *host_src, struct addr *guest_src);

/* 127.0.0.1 or ::1. */
struct addr policy_loopback(bool v4);

/* 0 or -ENOMEM. */
int policy_add_host_addr(struct policy *p, const struct addr *a);

#endif
