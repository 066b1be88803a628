/* How: the first rule that fits decides.
 *
 * outbound  1. DNS (UDP or TCP, port 53; 853 with dns_tls) to dns_forward goes to dns_host.
 *           2. DNS to dns_host itself stays as it is, even where that address is also the mapped gateway.
 *           3. --map-host-loopback becomes the host's loopback address.
 *           4. --map-guest-addr becomes the host's own address.
 *           5. UDP to a multicast group stays as it is, if the guest may send it. Not DHCP, and not groups of one machine.
 *           6. Loopback, unspecified and reserved addresses and other multicast are refused: most would reach the host itself.
 *           7. Virtual addresses are refused: the host would look for them on its network.
 *           8. Any other address stays as it is.
 *           A broadcast cannot be recognised by its address alone. The caller asks mapping_broadcast() about one.
 * inbound   1. An address that the guest has too becomes --map-guest-addr, or without that is treated like loopback.
 *           2. Loopback becomes --map-host-loopback, or without that the gateway. The guest can answer there, and no more.
 *           3. Any other address, the host's own too, stays as it is.
 */
#include "core/mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PORT_DNS 53
#define PORT_DNS_TLS 853 /* RFC 7858, 3.1 */

struct addr mapping_loopback(bool v4)
{
	static const uint8_t four[4] = {127, 0, 0, 1};
	static const struct addr six = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};

	return v4 ? addr_from_v4(four) : six;
}

struct addr mapping_same_loopback(struct addr asked, bool v4)
{
	return addr_is_loopback(&asked) ? asked : mapping_loopback(v4);
}

static bool is_dns(uint8_t proto, uint16_t port)
{
	return (proto == IPPROTO_UDP || proto == IPPROTO_TCP) && (port == PORT_DNS || port == PORT_DNS_TLS);
}

static bool is_forwarded_dns(const struct address_mapping *p, const struct endpoint *dst)
{
	int f = addr_family_index(&dst->addr);

	return addr_eq(&dst->addr, &p->dns_forward[f]) && !addr_is_none(&p->dns_host[f]) && (dst->port == PORT_DNS || p->dns_tls);
}

bool addr_list_has(const struct addr_list *l, const struct addr *a)
{
	for (uint32_t i = 0; i < l->count; i++)
		if (addr_eq(&l->at[i], a))
			return true;
	return false;
}

/* DHCP (RFC 2131, 4.1) and DHCPv6 (RFC 8415, 7.2) stay off the host's network: the guest has a server of its own. */
static bool is_dhcp(uint16_t port)
{
	return port == 67 || port == 68 || port == 546 || port == 547;
}

bool mapping_broadcast(const struct address_mapping *p, uint16_t port)
{
	return p->broadcast && !is_dhcp(port);
}

static bool may_multicast(const struct address_mapping *p, uint8_t proto, const struct endpoint *dst)
{
	/* Scopes 0 and 1 never leave a machine: those groups would be the host's own (RFC 4291, 2.7). */
	bool machine = !addr_is_v4(&dst->addr) && (dst->addr.b[1] & 0x0f) < 2;

	return proto == IPPROTO_UDP && p->multicast && !machine && !is_dhcp(dst->port);
}

bool mapping_outbound(const struct address_mapping *p, uint8_t proto, const struct endpoint *guest_dst, struct endpoint *host_dst)
{
	const struct addr *dst = &guest_dst->addr;
	int f = addr_family_index(dst);

	*host_dst = *guest_dst;
	if (addr_is_none(dst))
		return false;
	if (is_dns(proto, guest_dst->port)) {
		if (is_forwarded_dns(p, guest_dst)) {
			host_dst->addr = p->dns_host[f];
			return true;
		}
		if (addr_eq(dst, &p->dns_host[f]) && addr_is_unicast_remote(dst))
			return true;
	}
	if (addr_eq(dst, &p->map_host_loopback[f])) {
		host_dst->addr = mapping_loopback(f == 0);
		return true;
	}
	if (addr_eq(dst, &p->map_guest_addr[f])) {
		host_dst->addr = p->host[f];
		return !addr_is_none(&p->host[f]);
	}
	if (addr_is_multicast(dst))
		return may_multicast(p, proto, guest_dst);
	return addr_is_unicast_remote(dst) && !mapping_is_virtual(p, dst);
}

bool mapping_serves_dns(const struct address_mapping *p, const struct endpoint *guest_dst)
{
	return p->serves_dns && guest_dst->port == PORT_DNS && !addr_is_none(&guest_dst->addr) &&
	       !addr_is_multicast(&guest_dst->addr) && !addr_is_broadcast(&guest_dst->addr);
}

bool mapping_is_virtual(const struct address_mapping *p, const struct addr *a)
{
	return addr_list_has(&p->virtual_addrs, a);
}

static bool is_guest_addr(const struct address_mapping *p, const struct addr *a)
{
	return addr_eq(a, &p->guest_seen[mapping_seen_index(a)]) || addr_list_has(&p->guest_addrs, a);
}

bool mapping_inbound_source(const struct address_mapping *p, const struct addr *host_src, struct addr *guest_src)
{
	int f = addr_family_index(host_src);
	bool guests = is_guest_addr(p, host_src);

	*guest_src = *host_src;
	if (guests && !addr_is_none(&p->map_guest_addr[f]))
		*guest_src = p->map_guest_addr[f];
	else if (guests || addr_is_loopback(host_src))
		*guest_src = addr_is_none(&p->map_host_loopback[f]) ? p->gateway[f] : p->map_host_loopback[f];
	return !addr_is_none(guest_src) && !addr_is_unspecified(guest_src) && !addr_is_multicast(guest_src);
}

bool mapping_is_source(const struct address_mapping *p, const struct addr *a)
{
	if (addr_is_multicast(a) || addr_is_unspecified(a) || addr_is_loopback(a))
		return false;
	/* Some networks use 240.0.0.0/4 although it is reserved (RFC 1112, 4). Its last address is broadcast. */
	if (addr_is_v4(a) && a->b[12] >= 240 && !addr_list_has(&p->guest_addrs, a))
		return false;
	return !addr_list_has(&p->barred_sources, a) && !mapping_is_virtual(p, a);
}

const struct addr *mapping_guest_addr(const struct address_mapping *p, const struct addr *guest_src)
{
	/* A link-local client goes to the link-local address: from there the guest's kernel answers it (RFC 6724, 5, rule 2). */
	int index = mapping_seen_index(guest_src), other = index ? 3 - index : 0;

	return &p->guest_seen[addr_is_none(&p->guest_seen[index]) ? other : index];
}

const struct addr *mapping_local_addr(const struct address_mapping *p, bool v4)
{
	bool link_local = !v4 && p->guest_scope6 && addr_is_none(&p->guest_seen[1]);

	return &p->guest_seen[v4 ? 0 : link_local ? 2 : 1];
}

int addr_list_add(struct addr_list *l, const struct addr *a)
{
	struct addr *grown = realloc(l->at, (l->count + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	l->at = grown;
	l->at[l->count++] = *a;
	return 0;
}

int addr_list_copy(struct addr_list *to, const struct addr_list *from)
{
	*to = (struct addr_list){0};
	if (!from->count)
		return 0;
	to->at = malloc(from->count * sizeof(*to->at));
	if (!to->at)
		return -ENOMEM;
	memcpy(to->at, from->at, from->count * sizeof(*to->at));
	to->count = from->count;
	return 0;
}

void addr_list_free(struct addr_list *l)
{
	free(l->at);
	*l = (struct addr_list){0};
}

int mapping_copy(struct address_mapping *to, const struct address_mapping *from)
{
	int rc;

	*to = *from;
	to->virtual_addrs = to->barred_sources = (struct addr_list){0};
	rc = addr_list_copy(&to->guest_addrs, &from->guest_addrs);
	if (!rc)
		rc = addr_list_copy(&to->virtual_addrs, &from->virtual_addrs);
	if (!rc)
		rc = addr_list_copy(&to->barred_sources, &from->barred_sources);
	if (rc)
		mapping_free(to);
	return rc;
}

void mapping_free(struct address_mapping *p)
{
	addr_list_free(&p->guest_addrs);
	addr_list_free(&p->virtual_addrs);
	addr_list_free(&p->barred_sources);
}
