"""Frames that a guest sends to the slow path, built from scratch (nothing of the program under test)."""

import struct
from ipaddress import ip_address

import packets
from packets import packed
from sample_plan import GUEST_MAC, OUR_LL6, OUR_MAC, mac

GUEST_LL6 = "fe80::ff:fe00:2"
XID = b"\x12\x34\x56\x78"
DUID = b"\0\x03\0\x01" + mac(GUEST_MAC)
OUR_DUID = b"\0\x03\0\x01" + mac(OUR_MAC)


def ether(payload: bytes, kind: int, dst: str = OUR_MAC, src: str = GUEST_MAC) -> bytes:
    return mac(dst) + mac(src) + struct.pack("!H", kind) + payload


def arp(sender: str, target: str, *, op: int = 1, dst: str = "ff:ff:ff:ff:ff:ff", src: str = GUEST_MAC) -> bytes:
    return packets.arp(mac(src), sender, target, op=op, dst=mac(dst))


def ip6(protocol: int, payload: bytes, src: str, dst: str, hop_limit: int, to: str = "") -> bytes:
    """`payload` has its checksum, bytes 2 to 3 (ICMPv6) or 6 to 7 (UDP), set to zero; it is filled in."""
    packet = packets.ip(src, dst, protocol, packets.summed(src, dst, protocol, payload), ttl=hop_limit)
    group = "33:33:" + packed(dst)[12:].hex(":")
    return ether(packet, 0x86DD, to or (group if dst.startswith("ff") else OUR_MAC))


def solicited_node(target: str) -> str:
    return str(ip_address(b"\xff\x02" + bytes(9) + b"\x01\xff" + packed(target)[13:]))


def ns(
    target: str, *, src: str = GUEST_LL6, dst: str = "", hop_limit: int = 255, options: bytes | None = None
) -> bytes:
    if options is None:
        options = b"" if src == "::" else b"\x01\x01" + mac(GUEST_MAC)
    body = bytes((135, 0, 0, 0)) + bytes(4) + packed(target) + options
    return ip6(58, body, src, dst or solicited_node(target), hop_limit)


def rs(*, src: str = GUEST_LL6, hop_limit: int = 255, options: bytes = b"", code: int = 0) -> bytes:
    return ip6(58, bytes((133, code, 0, 0)) + bytes(4) + options, src, "ff02::2", hop_limit)


def udp4(
    data: bytes, *, src: str = "0.0.0.0", dst: str = "255.255.255.255", ports: tuple[int, int] = (68, 67)
) -> bytes:
    packet = packets.ip(src, dst, packets.UDP, packets.udp(src, ports[0], dst, ports[1], data))
    return ether(packet, 0x0800, "ff:ff:ff:ff:ff:ff" if dst == "255.255.255.255" else OUR_MAC)


def opt4(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def bootp(options: bytes, *, ciaddr: str = "0.0.0.0", giaddr: str = "0.0.0.0", flags: int = 0, **where: str) -> bytes:
    """A BOOTREQUEST with `options` after the fixed part (cookie included), in a frame."""
    fixed = b"\x01\x01\x06\0" + XID + struct.pack("!HH", 0, flags) + packed(ciaddr) + bytes(8)
    fixed += packed(giaddr) + mac(GUEST_MAC) + bytes(10) + bytes(192)
    return udp4((fixed + options).ljust(300, b"\0"), **where)  # type: ignore[arg-type]


def dhcp(kind: int, options: bytes = b"", **where: object) -> bytes:
    return bootp(b"\x63\x82\x53\x63" + opt4(53, bytes((kind,))) + options + b"\xff", **where)  # type: ignore[arg-type]


def opt6(code: int, value: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def ia_na(*addresses: str, iaid: int = 1) -> bytes:
    inner = b"".join(opt6(5, packed(address) + bytes(8)) for address in addresses)
    return opt6(3, struct.pack("!III", iaid, 0, 0) + inner)


def dhcp6(
    kind: int,
    options: bytes,
    *,
    server: bool = False,
    client: bool = True,
    src: str = GUEST_LL6,
    dst: str = "ff02::1:2",
) -> bytes:
    data = (
        bytes((kind,)) + XID[:3] + (opt6(1, DUID) if client else b"") + (opt6(2, OUR_DUID) if server else b"") + options
    )
    return ip6(17, struct.pack("!HHHH", 546, 547, 8 + len(data), 0) + data, src, dst, 64)


#: One valid frame for each kind of message that gets an answer.
ANSWERED = {
    "arp": arp("192.0.2.15", "192.0.2.99"),
    "arp probe": arp("0.0.0.0", "192.0.2.1"),
    "ns": ns("2001:db8:1::77"),
    "dad": ns(OUR_LL6, src="::"),
    "rs": rs(),
    "rs without address": rs(src="::"),
    "discover": dhcp(1, opt4(61, b"\x01" + mac(GUEST_MAC)) + opt4(55, bytes((1, 3, 6, 119, 81)))),
    "request": dhcp(3, opt4(50, bytes((192, 0, 2, 15))) + opt4(54, bytes((192, 0, 2, 1)))),
    "nak": dhcp(3, opt4(50, bytes((10, 0, 0, 1)))),
    "renew4": dhcp(3, ciaddr="192.0.2.15", src="192.0.2.15", dst="192.0.2.1"),
    "inform": dhcp(8, ciaddr="192.0.2.44", src="192.0.2.44"),
    "bootp": bootp(b""),
    "solicit": dhcp6(1, ia_na() + opt6(6, b"\0\x17\0\x18\0\x27")),
    "rapid solicit": dhcp6(1, ia_na() + opt6(14)),
    "request6": dhcp6(3, ia_na("2001:db8:1::15"), server=True),
    "confirm": dhcp6(4, ia_na("2001:db8:1::15")),
    "renew6": dhcp6(5, ia_na("2001:db8:1::15"), server=True),
    "rebind": dhcp6(6, ia_na("2001:db8:1::15")),
    "release": dhcp6(8, ia_na("2001:db8:1::15"), server=True),
    "decline": dhcp6(9, ia_na("2001:db8:1::15"), server=True),
    "information": dhcp6(11, b"", client=False),
}
