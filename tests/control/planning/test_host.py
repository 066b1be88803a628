"""What a snapshot says of the host: which interface leads out, and what is read from it."""

import pytest
from network_helpers import host_side, in_new_namespace, script

from pasta_py.control.netlink.links_addresses_routes import (
    IFF_LOOPBACK,
    IFF_UP,
    Link,
    NextHop,
    Route,
    ip_address,
    ip_network,
)
from pasta_py.control.planning import host
from pasta_py.control.planning.host import HostSnapshot, outbound
from pasta_py.errors import UsageError

TWO_LINKS = """
    link set lo up
    link add eth0 type veth peer name far0
    link add eth1 type veth peer name far1
    link set far0 up
    link set eth0 up
    link set far1 up
    link set eth1 up
    addr add 192.0.2.10/24 dev eth0
    addr add 198.51.100.10/24 dev eth1
    addr add 2001:db8::10/64 dev eth1 nodad
"""


def _links(*indexes: int) -> list[Link]:
    lo = Link(index=1, name="lo", mtu=65536, flags=IFF_UP | IFF_LOOPBACK, mac=b"")
    return [lo] + [Link(index=i, name=f"eth{i}", mtu=1500, flags=IFF_UP, mac=b"\2\0\0\0\0\1") for i in indexes]


def _route(destination: str, link: int, metric: int = 0, down: bool = False) -> Route:
    return Route(destination=ip_network(destination), metric=metric, hops=(NextHop(link=link, down=down),))


@pytest.mark.parametrize(
    ("routes", "chosen"),
    [
        ([], 0),
        ([_route("0.0.0.0/0", 3, 100), _route("0.0.0.0/0", 2, 200)], 3),
        ([_route("0.0.0.0/0", 3), _route("0.0.0.0/0", 2)], 3),
        ([_route("0.0.0.0/0", 3), _route("10.0.0.0/8", 2)], 3),
        ([_route("192.0.2.0/24", 2), _route("10.0.0.0/8", 3)], 3),
        ([_route("192.0.2.0/24", 3), _route("198.51.100.0/24", 2)], 2),
        ([_route("192.0.2.0/24", 2, 500), _route("198.51.100.0/24", 3, 100)], 3),
        ([_route("0.0.0.0/0", 2, down=True), _route("0.0.0.0/0", 3, 900)], 3),
        ([_route("0.0.0.0/0", 2, down=True)], 2),
        ([_route("0.0.0.0/0", 1)], 0),
        ([_route("fe80::/64", 2), _route("ff00::/8", 2)], 0),
        ([_route("198.51.100.1/32", 2)], 2),
    ],
)
def test_the_outbound_interface_follows_the_documented_rule(routes: list[Route], chosen: int) -> None:
    assert outbound(routes, _links(2, 3)) == chosen


def test_each_family_has_an_interface_of_its_own() -> None:
    shape = TWO_LINKS + "route add default via 192.0.2.1\n -6 route add default via 2001:db8::1"
    found, _ = in_new_namespace(host_side, shape, "")
    assert found.ipv4.link.name == "eth0" and found.ipv6.link.name == "eth1"
    assert [str(a.interface) for a in found.ipv4.addresses] == ["192.0.2.10/24"]
    assert all(hop.link == found.ipv6.link.index for route in found.ipv6.routes for hop in route.hops)


def test_own_addresses_are_those_of_all_interfaces_but_loopback() -> None:
    found, _ = in_new_namespace(host_side, TWO_LINKS, "")
    shown = {str(a) for a in found.addresses if not a.is_link_local}
    assert shown == {"192.0.2.10", "198.51.100.10", "2001:db8::10"}


def test_only_the_ways_through_the_interface_are_kept_of_a_multipath_route() -> None:
    shape = TWO_LINKS + "route add default nexthop via 192.0.2.1 dev eth0 weight 2 nexthop via 198.51.100.1 dev eth1"
    found, _ = in_new_namespace(host_side, shape, "")
    default = next(route for route in found.ipv4.routes if not route.destination.prefixlen)
    assert [hop.gateway for hop in default.hops] == [ip_address("192.0.2.1")]


def test_an_unnumbered_interface_borrows_the_address_it_sends_from() -> None:
    shape = """
        link set lo up
        link add eth0 type veth peer name far0
        link set far0 up
        link set eth0 up
        addr add 203.0.113.5/32 dev lo
        addr add 203.0.113.6/32 dev lo
        route add default dev eth0 scope link src 203.0.113.6
    """
    found, _ = in_new_namespace(host_side, shape, "")
    assert [str(a.interface) for a in found.ipv4.addresses] == ["203.0.113.6/32"]


def _without_address() -> HostSnapshot:
    script(TWO_LINKS + "addr del 198.51.100.10/24 dev eth1\n route add default via 192.0.2.1")
    return host.snapshot("eth1")


def test_an_interface_without_routes_borrows_nothing() -> None:
    found = in_new_namespace(_without_address)
    assert found.ipv4.link.name == "eth1" and found.ipv4.addresses == () == found.ipv4.routes


def _named(name: str) -> HostSnapshot:
    script(TWO_LINKS + "route add default via 192.0.2.1")
    return host.snapshot(name, name)


def test_an_interface_that_is_named_is_taken_instead_of_the_one_with_the_default_route() -> None:
    found = in_new_namespace(_named, "eth1")
    assert found.ipv4.link.name == "eth1" and [str(r.destination) for r in found.ipv4.routes] == ["198.51.100.0/24"]


def _refusal(name: str) -> str:
    try:
        _named(name)
    except UsageError as error:
        return str(error)
    return ""


def test_an_interface_that_is_not_there_is_refused_in_one_line_with_those_that_are() -> None:
    text = in_new_namespace(_refusal, "eth9")
    assert "'eth9'" in text and "eth0" in text and "\n" not in text


def test_routes_of_other_tables_are_left_out() -> None:
    shape = TWO_LINKS + "route add 10.9.0.0/16 via 192.0.2.9 table 100\n route add default via 192.0.2.1"
    found, _ = in_new_namespace(host_side, shape, "")
    assert {str(r.destination) for r in found.ipv4.routes} == {"0.0.0.0/0", "192.0.2.0/24"}


def test_an_empty_namespace_has_both_families_and_no_interface() -> None:
    found, _ = in_new_namespace(host_side, "", "")
    assert found.ipv4.available and found.ipv6.available
    assert found.ipv4.link is None and found.ipv6.link is None and found.addresses == ()
