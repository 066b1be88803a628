"""One family of the guest, IPv4 or IPv6: its addresses, routes and gateway. Pure. It ends in one of four ways:

    mirror   addresses and routes of the host's outbound interface, all of them
    set      the user's -a or -g in place of the host's, and the host's routes that fit it
    local    no outbound interface, or one without an IPv4 address: 169.254.2.1/16 and gateway 169.254.2.2, or for IPv6
             link-local addresses and gateway fe80::1
    off      -4 or -6, a host without the family, an MTU too small for IPv6

A family that does not mirror, although no option forbids it, has a notice that says so. If an option is why, it is a warning.

Invariant: a family that is off has no addresses and no routes.
"""

from pasta_py.control.ip import IPv4Address, IPv6Address, ip_interface, ip_network
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.links_addresses_routes import Address, Interface, Ip, NextHop, Route
from pasta_py.control.planning import our_addresses
from pasta_py.control.planning.host import Family, leads_out
from pasta_py.errors import HostError, UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.commandline.options import Options

MIN_MTU6 = 1280  # RFC 8200, 5

# Local mode. IPv4 link-local, RFC 3927.
LOCAL_ADDRESS4 = ip_interface("169.254.2.1/16")
LOCAL_GATEWAY4 = IPv4Address("169.254.2.2")
LOCAL_GATEWAY6 = IPv6Address("fe80::1")
_BROADCAST = IPv4Address("255.255.255.255")

_IFA_F_TEMPORARY = 0x01


class GuestFamily(Record):
    """One family of the guest."""

    on: bool
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    gateway: Ip | None = None
    link_mtu: int = 0  # of the host's interface; 0: none
    link_index: int = 0
    link_name: str = ""
    mirrored: bool = False
    warnings: tuple[str, ...] = ()  # as in Plan
    notices: tuple[str, ...] = ()

    def first(self) -> Address | None:
        """The guest's main address: the source of the default route, else the first that is neither deprecated nor temporary."""
        sources = [r.source for r in self.routes if r.source is not None and not r.destination.prefixlen]
        usable = [a for a in self.addresses if not a.interface.ip.is_link_local or a.interface.version == 4]
        lasting = [a for a in usable if not a.deprecated and not a.flags & _IFA_F_TEMPORARY]
        preferred = [a for a in usable if a.interface.ip in sources]
        return next(iter(preferred + lasting + usable), None)

    def has(self, address: Ip) -> bool:
        return any(a.interface.ip == address for a in self.addresses)


def plan_family(version: int, options: "Options", family: Family, mtu: int) -> GuestFamily:
    asked, other = (options.ipv4, options.ipv6) if version == 4 else (options.ipv6, options.ipv4)
    if not asked:
        return GuestFamily(on=False)
    if not family.available:
        if not other:
            raise HostError(
                f"-{version}: the host has no IPv{version}: leave the option out, or switch IPv{version} on there"
            )
        return GuestFamily(on=False, notices=(f"IPv{version} is off: the host has none",))
    if version == 6 and mtu < MIN_MTU6:
        why = f"IPv6 needs an MTU of {MIN_MTU6} or more, not {mtu}"
        if not other:
            raise UsageError(f"{why}: raise --mtu or leave out -6")
        return GuestFamily(on=False, warnings=(f"IPv6 is off: {why}",))
    user_address = next((a for a in options.address if a.version == version), None)
    user_gateway: Ip | None = options.gateway4 if version == 4 else options.gateway6
    if user_gateway is not None and not is_mappable(user_gateway):
        raise UsageError(f"-g {user_gateway}: this cannot be a gateway: give a unicast address")
    addresses = tuple(a for a in family.addresses if is_copied(a))
    anywhere = any(leads_out(route.destination) for route in family.routes)
    if user_address is None and not addresses and (version == 4 or not anywhere):
        return _local(version, family, user_gateway)
    if not addresses and not anywhere:  # even if -i or --outbound-if4 names the interface
        family = Family(available=True)
    return _from_host(version, options, family, addresses, user_address, user_gateway)


def is_copied(address: Address) -> bool:
    """Whether the guest gets it: no link-local IPv6, which it makes itself, no loopback, no duplicate (RFC 4862, 5.4)."""
    own = address.interface.ip
    if not is_mappable(own) or address.flags & rtnl.IFA_F_DADFAILED:
        return False
    return own.version == 4 or not own.is_link_local


def _local(version: int, family: Family, user_gateway: Ip | None) -> GuestFamily:
    if family.link is not None:
        why = f"host interface {family.link.name} has no IPv{version} address"
    else:
        why = "no interface of the host leads anywhere"
    if version == 4:
        addresses: tuple[Address, ...] = (Address(interface=LOCAL_ADDRESS4),)
        gateway = user_gateway or LOCAL_GATEWAY4
        how = f"address {LOCAL_ADDRESS4.ip}, gateway {gateway}"
    else:
        addresses = ()
        gateway = user_gateway or LOCAL_GATEWAY6
        how = f"gateway {gateway}"
    return GuestFamily(
        on=True,
        addresses=addresses,
        routes=(_default_route(gateway, addresses),),
        gateway=gateway,
        notices=(f"IPv{version}: {why}, local mode ({how})",),
    )


def _from_host(
    version: int,
    options: "Options",
    family: Family,
    addresses: tuple[Address, ...],
    user_address: Interface | None,
    user_gateway: Ip | None,
) -> GuestFamily:
    length = options.netmask if version == 4 else None
    mirrored = user_address is None and user_gateway is None and length is None and options.copy_addrs and options.copy_routes
    if user_address is not None:
        addresses = (_user_address(user_address),)
    elif length is not None:
        addresses = (_user_address(ip_interface(f"{addresses[0].interface.ip}/{length}")),)
    elif not options.copy_addrs:
        addresses = addresses[:1]
    name = options.ns_ifname or _link_name(family)
    addresses = tuple(_fitted(address, _link_name(family), name) for address in addresses)
    host_gateway = _host_gateway(family.routes)
    gateway: Ip = user_gateway or host_gateway or (LOCAL_GATEWAY4 if version == 4 else LOCAL_GATEWAY6)
    routes, warnings = _routes(family.routes, addresses, mirrored)
    if user_gateway is not None or (user_address is not None and family.link is None):
        routes = (_default_route(gateway, addresses),)
    elif not options.copy_routes:
        routes = tuple(route for route in routes if not route.destination.prefixlen)[:1]
    return GuestFamily(
        on=True,
        addresses=addresses,
        routes=routes if mirrored else _reachable(routes, addresses),
        gateway=gateway,
        link_mtu=family.link.mtu if family.link is not None else 0,
        link_index=family.link.index if family.link is not None else 0,
        link_name=_link_name(family),
        mirrored=mirrored,
        warnings=warnings,
    )


def _link_name(family: Family) -> str:
    return family.link.name if family.link is not None else ""


def _user_address(interface: Interface) -> Address:
    own = interface.ip
    if not is_mappable(own):
        raise UsageError(f"-a {interface}: the guest cannot have this address: give a unicast address")
    scope = rtnl.RT_SCOPE_LINK if interface.version == 6 and own.is_link_local else rtnl.RT_SCOPE_UNIVERSE
    if isinstance(own, IPv4Address):
        network = interface.network
        broadcast = IPv4Address(network.broadcast_address.packed) if network.prefixlen < 31 else None
        return Address(interface=interface, scope=scope, broadcast=broadcast)
    return Address(interface=interface, scope=scope)


def _fitted(address: Address, host_name: str, name: str) -> Address:
    """The address for the interface `name`: without flags that only the kernel may set, and with the label renamed."""
    label = address.label
    if name and label.startswith(host_name):
        label = name + label[len(host_name) :]
    keep = rtnl.IFA_F_HOMEADDRESS | rtnl.IFA_F_NOPREFIXROUTE | _IFA_F_TEMPORARY
    flags = address.flags & keep | (rtnl.IFA_F_NODAD if address.interface.version == 6 else 0)
    return Address(**{**address.__dict__, "flags": flags, "label": label[:15], "link": 0})


def _host_gateway(routes: "Iterable[Route]") -> Ip | None:
    """The gateway of the default route with the lowest metric, of those with a gateway of their own family."""
    best: Route | None = None
    for route in routes:
        if not route.destination.prefixlen and _gateway_of(route) and (best is None or route.metric < best.metric):
            best = route
    return _gateway_of(best) if best is not None else None


def _gateway_of(route: Route) -> Ip | None:
    version = route.destination.version
    return next((hop.gateway for hop in route.hops if hop.gateway and hop.gateway.version == version), None)


def _default_route(gateway: Ip, addresses: tuple[Address, ...]) -> Route:
    version = gateway.version
    any_network = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return _reachable((Route(destination=any_network, hops=(NextHop(gateway=gateway),)),), addresses)[0]


def _routes(
    routes: tuple[Route, ...], addresses: tuple[Address, ...], mirrored: bool
) -> tuple[tuple[Route, ...], tuple[str, ...]]:
    """The host's routes that fit the guest's addresses, and a warning about attributes that cannot be copied."""
    kept, incomplete = [], []
    own = {address.interface.ip for address in addresses}
    for route in routes:
        automatic = route.destination.version == 6 and (route.destination.is_link_local or route.destination.is_multicast)
        if automatic and route.proto == rtnl.RTPROT_KERNEL:
            continue  # the kernel makes it for every interface
        if not mirrored and route.proto == rtnl.RTPROT_KERNEL:
            continue  # the kernel makes it with its address
        hops = tuple(hop.replace(link=0, down=False) for hop in route.hops)
        source = route.source if route.source in own else None
        kept.append(Route(**{**route.__dict__, "hops": hops, "source": source, "whole": True}))
        if not route.whole:
            incomplete.append(str(route.destination))
    if not incomplete:
        return tuple(kept), ()
    which = incomplete[0] if len(incomplete) == 1 else f"{incomplete[0]} and {len(incomplete) - 1} more"
    return tuple(kept), (f"route to {which}: copied without attributes that this version does not know",)


def _reachable(routes: tuple[Route, ...], addresses: tuple[Address, ...]) -> tuple[Route, ...]:
    """The routes, with `onlink` set for gateways that no address or route puts on the link."""
    near = our_addresses.on_link(addresses, routes)
    on_link: dict[Ip, bool] = {}  # thousands of routes have the same few gateways

    def fitted(hop: NextHop) -> NextHop:
        gateway = hop.gateway
        if gateway is None or (gateway.version == 6 and gateway.is_link_local):
            return hop
        if gateway not in on_link:
            on_link[gateway] = any(gateway.version == net.version and gateway in net for net in near)
        return hop if on_link[gateway] else hop.replace(onlink=True)

    return tuple(Route(**{**route.__dict__, "hops": tuple(map(fitted, route.hops))}) for route in routes)


def is_mappable(address: Ip) -> bool:
    """Whether it can be the address of one host in a frame. ::ffff:0:0/96 cannot: it means IPv4 between control and worker."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return False
    special = address.is_unspecified or address.is_multicast or address.is_loopback
    return not special and address != _BROADCAST
