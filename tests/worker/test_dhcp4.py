from ipaddress import ip_address

import pytest
from checker import check, ethernet, ipv4, udp
from messages import XID, bootp, dhcp, opt4, udp4
from sample_plan import GATEWAY4, GUEST4, GUEST_MAC, OUR_MAC, addr, mac, sample_plan

from pasta_py.worker import dhcp4

PLAN = sample_plan()
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
BROADCAST = "255.255.255.255"


def ip(text: str) -> bytes:
    return ip_address(text).packed


def wanted(address: str) -> bytes:
    return opt4(50, ip(address))


def server(address: str = GATEWAY4) -> bytes:
    return opt4(54, ip(address))


def parse(data: bytes) -> tuple[list[int], dict[int, bytes]]:
    """(codes in order, values with split options joined) of a DHCP message."""
    assert data[236:240] == b"\x63\x82\x53\x63", "no DHCP cookie"
    order, found, at = [], {}, 240
    while data[at] != 255:
        code, size = data[at], data[at + 1]
        order += [code] if code not in found else []
        found[code] = found.get(code, b"") + data[at + 2 : at + 2 + size]
        at += 2 + size
    assert not any(data[at + 1 :]), "bytes after the end option"
    return order, found


def answer(frame: bytes, plan: object = PLAN, *checks: object) -> dict[int, bytes]:
    reply = dhcp4.reply(plan, frame)  # type: ignore[arg-type]
    fields = (ethernet(src=OUR_MAC), ipv4(src=GATEWAY4, ttl=64), udp(sport=67, dport=68))
    data = check(reply, *fields, *checks).payload  # type: ignore[arg-type]
    assert len(data) >= 300
    assert data[:4] == b"\x02\x01\x06\0" and data[4:8] == XID and data[28:34] == mac(GUEST_MAC)
    found = parse(data)[1]
    found[-1] = data[16:20]  # yiaddr
    return found


def no_answer(frame: bytes, plan: object = PLAN) -> None:
    assert dhcp4.reply(plan, frame) is None  # type: ignore[arg-type]


def test_discover_gets_an_offer_of_everything() -> None:
    found = answer(dhcp(DISCOVER), PLAN, ethernet(dst=GUEST_MAC), ipv4(dst=GUEST4))
    assert found == {
        -1: ip(GUEST4),
        53: b"\x02",
        54: ip(GATEWAY4),
        51: b"\xff" * 4,
        1: ip("255.255.255.0"),
        3: ip(GATEWAY4),
        28: ip("192.0.2.255"),
        6: ip("192.0.2.53"),
        26: (65520).to_bytes(2, "big"),
        12: b"guest",
        119: b"\x07example\x03org\0\x03lab\xc0\x00",
    }


def test_rapid_commit_makes_the_answer_to_discover_final() -> None:
    found = answer(dhcp(DISCOVER, opt4(80, b"")))
    assert (found[53], found[80], found[-1]) == (b"\x05", b"", ip(GUEST4))
    assert 80 not in answer(dhcp(DISCOVER))


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (dhcp(REQUEST, wanted(GUEST4) + server()), ACK),
        (dhcp(REQUEST, wanted(GUEST4)), ACK),
        (dhcp(REQUEST, ciaddr=GUEST4, src=GUEST4, dst=GATEWAY4), ACK),
        (dhcp(REQUEST, ciaddr=GUEST4, src=GUEST4), ACK),
        (dhcp(REQUEST, wanted("192.0.2.16") + server()), NAK),
        (dhcp(REQUEST, wanted("10.0.0.7")), NAK),
        (dhcp(REQUEST, ciaddr="10.0.0.7", src="10.0.0.7"), NAK),
    ],
    ids=[
        "selecting",
        "init-reboot",
        "renewing",
        "rebinding",
        "selecting other",
        "init-reboot other",
        "rebinding other",
    ],
)
def test_request_is_granted_for_the_guests_address_and_refused_for_others(frame: bytes, kind: int) -> None:
    found = answer(frame)
    assert found[53] == bytes((kind,))
    if kind == NAK:
        assert set(found) == {-1, 53, 54, 56} and found[-1] == bytes(4)
        check(dhcp4.reply(PLAN, frame), ethernet(dst="ff:ff:ff:ff:ff:ff"), ipv4(dst=BROADCAST))
    else:
        assert found[-1] == ip(GUEST4)


def test_the_broadcast_flag_is_obeyed_and_kept() -> None:
    frame = check(
        dhcp4.reply(PLAN, dhcp(DISCOVER, flags=0x8000)), ethernet(dst="ff:ff:ff:ff:ff:ff"), ipv4(dst=BROADCAST)
    )
    assert frame.payload[10:12] == b"\x80\0"


def test_inform_gets_settings_but_no_lease() -> None:
    found = answer(dhcp(INFORM, ciaddr="192.0.2.44", src="192.0.2.44"), PLAN, ipv4(dst="192.0.2.44"))
    assert found[53] == b"\x05" and found[-1] == bytes(4) and found[3] == ip(GATEWAY4)
    assert 51 not in found


def test_inform_without_ciaddr_is_answered_to_its_source_or_to_all() -> None:
    answer(dhcp(INFORM, src="192.0.2.44"), PLAN, ipv4(dst="192.0.2.44"))
    answer(dhcp(INFORM), PLAN, ipv4(dst=BROADCAST))


def test_bootp_gets_its_address_without_dhcp_options() -> None:
    for options in (b"", b"\x63\x82\x53\x63\xff"):
        found = answer(bootp(options), PLAN, ipv4(dst=GUEST4))
        assert found[-1] == ip(GUEST4) and found[1] == ip("255.255.255.0") and found[3] == ip(GATEWAY4)
        assert not {51, 53, 54} & set(found)


def test_the_client_identifier_comes_back_in_each_kind_of_answer() -> None:
    ident = b"\x01" + mac(GUEST_MAC)
    for frame in (
        dhcp(DISCOVER, opt4(61, ident)),
        dhcp(REQUEST, wanted(GUEST4) + opt4(61, ident)),
        dhcp(REQUEST, wanted("10.0.0.7") + opt4(61, ident)),
    ):
        assert answer(frame)[61] == ident
    assert 61 not in answer(dhcp(DISCOVER))


@pytest.mark.parametrize(
    ("prefix", "gateway", "routes"),
    [
        (32, "198.51.100.1", b"\x20" + ip("198.51.100.1") + bytes(4) + b"\0" + ip("198.51.100.1")),
        (24, "192.0.3.1", b"\x20" + ip("192.0.3.1") + bytes(4) + b"\0" + ip("192.0.3.1")),
        (24, GATEWAY4, None),
    ],
)
def test_a_gateway_outside_the_prefix_comes_with_routes(prefix: int, gateway: str, routes: bytes | None) -> None:
    reply = dhcp4.reply(sample_plan(prefix4=prefix, gateway4=addr(gateway)), dhcp(DISCOVER, opt4(55, b"\x01\x79\x03")))
    order, found = parse(check(reply, ipv4(src=gateway)).payload)
    assert found.get(121) == routes
    assert found[3] == ip(gateway)
    assert routes is None or order.index(121) < order.index(3)


def test_options_come_in_the_clients_order_with_the_mask_first() -> None:
    reply = dhcp4.reply(PLAN, dhcp(DISCOVER, opt4(55, bytes((119, 6, 3, 1)))))
    assert parse(check(reply).payload)[0] == [53, 54, 51, 1, 119, 6, 3, 28, 26, 12]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (opt4(81, b"\x00\0\0pc"), b"\x08\xff\xffguest.example.org"),
        (opt4(81, b"\x05\0\0\x02pc\0"), b"\x0e\xff\xff\x05guest\x07example\x03org\0"),
        (opt4(81, b""), b"\x08\xff\xffguest.example.org"),
        (opt4(55, b"\x51"), b"\x0c\xff\xff\x05guest\x07example\x03org\0"),
        (b"", None),
    ],
    ids=["ascii", "wire, server to update", "empty", "asked for", "not asked for"],
)
def test_full_name_is_told_in_the_clients_encoding(sent: bytes, told: bytes | None) -> None:
    assert answer(dhcp(DISCOVER, sent)).get(81) == told


def test_nothing_that_is_not_known_is_told() -> None:
    plan = sample_plan(
        gateway4=b"", dns=(addr("2001:db8::53"),), search=(), hostname="", fqdn="", assign_mtu=False, prefix4=32
    )
    reply = check(dhcp4.reply(plan, dhcp(DISCOVER)), ipv4(src="169.254.2.2"))
    assert set(parse(reply.payload)[1]) == {53, 54, 51, 1}


def test_an_answer_fits_576_bytes_unless_the_client_takes_more() -> None:
    plan = sample_plan(
        dns=tuple(addr(f"10.0.0.{i}") for i in range(1, 30)),
        search=tuple(f"{'x' * 50}{i}.example.org" for i in range(30)),
        hostname="h" * 200,
    )
    small = check(dhcp4.reply(plan, dhcp(DISCOVER)), ipv4(length=lambda n: n <= 576))
    large = check(dhcp4.reply(plan, dhcp(DISCOVER, opt4(57, b"\xff\xff"))), ipv4(length=lambda n: 1200 < n <= 1500))
    assert len(parse(small.payload)[1][6]) == 29 * 4
    names = parse(large.payload)[1][119]  # over 255 bytes, in parts
    assert names.count(b"\xc0\x34") > 10 and len(names) > 255 and parse(large.payload)[1][12] == b"h" * 200
    check(dhcp4.reply(plan.replace(mtu=68), dhcp(DISCOVER, opt4(57, b"\xff\xff"))), ipv4(length=lambda n: n <= 576))
    asked = dhcp(DISCOVER, opt4(55, b"\x77"))
    assert 119 in parse(check(dhcp4.reply(plan, asked), ipv4(length=lambda n: n <= 576)).payload)[1]


@pytest.mark.parametrize("size", [1, 20, 25, 30, 35, 40, 255])
def test_a_long_client_identifier_leaves_room_for_what_must_be_said(size: int) -> None:
    frame = dhcp(REQUEST, wanted(GUEST4) + opt4(61, b"a" * 255) + opt4(61, b"b" * size))
    found = parse(check(dhcp4.reply(PLAN, frame), ipv4(length=lambda n: n <= 576)).payload)[1]
    assert found[53] == b"\x05" and found[54] == ip(GATEWAY4) and found[51] == b"\xff" * 4 and found[1]


def test_overloaded_fields_are_read() -> None:
    """Option 52 says that the file field holds options too: here the address that the client wants."""
    plain = dhcp(REQUEST, opt4(52, b"\x01"))
    no_answer(plain)
    data = check(plain).payload
    data = data[:108] + (wanted(GUEST4) + b"\xff").ljust(128, b"\0") + data[236:]
    assert answer(udp4(data))[53] == b"\x05"


@pytest.mark.parametrize(
    "frame",
    [
        dhcp(REQUEST, wanted(GUEST4) + server("192.0.2.9")),
        dhcp(REQUEST),
        dhcp(RELEASE, server(), ciaddr=GUEST4, src=GUEST4, dst=GATEWAY4),
        dhcp(DECLINE, wanted(GUEST4) + server()),
        dhcp(OFFER),
        dhcp(ACK),
        dhcp(99),
        dhcp(DISCOVER, giaddr="192.0.2.200"),
        dhcp(DISCOVER, src=GUEST4, dst="198.51.100.67"),
        dhcp(DISCOVER, ports=(68, 69)),
        dhcp(REQUEST, opt4(50, b"abc")),
        dhcp(DISCOVER, b"\x3d\xff"),
        bootp(b"\x63\x82\x53\x64\x35\x01\x01\xff"),
        bootp(b"", ciaddr="10.0.0.9"),
        dhcp(DISCOVER)[:-1] + b"\x01",
        dhcp(DISCOVER)[:200],
    ],
    ids=[
        "another server chosen", "request for nothing", "release", "decline", "offer", "ack", "unknown type", "relayed",
        "to another server", "another port", "bad length", "option cut short", "wrong cookie", "bootp elsewhere",
        "wrong checksum", "cut short",
    ],
)  # fmt: skip
def test_no_answer(frame: bytes) -> None:
    no_answer(frame)


@pytest.mark.parametrize("off", [{"on4": False}, {"dhcp": False}, {"guest4": b""}])
def test_switched_off(off: dict[str, object]) -> None:
    no_answer(dhcp(DISCOVER), sample_plan(**off))


def test_a_guest_that_follows_the_host_has_a_lease_that_ends() -> None:
    assert answer(dhcp(DISCOVER))[51] == b"\xff" * 4
    assert answer(dhcp(DISCOVER), PLAN.replace(lease_s=120))[51] == (120).to_bytes(4, "big")
