"""Frames of the slow path: from bytes to checked records, and from payloads to complete frames.

Invariants: in a Packet or Datagram every length lies inside the frame and every checksum is right; the frame went to our MAC
address or to a group, and came from a unicast one. The protocol handlers check their own protocol only. Nothing here raises,
whatever the bytes: a frame that fails a check is None.

Fragments and IPv6 extension headers are dropped: no message that we serve needs them (RFC 6980, 5, forbids fragments for neighbour
discovery).

Addresses are 4 or 16 bytes in network order, MAC addresses 6. A frame is Ethernet without FCS and virtio header.
"""

from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.model import WorkerPlan

ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_ARP = b"\x08\x06"
ETHERTYPE_IPV6 = b"\x86\xdd"
UDP = 17
ICMPV6 = 58

ETHER_BYTES = 14
IPV4_BYTES = 20
IPV6_BYTES = 40
UDP_BYTES = 8

BROADCAST_MAC = b"\xff" * 6
BROADCAST4 = b"\xff" * 4
NOWHERE4 = bytes(4)
NOWHERE6 = bytes(16)
ALL_NODES6 = b"\xff\x02" + bytes(13) + b"\x01"  # RFC 4291, 2.7.1

#: Every IPv6 link carries packets of this size (RFC 8200, 5). No answer that we send over IPv6 is longer.
IPV6_SAFE_BYTES = 1280

MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2


class Packet(Record):
    """One IP packet from the guest."""

    mac: bytes  # source MAC address
    source: bytes
    destination: bytes
    hop_limit: int  # IPv4: time to live
    payload: bytes  # all that follows the IP header, without Ethernet padding


class Datagram(Record):
    """One UDP datagram from the guest."""

    mac: bytes
    source: bytes
    destination: bytes
    data: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum of `data` (RFC 1071); 0 for data that contains its own correct checksum.

    2**16 is 1 modulo 0xffff, so the ones' complement sum of 16-bit words is the whole number modulo 0xffff.
    """
    if len(data) & 1:
        data += b"\0"
    number = int.from_bytes(data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def ipv4(address: bytes) -> bytes:
    """The 4 bytes of a v4-mapped address, b"" for anything else (none, IPv6)."""
    return address[12:] if len(address) == 16 and address[:12] == MAPPED else b""


def ipv6(address: bytes) -> bytes:
    """The 16 bytes of an IPv6 address, b"" for anything else (none, v4-mapped)."""
    return address if len(address) == 16 and address[:12] != MAPPED else b""


def for_us(plan: "WorkerPlan", frame: bytes) -> bool:
    """Whether a frame is addressed to us or to a group, and comes from a unicast MAC address that is not ours."""
    if len(frame) < ETHER_BYTES or frame[6] & 1 or frame[6:12] == plan.our_mac:
        return False
    return bool(frame[0] & 1) or frame[:6] == plan.our_mac


def packet4(plan: "WorkerPlan", frame: bytes, protocol: int) -> "Packet | None":
    """The unfragmented IPv4 packet (RFC 791) of that protocol in a frame."""
    if not for_us(plan, frame) or frame[12:14] != ETHERTYPE_IPV4 or len(frame) < ETHER_BYTES + IPV4_BYTES:
        return None
    header_bytes, total_bytes = (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
    packet = frame[ETHER_BYTES : ETHER_BYTES + total_bytes]
    if frame[14] >> 4 != 4 or not IPV4_BYTES <= header_bytes <= total_bytes == len(packet):
        return None
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF  # MF and offset
    if fragment or packet[9] != protocol or checksum(packet[:header_bytes]):
        return None
    return Packet(
        mac=frame[6:12],
        source=packet[12:16],
        destination=packet[16:20],
        hop_limit=packet[8],
        payload=packet[header_bytes:],
    )


def packet6(plan: "WorkerPlan", frame: bytes, protocol: int) -> "Packet | None":
    """The IPv6 packet (RFC 8200) of that protocol in a frame, from a unicast or the unspecified address."""
    if not for_us(plan, frame) or frame[12:14] != ETHERTYPE_IPV6 or len(frame) < ETHER_BYTES + IPV6_BYTES:
        return None
    payload_bytes = int.from_bytes(frame[18:20], "big")
    payload = frame[ETHER_BYTES + IPV6_BYTES : ETHER_BYTES + IPV6_BYTES + payload_bytes]
    if frame[14] >> 4 != 6 or frame[20] != protocol or len(payload) != payload_bytes or frame[22] == 0xFF:
        return None
    return Packet(mac=frame[6:12], source=frame[22:38], destination=frame[38:54], hop_limit=frame[21], payload=payload)


def datagram(packet: "Packet | None", port: int) -> "Datagram | None":
    """The UDP datagram (RFC 768) to that port in a packet of either family."""
    if packet is None or len(packet.payload) < UDP_BYTES:
        return None
    udp_bytes = int.from_bytes(packet.payload[4:6], "big")
    if int.from_bytes(packet.payload[2:4], "big") != port or not UDP_BYTES <= udp_bytes <= len(packet.payload):
        return None
    udp = packet.payload[:udp_bytes]
    unsummed = len(packet.source) == 4 and udp[6:8] == b"\0\0"  # no checksum: allowed for IPv4 only
    if not unsummed and checksum(_pseudo(packet.source, packet.destination, UDP, udp_bytes) + udp):
        return None
    return Datagram(mac=packet.mac, source=packet.source, destination=packet.destination, data=udp[UDP_BYTES:])


def icmp6(packet: "Packet | None") -> bytes:
    """The ICMPv6 message (RFC 4443) in a packet; b"" where there is none or its checksum is wrong."""
    if packet is None or len(packet.payload) < 4:
        return b""
    pseudo = _pseudo(packet.source, packet.destination, ICMPV6, len(packet.payload))
    return b"" if checksum(pseudo + packet.payload) else packet.payload


def multicast_mac(address: bytes) -> bytes:
    """The group MAC address of an IPv6 multicast address (RFC 2464, 7)."""
    return b"\x33\x33" + address[12:]


def udp_frame(
    macs: "tuple[bytes, bytes]", addresses: "tuple[bytes, bytes]", ports: "tuple[int, int]", data: bytes
) -> bytes:
    """A frame with one UDP datagram. Each pair is (source, destination); the length of the addresses gives the family."""
    udp_bytes = UDP_BYTES + len(data)
    head = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + udp_bytes.to_bytes(2, "big")
    summed = checksum(_pseudo(addresses[0], addresses[1], UDP, udp_bytes) + head + b"\0\0" + data)
    udp = head + (summed or 0xFFFF).to_bytes(2, "big") + data  # 0 means "no checksum"
    if len(addresses[0]) == 16:
        return _frame6(macs, addresses, UDP, 64, udp)
    # The identification is 0: with DF set there are no fragments that need it (RFC 6864, 4.1).
    start = b"\x45\0" + (IPV4_BYTES + udp_bytes).to_bytes(2, "big") + b"\0\0\x40\0\x40\x11"
    end = addresses[0] + addresses[1]
    header = start + checksum(start + end).to_bytes(2, "big") + end
    return macs[1] + macs[0] + ETHERTYPE_IPV4 + header + udp


def icmp6_frame(macs: "tuple[bytes, bytes]", addresses: "tuple[bytes, bytes]", kind: int, body: bytes) -> bytes:
    """A frame with one neighbour discovery message: code 0, hop limit 255. Each pair is (source, destination)."""
    head = bytes((kind, 0))
    summed = checksum(_pseudo(addresses[0], addresses[1], ICMPV6, 4 + len(body)) + head + b"\0\0" + body)
    return _frame6(macs, addresses, ICMPV6, 255, head + summed.to_bytes(2, "big") + body)


def _frame6(
    macs: "tuple[bytes, bytes]", addresses: "tuple[bytes, bytes]", protocol: int, hop_limit: int, payload: bytes
) -> bytes:
    header = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes((protocol, hop_limit))
    return macs[1] + macs[0] + ETHERTYPE_IPV6 + header + addresses[0] + addresses[1] + payload


def _pseudo(source: bytes, destination: bytes, protocol: int, payload_bytes: int) -> bytes:
    """The pseudo-header of either family (RFC 768; RFC 8200, 8.1). IPv4's is shorter; zeros do not change the sum."""
    return source + destination + payload_bytes.to_bytes(4, "big") + protocol.to_bytes(4, "big")


def dns_name(name: str) -> bytes:
    """A domain name in wire form (RFC 1035, 3.1), uncompressed; b"" for the root and for what is no domain name."""
    labels = name.removesuffix(".").split(".")
    if not name.isascii() or not all(0 < len(label) < 64 for label in labels):
        return b""
    wire = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
    return wire if len(wire) <= 255 else b""


def dns_names(names: "Iterable[str]", room: int) -> bytes:
    """The first names in wire form, one after another, as many as fit in `room` bytes."""
    wire = b""
    for name in names:
        piece = dns_name(name)
        if len(wire) + len(piece) > room:
            break
        wire += piece
    return wire


def ours(plan: "WorkerPlan") -> "tuple[bytes, ...]":
    """Our own addresses on the guest's link, 16 bytes each: the guest must not claim one of them."""
    held = [plan.our_link_local, *plan.virtual_addrs]
    for family in (plan.family4, plan.family6):
        held += (family.gateway, family.map_host_loopback, family.map_guest_addr, family.dns_forward)
    return tuple(address for address in held if address and address not in (plan.family4.guest, plan.family6.guest))
