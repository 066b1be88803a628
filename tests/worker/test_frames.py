import pytest
from checker import check, decode, ethernet, icmp6, ipv4, ipv6, payload, udp
from hypothesis import given
from hypothesis import strategies as st
from messages import ether, udp4
from packets import fold
from sample_plan import GUEST_MAC, OUR_MAC, addr, mac, sample_plan

from pasta_py.worker import frames

PLAN = sample_plan()
MACS = (mac(OUR_MAC), mac(GUEST_MAC))
FOUR = (bytes((192, 0, 2, 1)), bytes((192, 0, 2, 15)))
SIX = (addr("fe80::1"), addr("fe80::2"))


@given(st.binary(max_size=300))
def test_checksum_is_the_complement_of_the_folded_sum(data: bytes) -> None:
    assert frames.checksum(data) == 0xFFFF ^ fold(data)


@pytest.mark.parametrize(("data", "expected"), [(b"", 0xFFFF), (bytes(8), 0xFFFF), (b"\xff" * 8, 0), (b"\x01", 0xFEFF)])
def test_checksum_at_its_edges(data: bytes, expected: int) -> None:
    assert frames.checksum(data) == expected


@given(st.binary(max_size=600), st.sampled_from([FOUR, SIX]), st.integers(0, 65535), st.integers(0, 65535))
def test_an_emitted_datagram_is_well_formed(data: bytes, pair: tuple[bytes, bytes], sport: int, dport: int) -> None:
    frame = check(frames.udp_frame(MACS, pair, (sport, dport), data), udp(sport=sport, dport=dport), payload(data))
    assert (frame.ethernet.src, frame.ethernet.dst) == (OUR_MAC, GUEST_MAC)
    assert frame.ip is not None and (frame.ip.src.packed, frame.ip.dst.packed) == pair


def test_a_udp_checksum_that_comes_out_zero_is_sent_as_ones() -> None:
    """Zero would say that there is none; the two data bytes are chosen so that the sum is zero."""
    first = frames.udp_frame(MACS, SIX, (547, 546), b"\0\0")
    data = first[60:62]
    frame = frames.udp_frame(MACS, SIX, (547, 546), data)
    assert frame[60:62] == b"\xff\xff"
    check(frame, payload(data))


def test_what_was_emitted_is_read_back() -> None:
    guest = (MACS[1], MACS[0])
    for pair, read in ((FOUR, frames.packet4), (SIX, frames.packet6)):
        frame = frames.udp_frame(guest, pair, (1, 2), b"hello")
        found = frames.datagram(read(PLAN, frame, frames.UDP), 2)
        assert found == frames.Datagram(mac=MACS[1], source=pair[0], destination=pair[1], data=b"hello")
        assert frames.datagram(read(PLAN, frame + bytes(20), frames.UDP), 2) == found, "Ethernet padding"
        assert frames.datagram(read(PLAN, frame, frames.UDP), 3) is None
        assert read(PLAN, frame[:-1], frames.UDP) is None
        assert read(PLAN, frame, 6) is None
    message = frames.icmp6_frame(guest, SIX, 135, bytes(20))
    check(message, ethernet(src=GUEST_MAC), ipv6(hop_limit=255), icmp6(type=135, code=0))
    assert frames.icmp6(frames.packet6(PLAN, message, frames.ICMPV6)) == message[54:]


@given(st.integers(14, 46), st.integers(1, 255))
def test_a_changed_byte_of_an_ipv4_datagram_is_noticed(at: int, flip: int) -> None:
    frame = bytearray(udp4(b"hello"))
    frame[at] ^= flip
    whole = frames.datagram(frames.packet4(PLAN, bytes(frame), frames.UDP), 67)
    if whole is not None:  # only what no checksum covers alone may differ: "no UDP checksum"
        assert bytes(frame[40:42]) == b"\0\0"


def test_udp_without_a_checksum_is_taken_over_ipv4_only() -> None:
    for pair, read, at in ((FOUR, frames.packet4, 40), (SIX, frames.packet6, 60)):
        frame = frames.udp_frame((MACS[1], MACS[0]), pair, (1, 67), b"hello")
        bare = frame[:at] + b"\0\0" + frame[at + 2 :]
        assert (frames.datagram(read(PLAN, bare, frames.UDP), 67) is not None) == (at == 40)


@pytest.mark.parametrize("fragment", [b"\x20\0", b"\0\x01", b"\x3f\xff"], ids=["more fragments", "offset", "both"])
def test_fragments_are_refused(fragment: bytes) -> None:
    frame = udp4(b"hello")
    header = frame[14:20] + fragment + frame[22:24] + b"\0\0" + frame[26:34]
    header = header[:10] + (0xFFFF ^ fold(header)).to_bytes(2, "big") + header[12:]
    changed = ether(header + frame[34:], 0x0800)
    decode(changed)
    assert frames.packet4(PLAN, changed, frames.UDP) is None


def test_only_frames_to_us_or_a_group_from_a_station_are_ours_to_answer() -> None:
    for dst, src, taken in (
        (OUR_MAC, GUEST_MAC, True),
        ("ff:ff:ff:ff:ff:ff", GUEST_MAC, True),
        ("33:33:00:00:00:01", GUEST_MAC, True),
        ("02:00:00:00:00:09", GUEST_MAC, False),
        (OUR_MAC, "33:33:00:00:00:01", False),
        (OUR_MAC, OUR_MAC, False),
    ):
        assert frames.for_us(PLAN, ether(b"", 0x0800, dst, src)) == taken
    assert not frames.for_us(PLAN, b"\xff" * 13)


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("example.org", b"\x07example\x03org\0"),
        ("example.org.", b"\x07example\x03org\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
        ("a" * 64, b""),
        ("", b""),
        (".", b""),
        ("a..b", b""),
        (".a", b""),
        ("b\xfccher.example", b""),
        (".".join(["a" * 63] * 4), b""),
        ("a..", b""),
        ("\udc80", b""),
    ],
)
def test_domain_names_in_wire_form(name: str, wire: bytes) -> None:
    assert frames.dns_name(name) == wire


@given(st.lists(st.text(max_size=70), max_size=9), st.integers(-5, 300))
def test_names_never_exceed_their_room(names: list[str], room: int) -> None:
    wire = frames.dns_names(names, room)
    assert len(wire) <= max(room, 0)
    assert b"".join(map(frames.dns_name, names)).startswith(wire)


def test_the_family_of_an_address_of_the_plan() -> None:
    assert frames.ipv4(addr("192.0.2.1")) == FOUR[0] and frames.ipv6(addr("192.0.2.1")) == b""
    assert frames.ipv6(addr("fe80::1")) == SIX[0] and frames.ipv4(addr("fe80::1")) == b""
    assert frames.ipv4(b"") == frames.ipv6(b"") == b""


def test_ipv4_packets_have_the_fields_of_a_datagram_that_is_never_fragmented() -> None:
    check(frames.udp_frame(MACS, FOUR, (67, 68), b""), ipv4(df=True, mf=False, ident=0, ttl=64, tos=0, options=b""))
