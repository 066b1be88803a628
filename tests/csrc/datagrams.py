"""UDP as a guest and its host exchange it: the sockets, frames and packets of the tests of UDP."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

from checker.frame import Frame, IPv4, IPv6, decode
from guest import GATEWAY4, GATEWAY6, GUEST4, GUEST6, PATIENCE_S, Guest, ip_frame
from packets import checksum, pseudo, udp

UDP = 17
DEFAULT_TTL = 64


def names(v6: bool) -> tuple[str, str, str]:
    """The guest, the gateway that stands for the host's loopback, and that loopback."""
    return (GUEST6, GATEWAY6, "::1") if v6 else (GUEST4, GATEWAY4, "127.0.0.1")


def host_socket(v6: bool = False, address: str = "", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((address or names(v6)[2], port))
    sock.settimeout(PATIENCE_S)
    return sock


def udp_packet(src: str, sport: int, dst: str, dport: int, payload: bytes, *, summed: bool = True) -> bytes:
    """A UDP header and payload."""
    whole = udp(src, sport, dst, dport, payload)
    return whole if summed else whole[:6] + bytes(2) + payload


def send(guest: Guest, src: str, sport: int, dst: str, dport: int, payload: bytes = b"x", *, summed: bool = True,
         ttl: int = DEFAULT_TTL, tos: int = 0, df: bool = True) -> None:  # fmt: skip
    """One datagram from the guest; its Ethernet frame is as long as it needs to be."""
    body = udp_packet(src, sport, dst, dport, payload, summed=summed)
    guest.send(ip_frame(src, dst, UDP, body, ttl=ttl, tos=tos, df=df))
    guest.pump()


def frames(guest: Guest, count: int = 1, seconds: float = PATIENCE_S) -> list[Frame]:
    """At least count frames for the guest, decoded; IPv6 fragments stay as they are."""
    found: list[Frame] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += [decode(raw) for raw in guest.frames()]
    assert len(found) >= count, f"{len(found)} of {count} frames within {seconds} s"
    return found


def whole(found: list[Frame]) -> tuple[str, str, bytes]:
    """Source, destination and IP payload of one packet, put together from its fragments, which come in order."""
    first = found[0].ip
    assert first is not None
    out = b""
    for number, frame in enumerate(found):
        last = number == len(found) - 1
        if isinstance(frame.ip, IPv4):
            offset, more, piece = frame.ip.offset, frame.ip.mf, frame.payload
        else:
            assert isinstance(frame.ip, IPv6) and frame.ip.protocol == 44
            field = int.from_bytes(frame.payload[2:4], "big")
            offset, more, piece = field & ~7, bool(field & 1), frame.payload[8:]
        assert offset == len(out) and more == (not last) and len(frame.raw) <= 14 + 1500
        out += piece
    src, dst = str(first.src), str(first.dst)
    assert checksum(pseudo(src, dst, UDP, len(out)) + out) == 0
    return src, dst, out


def quoted(frame: Frame) -> tuple[str, int, str, int]:
    """The addresses and ports of the UDP datagram inside an ICMP error."""
    assert frame.icmp
    v4 = frame.icmp.body[0] >> 4 == 4
    size, start, length = (20, 12, 4) if v4 else (40, 8, 16)
    src, dst = (str(ip_address(frame.icmp.body[i : i + length])) for i in (start, start + length))
    sport, dport = struct.unpack_from("!HH", frame.icmp.body, size)
    return src, sport, dst, dport
