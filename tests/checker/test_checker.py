"""The assertions must fail where they should: each test changes one thing in a frame made by hand."""

import struct

import pytest
from packets import fold

from checker import arp, check, decode, empty, ethernet, icmp, icmp6, invoking, ipv4, ipv6, payload, tcp, udp

SRC4, DST4 = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
SRC6, DST6 = bytes.fromhex("fe80" + "00" * 13 + "01"), bytes.fromhex("fe80" + "00" * 13 + "02")
MACS = b"\2\0\0\0\0\2\2\0\0\0\0\1"


def summed(data: bytes, at: int, pseudo: bytes = b"") -> bytes:
    return data[:at] + struct.pack("!H", 0xFFFF ^ fold(pseudo + data)) + data[at + 2 :]


def frame4(protocol: int, data: bytes, at: int) -> bytes:
    pseudo = b"" if protocol == 1 else SRC4 + DST4 + struct.pack("!II", len(data), protocol)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 7, 0x4000, 63, protocol, 0) + SRC4 + DST4
    return MACS + b"\x08\0" + summed(head, 10) + summed(data, at, pseudo)


def frame6(protocol: int, data: bytes, at: int) -> bytes:
    pseudo = SRC6 + DST6 + struct.pack("!II", len(data), protocol)
    return (
        MACS
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, len(data), protocol, 64)
        + SRC6
        + DST6
        + summed(data, at, pseudo)
    )


TCP_OPTIONS = b"\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02\x05\x0a\0\0\0\1\0\0\0\2\x08\x0a\0\0\0\3\0\0\0\4\0\0"
SEGMENT = struct.pack("!HHIIBBHHH", 80, 1234, 5, 6, (20 + len(TCP_OPTIONS)) // 4 << 4, 0x12, 512, 0, 0) + TCP_OPTIONS
DATAGRAM = struct.pack("!HHHH", 53, 1234, 10, 0) + b"hi"
ECHO = struct.pack("!BBHHH", 8, 0, 0, 77, 3) + b"ping"
FRAMES = {
    "tcp4": frame4(6, SEGMENT + b"data", 16),
    "tcp6": frame6(6, SEGMENT + b"data", 16),
    "udp4": frame4(17, DATAGRAM, 6),
    "udp6": frame6(17, DATAGRAM, 6),
    "icmp4": frame4(1, ECHO, 2),
    "icmp6": frame6(58, ECHO, 2),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_right_frame_decodes_and_no_flipped_bit_after_the_mac_addresses_goes_unnoticed(name: str) -> None:
    right = FRAMES[name]
    whole = decode(right)
    for bit in range(14 * 8, len(right) * 8):
        changed = bytearray(right)
        changed[bit // 8] ^= 0x80 >> bit % 8
        try:
            other = decode(bytes(changed))
        except AssertionError:
            continue
        assert (other.ethernet, other.arp, other.ip, other.tcp, other.udp, other.icmp, other.payload) != (
            (whole.ethernet, whole.arp, whole.ip, whole.tcp, whole.udp, whole.icmp, whole.payload)
        ), f"bit {bit}"


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_cut_short_anywhere_is_refused(name: str) -> None:
    for size in range(14, len(FRAMES[name])):
        with pytest.raises(AssertionError):
            decode(FRAMES[name][:size])


@pytest.mark.parametrize("version", [4, 6])
def test_checksums_may_be_left_to_the_receiver_only_where_that_is_said(version: int) -> None:
    frame = bytearray(FRAMES[f"tcp{version}"])
    frame[-1] ^= 1
    with pytest.raises(AssertionError, match="TCP checksum"):
        check(bytes(frame))
    check(bytes(frame), tcp(sport=80), partial=True)


def test_fields_of_each_layer() -> None:
    options = {"mss": 1460, "wscale": 7, "sack_permitted": True, "sack": ((1, 2),), "timestamps": (3, 4)}
    for check_ip, name in ((ipv4(src="192.0.2.1", ttl=63, df=True), "tcp4"), (ipv6(dst="fe80::2"), "tcp6")):
        check(FRAMES[name], check_ip, tcp(sport=80, dport=1234, seq=5, ack=6, flags="AS", window=512, **options))
    check(FRAMES["tcp4"], ethernet(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), payload(b"data"))
    check(FRAMES["udp4"], udp(sport=53, length=10), payload(lambda data: data.startswith(b"h")))
    check(FRAMES["icmp4"], icmp(type=8, code=0, ident=77, seq=3), payload(b"ping"))
    check(FRAMES["icmp6"], icmp6(type=8, ident=77))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("tcp4", tcp(flags="S")),
        ("tcp4", tcp(flags="SAF")),
        ("tcp4", tcp(seq=lambda seq: seq > 5)),
        ("tcp4", ipv6()),
        ("tcp6", ipv4()),
        ("tcp4", ipv4(src="192.0.2.2")),
        ("tcp4", udp()),
        ("tcp4", arp()),
        ("tcp4", icmp()),
        ("tcp4", empty),
        ("tcp4", payload(b"date")),
        ("udp4", payload(lambda data: len(data) > 2)),
        ("icmp6", icmp()),
        ("icmp4", icmp6()),
        ("icmp4", invoking(b"not this packet, not at all, no")),
        ("udp4", invoking(b"")),
        ("udp4", ethernet(src="02:00:00:00:00:02")),
    ],
)
def test_a_wrong_expectation_fails(name: str, wrong: object) -> None:
    with pytest.raises(AssertionError):
        check(FRAMES[name], wrong)  # type: ignore[arg-type]


def test_no_frame_fails() -> None:
    with pytest.raises(AssertionError, match="there is none"):
        check(None)


def test_an_icmp_error_quotes_the_packet_it_is_about() -> None:
    packet = FRAMES["udp4"][14:]
    check(frame4(1, struct.pack("!BBHI", 3, 3, 0, 0) + packet, 2), icmp(type=3, code=3), invoking(packet))
