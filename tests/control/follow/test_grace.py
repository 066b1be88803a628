"""When a change of the host counts, and the bytes that the following processes keep. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control.commandline import options
from pasta_py.control.follow import Counted, State, packing, sentences, written
from pasta_py.control.follow.grace import settle
from pasta_py.control.netlink.links_addresses_routes import Address, Link, NextHop, Route
from pasta_py.control.planning import plan
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import WireError

GRACE = 10_000
LO = ip_address("192.0.2.1")


def family(
    name: str = "eth0", addresses: Sequence[str] = (), gateway: str = "", routes: Sequence[str] = (), index: int = 2
) -> Family:
    if not name:
        return Family(available=True)
    version = 6 if ":" in f"{addresses}{gateway}" else 4
    made = [Route(destination=ip_network(each), hops=(NextHop(link=index),)) for each in routes]
    if gateway:
        default = ip_network("::/0" if version == 6 else "0.0.0.0/0")
        made.append(Route(destination=default, hops=(NextHop(gateway=ip_address(gateway), link=index),)))
    link = Link(index=index, name=name, mtu=1500, flags=1, mac=b"")
    found = tuple(Address(interface=ip_interface(each), link=index) for each in addresses)
    return Family(available=True, link=link, addresses=found, routes=tuple(made))


def host(ipv4: Family, ipv6: Family | None = None) -> HostSnapshot:
    ipv6 = ipv6 or Family(available=True)
    own = tuple(a.interface.ip for each in (ipv4, ipv6) for a in each.addresses)
    return HostSnapshot(ipv4=ipv4, ipv6=ipv6, addresses=own)


def counted(now: HostSnapshot) -> Counted:
    return Counted(host=now, resolv=Resolv())


ONE = host(family(addresses=["192.0.2.2/24"], gateway="192.0.2.1"))
TWO = host(family(addresses=["192.0.2.2/24", "192.0.2.3/24"], gateway="192.0.2.1"))
NONE = host(family(""))


def test_what_comes_counts_at_once() -> None:
    assert settle(counted(NONE), ONE, Resolv(), 0, GRACE) == (counted(ONE), -1)
    assert settle(counted(ONE), TWO, Resolv(), 0, GRACE) == (counted(TWO), -1)


def test_what_goes_counts_after_the_grace_and_then_its_flows_have_no_use() -> None:
    for now in (ONE, NONE):
        still, due = settle(counted(TWO), now, Resolv(), 1000, GRACE)
        assert (still.host.ipv4, still.gone, due) == (TWO.ipv4, (), 1000 + GRACE)
        after, due = settle(still, now, Resolv(), due, GRACE)
        assert after.host == now and due == -1
        assert after.gone == tuple(a for a in TWO.addresses if a not in now.addresses)


def test_what_comes_back_within_the_grace_has_never_been_away() -> None:
    still, _due = settle(counted(TWO), NONE, Resolv(), 1000, GRACE)
    assert settle(still, TWO, Resolv(), 5000, GRACE) == (counted(TWO), -1)
    later, due = settle(*(counted(TWO), NONE, Resolv(), 6000, GRACE))
    assert due == 6000 + GRACE and later.host.ipv4 == TWO.ipv4  # the grace begins anew


def test_a_renumbering_counts_at_once() -> None:
    new = host(family(addresses=["192.0.2.9/24"], gateway="192.0.2.1"))
    after, due = settle(counted(TWO), new, Resolv(), 0, GRACE)
    assert after.host == new and due == -1 and after.gone == TWO.addresses


def test_another_interface_counts_at_once_if_it_leads_as_far() -> None:
    cable = host(family("cable", ["198.51.100.5/24"], "198.51.100.1", index=3))
    assert settle(counted(ONE), cable, Resolv(), 0, GRACE)[0].host == cable
    bridge = host(
        family("docker0", ["172.17.0.1/16"], routes=["172.17.0.0/16"], index=4)
    )  # all that is left without the default route
    still, due = settle(counted(ONE), bridge, Resolv(), 0, GRACE)
    assert still.host.ipv4 == ONE.ipv4
    assert settle(still, bridge, Resolv(), due, GRACE)[0].host == bridge


def test_families_count_each_by_itself() -> None:
    six = family(addresses=["2001:db8::2/64"], gateway="2001:db8::1")
    still, _due = settle(counted(host(ONE.ipv4, six)), host(family(""), six), Resolv(), 0, GRACE)
    assert (still.host.ipv4, still.host.ipv6) == (ONE.ipv4, six)
    new = family(addresses=["2001:db8::9/64"], gateway="2001:db8::1")
    after, _due = settle(counted(host(ONE.ipv4, six)), host(family(""), new), Resolv(), 0, GRACE)
    assert (after.host.ipv4, after.host.ipv6) == (ONE.ipv4, new)


def test_nameservers_stay_while_there_are_none() -> None:
    old, none, new = Resolv(nameservers=(LO,)), Resolv(), Resolv(nameservers=(ip_address("192.0.2.53"),))
    before = Counted(host=ONE, resolv=old)
    still, due = settle(before, ONE, none, 0, GRACE)
    assert still.resolv == old
    assert settle(still, ONE, new, 1, GRACE)[0].resolv == new
    assert settle(still, ONE, none, due, GRACE)[0].resolv == none


@st.composite
def hosts(draw: st.DrawFn) -> HostSnapshot:
    name = draw(st.sampled_from(["", "eth0", "wlan0"]))
    index = draw(st.integers(1, 3))
    last = draw(st.lists(st.integers(2, 6), unique=True, max_size=4))
    gateway = draw(st.sampled_from(["", "192.0.2.1", "192.0.2.7"]))
    routes = [f"203.0.113.{16 * i}/28" for i in draw(st.lists(st.integers(0, 4), unique=True, max_size=3))]
    return host(family(name, [f"192.0.2.{i}/24" for i in last], gateway, routes, index))


@given(st.lists(st.tuples(hosts(), st.integers(0, 15_000)), min_size=1, max_size=20))
def test_after_any_walk_and_a_quiet_grace_the_host_counts_as_it_is(walk: list[tuple[HostSnapshot, int]]) -> None:
    now_ms, state = 0, counted(NONE)
    for each, wait_ms in walk:
        state, due = settle(state, each, Resolv(), now_ms, GRACE)
        assert due == -1 or now_ms < due <= now_ms + GRACE
        present = set(each.addresses)
        assert not present & set(state.gone)  # never ends a flow of an address that is there
        now_ms += wait_ms
    while due >= 0:
        state, due = settle(state, walk[-1][0], Resolv(), due, GRACE)
    assert state.host == walk[-1][0]


@given(st.lists(hosts(), min_size=2, max_size=4))
def test_what_is_packed_is_unpacked_as_it_was(walk: list[HostSnapshot]) -> None:
    state = State(
        options=options.parse(["-a", "10.1.2.3/24", "-g", "fe80::1"], "pasta-py"),
        shares_etc=True,
        counted=counted(walk[0]),
    )
    for each in walk:
        now, _due = settle(state.counted, each, Resolv(nameservers=(ip_address("fe80::1%eth0"),)), 5, GRACE)
        state = state.replace(counted=now)
        assert packing.unpack(packing.pack(state)) == state
        assert packing.read_state(written(state, None, 7)) == (state, None, 7)
        assert packing.read_state(written(state, b"ours", 7)) == (state, b"ours", 7)


@pytest.mark.parametrize(
    "data", [b"", b"(\0\0\0\1s\0\0\0\1x", b"(\0\0\0\2s\0\0\0\1rs\0\0\0\2os", b"(\0\0\0\2s\0\0\0\1as\0\0\0\1x"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        packing.unpack(data)


def test_a_state_that_is_cut_short_is_refused() -> None:
    state = State(options=options.parse([], "pasta-py"), shares_etc=True, counted=counted(ONE))
    for length in (0, 1, 20):
        with pytest.raises(WireError):
            packing.read_state(written(state, None, 7)[:length])


def test_each_change_is_a_sentence() -> None:
    asked = options.parse(["--config-net"], "pasta")
    before = plan.build(asked, ONE, Resolv())
    cable = host(family("cable", ["198.51.100.5/24"], "198.51.100.1", ["203.0.113.0/24"], index=3))
    now = plan.build(asked, cable, Resolv(nameservers=(ip_address("198.51.100.53"),)))
    assert sentences.lines(before, before) == []
    assert sentences.lines(before, now) == [
        "IPv4: the host's outbound interface is cable now, no longer eth0",
        "address 198.51.100.5/24 is new",
        "address 192.0.2.2/24 is gone: connections from it end",
        "IPv4: the default route is by way of 198.51.100.1 now",
        "the route to 203.0.113.0/24 is new",
        "nameservers: 198.51.100.53",
    ]
