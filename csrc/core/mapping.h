/* Purpose: which address on the host a guest's destination stands for, and which address of a host peer the guest sees. Pure. */
#ifndef PASTA_CORE_MAPPING_H
#define PASTA_CORE_MAPPING_H

#include <stdbool.h>

#include "base/addr.h"

struct addr_list {
	struct addr *at;
	uint32_t count;
};

/* Arrays of two are indexed by addr_family_index(). An address that is all zero is none. */
struct address_mapping {
	/* The guest. */
	struct addr guest_seen[3];    /* the addresses that it uses, by mapping_seen_index() */
	struct addr_list guest_addrs; /* other addresses that it is known to have */
	uint32_t guest_scope6;        /* index of its interface in its namespace, for its link-local address; 0: not known */
	struct addr gateway[2];       /* its gateways: the source of our own ICMP errors */

	/* Mappings. */
	struct addr map_host_loopback[2];
	struct addr map_guest_addr[2];
	struct addr host[2]; /* the host's own address, for which map_guest_addr stands */

	/* DNS. */
	struct addr dns_forward[2];
	struct addr dns_host[2]; /* may be a loopback address, or one of the other family */
	bool dns_tls;            /* port 853 of dns_forward is forwarded too (RFC 7858) */
	bool serves_dns;         /* Python answers DNS queries to any address */

	/* Limits. */
	struct addr_list virtual_addrs;  /* addresses that only we have */
	struct addr_list barred_sources; /* other addresses that the guest cannot have: ours, its networks' broadcast addresses */
	bool multicast, broadcast;       /* whether the guest may send these to the host's network */
};

/* 0: IPv4; 1: IPv6. */
static inline int addr_family_index(const struct addr *a)
{
	return addr_is_v4(a) ? 0 : 1;
}

/* 0: IPv4; 1: IPv6; 2: link-local IPv6. */
static inline int mapping_seen_index(const struct addr *a)
{
	return addr_is_linklocal6(a) ? 2 : addr_family_index(a);
}

/* Translates a destination as the guest sees it into the address for a host socket. False: the guest may not go there. */
bool mapping_outbound(const struct address_mapping *p, uint8_t proto, const struct endpoint *guest_dst, struct endpoint *host_dst);

/* Whether Python answers what the guest sends there: DNS queries, over UDP or TCP. */
bool mapping_serves_dns(const struct address_mapping *p, const struct endpoint *guest_dst);

/* Whether only we have this address: nothing may leave for it, and we answer echo requests to it. */
bool mapping_is_virtual(const struct address_mapping *p, const struct addr *a);

/* Whether the guest may send UDP broadcasts to this port on the host's network. */
bool mapping_broadcast(const struct address_mapping *p, uint16_t port);

/* Translates the source of a flow that a host peer began into the address that the guest sees. False: there is none. */
bool mapping_inbound_source(const struct address_mapping *p, const struct addr *host_src, struct addr *guest_src);

/* Whether a guest can have this address. A packet from any other is dropped. */
bool mapping_is_source(const struct address_mapping *p, const struct addr *a);

/* The address of the guest for traffic from this source, as the guest sees it. May be none. */
const struct addr *mapping_guest_addr(const struct address_mapping *p, const struct addr *guest_src);

/* The guest's own address for a socket in its namespace; a link-local one if it has no other of IPv6. May be none. */
const struct addr *mapping_local_addr(const struct address_mapping *p, bool v4);

/* 127.0.0.1 or ::1. */
struct addr mapping_loopback(bool v4);
/* The loopback address for a local client that asked for this address: the same if it is loopback, else mapping_loopback(). */
struct addr mapping_same_loopback(struct addr asked, bool v4);

bool addr_list_has(const struct addr_list *l, const struct addr *a);
/* 0 or -ENOMEM. */
int addr_list_add(struct addr_list *l, const struct addr *a);
/* to: not initialised. 0 or -ENOMEM: `to` is empty. */
int addr_list_copy(struct addr_list *to, const struct addr_list *from);
void addr_list_free(struct addr_list *l);

/* A copy with lists of its own; to: not initialised. 0 or -ENOMEM: `to` has no lists. */
int mapping_copy(struct address_mapping *to, const struct address_mapping *from);
/* Frees the lists. */
void mapping_free(struct address_mapping *p);

#endif
