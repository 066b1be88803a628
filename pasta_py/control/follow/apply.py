"""Brings the guest's interface from one link plan to the next. Runs in a child of the applier, in the guest's namespace.

Only what we have set is removed, and only while it is as we set it. What the guest's root has removed stays away; what it has added
or changed stays. So `ours` is kept beside the plan: the addresses and routes that we have set and not removed.

The order keeps the guest reachable: addresses, routes, then what goes. Removing an address can take others along: the kernel
removes a subnet's secondary addresses with the primary one, and routes with their source. What was there before, and is not to go,
is set again.
"""

import errno

from pasta_py.control.guest import interface
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.exchange import Netlink
from pasta_py.control.netlink.links_addresses_routes import Address, Route
from pasta_py.control.planning.our_addresses import prefix_of
from pasta_py.control.planning.plan import LinkPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NONE = (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV)  # it is gone already


def change(index: int, ours: LinkPlan, wanted: LinkPlan) -> tuple[LinkPlan, list[str]]:
    """What is ours afterwards, and a line for each address or route that could not be set."""
    with Netlink() as kernel:
        return _Change(kernel, index, ours, wanted).run()


def _as_read(link: LinkPlan) -> LinkPlan:
    """The plan with the metric that IPv6 gives a route without one: so the kernel reports it."""
    routes = (
        route.replace(metric=rtnl.IP6_RT_PRIO_USER) if route.destination.version == 6 and not route.metric else route
        for route in link.routes
    )
    return LinkPlan(**{**link.__dict__, "routes": tuple(routes)})


class _Change:
    def __init__(self, kernel: Netlink, index: int, ours: LinkPlan, wanted: LinkPlan) -> None:
        self._kernel, self._index, self._ours, self._wanted = kernel, index, _as_read(ours), _as_read(wanted)
        self._addresses, self._routes = self._present()
        self._failed: list[str] = []

    def _present(self) -> tuple[list[Address], list[Route]]:
        addresses = [address for address in rtnl.addresses(self._kernel) if address.link == self._index]
        routes: list[Route] = []
        for family in (rtnl.AF_INET, rtnl.AF_INET6):
            try:
                routes += [
                    interface.key(r) for r in rtnl.routes(self._kernel, family) if interface.through(r, self._index)
                ]
            except OSError:
                continue  # the namespace does not have the family
        return addresses, routes

    def run(self) -> tuple[LinkPlan, list[str]]:
        ours, wanted = self._ours, self._wanted
        old_addresses = {address.interface: address for address in ours.addresses}
        old_routes = set(ours.routes)
        new = [a for a in wanted.addresses if old_addresses.get(a.interface) != a]
        kept = {a.interface for a in wanted.addresses}
        going_addresses = [a for a in ours.addresses if a.interface not in kept]
        # An interface has an IPv6 address once, whatever the length of its prefix: the old one goes before the new one comes.
        arriving_ips = {a.interface.ip for a in new if a.interface.version == 6}
        self._remove([], [a for a in going_addresses if a.interface.ip in arriving_ips], set())
        set_addresses = self._set_addresses(new, old_addresses)
        automatic = self._drop_automatic(set_addresses)
        staying, arriving = set(wanted.routes), [r for r in wanted.routes if r not in old_routes]
        going_routes = [r for r in ours.routes if r not in staying]
        # IPv6 would make one multipath route of an old and a new route to the same destination with the same metric.
        merging = {(r.destination, r.metric) for r in arriving if r.destination.version == 6}
        for route in going_routes:
            if (route.destination, route.metric) in merging and self._is_there(route, self._routes):
                self._try_delete(route)
        set_routes = self._set_routes(arriving)
        self._remove(going_routes, going_addresses, set(automatic))
        unset = {a.interface for a in new} - {a.interface for a in set_addresses}
        addresses = tuple(a for a in wanted.addresses if a.interface not in unset)
        failed = set(arriving) - set(set_routes)
        routes = tuple(r for r in wanted.routes if r not in failed)
        return LinkPlan(**{**wanted.__dict__, "addresses": addresses, "routes": routes}), self._failed

    def _set_addresses(self, new: "Iterable[Address]", old: "dict[rtnl.Interface, Address]") -> list[Address]:
        """Those that are there then."""
        done = []
        present = {address.interface for address in self._addresses}
        for address in interface.in_setting_order(new):
            own = address.interface
            if own in old and own not in present:
                continue  # the guest's root has removed it
            try:
                rtnl.add_address(self._kernel, self._index, address, replace=own in old)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    continue  # the guest's root has set it before us: it stays theirs
                self._failed.append(f"address {own} cannot be set in the guest: {error.strerror}")
                continue
            done.append(address)
        return done

    def _drop_automatic(self, addresses: "Sequence[Address]") -> list[Route]:
        """Remove the routes that the kernel makes with these addresses, where the host has no such routes. Returns them."""
        if not addresses or not self._wanted.mirrored:
            return []
        nets = {prefix_of(address) for address in addresses}
        before = set(self._routes)
        wanted = set(self._wanted.routes)
        dropped = []
        for route in self._present()[1]:
            version = route.destination.version
            if (
                route in before
                or route in wanted
                or version not in self._wanted.mirrored
                or route.destination not in nets
            ):
                continue
            if route.proto == rtnl.RTPROT_KERNEL and not route.destination.is_link_local:
                self._try_delete(route)
                dropped.append(route)
        return dropped

    def _set_routes(self, new: "Sequence[Route]") -> list[Route]:
        """Those that are there then."""
        present = set(self._present()[1])
        pending = [route for route in new if route not in present]
        failed = interface.set_in_passes(self._kernel, self._index, pending)
        self._failed += [
            f"{interface.described(route)} cannot be set in the guest: {error.strerror}" for route, error in failed
        ]
        refused = {route for route, _error in failed}
        return [
            route
            for route in new
            if route not in refused and (route not in self._routes or route.proto == rtnl.RTPROT_KERNEL)
        ]

    def _remove(self, routes: "Sequence[Route]", addresses: "Sequence[Address]", automatic: "set[Route]") -> None:
        """Remove these, where they are as we set them, and set again what goes along with them, be it the guest's or ours.

        `automatic`: routes that stay away.
        """
        present_addresses, present_routes = self._present()
        there = {address.interface for address in present_addresses}
        going_routes = [route for route in routes if self._is_there(route, present_routes)]
        going = {address.interface for address in addresses if address.interface in there}
        for route in going_routes:
            self._try_delete(route)
        for address in addresses:
            if address.interface in going:
                self._try_delete_address(address)
        if not going and not going_routes:
            return
        left_addresses, _routes = self._present()
        left = {address.interface for address in left_addresses}
        for address in interface.in_setting_order(present_addresses):
            if address.interface not in left and address.interface not in going:
                try:
                    rtnl.add_address(self._kernel, self._index, address)
                except OSError:
                    pass  # it has no use any more
        left_routes = set(self._present()[1])
        pending = [r for r in present_routes if r not in left_routes and r not in going_routes and r not in automatic]
        known_wanted = set(self._wanted.routes)
        interface.set_in_passes(
            self._kernel, self._index, [r for r in pending if r.proto != rtnl.RTPROT_KERNEL or r in known_wanted]
        )

    @staticmethod
    def _is_there(route: Route, present: "Sequence[Route]") -> bool:
        """Whether it is as we set it, for IPv6 also as a part of a multipath route."""
        if route in present:
            return True
        if route.destination.version == 4:
            return False
        parts = [r for r in present if (r.destination, r.metric) == (route.destination, route.metric)]
        return any(set(route.hops) <= set(r.hops) for r in parts)

    def _try_delete_address(self, address: Address) -> None:
        try:
            rtnl.delete_address(self._kernel, self._index, address)
        except OSError as error:
            if error.errno not in _NONE:
                self._failed.append(f"address {address.interface} stays in the guest: {error.strerror}")

    def _try_delete(self, route: Route) -> None:
        try:
            rtnl.delete_route(self._kernel, self._index, route)
        except OSError as error:
            if error.errno not in _NONE:
                self._failed.append(f"{interface.described(route)} stays in the guest: {error.strerror}")
