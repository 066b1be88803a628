"""What is decided from options, host and resolv.conf: examples of each rule, and what holds for any of them."""

import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from network_helpers import options
from sample_host import ETH0, HOST, HOST4, HOST6, NONE4, NONE6

from pasta_py import worker_protocol
from pasta_py.control.commandline.options import parse
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.links_addresses_routes import Address, NextHop, Route
from pasta_py.control.planning import plan
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.plan import build, packed
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import HostError, PastaError, UsageError


def _resolv(*servers: str) -> Resolv:
    return Resolv(nameservers=tuple(map(ip_address, servers)))


def _v(text: str) -> bytes:
    return packed(ip_address(text))


def _name(address: bytes) -> str:
    six = IPv6Address(address)
    return str(six.ipv4_mapped or six)


# ---- addresses, routes, gateways ----


def test_a_dual_stack_host_is_mirrored_without_a_notice() -> None:
    made = build(options(), HOST, _resolv("192.0.2.53"))
    assert made.notices == made.warnings == () and made.link.mirrored == (4, 6)
    assert [str(a.interface) for a in made.link.addresses] == ["192.0.2.10/24", "2001:db8::10/64"]
    assert (made.worker.family4.guest, made.worker.family4.prefix) == (_v("192.0.2.10"), 24)
    assert (made.worker.family6.guest, made.worker.family6.prefix) == (_v("2001:db8::10"), 64)
    assert (made.worker.family4.gateway, made.worker.family6.gateway) == (_v("192.0.2.1"), _v("fe80::1"))
    assert made.worker.our_link_local == _v("fe80::1") and made.worker.family6.ifindex == 2
    assert made.worker.guest_addrs == (_v("192.0.2.10"), _v("2001:db8::10"))


def test_the_addresses_that_the_guest_has_are_those_that_it_is_given() -> None:
    family = HOST4.replace(addresses=(*HOST4.addresses, Address(interface=ip_interface("192.0.2.11/24"))))
    host = HOST.replace(ipv4=family)
    both, six = (_v("192.0.2.10"), _v("192.0.2.11")), (_v("2001:db8::10"),)
    assert build(options(), host, Resolv()).worker.guest_addrs == both + six
    assert build(options(config_net=False), host, Resolv()).worker.guest_addrs == both[:1] + six
    given_ = options(address=(ip_interface("10.0.2.100/24"),), gateway4=ip_address("10.0.2.2"))
    assert build(given_, host, Resolv()).worker.guest_addrs == (_v("10.0.2.100"), *six)


def _virtual(host: HostSnapshot = HOST, resolv: Resolv | None = None, **changes: Any) -> set[str]:
    return {_name(packed) for packed in build(options(**changes), host, resolv or _resolv("9.9.9.9")).worker.virtual_addrs}


def test_what_belongs_to_no_machine_of_the_hosts_network_is_virtual() -> None:
    ours4, ours6 = ip_address("10.0.2.2"), ip_address("fd00::2")
    own = {"address": (ip_interface("10.0.2.100/24"), ip_interface("fd00::100/64")), "gateway4": ours4}
    assert _virtual() == _virtual(map_gw=False) == set()
    for map_gw in (True, False):
        assert _virtual(**own, map_gw=map_gw) == {"10.0.2.2"}
    global_gateway = HOST6.routes[0].replace(hops=(NextHop(gateway=ip_address("2001:db8::1"), link=2),))
    host = HOST.replace(ipv6=HOST6.replace(routes=(global_gateway,)))
    assert _virtual(host) == set()
    without = HOST.replace(ipv6=HOST6.replace(routes=(global_gateway,), addresses=HOST6.addresses[:1]))
    assert _virtual(without) == {"fe80::9855:9aff:fe55:9a55"}
    assert _virtual(host, gateway6=ours6) == {"fd00::2"}
    assert _virtual(HOST.replace(ipv4=NONE4, ipv6=NONE6), map_gw=False) == {"169.254.2.2", "fe80::1"}
    loopback = (ip_address("169.254.1.3"), ip_address("2001:db8::3"))
    assert _virtual(map_host_loopback=loopback, map_guest_addr=(ip_address("169.254.1.2"),)) == {"169.254.1.3", "169.254.1.2"}


def _barred(host: HostSnapshot = HOST, **changes: Any) -> set[str]:
    return {_name(packed) for packed in build(options(**changes), host, _resolv("9.9.9.9")).worker.barred_sources}


def test_the_guest_cannot_have_what_we_have_nor_the_broadcast_addresses_of_its_networks() -> None:
    assert _barred() == {"192.0.2.1", "fe80::1", "192.0.2.255"}
    family = HOST4.replace(addresses=(*HOST4.addresses, Address(interface=ip_interface("198.18.0.7/15"))))
    assert _barred(HOST.replace(ipv4=family), ipv6=False) >= {"192.0.2.1", "192.0.2.255", "198.19.255.255"}
    given_ = {"address": (ip_interface("10.0.2.100/31"),), "gateway4": ip_address("192.0.2.77"), "ipv6": False}
    assert _barred(**given_) == {"192.0.2.77"}


def test_a_machine_that_the_host_knows_or_that_anybody_may_know_is_not_virtual() -> None:
    resolver, near, public, far = map(ip_address, ("10.9.0.53", "192.0.2.53", "8.8.8.8", "10.9.0.54"))
    for address in (resolver, near, public, ip_address("192.0.2.1"), ip_address("fe80::1")):
        assert _virtual(resolv=_resolv("10.9.0.53"), dns_forward=(address,), map_gw=False) == set()
    assert _virtual(resolv=_resolv("10.9.0.53"), dns_forward=(far,)) == {"10.9.0.54"}
    assert _virtual(gateway6=ip_address("fe80::5")) == {"fe80::5"}


@pytest.mark.parametrize("gateway", ["2001:db8::1", None])
def test_where_the_gateway_is_global_the_host_itself_advertises(gateway: str | None) -> None:
    """With its link-local address, unless the guest has that one."""
    hop = NextHop(gateway=ip_address(gateway) if gateway else None, link=2)
    host = HOST.replace(ipv6=HOST6.replace(routes=(HOST6.routes[0].replace(hops=(hop,)),)))
    made = build(options(), host, Resolv()).worker
    assert made.our_link_local == _v("fe80::2" if gateway else "fe80::1")
    copied = ETH0.mac[:5] + b"\x02"
    own = Address(interface=ip_interface("fe80::ff:fe00:2/64"))
    same = host.replace(ipv6=host.ipv6.replace(addresses=(*HOST6.addresses[:1], own)))
    made = build(options(ns_mac_addr=copied), same, Resolv()).worker
    assert made.our_link_local == _v("fe80::9855:9aff:fe55:9a55" if gateway else "fe80::1")


def test_map_guest_addr_stands_for_an_address_that_the_host_has() -> None:
    chosen = {"map_guest_addr": (ip_address("169.254.1.2"), ip_address("fc00::2"))}
    made = build(options(**chosen), HOST, Resolv()).worker
    assert (made.family4.host, made.family6.host) == (_v("192.0.2.10"), _v("2001:db8::10"))
    made = build(options(**chosen, address=(ip_interface("10.0.2.100/24"),)), HOST, Resolv()).worker
    assert (made.family4.guest, made.family4.host) == (_v("10.0.2.100"), _v("192.0.2.10"))
    made = build(options(**chosen), HOST.replace(ipv4=NONE4), Resolv()).worker
    assert (made.family4.guest, made.family4.host) == (_v("169.254.2.1"), b"") and _v("169.254.1.2") in made.virtual_addrs


def _calls_to_plan(count: int) -> int:
    """How many functions are called to plan for a host with so many routes, where an address is given."""
    gateway = ip_address("192.0.2.1")
    networks = (ip_network((0x0A000000 + number * 256, 24)) for number in range(count))
    many = tuple(Route(destination=network, hops=(NextHop(gateway=gateway, link=2),)) for network in networks)
    host = HOST.replace(ipv4=HOST4.replace(routes=HOST4.routes + many))
    calls = 0

    def counted(_frame: object, what: str, _arg: object) -> None:
        nonlocal calls
        calls += what == "call"

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        build(options(address=(ip_interface("192.0.2.77/24"),)), host, Resolv())
    finally:
        sys.setprofile(before)
    return calls


def test_planning_for_a_large_routing_table_grows_with_its_size() -> None:
    assert _calls_to_plan(800) < 5 * _calls_to_plan(200)


def test_the_plan_for_the_worker_survives_the_wire() -> None:
    worker = build(options(hostname="guest", search=("a.example",)), HOST, _resolv("192.0.2.53")).worker
    assert worker_protocol.decode(worker_protocol.encode(worker)) == worker


def test_the_guest_is_known_by_the_address_its_default_route_sends_from() -> None:
    family = HOST4.replace(
        addresses=(*HOST4.addresses, Address(interface=ip_interface("192.0.2.11/24"))),
        routes=(HOST4.routes[0].replace(source=ip_address("192.0.2.11")),),
    )
    assert build(options(), HOST.replace(ipv4=family), Resolv()).worker.family4.guest == _v("192.0.2.11")


def test_deprecated_and_temporary_addresses_are_mirrored_but_not_what_the_guest_is_known_by() -> None:
    old = Address(interface=ip_interface("2001:db8::dead/64"), deprecated=True)
    temporary = Address(interface=ip_interface("2001:db8::7e/64"), flags=0x01)
    family = HOST6.replace(addresses=(old, temporary, *HOST6.addresses))
    made = build(options(), HOST.replace(ipv6=family), Resolv())
    assert made.worker.family6.guest == _v("2001:db8::10") and len(made.link.addresses) == 4


def test_a_host_without_a_gateway_gives_the_guest_the_local_one_to_reach_the_host_by() -> None:
    routes = (Route(destination=ip_network("0.0.0.0/0"), hops=(NextHop(link=2),)),)
    made = build(options(), HOST.replace(ipv4=HOST4.replace(routes=routes)), Resolv())
    assert made.worker.family4.gateway == made.worker.family4.map_host_loopback == _v("169.254.2.2")
    assert [r.hops[0].gateway for r in made.link.routes if r.destination.version == 4] == [None]


def test_of_several_default_routes_the_gateway_of_the_best_is_taken() -> None:
    routes = tuple(
        Route(
            destination=ip_network("0.0.0.0/0"), hops=(NextHop(gateway=ip_address(f"192.0.2.{metric}")),), metric=metric
        )
        for metric in (200, 100, 150)
    )
    made = build(options(), HOST.replace(ipv4=HOST4.replace(routes=routes)), Resolv())
    assert made.worker.family4.gateway == _v("192.0.2.100")


def test_a_netmask_alone_is_that_of_the_first_address_of_the_host() -> None:
    family = HOST4.replace(addresses=(*HOST4.addresses, Address(interface=ip_interface("192.0.2.11/24"))))
    made = build(options(netmask=20, ipv6=False), HOST.replace(ipv4=family), Resolv())
    assert [str(a.interface) for a in made.link.addresses] == ["192.0.2.10/20"]
    assert made.worker.family4.prefix == 20 and made.link.mirrored == ()


def test_arguments_of_rootlesskit_give_its_addresses() -> None:
    arguments = (
        "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2"
    )
    given_options = parse([*arguments.split(), "--dns-forward=10.0.2.3", "--no-map-gw", "--ipv4-only", "1"], "pasta")
    made = build(given_options, HOST, _resolv("127.0.0.53"))
    assert [str(a.interface) for a in made.link.addresses] == ["10.0.2.100/24"]
    assert [(str(r.destination), str(r.hops[0].gateway)) for r in made.link.routes] == [("0.0.0.0/0", "10.0.2.2")]
    assert (made.worker.family4.dns_forward, made.worker.family4.dns_host) == (_v("10.0.2.3"), _v("127.0.0.53"))
    assert made.worker.family4.map_host_loopback == b"" and not made.worker.family6.on and made.link.ifname == "tap0"


def test_arguments_of_podman_give_its_mappings() -> None:
    arguments = (
        "--config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns /run/n"
    )
    given_options = parse([*arguments.split(), "--map-guest-addr", "169.254.1.2"], "pasta")
    made = build(given_options, HOST, _resolv("198.51.100.53"))
    assert made.link.mirrored == (4, 6) and made.worker.family4.map_guest_addr == _v("169.254.1.2")
    assert (made.worker.family4.dns_forward, made.worker.family4.dns_host) == (_v("169.254.1.1"), _v("198.51.100.53"))
    assert made.warnings == made.notices == ()


def test_no_copy_addrs_and_no_copy_routes_leave_one_address_and_the_default_route() -> None:
    family = HOST4.replace(addresses=(*HOST4.addresses, Address(interface=ip_interface("192.0.2.11/24"))))
    made = build(options(copy_addrs=False, copy_routes=False, ipv6=False), HOST.replace(ipv4=family), Resolv())
    assert [str(a.interface) for a in made.link.addresses] == ["192.0.2.10/24"]
    assert [str(r.destination) for r in made.link.routes] == ["0.0.0.0/0"]


def test_routes_with_unknown_attributes_are_copied_with_one_warning() -> None:
    strange = tuple(Route(destination=ip_network(f"10.{n}.0.0/16"), hops=(NextHop(),), whole=False) for n in range(3))
    made = build(options(), HOST.replace(ipv4=HOST4.replace(routes=(*HOST4.routes, *strange))), Resolv())
    (line,) = [line for line in made.warnings if "10.0.0.0/16" in line]
    assert "2 more" in line
    assert {route.destination for route in strange} <= {route.destination for route in made.link.routes}
    assert all(route.whole for route in made.link.routes)


def test_a_gateway_given_outside_the_network_of_the_guest_is_taken_as_on_the_link() -> None:
    made = build(options(gateway4=ip_address("198.51.100.1"), ipv6=False), HOST, Resolv())
    (hop,) = made.link.routes[0].hops
    assert hop.onlink and hop.gateway == ip_address("198.51.100.1")


def test_no_interface_gives_local_mode_in_both_families() -> None:
    made = build(options(), HostSnapshot(ipv4=NONE4, ipv6=NONE6), Resolv())
    assert made.worker.family4.guest == _v("169.254.2.1") and made.worker.family4.gateway == _v("169.254.2.2")
    assert made.worker.family6.guest == b"" and made.worker.family6.gateway == made.worker.our_link_local == _v("fe80::1")
    assert made.link.ifname == "tap0" and len(made.notices) == 2


@pytest.mark.parametrize("more", [{}, {"address": (ip_interface("fd00::5/64"),)}, {"gateway6": ip_address("fd00::1")}])
def test_an_interface_named_for_a_family_it_does_not_have_is_as_none(more: dict[str, Any]) -> None:
    """What every interface has, its link-local network and that of multicast, leads nowhere."""
    bare = tuple(
        Route(destination=ip_network(text), proto=rtnl.RTPROT_KERNEL, hops=(NextHop(link=2),))
        for text in ("fe80::/64", "ff00::/8")
    )
    link_local = HOST.ipv6.replace(addresses=(Address(interface=ip_interface("fe80::2/64")),), routes=bare)
    named = build(options(interface="eth0", **more), HOST.replace(ipv6=link_local), Resolv())
    unnamed = build(options(**more), HOST.replace(ipv6=NONE6), Resolv())
    assert named.link == unnamed.link and named.worker == unnamed.worker
    assert [r for r in named.link.routes if r.destination == ip_network("::/0")]


@pytest.mark.parametrize(
    "given_address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "::ffff:10.0.0.1"]
)
def test_an_address_that_no_guest_can_have_is_refused(given_address: str) -> None:
    with pytest.raises(UsageError, match="unicast"):
        build(options(address=(ip_interface(given_address),)), HOST, Resolv())


@pytest.mark.parametrize("gateway", ["0.0.0.0", "127.0.0.1", "224.0.0.1"])
def test_a_gateway_that_is_no_unicast_address_is_refused(gateway: str) -> None:
    with pytest.raises(UsageError, match=gateway):
        build(options(gateway4=ip_address(gateway)), HOST, Resolv())


# ---- which families are on ----


def test_a_host_without_ipv6_is_one_notice() -> None:
    made = build(options(), HOST.replace(ipv6=Family(available=False)), Resolv())
    assert made.notices == ("IPv6 is off: the host has none",)
    assert not made.worker.family6.on and not made.worker.ndp and made.worker.family6.gateway == b"" and not made.link.ipv6


def test_ipv6_alone_on_a_host_without_it_is_refused() -> None:
    with pytest.raises(HostError, match="no IPv6"):
        build(options(ipv4=False), HOST.replace(ipv6=Family(available=False)), Resolv())


def test_an_mtu_below_1280_switches_ipv6_off() -> None:
    made = build(options(mtu=1279), HOST, Resolv())
    assert not made.worker.family6.on and made.worker.family4.on and "1280" in made.warnings[0]
    assert build(options(mtu=1280), HOST, Resolv()).worker.family6.on
    with pytest.raises(UsageError, match="1280"):
        build(options(mtu=1279, ipv4=False), HOST, Resolv())


@pytest.mark.parametrize("mtu", [-1, 1, 67, 65536, 10**9])
def test_an_mtu_out_of_range_is_refused(mtu: int) -> None:
    with pytest.raises(UsageError, match=str(mtu)):
        build(options(mtu=mtu), HOST, Resolv())


def test_mtu_0_leaves_the_interface_alone_and_announces_none() -> None:
    made = build(options(mtu=0), HOST, Resolv())
    assert made.link.mtu == 0 and made.worker.mtu == 1500 and not made.worker.assign_mtu


def test_an_outbound_interface_the_host_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="'wlan9'"):
        build(options(outbound_if4="wlan9"), HOST, Resolv())
    assert plan.interfaces(options(outbound_if4="a", outbound_if6="b")) == ("a", "b")
    assert plan.interfaces(options(outbound_if4="a", interface="c")) == ("c", "c")


def test_an_outbound_address_the_host_does_not_have_is_a_warning() -> None:
    made = build(options(outbound4=ip_address("203.0.113.1")), HOST, _resolv("192.0.2.53"))
    assert "203.0.113.1" in made.warnings[0]
    assert build(options(outbound4=ip_address("203.0.113.1"), freebind=True), HOST, _resolv("192.0.2.53")).warnings == ()


@pytest.mark.parametrize(
    ("changes", "ra"), [({}, False), ({"config_net": False}, True), ({"config_net": False, "ra": False}, False)]
)
def test_routers_are_advertised_only_to_a_guest_that_configures_itself(changes: dict[str, bool], ra: bool) -> None:
    assert build(options(**changes), HOST, Resolv()).worker.ra is ra


# ---- mapping ----


def test_the_gateway_is_the_loopback_of_the_host_unless_switched_off() -> None:
    made = build(options(), HOST, Resolv()).worker
    assert (made.family4.map_host_loopback, made.family6.map_host_loopback) == (_v("192.0.2.1"), _v("fe80::1"))
    for off in (options(map_gw=False), options(map_host_loopback=())):
        made = build(off, HOST, Resolv()).worker
        assert (made.family4.map_host_loopback, made.family6.map_host_loopback) == (b"", b"")


def test_an_address_given_for_one_family_leaves_the_gateway_to_the_other() -> None:
    made = build(options(map_host_loopback=(ip_address("10.9.9.9"),)), HOST, Resolv()).worker
    assert (made.family4.map_host_loopback, made.family6.map_host_loopback) == (_v("10.9.9.9"), _v("fe80::1"))


@pytest.mark.parametrize("field", ["map_host_loopback", "map_guest_addr", "dns_forward"])
@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::10", "127.0.0.1", "::1", "0.0.0.0", "ff02::1"])
def test_addresses_of_the_guest_itself_and_no_unicast_ones_cannot_be_mapped(field: str, address: str) -> None:
    with pytest.raises(UsageError, match=address):
        build(options(**{field: (ip_address(address),)}), HOST, Resolv())


def test_one_address_cannot_mean_both_the_loopback_and_the_address_of_the_host() -> None:
    with pytest.raises(UsageError, match="--no-map-gw"):
        build(options(map_guest_addr=(ip_address("192.0.2.1"),)), HOST, Resolv())
    made = build(options(map_guest_addr=(ip_address("192.0.2.1"),), map_gw=False), HOST, Resolv())
    assert made.worker.family4.map_guest_addr == _v("192.0.2.1")


def test_a_gateway_that_is_the_address_of_the_guest_is_not_mapped() -> None:
    made = build(options(address=(ip_interface("192.0.2.1/24"),)), HOST, Resolv()).worker
    assert made.family4.map_host_loopback == b""


# ---- nameservers ----


def _dns(found: Any) -> tuple[bytes, ...]:
    return found.worker.dns  # type: ignore[no-any-return]


def test_nameservers_within_reach_are_told_as_they_are() -> None:
    made = build(options(dhcp_dns=True), HOST, _resolv("198.51.100.53", "2001:db8::53"))
    assert _dns(made) == (_v("198.51.100.53"), _v("2001:db8::53"))
    assert made.worker.family4.dns_forward == b"" and made.worker.family4.dns_host == _v("198.51.100.53")


def test_a_link_local_nameserver_that_is_the_gateway_is_the_resolver_and_not_the_loopback_of_the_host() -> None:
    made = build(options(dhcp_dns=True), HOST, _resolv("fe80::1%eth0", "fe80::53%eth0"))
    assert _dns(made) == (_v("fe80::1"), _v("fe80::53"))
    assert (made.worker.family6.dns_forward, made.worker.family6.dns_host) == (_v("fe80::1"), _v("fe80::1"))


@pytest.mark.parametrize("server", ["127.0.0.53", "192.0.2.1", "192.0.2.10"])
def test_a_nameserver_out_of_reach_is_told_as_the_mapped_gateway(server: str) -> None:
    made = build(options(program="pasta", dhcp_dns=True), HOST, _resolv(server))
    assert _dns(made) == (_v("192.0.2.1"),) and made.worker.dns_tls and made.resolv is None
    assert (made.worker.family4.dns_forward, made.worker.family4.dns_host) == (_v("192.0.2.1"), _v(server))


def test_a_nameserver_out_of_reach_is_told_as_the_forwarding_address_if_there_is_one() -> None:
    given_options = options(dhcp_dns=True, dns_forward=(ip_address("169.254.1.1"),))
    made = build(given_options, HOST, _resolv("127.0.0.53"))
    assert _dns(made) == (_v("169.254.1.1"),)
    assert (made.worker.family4.dns_forward, made.worker.family4.dns_host) == (_v("169.254.1.1"), _v("127.0.0.53"))


def test_a_loopback_nameserver_of_a_family_that_is_off_is_reached_by_way_of_the_other() -> None:
    made = build(options(dhcp_dns=True, ipv4=False), HOST, _resolv("127.0.0.53"))
    assert _dns(made) == (_v("fe80::1"),) and made.worker.family6.dns_host == _v("127.0.0.53")


def test_a_nameserver_that_nothing_reaches_is_a_warning() -> None:
    made = build(options(program="pasta", dhcp_dns=True, map_gw=False), HOST, _resolv("127.0.0.53"))
    assert _dns(made) == () and "127.0.0.53" in made.warnings[0]


OURS4, OURS6 = "169.254.1.1", "fe80::1"


@pytest.mark.parametrize(
    ("servers", "asks"),
    [
        (("127.0.0.53",), "127.0.0.53"),
        (("::1",), "::1"),
        (("192.0.2.10",), "192.0.2.10"),
        ((), "127.0.0.1"),
        (("0.0.0.0",), "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"map_gw": False}, {"dhcp_dns": False}])
def test_pasta_py_has_a_nameserver_of_its_own_where_none_of_the_hosts_is_in_reach(
    servers: tuple[str, ...], asks: str, changes: dict[str, Any]
) -> None:
    made = build(options(**changes), HOST, _resolv(*servers))
    worker = made.worker
    assert (worker.family4.dns_forward, worker.family4.dns_host, worker.family6.dns_forward) == (_v(OURS4), _v(asks), b"")
    assert not worker.dns_tls and worker.virtual_addrs == (_v(OURS4),) and bool(made.warnings) is (not servers)
    assert made.resolv is not None and made.resolv.forwarder == OURS4
    assert _dns(made) == (() if changes.get("dhcp_dns") is False else (_v(OURS4),))
    assert build(options(**changes), HOST, _resolv(*servers), shares_etc=True).worker.dns == ()


@pytest.mark.parametrize(
    "servers",
    [("198.51.100.53",), ("127.0.0.53", "198.51.100.53"), ("192.0.2.1",), ("198.51.100.53", "192.0.2.1"), ("fe80::53%eth0",)],
)
def test_where_one_is_in_reach_pasta_py_has_none_and_leaves_resolv_conf_alone(servers: tuple[str, ...]) -> None:
    made = build(options(), HOST, _resolv(*servers))
    assert made.resolv is None and made.worker.virtual_addrs == () and made.worker.dns_tls
    assert _v(OURS4) != made.worker.family4.dns_forward


def test_its_own_nameserver_has_an_address_of_each_family_that_asks() -> None:
    made = build(options(config_net=False), HOST, _resolv("127.0.0.53"))
    assert _dns(made) == (_v(OURS4), _v(OURS6)) and made.worker.family6.dns_host == _v("127.0.0.53")
    made = build(options(ipv4=False), HOST, _resolv("127.0.0.53"))
    assert _dns(made) == (_v(OURS6),) and made.resolv is not None and made.resolv.forwarder == f"{OURS6}%eth0"


def test_an_address_given_for_it_is_the_only_one_and_keeps_dns_over_tls() -> None:
    made = build(options(dns_forward=(ip_address("10.0.2.3"),), config_net=False), HOST, _resolv("127.0.0.53"))
    assert _dns(made) == (_v("10.0.2.3"),) and made.worker.family6.dns_forward == b""
    assert made.worker.dns_tls and made.worker.virtual_addrs == (_v("10.0.2.3"),) and made.resolv is not None
    assert made.resolv.forwarder == "10.0.2.3"


def test_dns_none_and_splice_only_open_nothing() -> None:
    for changes in ({"dns": ()}, {"splice_only": True}, {"dns": (ip_address("9.9.9.9"),)}):
        made = build(options(**changes), HOST, _resolv("127.0.0.53"))
        assert _v(OURS4) != made.worker.family4.dns_forward and made.worker.virtual_addrs == ()
        assert (made.resolv is not None) is bool(changes.get("dns"))


def test_an_address_that_the_guest_or_its_router_has_is_not_refused() -> None:
    taken = HOST4.replace(addresses=(Address(interface=ip_interface("169.254.1.1/16"), link=2),))
    made = build(options(), HOST.replace(ipv4=taken), _resolv("127.0.0.53"))
    assert (made.worker.family4.dns_forward, made.worker.family6.dns_forward, made.worker.virtual_addrs) == (b"", _v(OURS6), ())
    routes = (Route(destination=ip_network("0.0.0.0/0"), hops=(NextHop(gateway=ip_address(OURS4), link=2),)),)
    made = build(options(), HOST.replace(ipv4=HOST4.replace(routes=routes)), _resolv("127.0.0.53"))
    assert made.worker.family4.dns_forward == made.worker.family4.map_host_loopback == _v(OURS4) and made.worker.virtual_addrs == ()


def test_a_route_leads_to_it_where_none_of_the_hosts_does() -> None:
    own = ip_network("169.254.1.1/32")
    assert own not in [route.destination for route in build(options(), HOST, _resolv("127.0.0.53")).link.routes]
    near = HOST4.replace(routes=HOST4.routes[1:])
    made = build(options(), HOST.replace(ipv4=near), _resolv("127.0.0.53"))
    assert [hop.gateway for route in made.link.routes if route.destination == own for hop in route.hops] == [None]


def test_the_nameserver_given_answers_for_the_forwarding_address() -> None:
    made = build(
        options(dns_forward=(ip_address("169.254.1.1"),), dns_host=(ip_address("203.0.113.53"),)),
        HOST,
        _resolv("127.0.0.53"),
    )
    assert made.worker.family4.dns_host == _v("203.0.113.53")


def test_nameservers_are_told_by_dhcp_only_when_asked() -> None:
    assert _dns(build(options(), HOST, _resolv("198.51.100.53"))) == ()
    assert _dns(build(options(dns=(ip_address("9.9.9.9"),)), HOST, Resolv())) == (_v("9.9.9.9"),)
    assert _dns(build(options(dns=(), dhcp_dns=True), HOST, _resolv("198.51.100.53"))) == ()
    assert _dns(build(options(dns=(ip_address("9.9.9.9"),), dhcp_dns=False), HOST, Resolv())) == ()


# ---- what holds for everything ----

ADDRESSES4 = st.ip_addresses(v=4) | st.sampled_from(
    [IPv4Address(a) for a in ("192.0.2.1", "192.0.2.10", "169.254.2.1", "169.254.2.2", "127.0.0.53", "0.0.0.0")]
)
ADDRESSES6 = st.ip_addresses(v=6) | st.sampled_from(
    [IPv6Address(a) for a in ("fe80::1", "2001:db8::10", "2001:db8::1", "::1", "::")]
)


# What users give: mostly sensible, now and then not.
GIVEN4 = st.sampled_from([IPv4Address("192.0.2.1"), IPv4Address("169.254.2.2")]) | st.ip_addresses(network="10.0.0.0/8")
GIVEN6 = st.sampled_from([IPv6Address("fe80::1"), IPv6Address("2001:db8::1")]) | st.ip_addresses(network="fd00::/8")
GIVEN4, GIVEN6 = GIVEN4 | GIVEN4 | GIVEN4 | GIVEN4 | ADDRESSES4, GIVEN6 | GIVEN6 | GIVEN6 | GIVEN6 | ADDRESSES6


def _given(version: int) -> st.SearchStrategy[Any]:
    addresses, bits = (GIVEN4, 32) if version == 4 else (GIVEN6, 128)
    return st.builds(lambda address, length: ip_interface((address, length)), addresses, st.integers(0, bits))


def _interfaces(version: int) -> st.SearchStrategy[Any]:
    addresses, bits = (ADDRESSES4, 32) if version == 4 else (ADDRESSES6, 128)
    return st.builds(lambda address, length: ip_interface((address, length)), addresses, st.integers(0, bits))


def _families(version: int) -> st.SearchStrategy[Family]:
    addresses = ADDRESSES4 if version == 4 else ADDRESSES6
    any_gateway = st.none() | addresses | (ADDRESSES6 if version == 4 else addresses)
    address = st.builds(
        Address,
        interface=_interfaces(version),
        peer=st.none() | addresses,
        label=st.sampled_from(["", "eth0", "eth0:1", "eth0:averylongone"]) if version == 4 else st.just(""),
        scope=st.sampled_from([0, 200, 253, 254]),
        flags=st.integers(0, 0xFFF),
        deprecated=st.booleans(),
        metric=st.integers(0, 2**32 - 1),
        link=st.just(2),
    )
    hop = st.builds(NextHop, gateway=any_gateway, onlink=st.booleans(), weight=st.integers(1, 256), link=st.just(2))
    route = st.builds(
        Route,
        destination=_interfaces(version).map(lambda each: each.network),
        hops=st.lists(hop, min_size=1, max_size=3).map(tuple),
        source=st.none() | addresses,
        metric=st.integers(0, 2**32 - 1),
        proto=st.sampled_from([2, 3, 4, 9, 16]),
        whole=st.booleans(),
    )
    some = st.builds(
        Family,
        available=st.just(True),
        link=st.none() | st.just(ETH0),
        addresses=st.lists(address, max_size=4).map(tuple),
        routes=st.lists(route, max_size=4).map(tuple),
    )
    return some | st.just(Family(available=False)) | st.just(Family(available=True))


HOSTS = st.builds(
    HostSnapshot,
    ipv4=_families(4),
    ipv6=_families(6),
    interfaces=st.just(("lo", "eth0")),
    addresses=st.lists(ADDRESSES4 | ADDRESSES6, max_size=4).map(tuple),
)
RESOLVS = st.builds(
    Resolv,
    nameservers=st.lists(ADDRESSES4 | ADDRESSES6 | st.just(ip_address("fe80::1%eth0")), max_size=3, unique=True).map(
        tuple
    ),
    search=st.just(("a.example",)),
)


def _per_family(four: st.SearchStrategy[Any], six: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.none() | four, st.none() | six).map(
        lambda pair: tuple(each for each in pair if each is not None)
    )


OPTIONS = st.builds(
    options,
    config_net=st.booleans(),
    ns_ifname=st.sampled_from(["", "tap0", "a-name-of-15-ch"]),
    mtu=st.sampled_from([None, None, None, 0, 68, 1279, 1280, 1500, 1500, 9000, 65520, 65535, 65536]),
    address=_per_family(_given(4), _given(6)),
    gateway4=st.none() | GIVEN4,
    gateway6=st.none() | GIVEN6,
    netmask=st.sampled_from([None, None, 0, 24, 32]),
    copy_routes=st.booleans(),
    copy_addrs=st.booleans(),
    ipv4=st.sampled_from([True, True, True, True, False]),
    ipv6=st.sampled_from([True, True, True, True, False]),
    dns=st.none() | st.lists(GIVEN4 | GIVEN6, max_size=2).map(tuple),
    dhcp_dns=st.none() | st.booleans(),
    map_host_loopback=st.none() | _per_family(GIVEN4, GIVEN6),
    map_gw=st.booleans(),
    map_guest_addr=_per_family(GIVEN4, GIVEN6),
    dns_forward=_per_family(GIVEN4, GIVEN6),
    dns_host=_per_family(GIVEN4, GIVEN6),
    outbound4=st.none() | GIVEN4,
    outbound_if4=st.sampled_from(["", "", "", "", "", "", "eth0", "eth0", "eth0", "eth1"]),
)


@settings(max_examples=600, deadline=None)
@given(OPTIONS, HOSTS, RESOLVS)
def test_any_plan_is_sound_or_refused_in_one_line(given_options: Any, host: HostSnapshot, resolv: Resolv) -> None:
    try:
        made = build(given_options, host, resolv)
    except PastaError as error:
        event("refused")
        assert isinstance(error, (UsageError, HostError)) and "\n" not in str(error) and str(error)
        return
    worker, link = made.worker, made.link
    on = {version for version in (4, 6) if worker.family(version).on}
    assert on
    assert {a.interface.version for a in link.addresses} | {r.destination.version for r in link.routes} <= on
    assert set(link.mirrored) <= on
    assert link.configure or not (link.addresses or link.routes)
    own = {packed(a.interface.ip) for a in link.addresses} | {worker.family4.guest, worker.family6.guest} - {b""}
    families = (worker.family4, worker.family6)
    mapped = [a for f in families for a in (f.map_host_loopback, f.map_guest_addr, f.dns_forward)]
    assert not own & set(mapped)
    if worker.family4.map_host_loopback:
        assert worker.family4.map_host_loopback != worker.family4.map_guest_addr
    for version, family, names in (
        (4, worker.family4, ("guest", "gateway", "map_host_loopback")),
        (6, worker.family6, ("guest", "gateway")),
    ):
        for name in names:
            value = getattr(family, name)
            assert len(value) in (0, 16) and (version in on or value == b"")
            assert not value or value.startswith(b"\0" * 10 + b"\xff\xff") == (version == 4)
    assert all(line and "\n" not in line for line in made.warnings + made.notices)
    assert not any(
        a.interface.version == 6 and not a.flags & 0x02 and given_options.address == () for a in link.addresses
    )
    assert all(hop.link == 0 for route in link.routes for hop in route.hops)
    assert worker_protocol.decode(worker_protocol.encode(worker)) == worker
