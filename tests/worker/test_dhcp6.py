import pytest
from checker import check, ethernet, ipv6, udp
from messages import DUID, GUEST_LL6, OUR_DUID, XID, dhcp6, ia_na, ip6, opt6
from sample_plan import GUEST6, GUEST_MAC, OUR_LL6, OUR_MAC, addr, sample_plan

from pasta_py.worker import dhcp6 as server

PLAN = sample_plan()
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, RECONFIGURE, INFORMATION = range(1, 12)
FOREVER = b"\xff" * 4
OTHER = "2001:db8:9::9"
LEASE = FOREVER * 2 + opt6(5, addr(GUEST6) + FOREVER * 2)
DNS = opt6(23, addr("2001:db8::53"))
SEARCH = opt6(24, b"\x07example\x03org\0\x03lab\x07example\x03org\0")


def options(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[2:4], "big")
        assert len(data) >= 4 + size, "an option is cut short"
        found.append((int.from_bytes(data[:2], "big"), data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def answer(frame: bytes, kind: int, plan: object = PLAN) -> dict[int, bytes]:
    data = check(
        server.reply(plan, frame),  # type: ignore[arg-type]
        ethernet(src=OUR_MAC, dst=GUEST_MAC),
        ipv6(src=OUR_LL6),
        udp(sport=547, dport=546),
    ).payload
    assert data[0] == kind and data[1:4] == XID[:3]
    found = options(data[4:])
    assert len(dict(found)) == len(found), "an option came twice"
    assert dict(found)[2] == OUR_DUID
    return dict(found)


def status(value: bytes | None) -> int:
    assert value is not None, "no status"
    return int.from_bytes(value[:2], "big")


def ia_status(value: bytes, head: int = 12) -> int:
    return status(dict(options(value[head:]))[13])


def test_solicit_is_offered_the_address_and_all_settings_at_once() -> None:
    frame = check(server.reply(PLAN, dhcp6(SOLICIT, ia_na(iaid=7))), ipv6(dst=GUEST_LL6))
    expected = opt6(2, OUR_DUID) + opt6(1, DUID) + opt6(7, b"\xff") + opt6(3, b"\0\0\0\x07" + LEASE) + DNS + SEARCH
    assert frame.payload == b"\x02" + XID[:3] + expected


def test_rapid_commit_is_granted() -> None:
    found = answer(dhcp6(SOLICIT, ia_na() + opt6(14)), REPLY)
    assert found[14] == b"" and found[3][4:] == LEASE and 7 not in found


@pytest.mark.parametrize("kind", [REQUEST, RENEW, REBIND])
def test_the_guests_address_is_given_for_ever(kind: int) -> None:
    found = answer(dhcp6(kind, ia_na(GUEST6), server=kind != REBIND), REPLY)
    assert found[3] == b"\0\0\0\x01" + LEASE
    assert found[1] == DUID


def test_request_for_another_address_is_not_on_this_link() -> None:
    assert ia_status(answer(dhcp6(REQUEST, ia_na(OTHER), server=True), REPLY)[3]) == 4


@pytest.mark.parametrize("kind", [RENEW, REBIND])
def test_another_address_is_taken_away_at_renewal(kind: int) -> None:
    found = answer(dhcp6(kind, ia_na(OTHER), server=kind == RENEW), REPLY)
    assert found[3][4:] == LEASE + opt6(5, addr(OTHER) + bytes(8))


@pytest.mark.parametrize(("addresses", "code"), [((GUEST6,), 0), ((OTHER,), 4), ((GUEST6, OTHER), 4)])
def test_confirm_says_whether_the_address_is_right(addresses: tuple[str, ...], code: int) -> None:
    assert status(answer(dhcp6(CONFIRM, ia_na(*addresses)), REPLY)[13]) == code


def test_confirm_of_nothing_gets_no_answer() -> None:
    assert server.reply(PLAN, dhcp6(CONFIRM, ia_na())) is None


@pytest.mark.parametrize("kind", [RELEASE, DECLINE])
def test_release_and_decline_are_acknowledged(kind: int) -> None:
    found = answer(dhcp6(kind, ia_na(GUEST6), server=True), REPLY)
    assert status(found[13]) == 0 and 3 not in found


@pytest.mark.parametrize("client", [False, True])
def test_information_request_gets_settings_only(client: bool) -> None:
    found = answer(dhcp6(INFORMATION, b"", client=client), REPLY)
    assert set(found) == {2, 23, 24} | ({1} if client else set())


def test_temporary_addresses_and_prefixes_are_refused_properly() -> None:
    found = answer(dhcp6(SOLICIT, opt6(4, b"\0\0\0\x05") + opt6(25, b"\0\0\0\x06" + bytes(8))), ADVERTISE)
    assert found[4][:4] == b"\0\0\0\x05" and ia_status(found[4], 4) == 2
    assert found[25][:4] == b"\0\0\0\x06" and ia_status(found[25]) == 6


def test_one_association_gets_the_address_preferably_the_one_that_has_it() -> None:
    frame = check(server.reply(PLAN, dhcp6(REBIND, ia_na(iaid=1) + ia_na(GUEST6, iaid=2))))
    first, second = (value for code, value in options(frame.payload[4:]) if code == 3)
    assert first[:4] == b"\0\0\0\x01" and ia_status(first) == 2
    assert second == b"\0\0\0\x02" + LEASE


def test_without_an_address_there_are_none_available() -> None:
    found = answer(dhcp6(SOLICIT, ia_na()), ADVERTISE, sample_plan(guest6=b""))
    assert ia_status(found[3]) == 2 and found[23] == addr("2001:db8::53")


@pytest.mark.parametrize(
    ("asked", "told"), [(b"", set()), (b"\0\x17", {23}), (b"\0\x18", {24}), (b"\0\x17\0\x18\0\x27", {23, 24, 39})]
)
def test_only_what_was_asked_for_is_told(asked: bytes, told: set[int]) -> None:
    assert set(answer(dhcp6(INFORMATION, opt6(6, asked)), REPLY)) - {1, 2} == told


@pytest.mark.parametrize(("flags", "told"), [(0, 4), (1, 6)])
def test_the_full_name_is_told_and_no_dns_update_promised(flags: int, told: int) -> None:
    found = answer(dhcp6(REQUEST, ia_na() + opt6(39, bytes((flags,)) + b"\x02pc"), server=True), REPLY)
    assert found[39] == bytes((told,)) + b"\x05guest\x07example\x03org\0"


def test_unicast_is_told_to_use_multicast() -> None:
    found = answer(dhcp6(REQUEST, ia_na(), server=True, src=GUEST6, dst=OUR_LL6), REPLY)
    assert status(found[13]) == 5 and set(found) == {1, 2, 13}


def test_an_answer_fits_every_link() -> None:
    plan = sample_plan(
        dns=tuple(addr(f"2001:db8::{i:x}") for i in range(1, 99)),
        search=tuple(f"{'x' * 60}.n{i}.example" for i in range(50)),
        fqdn=".".join(["f" * 60] * 4),
    )
    many = b"".join(ia_na(*[OTHER] * 3, iaid=i) for i in range(60))
    frame = check(server.reply(plan, dhcp6(RENEW, many + opt6(39, b"\0"), server=True)))
    assert len(frame.raw) <= 14 + 1280
    found = answer(dhcp6(INFORMATION, opt6(6, b"\0\x17\0\x18\0\x27")), REPLY, plan)
    assert len(found[23]) >= 20 * 16 and len(found[24]) > 200 and len(found[39]) == 1 + 4 * 61 + 1


@pytest.mark.parametrize(
    "frame",
    [
        dhcp6(SOLICIT, ia_na(), client=False),
        dhcp6(SOLICIT, ia_na(), server=True),
        dhcp6(REQUEST, ia_na()),
        dhcp6(REQUEST, ia_na() + opt6(2, OUR_DUID[:-1] + b"\0")),
        dhcp6(CONFIRM, ia_na(GUEST6), server=True),
        dhcp6(REBIND, ia_na(GUEST6), server=True),
        dhcp6(RENEW, ia_na(GUEST6)),
        dhcp6(RELEASE, ia_na(GUEST6)),
        dhcp6(INFORMATION, ia_na()),
        dhcp6(INFORMATION, opt6(2, b"\0\x03\0\x01other!")),
        dhcp6(SOLICIT, ia_na(), dst=OUR_LL6),
        dhcp6(SOLICIT, ia_na(), dst="ff05::1:3"),
        dhcp6(SOLICIT, ia_na(), src="2001:db8:1::15"),
        dhcp6(REQUEST, ia_na(), server=True, dst="2001:db8:1::77"),
        dhcp6(SOLICIT, opt6(1, b"x" * 131) + ia_na(), client=False),
        dhcp6(SOLICIT, opt6(1, b"") + ia_na(), client=False),
        dhcp6(ADVERTISE, ia_na()),
        dhcp6(REPLY, ia_na()),
        dhcp6(RECONFIGURE, b""),
        dhcp6(12, b""),
        dhcp6(SOLICIT, ia_na() + b"\0"),
        dhcp6(SOLICIT, b"\0\x03\xff\xff"),
        ip6(17, b"\x02\x22\x02\x23\0\x0b\0\0\x01\0\0", GUEST_LL6, "ff02::1:2", 64),
    ],
    ids=[
        "nameless solicit", "solicit to one server", "request to nobody", "request to another", "confirm to one server",
        "rebind to one server", "renew to nobody", "release to nobody", "information with address", "another's",
        "unicast solicit", "to relays' group", "from a global address", "to another neighbour", "long name", "empty name",
        "advertise", "reply", "reconfigure", "relayed", "option head cut", "option cut", "message cut",
    ],
)  # fmt: skip
def test_what_a_server_must_discard_gets_no_answer(frame: bytes) -> None:
    assert server.reply(PLAN, frame) is None


@pytest.mark.parametrize("off", ["on6", "dhcpv6"])
def test_switched_off(off: str) -> None:
    assert server.reply(sample_plan(**{off: False}), dhcp6(SOLICIT, ia_na())) is None


def test_the_identifier_of_the_server_is_its_mac_address() -> None:
    assert answer(dhcp6(INFORMATION, b""), REPLY)[2] == bytes.fromhex("000300019a559a559a55")


def test_a_guest_that_follows_the_host_has_a_lease_that_ends() -> None:
    """T1 and T2 at 0.5 and 0.8 of it (RFC 8415, 21.4)."""
    lease = b"".join(seconds.to_bytes(4, "big") for seconds in (60, 96)) + opt6(5, addr(GUEST6) + (120).to_bytes(4, "big") * 2)
    assert answer(dhcp6(SOLICIT, ia_na(iaid=7)), ADVERTISE, PLAN.replace(lease_s=120))[3][4:] == lease
