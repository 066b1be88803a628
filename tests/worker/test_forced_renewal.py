"""Clients that can be made to renew get a key, and a message signed with it when what they were told is different."""

import hmac

import pytest
from checker import check, ethernet, ipv4, ipv6, udp
from messages import DUID, GUEST_LL6, OUR_DUID, XID, dhcp, dhcp6, ia_na, opt4, opt6
from sample_plan import GATEWAY4, GUEST4, GUEST_MAC, OUR_LL6, OUR_MAC, addr, mac, sample_plan
from test_dhcp4 import parse
from test_dhcp6 import options

from pasta_py.worker import dhcp4, slowpath
from pasta_py.worker.forced_renewal import Renewals

DISCOVER, REQUEST, FORCERENEW = 1, 3, 9
SOLICIT, REQUEST6, RECONFIGURE = 1, 3, 10
PLAN = sample_plan()
MOVED4 = sample_plan(guest4=addr("192.0.2.99"))
MOVED6 = sample_plan(guest6=addr("2001:db8:7::2"))
HEAD = b"\3\1\0"  # reconfigure key, HMAC-MD5, a counter
KEY_AT, KEY_BYTES = 12, 16


def lease4(renewals: Renewals, capable: bytes = opt4(145, b"\1")) -> dict[int, bytes]:
    frame = dhcp(REQUEST, opt4(50, addr(GUEST4)[-4:]) + opt4(54, addr(GATEWAY4)[-4:]) + capable)
    return parse(check(slowpath.reply(PLAN, frame, None, renewals)).payload)[1]


def lease6(renewals: Renewals, capable: bytes = opt6(20)) -> dict[int, bytes]:
    frame = dhcp6(REQUEST6, ia_na() + capable, server=True)
    return dict(options(check(slowpath.reply(PLAN, frame, None, renewals)).payload[4:]))


def signature(key: bytes, message: bytes, at: int) -> bytes:
    """The independent one: that of the standard library."""
    return hmac.digest(key, message[:at] + bytes(KEY_BYTES) + message[at + KEY_BYTES :], "md5")


def test_a_dhcp_client_that_can_renew_gets_a_key_and_a_signed_message() -> None:
    renewals = Renewals()
    offered = lease4(renewals)[90]
    assert offered[:3] == HEAD and offered[11:KEY_AT] == b"\1" and len(offered) == KEY_AT + KEY_BYTES
    (frame,) = slowpath.forced(PLAN, MOVED4, renewals)
    data = check(
        frame, ethernet(src=OUR_MAC, dst=GUEST_MAC), ipv4(src=GATEWAY4, dst=GUEST4), udp(sport=67, dport=68)
    ).payload
    assert data[:8] == b"\2\1\6\0" + XID and data[8:28] == bytes(20) and data[28:34] == mac(GUEST_MAC)
    order, found = parse(data)
    assert found[53] == bytes((FORCERENEW,)) and found[54] == addr(GATEWAY4)[-4:] and order[-1] == 90
    assert found[90][:3] == HEAD and found[90][11:KEY_AT] == b"\2" and found[90][3:11] > offered[3:11]
    at = len(data) - 1 - KEY_BYTES
    assert data[at:-1] == signature(offered[KEY_AT:], data, at) == found[90][KEY_AT:]


def test_a_dhcpv6_client_that_can_renew_gets_a_key_and_a_signed_message() -> None:
    renewals = Renewals()
    answered = lease6(renewals)
    offered = answered[11]
    assert answered[20] == b"" and offered[:3] == HEAD and offered[11:KEY_AT] == b"\1"
    (frame,) = slowpath.forced(PLAN, MOVED6, renewals)
    data = check(
        frame, ethernet(src=OUR_MAC, dst=GUEST_MAC), ipv6(src=OUR_LL6, dst=GUEST_LL6), udp(sport=547, dport=546)
    ).payload
    assert data[:4] == bytes((RECONFIGURE, 0, 0, 0))
    found = dict(options(data[4:]))
    assert (found[1], found[2], found[19]) == (DUID, OUR_DUID, b"\5") and found[11][:3] == HEAD
    at = len(data) - KEY_BYTES
    assert data[at:] == signature(offered[KEY_AT:], data, at)


def test_others_get_none() -> None:
    """A client that does not say that it can, or has another algorithm; an offer; a worker that does not follow."""
    renewals = Renewals()
    for capable in (b"", opt4(145, b"\2"), opt4(145, b"")):
        assert 90 not in lease4(renewals, capable)
    assert not {11, 20} & set(lease6(renewals, b""))
    offer = check(slowpath.reply(PLAN, dhcp(DISCOVER, opt4(145, b"\1")), None, renewals)).payload
    assert 90 not in parse(offer)[1]
    advertise = check(slowpath.reply(PLAN, dhcp6(SOLICIT, ia_na() + opt6(20)), None, renewals)).payload
    assert 11 not in dict(options(advertise[4:]))
    assert not slowpath.forced(PLAN, MOVED4, renewals) and not slowpath.forced(PLAN, MOVED6, renewals)
    frame = dhcp(REQUEST, opt4(50, addr(GUEST4)[-4:]) + opt4(145, b"\1"))
    assert 90 not in parse(check(slowpath.reply(PLAN, frame)).payload)[1]


@pytest.mark.parametrize(
    ("now", "told4", "told6"),
    [
        (sample_plan(link_mtu=1400), 0, 0),
        (MOVED4, 1, 0),
        (MOVED6, 0, 1),
        (sample_plan(dns=(addr("192.0.2.54"),)), 1, 1),
        (sample_plan(gateway4=addr("192.0.2.9")), 1, 0),
        (sample_plan(guest4=addr("192.0.2.99"), dhcp=False), 0, 0),
    ],
    ids=["nothing of it", "address", "IPv6 address", "nameserver", "gateway", "no DHCP any more"],
)
def test_only_who_was_told_something_else_hears_it(now: object, told4: int, told6: int) -> None:
    renewals = Renewals()
    lease4(renewals)
    lease6(renewals)
    heard = slowpath.forced(PLAN, now, renewals)  # type: ignore[arg-type]
    kinds = [frame[12:14] for frame in heard]
    assert (kinds.count(b"\x08\0"), kinds.count(b"\x86\xdd")) == (told4, told6)


def test_of_many_clients_the_newest_are_kept() -> None:
    renewals = Renewals()
    for number in range(70):
        frame = bytearray(dhcp(REQUEST, opt4(50, addr(GUEST4)[-4:]) + opt4(145, b"\1")))
        frame[6:12] = b"\2\0\0\0\1" + bytes((number,))
        assert dhcp4.reply(PLAN, bytes(frame), None, renewals)
    assert [name[-1] for name in renewals.clients4] == list(range(6, 70))


def test_a_client_that_renews_at_the_address_of_the_gateway_before_hears_a_refusal() -> None:
    """It knows us by that address until it starts over, and listens at its own address only."""
    renewals = Renewals()
    lease4(renewals)
    now = sample_plan(guest4=addr("198.51.100.9"), gateway4=addr("198.51.100.1"))
    frame = dhcp(REQUEST, ciaddr=GUEST4, src=GUEST4, dst=GATEWAY4)
    assert slowpath.reply(now, frame) is None
    data = check(slowpath.reply(now, frame, None, renewals), ethernet(dst=GUEST_MAC), ipv4(dst=GUEST4)).payload
    assert parse(data)[1][53] == b"\6" and data[12:20] == bytes(8)
