"""Frames of a guest that wants to reach the host's loopback, by every address and trick that is known."""

import ipaddress
import struct
import sys
from collections.abc import Iterator

import packets
from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, PROGRAMS, REMOTE4, REMOTE6, Lab, Script
from packets import ICMP, ICMPV6, TCP, UDP, ip, packed, summed

PORT = 7400
PUBLIC4, PUBLIC6 = "8.8.8.8", "2600::8"  # global addresses, behind the gateway
METADATA = "169.254.169.254"
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


def payloads(src: str, dst: str, sport: int, port: int = PORT) -> "Iterator[tuple[int, bytes]]":
    """Protocol and payload: a SYN, a datagram, a ping, with checksums."""
    yield TCP, packets.tcp(src, sport, dst, port, 2, seq=1000)
    yield UDP, packets.udp(src, sport, dst, port, b"?")
    yield ICMPV6 if ":" in dst else ICMP, packets.echo(src, dst, sport, 1, b"ping")


def ether(packet: bytes, to: bytes = OURS, tag: bytes = b"") -> bytes:
    return packets.ether(packet, to, bytes(6), tag)


def disguised4(src: str, dst: str, proto: int, body: bytes) -> "Iterator[bytes]":
    """The same packet in other clothes: source routes (RFC 791, 3.1), in fragments, tagged, to everybody, inside another."""
    plain = ip(src, dst, proto, body)
    yield ether(plain)
    yield ether(plain, to=b"\xff" * 6)
    yield ether(plain, tag=b"\x81\x00\x00\x01")
    for kind in (131, 137):
        route = bytes((kind, 7, 4)) + packed(dst) + b"\0"
        yield ether(ip(src, REMOTE4, proto, body, options=route))
    yield ether(ip(src, dst, proto, body[:8], fragment=0x2000))
    yield ether(ip(src, dst, proto, body[8:], fragment=1))
    yield ether(ip(HOST4, GATEWAY4, 4, plain))


def disguised6(src: str, dst: str, proto: int, body: bytes) -> "Iterator[bytes]":
    """Routing headers of types 0, 2 and 4, destination options with a home address, fragments, tunnels."""
    plain = ip(src, dst, proto, body)
    yield ether(plain)
    yield ether(plain, to=b"\x33\x33\0\0\0\1")
    for kind in (0, 2, 4):
        yield ether(ip(src, REMOTE6, 43, bytes((proto, 2, kind, 1)) + bytes(4) + packed(dst) + body))
    yield ether(ip(src, REMOTE6, 60, bytes((proto, 2, 1, 2, 0, 0, 201, 16)) + packed(dst) + body))
    yield ether(ip(src, dst, 44, struct.pack("!BBHI", proto, 0, 1, 7) + body[:8]))
    yield ether(ip(src, dst, 44, struct.pack("!BBHI", proto, 0, 8, 7) + body[8:]))
    yield ether(ip(HOST6, GATEWAY6, 41, plain))


def redirects() -> "Iterator[bytes]":
    """RFC 792, RFC 4861, 8: the remote is better reached through the loopback address; so says the gateway."""
    for dst in (REMOTE4, LOOPBACK4):
        cause = ip(HOST4, REMOTE4, 17, struct.pack("!HHHH", 40000, PORT, 8, 0))[:28]
        yield ether(ip(GATEWAY4, dst, ICMP, summed(GATEWAY4, dst, ICMP, bytes((5, 1, 0, 0)) + packed(LOOPBACK4) + cause)))
    body = bytes((137, 0, 0, 0)) + bytes(4) + packed("::1") + packed(REMOTE6)
    yield ether(ip("fe80::1", HOST6, ICMPV6, summed("fe80::1", HOST6, ICMPV6, body)))


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


def watch(lab: Lab, interface: str) -> Script:
    """What comes to an interface of the far machine."""
    return Script(lab.remote.popen(sys.executable, PROGRAMS / "reach.py", "watch", interface, caps=True))


def neighbours(packet: str) -> bool:
    """Whether it is the host kernel's own ARP, neighbour discovery or MLD."""
    data = bytes.fromhex(packet)
    return data[0] >> 4 not in (4, 6) or (data[0] >> 4 == 6 and (data[6] == 0 or (data[6] == 58 and data[40] in range(130, 144))))
