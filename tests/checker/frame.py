"""Frames taken apart for assertions, by code that shares nothing with the program under test.

`decode` raises AssertionError, with a sentence, for anything that is not one well-formed frame: lengths that do not
add up, wrong checksums, options cut short. Each layer is a record of its header fields; addresses are `ipaddress`
objects, MAC addresses text ("9a:55:9a:55:9a:55").
"""

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from packets import fold

TCP_FLAGS = "FSRPAUEC"  # FIN first, from the lowest bit up
TCP_OPTION_BYTES = {2: 2, 3: 1, 4: 0, 8: 8}  # values of a fixed size (RFC 9293, 3.2; RFC 7323; RFC 2018)


@dataclass(frozen=True)
class Ethernet:
    dst: str
    src: str
    type: int


@dataclass(frozen=True)
class Arp:
    op: int
    sender_mac: str
    sender: IPv4Address
    target_mac: str
    target: IPv4Address


@dataclass(frozen=True)
class IPv4:
    src: IPv4Address
    dst: IPv4Address
    ttl: int
    tos: int
    ident: int
    df: bool
    mf: bool
    offset: int  # bytes
    protocol: int
    length: int  # bytes, header included
    options: bytes


@dataclass(frozen=True)
class IPv6:
    src: IPv6Address
    dst: IPv6Address
    hop_limit: int
    traffic_class: int
    flow_label: int
    protocol: int
    length: int  # bytes of payload


@dataclass(frozen=True)
class Tcp:
    sport: int
    dport: int
    seq: int
    ack: int
    flags: str  # letters of TCP_FLAGS in that order
    window: int  # as it stands, not scaled
    urgent: int
    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Udp:
    sport: int
    dport: int
    length: int  # bytes, header included


@dataclass(frozen=True)
class Icmp:
    """ICMP or ICMPv6."""

    type: int
    code: int
    rest: int  # bytes 4 to 7 as one number
    ident: int  # of an echo
    seq: int
    body: bytes  # from byte 8


@dataclass(frozen=True)
class Frame:
    """One decoded frame; layers it does not have are None."""

    raw: bytes
    ethernet: Ethernet
    arp: Arp | None = None
    ip: IPv4 | IPv6 | None = None
    tcp: Tcp | None = None
    udp: Udp | None = None
    icmp: Icmp | None = None
    payload: bytes = field(default=b"")  # of the innermost decoded layer


def mac(data: bytes) -> str:
    return data.hex(":")


def decode(raw: bytes, *, partial: bool = False) -> Frame:
    """Take a frame apart; `partial`: TCP and UDP checksums are left to the receiver (virtio NEEDS_CSUM)."""
    assert len(raw) >= 14, f"a frame of {len(raw)} bytes has no Ethernet header"
    ethernet = Ethernet(mac(raw[:6]), mac(raw[6:12]), int.from_bytes(raw[12:14], "big"))
    rest = raw[14:]
    if ethernet.type == 0x0806:
        return Frame(raw, ethernet, arp=_arp(rest))
    if ethernet.type not in (0x0800, 0x86DD):
        return Frame(raw, ethernet, payload=rest)
    ip, payload = _ipv4(rest) if ethernet.type == 0x0800 else _ipv6(rest)
    if isinstance(ip, IPv4) and (ip.mf or ip.offset):
        return Frame(raw, ethernet, ip=ip, payload=payload)
    pseudo = ip.src.packed + ip.dst.packed + struct.pack("!II", len(payload), ip.protocol)
    if ip.protocol == 6:
        assert partial or fold(pseudo + payload) == 0xFFFF, "the TCP checksum is wrong"
        tcp, data = _tcp(payload)
        return Frame(raw, ethernet, ip=ip, tcp=tcp, payload=data)
    if ip.protocol == 17:
        udp, data = _udp(payload)
        summed = payload[6:8] != b"\0\0"
        assert partial or summed or ip.src.version == 4, "UDP over IPv6 without a checksum"
        assert partial or not summed or fold(pseudo + payload) == 0xFFFF, "the UDP checksum is wrong"
        return Frame(raw, ethernet, ip=ip, udp=udp, payload=data)
    if ip.protocol in (1, 58):
        assert (ip.protocol == 1) == (ip.src.version == 4), f"ICMP protocol {ip.protocol} in IPv{ip.src.version}"
        covered = payload if ip.protocol == 1 else pseudo + payload
        assert fold(covered) == 0xFFFF, "the ICMP checksum is wrong"
        icmp = _icmp(payload)
        return Frame(raw, ethernet, ip=ip, icmp=icmp, payload=icmp.body)
    return Frame(raw, ethernet, ip=ip, payload=payload)


def _arp(data: bytes) -> Arp:
    assert len(data) >= 28, f"an ARP message of {len(data)} bytes is cut short"
    hardware, protocol, hardware_len, protocol_len, op = struct.unpack("!HHBBH", data[:8])
    assert (hardware, protocol, hardware_len, protocol_len) == (1, 0x0800, 6, 4), "ARP not for IPv4 over Ethernet"
    return Arp(op, mac(data[8:14]), IPv4Address(data[14:18]), mac(data[18:24]), IPv4Address(data[24:28]))


def _ipv4(data: bytes) -> tuple[IPv4, bytes]:
    assert len(data) >= 20, f"an IPv4 packet of {len(data)} bytes has no header"
    header, length = (data[0] & 15) * 4, int.from_bytes(data[2:4], "big")
    assert data[0] >> 4 == 4, f"IP version {data[0] >> 4} in an IPv4 frame"
    assert 20 <= header <= length <= len(data), f"IPv4 lengths: header {header}, total {length}, there {len(data)}"
    assert fold(data[:header]) == 0xFFFF, "the IPv4 header checksum is wrong"
    flags = int.from_bytes(data[6:8], "big")
    assert not flags & 0x8000, "the reserved IPv4 flag is set"
    ip = IPv4(
        src=IPv4Address(data[12:16]),
        dst=IPv4Address(data[16:20]),
        ttl=data[8],
        tos=data[1],
        ident=int.from_bytes(data[4:6], "big"),
        df=bool(flags & 0x4000),
        mf=bool(flags & 0x2000),
        offset=(flags & 0x1FFF) * 8,
        protocol=data[9],
        length=length,
        options=data[20:header],
    )
    return ip, data[header:length]


def _ipv6(data: bytes) -> tuple[IPv6, bytes]:
    assert len(data) >= 40, f"an IPv6 packet of {len(data)} bytes has no header"
    word, length, protocol, hop_limit = struct.unpack("!IHBB", data[:8])
    assert word >> 28 == 6, f"IP version {word >> 28} in an IPv6 frame"
    assert 40 + length <= len(data), f"IPv6 payload length {length}, but only {len(data) - 40} bytes there"
    src, dst = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    ip = IPv6(src, dst, hop_limit, word >> 20 & 0xFF, word & 0xFFFFF, protocol, length)
    return ip, data[40 : 40 + length]


def _tcp(data: bytes) -> tuple[Tcp, bytes]:
    assert len(data) >= 20, f"a TCP segment of {len(data)} bytes has no header"
    sport, dport, seq, ack, offset, bits, window, _sum, urgent = struct.unpack("!HHIIBBHHH", data[:20])
    header = (offset >> 4) * 4
    assert 20 <= header <= len(data), f"TCP header of {header} bytes in a segment of {len(data)}"
    flags = "".join(letter for bit, letter in enumerate(TCP_FLAGS) if bits >> bit & 1)
    options = _tcp_options(data[20:header])
    return Tcp(sport, dport, seq, ack, flags, window, urgent, **options), data[header:]  # type: ignore[arg-type]


def _tcp_options(data: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    while data and data[0] != 0:
        if data[0] == 1:
            data = data[1:]
            continue
        assert len(data) >= 2 and 2 <= data[1] <= len(data), f"TCP option {data[0]} is cut short"
        kind, value, data = data[0], data[2 : data[1]], data[data[1] :]
        assert len(value) == TCP_OPTION_BYTES.get(kind, len(value)), f"TCP option {kind} holds {len(value)} bytes"
        if kind == 2:
            found["mss"] = int.from_bytes(value, "big")
        elif kind == 3:
            found["wscale"] = value[0]
        elif kind == 4:
            found["sack_permitted"] = True
        elif kind == 5:
            assert value and len(value) % 8 == 0, f"TCP option 5 holds {len(value)} bytes"
            found["sack"] = tuple(struct.iter_unpack("!II", value))
        elif kind == 8:
            found["timestamps"] = struct.unpack("!II", value)
    return found


def _udp(data: bytes) -> tuple[Udp, bytes]:
    assert len(data) >= 8, f"a UDP datagram of {len(data)} bytes has no header"
    sport, dport, length, _sum = struct.unpack("!HHHH", data[:8])
    assert length == len(data), f"UDP length {length} in a packet with {len(data)} bytes of it"
    return Udp(sport, dport, length), data[8:]


def _icmp(data: bytes) -> Icmp:
    assert len(data) >= 8, f"an ICMP message of {len(data)} bytes is cut short"
    kind, code, _sum, rest = struct.unpack("!BBHI", data[:8])
    return Icmp(kind, code, rest, rest >> 16, rest & 0xFFFF, data[8:])


def address(value: object) -> object:
    """Text of an address as the address object; anything else as it is."""
    if isinstance(value, str):
        try:
            return ip_address(value)
        except ValueError:
            return value
    return value
