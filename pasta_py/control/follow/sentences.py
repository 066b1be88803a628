"""What has changed, in a line for each change, as a person would say it. Pure."""

from pasta_py.control.ip import ip_address
from pasta_py.control.planning.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOST_LINES = 20  # of one change


def lines(before: Plan, now: Plan) -> list[str]:
    """The changes between two plans, for the log."""
    found = [*_interfaces(before, now), *_addresses(before, now), *_gateways(before, now), *_routes(before, now)]
    found += [*_offered(before, now), *_names(before, now), *_mtu(before, now)]
    return (
        [*found[: _MOST_LINES - 1], f"and {len(found) - _MOST_LINES + 1} more"] if len(found) > _MOST_LINES else found
    )


def _interfaces(before: Plan, now: Plan) -> "Iterator[str]":
    for version, old, new in zip((4, 6), before.templates, now.templates, strict=True):
        if old != new:
            if not new:
                yield f"IPv{version}: no interface of the host leads anywhere any more: local mode"
            else:
                yield f"IPv{version}: the host's outbound interface is {new} now{f', no longer {old}' if old else ''}"


def _addresses(before: Plan, now: Plan) -> "Iterator[str]":
    old = {address.interface: address for address in before.link.addresses}
    new = {address.interface: address for address in now.link.addresses}
    for interface, address in new.items():
        if interface not in old:
            yield f"address {interface} is new"
        elif address.deprecated != old[interface].deprecated:
            yield f"address {interface} is {'deprecated' if address.deprecated else 'no longer deprecated'}"
    for interface in old:
        if interface not in new:
            yield f"address {interface} is gone: connections from it end"


def _offered(before: Plan, now: Plan) -> "Iterator[str]":
    """What a guest that configures itself is told."""
    if now.link.configure:
        return
    families = ((p.worker.family4, p.worker.family6) for p in (before, now))
    for version, old, new in zip((4, 6), *families, strict=True):
        if (old.guest, old.prefix) != (new.guest, new.prefix) and new.guest:
            yield f"IPv{version}: the guest is offered {ip_address(new.guest[-4:] if version == 4 else new.guest)}/{new.prefix} now"


def _gateways(before: Plan, now: Plan) -> "Iterator[str]":
    for version in (4, 6):
        old, new = (_default(plan, version) for plan in (before, now))
        if old == new:
            continue
        if not new:
            yield f"IPv{version}: there is no default route any more"
        else:
            yield f"IPv{version}: the default route is by way of {new} now"


def _default(plan: Plan, version: int) -> str:
    """The gateways of the best default route; "": there is none."""
    routes = [r for r in plan.link.routes if r.destination.version == version and not r.destination.prefixlen]
    if not routes:
        return ""
    best = min(routes, key=lambda route: route.metric)
    return " and ".join(str(hop.gateway) if hop.gateway else "the link" for hop in best.hops)


def _routes(before: Plan, now: Plan) -> "Iterator[str]":
    """Of routes that the kernel does not make with an address, how many came and went."""
    old, new = (
        {
            (route.destination, route.metric)
            for route in plan.link.routes
            if route.destination.prefixlen and route.proto != 2
        }
        for plan in (before, now)
    )
    for what, which in (("new", new - old), ("gone", old - new)):
        if len(which) == 1:
            yield f"the route to {next(iter(which))[0]} is {what}"
        elif which:
            yield f"{len(which)} routes are {what}"


def _names(before: Plan, now: Plan) -> "Iterator[str]":
    if before.dns != now.dns:
        yield f"nameservers: {_listed(map(str, now.dns)) or 'none'}"
    elif (before.worker.family4.dns_host, before.worker.family6.dns_host) != (
        now.worker.family4.dns_host,
        now.worker.family6.dns_host,
    ):
        yield "names are asked of another nameserver of the host now"
    if before.search != now.search:
        yield f"search domains: {_listed(now.search) or 'none'}"


def _mtu(before: Plan, now: Plan) -> "Iterator[str]":
    if before.worker.link_mtu != now.worker.link_mtu:
        yield f"the MTU of the host's interface is {now.worker.link_mtu} now"


def _listed(words: "Iterable[str]") -> str:
    return ", ".join(words)
