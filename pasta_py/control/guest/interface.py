"""Makes the interface in the guest's namespace look as planned. Runs in that namespace, once the tap is there.

The order matters:

1. MAC address and MTU, while the interface is down.
2. No link-local IPv6 address from the kernel: it would be tentative for a second (RFC 4862, 5.4), and every address must be usable
   when we return. We set one instead, without duplicate address detection: the link has no neighbour to collide with.
3. Up, then addresses, then routes: the kernel refuses routes of an interface that is down.
4. Routes in passes, until none is left or a pass sets none: a gateway needs the route to itself first, and the host's
   table is sorted otherwise.

An interface that does not come up is an error. An address or a route that cannot be set is a warning, since the rest
of the network works.
"""

import errno

from pasta_py.control.ip import ip_interface
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.exchange import Netlink
from pasta_py.control.netlink.links_addresses_routes import Address, Link, Route
from pasta_py.control.planning.our_addresses import link_local_of
from pasta_py.control.planning.plan import LinkPlan
from pasta_py.errors import HostError, reason
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LOOPBACK = "lo"
# Of the tap. The kernel's default of 500 drops most of the first windows of hundreds of streams. A frame can take 64 KiB.
_QUEUE_FRAMES = 2048


class ConfigResult(Record):
    """What `configure` has done."""

    mac: bytes  # of the interface, 6 bytes
    index: int  # of the interface
    warnings: tuple[str, ...]  # one line for each address or route that could not be set


def configure(link: LinkPlan) -> ConfigResult:
    """Configure the calling thread's network namespace; HostError, in one line, when the interface cannot be used."""
    with Netlink() as kernel:
        found = _links(kernel)
        if link.ifname not in found:
            raise HostError(f"interface {link.ifname!r} is not in the namespace: was it renamed or removed meanwhile?")
        tap = found[link.ifname]
        _loopback_up(kernel, found)
        if link.mac and link.mac != tap.mac:
            _do(
                f"set the MAC address of {tap.name} to {link.mac.hex(':')}",
                rtnl.set_link,
                kernel,
                tap.index,
                mac=link.mac,
                hint="give another with --ns-mac-addr",
            )
        mac = link.mac or tap.mac
        mtu = link.mtu if link.configure and link.mtu != tap.mtu else 0
        what, hint = f"set the MTU of {tap.name} to {mtu}" if mtu else f"set the queue of {tap.name}", "give another with --mtu"
        _do(what, rtnl.set_link, kernel, tap.index, mtu=mtu, queue=_QUEUE_FRAMES, hint=hint if mtu else "")
        if not link.configure:
            return ConfigResult(mac=mac, index=tap.index, warnings=())
        warnings = _bring_up(kernel, tap, mac, link)
        warnings += _set_addresses(kernel, tap, link)
        warnings += _set_routes(kernel, tap, link)
    return ConfigResult(mac=mac, index=tap.index, warnings=tuple(warnings))


def bring_loopback_up() -> None:
    """Bring up lo: all that a namespace without a tap needs. HostError when the kernel refuses."""
    with Netlink() as kernel:
        _loopback_up(kernel, _links(kernel))


def _links(kernel: Netlink) -> dict[str, Link]:
    try:
        return {each.name: each for each in rtnl.links(kernel)}
    except OSError as error:
        raise HostError(f"cannot read the namespace's interfaces: {error.strerror}") from None


def _loopback_up(kernel: Netlink, found: dict[str, Link]) -> None:
    if _LOOPBACK in found and not found[_LOOPBACK].flags & rtnl.IFF_UP:
        _do(f"bring {_LOOPBACK} up", rtnl.set_link, kernel, found[_LOOPBACK].index, up=True)


def _do(what: str, action: object, *args: object, hint: str = "", **kwargs: object) -> None:
    assert callable(action)
    try:
        action(*args, **kwargs)
    except OSError as error:
        raise HostError(f"cannot {what}: {reason(error, hint)}") from None


def _bring_up(kernel: Netlink, tap: Link, mac: bytes, link: LinkPlan) -> list[str]:
    """Up, with a usable link-local IPv6 address, or with none if IPv6 is off."""
    ours = True
    try:
        rtnl.set_link_local_mode(kernel, tap.index, rtnl.IN6_ADDR_GEN_MODE_NONE)
    except OSError:  # no IPv6 in this namespace, or a kernel without the setting
        ours = False
    _do(f"bring {tap.name} up", rtnl.set_link, kernel, tap.index, up=True)
    if not (ours and link.ipv6):
        return []
    own = ip_interface(f"{link_local_of(mac)}/64")
    address = Address(interface=own, scope=rtnl.RT_SCOPE_LINK, flags=rtnl.IFA_F_NODAD)
    try:
        rtnl.add_address(kernel, tap.index, address)
        rtnl.set_link_local_mode(kernel, tap.index, rtnl.IN6_ADDR_GEN_MODE_EUI64)
    except OSError as error:
        if error.errno != errno.EEXIST:
            return [
                f"IPv6 does not work in the namespace: {error.strerror}: check net.ipv6.conf.{tap.name}.disable_ipv6"
            ]
    return []


def in_setting_order(addresses: "Iterable[Address]") -> list[Address]:
    """So that the kernel lists them as given: IPv4 ones in the order of their setting, IPv6 ones of a scope the latest first."""
    found = list(addresses)
    return [a for a in found if a.interface.version == 4] + [a for a in reversed(found) if a.interface.version == 6]


def _set_addresses(kernel: Netlink, tap: Link, link: LinkPlan) -> list[str]:
    warnings = []
    for address in in_setting_order(link.addresses):
        try:
            rtnl.add_address(kernel, tap.index, address)
        except OSError as error:
            if error.errno == errno.EEXIST:
                continue
            warnings.append(f"cannot set address {address.interface} on {tap.name}: {error.strerror}")
    return warnings


def _set_routes(kernel: Netlink, tap: Link, link: LinkPlan) -> list[str]:
    present = []
    for version, family in ((4, rtnl.AF_INET), (6, rtnl.AF_INET6)):
        try:
            present += [(version, route) for route in rtnl.routes(kernel, family) if through(route, tap.index)]
        except OSError:
            continue  # without a comparison: setting the routes will say what is wrong
    wanted = {key(route) for route in link.routes}
    existing = {key(route) for _, route in present}
    pending = [route for route in link.routes if key(route) not in existing]
    for version, route in present:
        link_local = version == 6 and route.destination.is_link_local
        if (
            version in link.mirrored
            and route.proto == rtnl.RTPROT_KERNEL
            and not link_local
            and key(route) not in wanted
        ):
            # The host has removed or changed this route of an address. It may be gone already.
            try:
                rtnl.delete_route(kernel, tap.index, route)
            except OSError:
                pass
    failed = set_in_passes(kernel, tap.index, pending)
    return [f"cannot set {described(route)} on {tap.name}: {error.strerror}" for route, error in failed]


def set_in_passes(kernel: Netlink, index: int, pending: list[Route]) -> list[tuple[Route, OSError]]:
    """Set routes through an interface, in any order; those that the kernel refuses, and why."""
    while pending:
        failed: list[tuple[Route, OSError]] = []
        for route in pending:
            try:
                rtnl.add_route(kernel, index, route)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    failed.append((route, error))
        if len(failed) == len(pending):
            return failed
        pending = [route for route, _ in failed]
    return []


def through(route: Route, index: int) -> bool:
    """Whether the route has a next hop through the interface."""
    return any(hop.link == index for hop in route.hops)


def key(route: Route) -> Route:
    """The route without what depends on the interface it was read from."""
    hops = tuple(hop.replace(link=0, down=False) for hop in route.hops)
    plain: Route = route.replace(hops=hops)
    return plain


def described(route: Route) -> str:
    """The route in words."""
    gateways = ", ".join(str(hop.gateway) for hop in route.hops if hop.gateway is not None)
    name = (
        f"route to {route.destination}"
        if route.destination.prefixlen
        else f"IPv{route.destination.version} default route"
    )
    return f"{name} by way of {gateways}" if gateways else name
