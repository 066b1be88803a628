"""The host as the guest is to see it: for each family the outbound interface, its addresses and its routes.

The outbound interface of a family is, unless the user names one:

1. that of the default route with the lowest metric (the first of equals);
2. without a default route, that of the broadest other route: shortest prefix, then lowest metric, then lowest
   interface index. Loopback, link-local and multicast destinations do not count, and an interface
   without carrier comes after all others;
3. none: `guest_family` plans local mode.

Only the main table is looked at; policy routing stays the host's own.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.ip import ip_interface
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.exchange import Netlink
from pasta_py.control.netlink.links_addresses_routes import Address, Ip, Link, Network, Route
from pasta_py.errors import HostError, UsageError, reason
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)  # errors that say nothing about a family


class Family(Record):
    """What the host has of IPv4, or of IPv6."""

    available: bool  # the host has the protocol at all
    link: Link | None = None  # outbound interface; None: there is none
    addresses: tuple[Address, ...] = ()  # of that interface, link-local ones included, in the kernel's order
    routes: tuple[Route, ...] = ()  # through that interface; of a multipath route only its next hops


class HostSnapshot(Record):
    """The host's network at one moment."""

    ipv4: Family
    ipv6: Family
    interfaces: tuple[str, ...] = ()  # names of all interfaces
    alternatives: tuple[tuple[str, str], ...] = ()  # pairs of an alternative name and the interface's own
    addresses: tuple[Ip, ...] = ()  # all of the host's own, of both families and all interfaces, without loopback's
    networks: tuple[Network, ...] = ()  # of these addresses
    name: str = ""  # of the host
    leading: tuple[int, ...] = ()  # indices of all interfaces with a route that leaves the host


def snapshot(interface4: str = "", interface6: str = "") -> HostSnapshot:
    """Read the network namespace this thread is in; the interfaces named are taken instead of chosen ones.

    UsageError for an interface that is not there; HostError when the kernel does not answer.
    """
    try:
        with Netlink() as kernel:
            links = {link.index: link for link in rtnl.links(kernel)}
            addresses = rtnl.addresses(kernel)
            families = {}
            leading: set[int] = set()
            for family, name in ((rtnl.AF_INET, interface4), (rtnl.AF_INET6, interface6)):
                routes = rtnl.routes(kernel, family) if _supported(family) else []
                leading |= {hop.link for route in routes if leads_out(route.destination) for hop in route.hops}
                families[family] = _family(family, routes, links, addresses, name)
    except OSError as error:
        raise HostError(f"cannot read the host's addresses and routes: {reason(error, 'try again')}") from None
    own = [a.interface for a in addresses if not a.interface.ip.is_loopback]
    return HostSnapshot(
        ipv4=families[rtnl.AF_INET],
        ipv6=families[rtnl.AF_INET6],
        interfaces=tuple(link.name for link in links.values()),
        alternatives=_alternatives(links.values()),
        addresses=tuple(dict.fromkeys(interface.ip for interface in own)),
        networks=tuple(dict.fromkeys(interface.network for interface in own)),
        name=os.uname().nodename,
        leading=tuple(sorted(leading)),
    )


def alternatives() -> tuple[tuple[str, str], ...]:
    """Pairs of an alternative name and its interface's own; HostError when the kernel does not answer."""
    try:
        with Netlink() as kernel:
            return _alternatives(rtnl.links(kernel))
    except OSError as error:
        raise HostError(f"cannot read the host's interfaces: {reason(error, 'try again')}") from None


def _alternatives(links: "Iterable[Link]") -> tuple[tuple[str, str], ...]:
    return tuple((name, link.name) for link in links for name in link.alternatives)


def _supported(family: int) -> bool:
    """Whether the kernel knows the family: without IPv6, its dumps answer with IPv4."""
    try:
        _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC).close()
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return False
    return True


def _family(family: int, routes: list[Route], links: dict[int, Link], addresses: list[Address], name: str) -> Family:
    version = 4 if family == rtnl.AF_INET else 6
    mine = [address for address in addresses if address.interface.version == version]
    available = _supported(family) and (version == 4 or bool(mine) or not _switched_off(links))
    index = _named(name, links) if name else outbound(routes, links.values())
    if not available or index not in links:
        return Family(available=available)
    chosen = tuple(address for address in mine if address.link == index) or _borrowed(index, routes, mine)
    return Family(available=True, link=links[index], addresses=chosen, routes=tuple(through(routes, index)))


def _switched_off(links: dict[int, Link]) -> bool:
    """Whether no IPv6 address anywhere means disable_ipv6: an interface that is up has one, unless that is set."""
    return any(link.flags & rtnl.IFF_UP for link in links.values())


def _named(name: str, links: dict[int, Link]) -> int:
    for link in links.values():
        if name in (link.name, *link.alternatives):
            return link.index
    known = ", ".join(link.name for link in links.values()) or "none"
    raise UsageError(f"the host has no interface {name!r}: name one of its own ({known})")


def _borrowed(index: int, routes: list[Route], addresses: list[Address]) -> tuple[Address, ...]:
    """For an interface without addresses: the address of another one that the kernel sends from, as a host address."""
    used = through(routes, index)
    if not used:
        return ()
    sources = [route.source for route in used if route.source is not None]
    candidates = [a for a in addresses if a.interface.ip in sources] or [
        a for a in addresses if a.scope == rtnl.RT_SCOPE_UNIVERSE and not a.interface.ip.is_loopback
    ]
    if not candidates:
        return ()
    first = candidates[0]
    alone = ip_interface(first.interface.ip)
    return (first.replace(interface=alone, peer=None, broadcast=None, label="", metric=0, link=index),)


def outbound(routes: "Iterable[Route]", links: "Iterable[Link]") -> int:
    """Index of the outbound interface by the rule above, 0 if there is none; `routes` of one family."""
    usable = {link.index for link in links if not link.flags & rtnl.IFF_LOOPBACK}
    best: tuple[bool, int, int, int] | None = None
    chosen = 0
    for route in routes:
        if not leads_out(route.destination):
            continue
        prefix = route.destination.prefixlen
        for hop in route.hops:
            if hop.link not in usable:
                continue
            # Of equal default routes the first counts. Of equal other routes the lowest index does: their order has no meaning.
            rank = (hop.down, prefix, route.metric, hop.link if prefix else 0)
            if best is None or rank < best:
                best, chosen = rank, hop.link
    return chosen


def leads_out(destination: Network) -> bool:
    """Whether a route to this destination shows that its interface leads to a network."""
    return not (destination.is_loopback or destination.is_link_local or destination.is_multicast)


def through(routes: "Iterable[Route]", index: int) -> list[Route]:
    """The routes that go through one interface, with only its next hops."""
    found = []
    for route in routes:
        hops = tuple(hop for hop in route.hops if hop.link == index)
        if hops:
            found.append(route if hops == route.hops else route.replace(hops=hops))
    return found
