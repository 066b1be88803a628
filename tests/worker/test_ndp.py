from ipaddress import IPv6Address

import messages
import pytest
from checker import check, ethernet, icmp6, ipv6, payload
from messages import GUEST_LL6, ns, rs
from sample_plan import GUEST6, GUEST_MAC, OUR_LL6, OUR_MAC, addr, mac, sample_plan

from pasta_py.worker import ndp

PLAN = sample_plan()


def options(frame: bytes | None) -> dict[int, bytes]:
    """The options of a router advertisement, whole."""
    data, found = check(frame, icmp6(type=134)).payload[8:], {}
    while data:
        size = data[1] * 8
        assert 0 < size <= len(data), "the options do not add up"
        found[data[0]], data = data[:size], data[size:]
    return found


@pytest.mark.parametrize("target", ["2001:db8:1::1", "2001:db8:1::77", "2606:4700::1111", OUR_LL6])
@pytest.mark.parametrize("unicast", [False, True])
def test_every_neighbour_is_ours(target: str, unicast: bool) -> None:
    check(
        ndp.reply(PLAN, ns(target, dst=target if unicast else "")),
        ethernet(src=OUR_MAC, dst=GUEST_MAC),
        ipv6(src=target, dst=GUEST_LL6, hop_limit=255),
        icmp6(type=136, code=0, rest=0xE0000000),
        payload(addr(target) + b"\x02\x01" + mac(OUR_MAC)),
    )


def test_a_probe_for_our_address_is_answered_to_all_nodes() -> None:
    check(
        ndp.reply(PLAN, ns(OUR_LL6, src="::")),
        ethernet(dst="33:33:00:00:00:01"),
        ipv6(src=OUR_LL6, dst="ff02::1", hop_limit=255),
        icmp6(type=136, rest=0xA0000000),
    )


@pytest.mark.parametrize("target", [GUEST6, GUEST_LL6, "2001:db8:1::ff:fe00:2"])
def test_duplicate_address_detection_finds_other_addresses_free(target: str) -> None:
    assert ndp.reply(PLAN, ns(target, src="::")) is None


@pytest.mark.parametrize(
    "frame",
    [
        ns(GUEST6),
        ns(GUEST_LL6),
        ns("2001:db8:1::77", hop_limit=254),
        ns("ff02::1", dst="ff02::1"),
        ns("2001:db8:1::77", options=b"\x01\x00" + bytes(6)),
        ns("2001:db8:1::77", options=b"\x01\x02" + bytes(6)),
        ns(OUR_LL6, src="::", options=b"\x01\x01" + mac(GUEST_MAC)),
        ns(OUR_LL6, src="::", dst=OUR_LL6),
        rs(hop_limit=64),
        rs(code=1),
        rs(src="::", options=b"\x01\x01" + mac(GUEST_MAC)),
        rs()[:-1] + b"\x01",
    ],
    ids=[
        "guest's address", "sender's own", "routed", "group target", "empty option", "long option", "probe with MAC",
        "unicast probe", "routed rs", "rs with code", "nameless rs with MAC", "wrong checksum",
    ],
)  # fmt: skip
def test_invalid_solicitations_get_no_answer(frame: bytes) -> None:
    assert ndp.reply(PLAN, frame) is None


def test_router_advertisement_says_all_there_is() -> None:
    frame = ndp.reply(PLAN, rs())
    found = options(frame)
    check(frame, ethernet(dst=GUEST_MAC), ipv6(src=OUR_LL6, dst=GUEST_LL6, hop_limit=255), icmp6(rest=0x40C0FFFF))
    forever = b"\xff" * 4
    assert found[1] == b"\x01\x01" + mac(OUR_MAC)
    assert found[3] == bytes((3, 4, 64, 0xC0)) + forever * 2 + bytes(4) + IPv6Address("2001:db8:1::").packed
    assert found[5] == bytes((5, 1, 0, 0)) + (65520).to_bytes(4, "big")
    assert found[25] == bytes((25, 3, 0, 0)) + forever + IPv6Address("2001:db8::53").packed
    names = b"\x07example\x03org\0\x03lab\x07example\x03org\0"
    assert found[31] == bytes((31, 5, 0, 0)) + forever + names.ljust(32, b"\0")


def test_router_advertisement_leaves_out_what_there_is_not() -> None:
    plan = sample_plan(guest6=b"", dns=(addr("192.0.2.53"),), search=(), assign_mtu=False, dhcpv6=False)
    frame = ndp.reply(plan, rs())
    check(frame, icmp6(rest=0x4000FFFF))
    assert set(options(frame)) == {1}


@pytest.mark.parametrize("bits", [48, 64, 65, 128])
def test_64_bits_are_announced_for_any_prefix_of_the_host(bits: int) -> None:
    prefix = options(ndp.reply(sample_plan(prefix6=bits), rs()))[3]
    assert (prefix[2], prefix[3], prefix[16:]) == (64, 0xC0, addr("2001:db8:1::"))


def test_an_mtu_below_the_minimum_of_ipv6_is_not_announced() -> None:
    assert 5 not in options(ndp.reply(sample_plan(mtu=1279), rs()))
    assert 5 in options(ndp.reply(sample_plan(mtu=1280), rs()))


def test_too_many_servers_and_names_are_cut_to_fit_every_link() -> None:
    servers = tuple(addr(f"2001:db8::{i:x}") for i in range(1, 40))
    plan = sample_plan(dns=servers, search=tuple(f"{'x' * 60}.n{i}.example" for i in range(50)))
    frame = ndp.reply(plan, rs())
    assert frame is not None and 1200 < len(frame) <= 14 + 1280
    assert len(options(frame)[25]) == 8 + 39 * 16
    assert len(options(ndp.reply(sample_plan(dns=servers * 10), rs()))[25]) > 8 + 39 * 16


def test_a_nameless_solicitation_and_nobodys_get_the_same_advertisement() -> None:
    assert ndp.reply(PLAN, rs(src="::")) == ndp.advertisement(PLAN)
    check(ndp.advertisement(PLAN), ethernet(dst="33:33:00:00:00:01"), ipv6(dst="ff02::1", hop_limit=255))


@pytest.mark.parametrize("off", ["on6", "ndp"])
def test_switched_off(off: str) -> None:
    plan = sample_plan(**{off: False})
    assert [ndp.reply(plan, ns("2001:db8:1::77")), ndp.reply(plan, rs()), ndp.advertisement(plan)] == [None, None, b""]


def test_without_router_advertisements_neighbours_are_still_found() -> None:
    plan = sample_plan(ra=False)
    assert [ndp.reply(plan, rs()), ndp.advertisement(plan)] == [None, b""]
    check(ndp.reply(plan, messages.ns("2001:db8:1::77")), icmp6(type=136))


def test_what_is_advertised_no_more_is_withdrawn() -> None:
    """A new prefix withdraws the old one; a new router, or none, the old router; what stays is not said again."""
    before = PLAN.replace(dns=(), search=())
    new_prefix = before.replace(family6=before.family6.replace(guest=addr("fd77::15")))
    new_router = before.replace(our_link_local=addr("fe80::77"))
    assert ndp.withdrawals(before, before) == [] == ndp.withdrawals(before.replace(ra=False), new_prefix)
    off = before.replace(family6=before.family6.replace(on=False))
    for now, router_s, prefixes in ((new_prefix, 65535, 1), (new_router, 0, 0), (off, 0, 0)):
        (frame,) = ndp.withdrawals(before, now)
        assert frame[22:38] == before.our_link_local and frame[54] == 134
        assert int.from_bytes(frame[60:62], "big") == router_s
        options = frame[70:]
        assert len(options) == 32 * prefixes
        if prefixes:
            assert (
                options[:2] == bytes((3, 4))
                and options[4:12] == bytes(8)
                and options[16:24] == before.family6.guest[:8]
            )


def test_nameservers_and_domains_that_are_advertised_no_more_are_withdrawn() -> None:
    """A lifetime of 0 (RFC 8106, 5.1 and 5.2) for each that is gone; with the router, all of them go."""
    one, two, four = addr("2001:db8::53"), addr("2001:db8:7::53"), addr("192.0.2.53")
    before = PLAN.replace(dns=(one, four, two), search=("a.example", "b.example"))
    now = before.replace(dns=(two,), search=("b.example", "c.example"))
    (frame,) = ndp.withdrawals(before, now)
    check(frame, ipv6(src=OUR_LL6, dst="ff02::1", hop_limit=255), icmp6(type=134))
    assert options(frame) == {25: b"\x19\x03\0\0" + bytes(4) + one, 31: b"\x1f\x03\0\0" + bytes(4) + b"\1a\7example\0" + bytes(5)}
    assert frame[59:62] == ndp.advertisement(now)[59:62]  # flags and lifetime of the router, which stays
    (frame,) = ndp.withdrawals(before, before.replace(our_link_local=addr("fe80::77")))
    assert frame[60:62] == bytes(2)
    assert options(frame)[25] == b"\x19\x05\0\0" + bytes(4) + one + two
    assert ndp.withdrawals(before, before.replace(dns=(one, two))) == []
