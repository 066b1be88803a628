"""The host shapes whose addresses and routes a guest has to mirror. Each function builds one in a Lab."""

from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, Lab, dual, remote_addresses, wire


def no_ipv6(lab: Lab) -> None:
    """IPv6 is switched off, as with ipv6.disable_ipv6=1."""
    lab.host.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")


def no_default_route(lab: Lab) -> None:
    """An address in each family, and only the routes of its own prefix."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\naddr add {HOST6}/64 dev eth0 nodad")


def point_to_point(lab: Lab) -> None:
    """A peer address, and a default route through the interface without a gateway, as VPNs have."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(
        f"""\
addr add {HOST4} peer {GATEWAY4}/32 dev eth0
addr add {HOST6} peer {GATEWAY6}/128 dev eth0 nodad
route add default dev eth0
-6 route add default dev eth0
"""
    )


def only_a_peer_route(lab: Lab) -> None:
    """A peer address and nothing else: no prefix, no default route."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(f"addr add {HOST4} peer {GATEWAY4}/32 dev eth0\naddr add {HOST6} peer {GATEWAY6}/128 dev eth0 nodad")


def gateway_off_link(lab: Lab) -> None:
    """A /32 and a /128 with a gateway that only a host route makes reachable, as clouds have."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(
        f"""\
addr add {HOST4}/32 dev eth0
addr add {HOST6}/128 dev eth0 nodad
route add {GATEWAY4} dev eth0
-6 route add {GATEWAY6} dev eth0
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""
    )


def several_defaults(lab: Lab) -> None:
    """Default routes of different metrics, and more specific routes through the same interface."""
    dual(lab)
    lab.host.setup(
        f"""\
route add default via 192.0.2.3 metric 200
route add 198.51.100.0/24 via 192.0.2.4
route add 203.0.113.0/24 via 192.0.2.5 metric 50 src {HOST4}
-6 route add default via 2001:db8::3 metric 2000
-6 route add 2001:db8:4::/48 via 2001:db8::4
addr add 192.0.2.20/24 dev eth0
addr add 198.18.0.7/15 dev eth0
addr add 2001:db8::20/64 dev eth0 nodad
"""
    )


def multipath(lab: Lab) -> None:
    """A default route with two next hops in each family."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(
        f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default nexthop via {GATEWAY4} dev eth0 weight 2 nexthop via 192.0.2.10 dev eth0 weight 1
-6 route add default nexthop via {GATEWAY6} dev eth0 weight 1 nexthop via 2001:db8::10 dev eth0 weight 1
"""
    )


def second_interface(lab: Lab) -> None:
    """Defaults through two interfaces: the guest gets the first one's."""
    dual(lab)
    wire(lab, name="eth1", peer="eth1")
    lab.host.setup("addr add 198.18.0.2/24 dev eth1\nroute add default via 198.18.0.1 metric 500")


def only_loopback(lab: Lab) -> None:
    """No interface but lo: local mode."""


MIRRORED = {
    shape.__name__: shape
    for shape in (
        dual,
        no_ipv6,
        no_default_route,
        point_to_point,
        only_a_peer_route,
        gateway_off_link,
        several_defaults,
        multipath,
        second_interface,
    )
}
