"""The addresses that we have on the guest's link, and which of them are virtual. Pure.

A gateway, a mapped address or our link-local address may also be that of a machine of the host's network, as a gateway is that
was copied from the host. Where it is not, it is virtual: a host socket that connected to it would reach whichever machine
happens to have the address. So nothing leaves for it.
"""

from pasta_py.control.ip import IPv6Address, ip_network
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.links_addresses_routes import Address, Ip, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.resolv_conf import Resolv


def link_local_of(mac: bytes) -> IPv6Address:
    """The link-local address made from a MAC address (RFC 4291, appendix A)."""
    identifier = bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]))
    return IPv6Address(b"\xfe\x80" + b"\0" * 6 + identifier)


def link_local(options: "Options", gateway: Ip | None, addresses: "Iterable[Address]") -> Ip:
    """Our link-local address, from which we advertise.

    It is the guest's gateway where that is link-local, else that of the host's outbound interface, at which the guest then reaches
    the host, else one made from our MAC address. `addresses`: those of the host's outbound interface.
    """
    if gateway is not None and gateway.is_link_local:
        return gateway
    own = [a.interface.ip for a in addresses if not a.flags & rtnl.IFA_F_DADFAILED]
    guests = link_local_of(options.ns_mac_addr) if options.ns_mac_addr else None
    return next((a for a in own if a.is_link_local and a != guests), link_local_of(options.mac_addr))


def virtual(held: "Iterable[Ip]", host: "HostSnapshot", resolv: "Resolv") -> list[Ip]:
    """Of the addresses that we hold, those at which the host knows no machine.

    The host knows its own addresses, its gateways, its nameservers, and all of the networks on its links. For a link-local address
    these networks do not count: machines choose such addresses by themselves. A public address always has an owner.
    """
    routes = host.ipv4.routes + host.ipv6.routes
    near = [net for net in on_link(host.ipv4.addresses + host.ipv6.addresses, routes) if net.prefixlen]
    known = {*host.addresses, *resolv.nameservers, *(hop.gateway for route in routes for hop in route.hops)}

    def is_virtual(address: Ip) -> bool:
        if address in known or address.is_global:
            return False
        return address.is_link_local or not any(address.version == net.version and address in net for net in near)

    return [address for address in held if is_virtual(address)]


def broadcasts(addresses: "Iterable[Address]") -> list[Ip]:
    """The broadcast addresses of the networks of IPv4 that these are in; those of /31 have none (RFC 3021)."""
    networks = [a.interface.network for a in addresses if a.interface.version == 4]
    found = [a.broadcast for a in addresses if a.broadcast is not None]
    return [*found, *(net.broadcast_address for net in networks if net.prefixlen < 31)]


def on_link(addresses: "Iterable[Address]", routes: "Iterable[Route]") -> list[rtnl.Network]:
    """The networks whose machines are reached without a gateway."""
    near = [prefix_of(address) for address in addresses]
    return near + [route.destination for route in routes if all(hop.gateway is None for hop in route.hops)]


def prefix_of(address: Address) -> rtnl.Network:
    """The network of an address, or of its peer's on a point-to-point link."""
    if address.peer is None:
        return address.interface.network
    return ip_network(f"{address.peer}/{address.interface.network.prefixlen}", strict=False)
