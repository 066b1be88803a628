/* Which host address a guest's destination stands for, and which address a host's peer is shown under. Pure. */
#ifndef PASTA_CORE_POLICY_H
#define PASTA_CORE_POLICY_H

#include <stdbool.h>

#include "base/addr.h"

struct addr_list {
	struct addr *at;
	uint32_t count;
};

/* Indexed by family: 0 IPv4, 1 IPv6. "None" is all zero. */
struct policy {
	struct addr guest_seen[3]; /* what the guest uses, by policy_seen_index() */
	uint32_t guest_scope6;     /* the guest's interface in its namespace, for its link-local address; 0: not known */
	struct addr gateway[2];    /* the guest's gateways: whom ICMP errors of our own come from, and the host without a mapping */
	struct addr map_host_loopback[2];
	struct addr map_guest_addr[2];
	struct addr host[2]; /* the host's own address, which map_guest_addr stands for */
	struct addr dns_forward[2];
	struct addr dns_host[2];         /* may be of the other family, or a loopback address */
	bool dns_tls;                    /* port 853 of dns_forward goes there too (RFC 7858) */
	struct addr_list guest_addrs;    /* all that the guest is known to have, besides guest_seen */
	struct addr_list virtual_addrs;  /* ours on the guest's link, and no machine's on the host's network */
	struct addr_list barred_sources; /* what else the guest cannot have: ours, and the broadcast addresses of its networks */
	bool multicast, broadcast;       /* whether the guest may send it to the host's network */
};

static inline int addr_family_index(const struct addr *a)
{
	return addr_is_v4(a) ? 0 : 1;
}

/* 0 IPv4, 1 IPv6, 2 link-local IPv6. */
static inline int policy_seen_index(const struct addr *a)
{
	return addr_is_linklocal6(a) ? 2 : addr_family_index(a);
}

/* Translates a destination as the guest names it into where the host socket goes. False: the rules do not allow it. */
bool policy_outbound(const struct policy *p, uint8_t proto, const struct endpoint *guest_dst, struct endpoint *host_dst);

/* Whether no machine of the host's network has this address: nothing may leave for it, and its echo requests are ours to answer. */
bool policy_is_virtual(const struct policy *p, const struct addr *a);

/* Whether the guest may send UDP to this port of everybody on the host's network. */
bool policy_broadcast(const struct policy *p, uint16_t port);

/* Translates the source of traffic that the host side started into the address shown to the guest; false if it has none. */
bool policy_inbound_source(const struct policy *p, const struct addr *host_src, struct addr *guest_src);

/* Whether a guest can have this address: whatever comes from another gets no answer. */
bool policy_is_source(const struct policy *p, const struct addr *a);

/* Where traffic from this source, as shown to the guest, goes unless a rule says otherwise; may be none. */
const struct addr *policy_guest_addr(const struct policy *p, const struct addr *guest_src);

/* The guest's own address for a socket of its namespace; link-local where it has no other of IPv6 (a host without). May be none. */
const struct addr *policy_local_addr(const struct policy *p, bool v4);

/* 127.0.0.1 or ::1. */
struct addr policy_loopback(bool v4);
/* Where a local client is sent that has asked for that address: to the same one if it is loopback, else to the first of the family. */
struct addr policy_same_loopback(struct addr asked, bool v4);

/* 0 or -ENOMEM. */
int addr_list_add(struct addr_list *l, const struct addr *a);

/* Frees the lists; not for a copy of another's policy. */
void policy_free(struct policy *p);

#endif
