"""Packets built from scratch, by code that shares nothing with the program under test. Addresses are text, of either family."""

import struct
from ipaddress import ip_address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_CHECKSUM_AT = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}


def fold(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071); 0xffff over anything that holds its own right checksum."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """RFC 1071."""
    return 0xFFFF ^ fold(data)


def packed(address: str) -> bytes:
    return ip_address(address).packed


def pseudo(src: str, dst: str, proto: int, length: int) -> bytes:
    """The pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1); its two forms have the same sum."""
    return packed(src) + packed(dst) + struct.pack("!II", length, proto)


def summed(src: str, dst: str, proto: int, body: bytes) -> bytes:
    """An IP payload whose checksum is zero yet, with its checksum."""
    at = _CHECKSUM_AT[proto]
    value = checksum((b"" if proto == ICMP else pseudo(src, dst, proto, len(body))) + body)
    return body[:at] + struct.pack("!H", value or 0xFFFF * (proto == UDP)) + body[at + 2 :]


def udp(src: str, sport: int, dst: str, dport: int, payload: bytes) -> bytes:
    return summed(src, dst, UDP, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload)


def tcp(
    src: str, sport: int, dst: str, dport: int, flags: int, *, seq: int = 0, ack: int = 0, window: int = 65535,
    options: bytes = b"", payload: bytes = b"",
) -> bytes:  # fmt: skip
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, offset, flags, window, 0, 0)
    return summed(src, dst, TCP, head + options + payload)


def echo(src: str, dst: str, ident: int, seq: int, data: bytes) -> bytes:
    """An echo request (RFC 792, RFC 4443, 4.1)."""
    proto, kind = (ICMPV6, 128) if ":" in dst else (ICMP, 8)
    return summed(src, dst, proto, struct.pack("!BBHHH", kind, 0, 0, ident, seq) + data)


def ip(
    src: str, dst: str, proto: int, payload: bytes, *, ttl: int = 64, tos: int = 0, ident: int = 0, fragment: int = 0,
    options: bytes = b"",
) -> bytes:  # fmt: skip
    """A packet. `fragment`: flags and offset as they stand in IPv4's header; `options` are IPv4's."""
    if ":" in src:
        return struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), proto, ttl) + packed(src) + packed(dst) + payload
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, tos, length + len(payload), ident, fragment, ttl, proto, 0)
    head += packed(src) + packed(dst) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ether(packet: bytes, dst: bytes, src: bytes, tags: bytes = b"") -> bytes:
    """An Ethernet frame with an IP packet."""
    return dst + src + tags + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def arp(sender_mac: bytes, sender: str, target: str, *, op: int = 1, dst: bytes = b"\xff" * 6, src: bytes = b"") -> bytes:
    """A frame: a request, which names no target hardware address (RFC 826). `src`: of the frame, where another sends it."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + sender_mac + packed(sender) + bytes(6) + packed(target)
    return dst + (src or sender_mac) + b"\x08\x06" + body
