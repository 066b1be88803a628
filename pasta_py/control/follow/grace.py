"""When a change of the host counts: what comes counts at once; what goes, once something takes its place, or after a grace.

So a network that comes back within the grace has changed nothing. Pure: from the host as it counted before and as it is now, to the
host as it counts from now on. What the guest gets then follows from that host by the same plan as at a start.

For each family:

    an interface with a default route      counts in place of any other, at once
    the default route has gone             the family stays as it counted: as a whole, if the interface has gone or changed too
    addresses and routes of an interface   each stays until an address, or a route to the same destination, comes that is new

Nameservers stay while the host names none.
"""

from pasta_py.control.follow import Counted
from pasta_py.control.netlink.links_addresses_routes import Address, Route
from pasta_py.control.planning.guest_family import is_copied
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.resolv_conf import Resolv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Since: TypeAlias = "dict[tuple[object, ...], int]"  # what is missing, and since when, ms

_MOST_GONE = 512  # addresses that are remembered after they have gone: flows bound to older ones have ended long ago


def settle(before: Counted, host: HostSnapshot, resolv: Resolv, now_ms: int, grace_ms: int) -> tuple[Counted, int]:
    """The host as it counts from now on, and when to look again, ms; -1: at the next change."""
    pending = _Pending(dict(before.missing), now_ms, grace_ms)
    ipv4 = _family(4, before.host.ipv4, host.ipv4, pending)
    ipv6 = _family(6, before.host.ipv6, host.ipv6, pending)
    if not resolv.nameservers and before.resolv.nameservers and pending.stays(("nameservers",)):
        resolv = before.resolv
    kept = [a.interface.ip for family in (ipv4, ipv6) for a in family.addresses]
    replaced = {a.interface.ip for family in (before.host.ipv4, before.host.ipv6) for a in family.addresses} - set(kept)
    had = dict.fromkeys((*before.gone, *before.host.addresses))
    lost = [a for a in had if a not in host.addresses and a not in kept]
    gone = tuple(a for a in lost if a in before.gone or a in replaced or not pending.stays(("address", str(a))))
    waiting = tuple(a for a in lost if a not in gone)
    counted = HostSnapshot(
        **{
            **host.__dict__,
            "ipv4": ipv4,
            "ipv6": ipv6,
            "addresses": tuple(dict.fromkeys((*host.addresses, *(a for a in kept if a in had), *waiting))),
        }
    )
    missing = tuple(pending.now_missing.items())
    return Counted(host=counted, resolv=resolv, missing=missing, gone=gone[-_MOST_GONE:]), pending.due_ms()


class _Pending:
    """What is missing, since when, and whether it still counts."""

    def __init__(self, since: "Since", now_ms: int, grace_ms: int) -> None:
        self._since, self._now_ms, self._grace_ms = since, now_ms, grace_ms
        self.now_missing: Since = {}

    def stays(self, what: "tuple[object, ...]") -> bool:
        """Whether something that is missing still counts."""
        since = self._since.get(what, self._now_ms)
        if self._now_ms - since >= self._grace_ms:
            return False
        self.now_missing[what] = since
        return True

    def due_ms(self) -> int:
        return min(self.now_missing.values()) + self._grace_ms if self.now_missing else -1


def _has_network(family: Family) -> bool:
    return family.link is not None and any(map(is_copied, family.addresses))


def _leads_anywhere(family: Family) -> bool:
    return any(not route.destination.prefixlen for route in family.routes)


def _family(version: int, before: Family, now: Family, pending: _Pending) -> Family:
    if before.link is None or not (_has_network(before) or _leads_anywhere(before)):
        return now
    same_link = now.link is not None and now.link.name == before.link.name
    lost = now.link is None or not (_has_network(now) or _leads_anywhere(now))
    worse = not same_link and _leads_anywhere(before) and not _leads_anywhere(now)
    if lost or worse:
        return before if pending.stays((version, "network")) else now
    if not same_link:
        return now
    addresses = _addresses(before.addresses, now.addresses, pending)
    routes = _routes(before.routes, now.routes, {a.interface.ip for a in addresses}, pending)
    return Family(**{**now.__dict__, "addresses": addresses, "routes": routes})


def _addresses(before: tuple[Address, ...], now: tuple[Address, ...], pending: _Pending) -> tuple[Address, ...]:
    present, known = {a.interface for a in now}, {a.interface for a in before}
    if any(is_copied(a) and a.interface not in known for a in now):
        return now
    missing = [a for a in before if a.interface not in present and is_copied(a)]
    stay = {a.interface for a in missing if pending.stays(("guest address", str(a.interface)))}
    if not stay:
        return now
    return _in_order(before, now, lambda a: a.interface, stay)


def _routes(
    before: tuple[Route, ...], now: tuple[Route, ...], sources: "set[object]", pending: _Pending
) -> tuple[Route, ...]:
    present, known = set(map(_route_key, now)), set(map(_route_key, before))
    renewed = {route.destination for route in now if _route_key(route) not in known}
    missing = [r for r in before if _route_key(r) not in present and r.destination not in renewed]
    missing = [r for r in missing if r.source is None or r.source in sources]
    stay = {_route_key(r) for r in missing if pending.stays(("route", *_route_key(r)))}
    return _in_order(before, now, _route_key, stay) if stay else now


def _route_key(route: Route) -> tuple[object, ...]:
    hops = tuple(str(hop.gateway) for hop in route.hops)
    return (str(route.destination), hops, str(route.source), route.metric, route.tos)


def _in_order(
    before: "tuple[Any, ...]", now: "tuple[Any, ...]", key: "Callable[[Any], object]", stay: "set[Any]"
) -> "tuple[Any, ...]":
    """What is there now, and what stays, in the order of before."""
    current = {key(each): each for each in now}
    merged = [current.pop(key(each), each) for each in before if key(each) in current or key(each) in stay]
    return (*merged, *(each for each in now if key(each) in current))
