"""Frames of a guest that wants to reach the host's loopback, by every address and trick that is known."""

import ipaddress
import struct
from collections.abc import Iterator

from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, REMOTE4, REMOTE6

PORT = 7400
OURS = bytes.fromhex("9a559a559a55")
LOOPBACK4 = "127.0.0.1"
# Addresses that mean the host itself to some stack or other, and those that mean everybody.
TARGETS4 = (
    LOOPBACK4, "127.0.0.53", "127.1.2.3", "127.255.255.255", "0.0.0.0", "0.0.0.1", "255.255.255.255", "192.0.2.255", "192.0.2.0",
    "224.0.0.1", "224.0.0.251", "239.255.255.250", "240.0.0.1", "255.255.255.254", "169.254.0.1", GATEWAY4,
)  # fmt: skip
TARGETS6 = (
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", f"::ffff:{HOST4}", f"::ffff:{GATEWAY4}", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b:1::127.0.0.1", "2002:7f00:1::1", "2002:7f00:1::", "2001:0:7f00:1::80ff:fffe", "fe80::1",
    "fe80::5efe:127.0.0.1", "fe80::", "fec0::1", "ff01::1", "ff02::1", "ff02::2", "ff02::fb", "ff05::1", "ff0e::1", "ff11::1",
    "100::1", "::2", "0:0:0:1::1", GATEWAY6,
)  # fmt: skip
SOURCES4 = (HOST4, LOOPBACK4, "0.0.0.0", GATEWAY4, REMOTE4, "255.255.255.255", "224.0.0.1")
SOURCES6 = (HOST6, "::1", "::", "fe80::2", GATEWAY6, REMOTE6, "::ffff:127.0.0.1", "ff02::1")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def with_checksum(body: bytes, at: int, pseudo: bytes) -> bytes:
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def payloads(src: str, dst: str, sport: int, port: int = PORT) -> "Iterator[tuple[int, bytes]]":
    """Protocol and payload: a SYN, a datagram, a ping, with checksums."""
    six = ":" in dst
    for proto, at, body in (
        (6, 16, struct.pack("!HHIIBBHHH", sport, port, 1000, 0, 0x50, 2, 65535, 0, 0)),
        (17, 6, struct.pack("!HHHH", sport, port, 9, 0) + b"?"),
        (58 if six else 1, 2, struct.pack("!BBHHH", 128 if six else 8, 0, 0, sport, 1) + b"ping"),
    ):
        tail = struct.pack("!II", len(body), proto) if six else struct.pack("!BBH", 0, proto, len(body))
        pseudo = b"" if proto == 1 else packed(src) + packed(dst) + tail
        yield proto, with_checksum(body, at, pseudo)


def ip4(src: str, dst: str, proto: int, body: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 7, fragment, 64, proto, 0)
    head += packed(src) + packed(dst) + options
    return with_checksum(head, 10, b"") + body


def ip6(src: str, dst: str, proto: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), proto, 64) + packed(src) + packed(dst) + body


def ether(packet: bytes, to: bytes = OURS, tag: bytes = b"") -> bytes:
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return to + bytes(6) + tag + kind + packet


def disguised4(src: str, dst: str, proto: int, body: bytes) -> "Iterator[bytes]":
    """The same packet in other clothes: source routes (RFC 791, 3.1), in fragments, tagged, to everybody, inside another."""
    plain = ip4(src, dst, proto, body)
    yield ether(plain)
    yield ether(plain, to=b"\xff" * 6)
    yield ether(plain, tag=b"\x81\x00\x00\x01")
    for kind in (131, 137):
        route = bytes((kind, 7, 4)) + packed(dst) + b"\0"
        yield ether(ip4(src, REMOTE4, proto, body, options=route))
    yield ether(ip4(src, dst, proto, body[:8], fragment=0x2000))
    yield ether(ip4(src, dst, proto, body[8:], fragment=1))
    yield ether(ip4(HOST4, GATEWAY4, 4, plain))


def disguised6(src: str, dst: str, proto: int, body: bytes) -> "Iterator[bytes]":
    """Routing headers of types 0, 2 and 4, destination options with a home address, fragments, tunnels."""
    plain = ip6(src, dst, proto, body)
    yield ether(plain)
    yield ether(plain, to=b"\x33\x33\0\0\0\1")
    for kind in (0, 2, 4):
        yield ether(ip6(src, REMOTE6, 43, bytes((proto, 2, kind, 1)) + bytes(4) + packed(dst) + body))
    yield ether(ip6(src, REMOTE6, 60, bytes((proto, 2, 1, 2, 0, 0, 201, 16)) + packed(dst) + body))
    yield ether(ip6(src, dst, 44, struct.pack("!BBHI", proto, 0, 1, 7) + body[:8]))
    yield ether(ip6(src, dst, 44, struct.pack("!BBHI", proto, 0, 8, 7) + body[8:]))
    yield ether(ip6(HOST6, GATEWAY6, 41, plain))


def redirects() -> "Iterator[bytes]":
    """RFC 792, RFC 4861, 8: the remote is better reached through the loopback address; so says the gateway."""
    for dst in (REMOTE4, LOOPBACK4):
        cause = ip4(HOST4, REMOTE4, 17, struct.pack("!HHHH", 40000, PORT, 8, 0))[:28]
        yield ether(ip4(GATEWAY4, dst, 1, with_checksum(bytes((5, 1, 0, 0)) + packed(LOOPBACK4) + cause, 2, b"")))
    body = bytes((137, 0, 0, 0)) + bytes(4) + packed("::1") + packed(REMOTE6)
    pseudo = packed("fe80::1") + packed(HOST6) + struct.pack("!II", len(body), 58)
    yield ether(ip6("fe80::1", HOST6, 58, with_checksum(body, 2, pseudo)))


def frames(port: int = PORT) -> "Iterator[bytes]":
    """All of them: every target from the guest's own address in all clothes, and plainly from every other source."""
    sport = 20000
    for targets, sources, disguised in ((TARGETS4, SOURCES4, disguised4), (TARGETS6, SOURCES6, disguised6)):
        for dst in targets:
            for src in sources:
                sport += 1
                for proto, body in payloads(src, dst, sport, port):
                    every = disguised(src, dst, proto, body)
                    yield from every if src == sources[0] else [next(every)]
    yield from redirects()


def questions() -> list[tuple[str, str, int]]:
    """The same targets for real sockets, as far as a kernel lets them out."""
    found = []
    for address in TARGETS4 + TARGETS6:
        six = ipaddress.ip_address(address)
        scoped = f"{address}%{{interface}}" if six.is_link_local and ":" in address or address.startswith("ff") else address
        found += [(kind, scoped, 0 if kind == "ping" else PORT) for kind in ("tcp", "udp", "ping")]
    return found


