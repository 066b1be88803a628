"""The guest's addresses and routes are the host's: real namespaces, as an ordinary user, as `ip` shows."""

from ipaddress import ip_address

import pytest
from network_helpers import guest_side, host_side, in_new_namespace, options

from pasta_py.control.ip import IPv4Address, IPv6Address, ip_interface, ip_network
from pasta_py.control.netlink.links_addresses_routes import NextHop, Route
from pasta_py.control.planning import plan
from pasta_py.control.planning.resolv_conf import Resolv

# A veth pair whose other end is in the same namespace gives an Ethernet link with carrier.
LINK = """
    link set lo up
    link add eth0 type veth peer name far0
    link set far0 up
    link set eth0 up
"""
DUAL = (
    LINK
    + """
    addr add 192.0.2.10/24 brd + dev eth0
    addr add 192.0.2.11/24 dev eth0
    addr add 198.51.100.7/28 brd + dev eth0 label eth0:more
    addr add 2001:db8::10/64 dev eth0 nodad
    addr add 2001:db8::11/64 dev eth0 nodad preferred_lft 0
    addr add fd00:1::5/48 dev eth0 nodad noprefixroute
    route add default via 192.0.2.1 dev eth0 proto static
    route add 10.0.0.0/8 via 192.0.2.2 dev eth0 metric 300 src 192.0.2.11
    route add 203.0.113.0/24 dev eth0 scope link mtu 1400 advmss 1000
    -6 route add default via 2001:db8::1 dev eth0 metric 100
    -6 route add fd00:2::/32 via fe80::77 dev eth0 pref high
"""
)
SHAPES = {
    "dual stack": DUAL,
    "IPv4 only": LINK
    + """
        sysctl net/ipv6/conf/all/disable_ipv6 1
        addr add 192.0.2.10/24 dev eth0
        route add default via 192.0.2.1
    """,
    "no default route": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        route add 10.1.0.0/16 via 192.0.2.9
        -6 route add fd00:9::/32 via 2001:db8::9
    """,
    "gateway as the other end of a point-to-point link": LINK
    + """
        addr add 192.0.2.10/32 peer 198.51.100.1/32 dev eth0
        addr add 2001:db8::10/128 peer fd00:5::1/128 dev eth0 nodad
        route add default via 198.51.100.1
        await -6 route show fd00:5::1
        -6 route add default via fd00:5::1
    """,
    "host address and a route to the gateway": LINK
    + """
        addr add 192.0.2.10/32 dev eth0
        addr add 2001:db8::10/128 dev eth0 nodad
        route add 198.51.100.1 dev eth0 scope link
        route add default via 198.51.100.1 src 192.0.2.10
        -6 route add fd00:5::1 dev eth0
        -6 route add default via fd00:5::1
    """,
    "default route without a gateway": LINK
    + """
        addr add 192.0.2.10/32 dev eth0
        addr add 2001:db8::10/128 dev eth0 nodad
        route add default dev eth0 scope link
        -6 route add default dev eth0
    """,
    "gateway on the link by flag only": LINK
    + """
        addr add 192.0.2.10/32 dev eth0
        addr add 2001:db8::10/128 dev eth0 nodad
        route add default via 198.51.100.1 dev eth0 onlink
        -6 route add default via fd00:5::1 dev eth0 onlink
    """,
    "several default routes": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        route add default via 192.0.2.2 metric 200
        route add default via 192.0.2.1 metric 100
        route add default via 192.0.2.3 metric 300
        route append default via 192.0.2.4 metric 300
        -6 route add default via 2001:db8::2 metric 200
        -6 route add default via 2001:db8::1 metric 100
    """,
    "multipath": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        route add default nexthop via 192.0.2.1 dev eth0 weight 3 nexthop via 198.51.100.9 dev eth0 weight 1 onlink
        -6 route add default nexthop via 2001:db8::1 dev eth0 weight 2 nexthop via 2001:db8::2 dev eth0 weight 1
    """,
    "gateways behind gateways, the farthest first": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        route add 172.16.0.0/12 via 192.0.2.7
        route add 198.51.100.0/24 dev eth0
        route add default via 198.51.100.1
        -6 route add fd00:7::/64 dev eth0
        -6 route add default via fd00:7::1
    """,
    "a connected route taken away, one with its own metric": LINK
    + """
        addr add 192.0.2.10/24 dev eth0 metric 700
        addr add 198.51.100.10/24 dev eth0
        route del 198.51.100.0/24 dev eth0
        route add default via 192.0.2.1
        addr add 2001:db8::10/64 dev eth0 nodad metric 700
    """,
    "a tunnel, without carrier": """
        link set lo up
        tuntap add dev eth0 mode tun
        link set eth0 up
        addr add 10.8.0.6 peer 10.8.0.5 dev eth0
        addr add fd00:8::6 peer fd00:8::5 dev eth0 nodad
        route add 10.8.0.0/24 via 10.8.0.5
        route add default dev eth0 metric 50
        -6 route add default dev eth0 metric 50
    """,
    "nexthop objects": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        nexthop add id 1 via 192.0.2.1 dev eth0
        nexthop add id 2 via 192.0.2.2 dev eth0
        nexthop add id 3 group 1/2
        nexthop add id 6 via 2001:db8::1 dev eth0
        route add default nhid 3
        route add 10.0.0.0/8 nhid 2
        -6 route add default nhid 6
    """,
    "leased by DHCP and router advertisements": LINK
    + """
        addr add 192.0.2.10/24 dev eth0 valid_lft 3600 preferred_lft 1800
        addr add 2001:db8::10/64 dev eth0 nodad noprefixroute valid_lft 3600 preferred_lft 1800
        route add default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.10 metric 100
        -6 route add 2001:db8::/64 dev eth0 proto ra metric 100 expires 3600
        -6 route add default via fe80::1 dev eth0 proto ra metric 100 expires 1800 mtu 1492 hoplimit 64
    """,
    "metrics, realms and TCP Fast Open, with one way and with several": LINK
    + """
        addr add 192.0.2.10/24 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        route add default via 192.0.2.1 fastopen_no_cookie 1 realm 5/6
        route add 10.1.0.0/16 mtu lock 1300 quickack 1 congctl reno fastopen_no_cookie 1 nexthop via 192.0.2.1 nexthop via 192.0.2.2
        route add 10.2.0.0/16 nexthop via 192.0.2.1 realm 7 nexthop via inet6 fe80::1 dev eth0 realm 8
        route add 10.3.0.0/16 via inet6 fe80::1 dev eth0 fastopen_no_cookie 1 features ecn realm 9
        -6 route add default via 2001:db8::1 fastopen_no_cookie 1
        -6 route add fd00:2::/32 fastopen_no_cookie 1 nexthop via 2001:db8::1 nexthop via 2001:db8::2
    """,
    "IPv4 by way of an IPv6 gateway": LINK
    + """
        addr add 192.0.2.10/32 dev eth0
        addr add 2001:db8::10/64 dev eth0 nodad
        -4 route add default via inet6 fe80::1 dev eth0
        -6 route add default via fe80::1 dev eth0
    """,
}

#: One that the guest reaches: for one that it does not, the guest may need a route of its own.
NAMESERVER = Resolv(nameservers=(IPv4Address("192.0.2.53"),))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("ifname", ["", "tap7"], ids=["same-name", "other-name"])
def test_guest_shows_the_addresses_and_routes_of_the_host(shape: str, ifname: str) -> None:
    snapshot, expected = in_new_namespace(host_side, SHAPES[shape], "eth0")
    made = plan.build(options(ns_ifname=ifname), snapshot, NAMESERVER)
    result, shown, _ = in_new_namespace(guest_side, made.link)
    assert result.warnings == ()
    name = ifname or "eth0"
    assert made.link.ifname == name
    assert shown == _renamed(expected, name)
    assert expected["addresses"] and expected["-4"], "the shape itself must have something to compare"


def test_a_route_into_a_lightweight_tunnel_is_copied_without_it() -> None:
    """The host's own route encapsulates what the guest sends; the guest must not do it as well."""
    shape = DUAL + "-4 route add 10.66.0.0/16 encap ip id 1 dst 192.0.2.9 dev eth0\n"
    shape += "-6 route add fd00:66::/32 encap seg6 mode encap segs 2001:db8::9 dev eth0"
    snapshot, _ = in_new_namespace(host_side, shape, "eth0")
    made = plan.build(options(), snapshot, Resolv(nameservers=(ip_address("192.0.2.53"),)))
    result, shown, _ = in_new_namespace(guest_side, made.link)
    assert result.warnings == made.warnings == made.notices == ()
    (four,) = [route for route in shown["-4"] if route["dst"] == "10.66.0.0/16"]
    (six,) = [route for route in shown["-6"] if route["dst"] == "fd00:66::/32"]
    assert [route.get("encap") for route in (four, six)] == [None, None]


def test_routes_that_name_nexthop_objects_are_followed_where_the_kernel_says_no_more_of_them() -> None:
    shape = (
        SHAPES["nexthop objects"]
        + """
        nexthop add id 4 via 198.51.100.1 dev eth0 onlink
        nexthop add id 5 group 1,200/4,7
        nexthop add id 7 via fe80::1 dev eth0
        route add 10.1.0.0/16 nhid 5
        route add 10.2.0.0/16 nhid 4
        route add 10.3.0.0/16 nhid 7
    """
    )
    spelled_out, _ = in_new_namespace(host_side, shape, "")
    named_only, _ = in_new_namespace(host_side, shape + "sysctl net/ipv4/nexthop_compat_mode 0", "")
    assert named_only.ipv4.routes == spelled_out.ipv4.routes and len(named_only.ipv4.routes) == 6
    assert named_only.ipv6.routes == spelled_out.ipv6.routes


def _renamed(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: _renamed(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, name) for item in value]
    return name + value[len("eth0") :] if isinstance(value, str) and value.startswith("eth0") else value


def test_every_address_of_a_configured_guest_is_usable_at_once() -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    _, _, links = in_new_namespace(guest_side, plan.build(options(), snapshot, Resolv()).link)
    flags = [address for link in links for address in link["addr_info"] if address.get("tentative")]
    assert flags == []


def test_guest_has_one_link_local_address_of_its_own_made_from_its_mac() -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    made = plan.build(options(ns_mac_addr=bytes.fromhex("02005e005301")), snapshot, Resolv())
    result, _, links = in_new_namespace(guest_side, made.link)
    own = next(link for link in links if link["ifname"] == "eth0")
    assert result.mac == bytes.fromhex("02005e005301") and own["address"] == "02:00:5e:00:53:01"
    assert [a["local"] for a in own["addr_info"] if a["scope"] == "link"] == ["fe80::5eff:fe00:5301"]


@pytest.mark.parametrize(("asked", "mtu"), [(None, 65520), (1500, 1500), (9000, 9000), (0, 1500)])
def test_mtu_of_the_guest_is_the_one_asked_for(asked: int | None, mtu: int) -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    _, _, links = in_new_namespace(guest_side, plan.build(options(mtu=asked), snapshot, Resolv()).link)
    assert {link["ifname"]: link["mtu"] for link in links}["eth0"] == mtu


@pytest.mark.parametrize("shape", ["", "link set lo up"], ids=["nothing-up", "lo-up"])
def test_a_host_with_nothing_but_lo_gives_local_mode_in_both_families(shape: str) -> None:
    snapshot, _ = in_new_namespace(host_side, shape, "")
    made = plan.build(options(), snapshot, Resolv())
    result, shown, links = in_new_namespace(guest_side, made.link)
    assert result.warnings == () and len(made.notices) == 2
    assert [(a["local"], a["prefixlen"]) for a in shown["addresses"]] == [("169.254.2.1", 16)]
    assert [r.get("gateway") for r in shown["-4"] if r["dst"] == "default"] == ["169.254.2.2"]
    assert [r.get("gateway") for r in shown["-6"] if r["dst"] == "default"] == ["fe80::1"]
    assert all("UP" in link["flags"] for link in links if link["ifname"] in ("lo", "tap0"))


@pytest.mark.parametrize(
    "off", ["sysctl net/ipv6/conf/all/disable_ipv6 1", "sysctl net/ipv6/conf/all/disable_ipv6 1\n link set lo up"]
)
def test_a_host_with_ipv6_switched_off_gives_a_guest_without_any(off: str) -> None:
    shape = off + LINK + "addr add 192.0.2.10/24 dev eth0\n route add default via 192.0.2.1"
    snapshot, _ = in_new_namespace(host_side, shape, "eth0")
    made = plan.build(options(), snapshot, Resolv())
    _, shown, links = in_new_namespace(guest_side, made.link)
    assert made.notices == ("IPv6 is off: the host has none",) and not made.worker.family6.on
    assert shown["-6"] == []
    assert not [a for link in links if link["ifname"] == "eth0" for a in link["addr_info"] if a["family"] == "inet6"]


def test_ipv6_alone_mirrors_ipv6_and_leaves_ipv4_out() -> None:
    snapshot, expected = in_new_namespace(host_side, DUAL, "eth0")
    _, shown, _ = in_new_namespace(guest_side, plan.build(options(ipv4=False), snapshot, Resolv()).link)
    assert shown["-4"] == [] and shown["-6"] == expected["-6"]
    assert shown["addresses"] == [a for a in expected["addresses"] if a["family"] == "inet6"]


def test_a_family_without_interface_goes_local_while_the_other_mirrors() -> None:
    shape = LINK + "addr add 2001:db8::10/64 dev eth0 nodad\n -6 route add default via 2001:db8::1"
    snapshot, expected = in_new_namespace(host_side, shape, "eth0")
    made = plan.build(options(), snapshot, Resolv())
    result, shown, _ = in_new_namespace(guest_side, made.link)
    assert shown["-6"] == expected["-6"] and result.warnings == ()
    assert [r["gateway"] for r in shown["-4"] if r["dst"] == "default"] == ["169.254.2.2"]
    assert [line[:5] for line in made.notices] == ["IPv4:"]


def test_a_route_that_cannot_be_set_is_one_warning_and_the_rest_is_there() -> None:
    snapshot, expected = in_new_namespace(host_side, DUAL, "eth0")
    link = plan.build(options(), snapshot, Resolv()).link
    lost = Route(
        destination=ip_network("10.66.0.0/16"), hops=(NextHop(gateway=IPv4Address("10.77.0.1")),)
    )
    result, shown, _ = in_new_namespace(guest_side, link.replace(routes=(lost, *link.routes), mirrored=()))
    assert len(result.warnings) == 1 and "10.66.0.0/16" in result.warnings[0] and "\n" not in result.warnings[0]
    assert shown["-4"] == expected["-4"]


def test_address_and_gateway_of_the_user_replace_those_of_the_host() -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    given = options(
        address=(ip_interface("10.0.2.100/24"), ip_interface("fc00::3/64")),
        gateway4=IPv4Address("10.0.2.2"),
        gateway6=IPv6Address("fc00::1"),
    )
    result, shown, _ = in_new_namespace(guest_side, plan.build(given, snapshot, Resolv()).link)
    assert result.warnings == ()
    assert [a["local"] for a in shown["addresses"]] == ["10.0.2.100", "fc00::3"]
    assert [(r["dst"], r.get("gateway")) for r in shown["-4"]] == [("10.0.2.0/24", None), ("default", "10.0.2.2")]
    assert [(r["dst"], r.get("gateway")) for r in shown["-6"]] == [("default", "fc00::1"), ("fc00::/64", None)]


def test_an_address_outside_the_network_of_the_gateway_still_gets_its_routes() -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    given = options(address=(ip_interface("10.0.2.100/24"), ip_interface("fc00::3/64")))
    result, shown, _ = in_new_namespace(guest_side, plan.build(given, snapshot, Resolv()).link)
    assert result.warnings == ()
    assert ("default", "192.0.2.1") in [(r["dst"], r.get("gateway")) for r in shown["-4"]]
    assert ("default", "2001:db8::1") in [(r["dst"], r.get("gateway")) for r in shown["-6"]]


def test_an_interface_that_is_not_configured_stays_down_with_lo_up() -> None:
    snapshot, _ = in_new_namespace(host_side, DUAL, "eth0")
    link = plan.build(options(config_net=False, ns_mac_addr=b"\x02\0\0\0\0\x07"), snapshot, Resolv()).link
    _, shown, links = in_new_namespace(guest_side, link)
    by_name = {each["ifname"]: each for each in links}
    assert shown["addresses"] == [] and "UP" not in by_name["eth0"]["flags"] and "UP" in by_name["lo"]["flags"]
    assert by_name["eth0"]["address"] == "02:00:00:00:00:07"
