"""Segmentation offload inside the guest's UDP tunnels: one frame becomes what the guest's kernel would have sent without it."""

from __future__ import annotations

import random
import struct

import pytest
from checker.frame import IPv4, decode
from datagrams import UDP, host_socket, names, udp_packet
from guest import GATEWAY4, Guest, ip_frame
from isolated import isolated
from packets import checksum, pseudo

TCP = 6
NEEDS_CSUM, TCP4, TCP6, UDP_SEGMENTS = 1, 1, 4, 5  # virtio 1.2, 5.1.6
TUNNEL4, TUNNEL6 = 0x20, 0x40
VXLAN = bytes.fromhex("0800000000000500")  # RFC 7348, 5
INNER = {4: ("172.20.0.2", "172.20.0.1"), 6: ("fd20::2", "fd20::1")}
FLAGS = 0x80 | 0x10 | 0x08 | 0x01  # CWR, ACK, PSH, FIN


def opened(src: str, dst: str, proto: int, segment: bytes, field: int) -> bytes:
    """The segment with the sum of its pseudo-header in the place of the checksum, as Linux leaves it."""
    total = checksum(pseudo(src, dst, proto, len(segment))) ^ 0xFFFF
    return segment[:field] + struct.pack("!H", total) + segment[field + 2 :]


def inner_tcp(family: int, data: bytes, options: bytes = b"") -> tuple[bytes, int]:
    """An Ethernet frame with one TCP segment, and where that begins."""
    src, dst = INNER[family]
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack("!HHIIBBHHH", 1111, 2222, 0xFFFFFF00, 77, offset, FLAGS, 500, 0, 0) + options + data
    return ip_frame(src, dst, TCP, opened(src, dst, TCP, segment, 16)), 14 + (20 if family == 4 else 40)


def inner_udp(family: int, data: bytes) -> tuple[bytes, int]:
    src, dst = INNER[family]
    datagram = struct.pack("!HHHH", 1111, 2222, 8 + len(data), 0) + data
    return ip_frame(src, dst, UDP, opened(src, dst, UDP, datagram, 6)), 14 + (20 if family == 4 else 40)


def outer(v6: bool, port: int, content: bytes) -> tuple[bytes, int]:
    """The frame that carries it, whose own checksum is left open too, and where its payload begins."""
    own, gateway, _ = names(v6)
    return ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, port, content)), 14 + (40 if v6 else 20) + 8


def header(kind: int, size: int, start: int, inner: int, *, flags: int = NEEDS_CSUM, offset: int = 16) -> bytes:
    """struct virtio_net_hdr_v1_hash_tunnel."""
    return struct.pack("=BBHHHH", flags, kind, 0, size, start, offset) + bytes(10) + struct.pack("<HH", 0, inner)


def send(guest: Guest, v6: bool, port: int, frame: bytes, l4: int, kind: int, size: int) -> None:
    whole, at = outer(v6, port, VXLAN + frame)
    inner = at + len(VXLAN) + 14
    guest.send(header(kind | (TUNNEL6 if v6 else TUNNEL4), size, at + len(VXLAN) + l4, inner) + whole)
    guest.pump()


@pytest.mark.parametrize("size", [1000, 1001])
@pytest.mark.parametrize("length", [1, 1000, 5123, 60001])
@pytest.mark.parametrize("family", [4, 6])
def test_segments_of_tcp_become_datagrams(v6: bool, family: int, length: int, size: int) -> None:
    data = random.Random(length).randbytes(length)
    frame, l4 = inner_tcp(family, data, b"\1\1\x08\x0a" + bytes(8))
    with Guest(vnet_hdr=True, uso=True, tunnels=True) as guest, host_socket(v6) as sock:
        send(guest, v6, sock.getsockname()[1], frame, l4, TCP4 if family == 4 else TCP6, size)
        count = -(-length // size)
        for index in range(count):
            raw = sock.recv(2000)
            assert raw[:8] == VXLAN
            found = decode(raw[8:])
            assert found.tcp and found.payload == data[index * size :][:size]
            assert (found.tcp.seq, found.tcp.ack, found.tcp.window) == ((0xFFFFFF00 + index * size) % 2**32, 77, 500)
            assert ("C" in found.tcp.flags, "F" in found.tcp.flags, "P" in found.tcp.flags, "A" in found.tcp.flags) == (
                index == 0, index == count - 1, index == count - 1, True,
            )  # fmt: skip
            assert not isinstance(found.ip, IPv4) or found.ip.ident == index
        assert guest.counter("drop_malformed") == 0


@pytest.mark.parametrize("family", [4, 6])
def test_segments_of_udp_become_datagrams(v6: bool, family: int) -> None:
    data = random.Random(family).randbytes(20123)
    frame, l4 = inner_udp(family, data)
    with Guest(vnet_hdr=True, uso=True, tunnels=True) as guest, host_socket(v6) as sock:
        send(guest, v6, sock.getsockname()[1], frame, l4, UDP_SEGMENTS, 1372)
        for index in range(-(-len(data) // 1372)):
            found = decode(sock.recv(2000)[8:])
            assert found.udp and found.payload == data[index * 1372 :][:1372]


def test_ordinary_frames_have_the_longer_header_too(v6: bool) -> None:
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True, tunnels=True) as guest, host_socket(v6) as sock:
        guest.send(bytes(24) + ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, sock.getsockname()[1], b"there")))
        guest.pump()
        data, source = sock.recvfrom(100)
        assert data == b"there"
        sock.sendto(b"back", source)
        found: list[bytes] = []
        while not found:
            found = guest.frames()
        assert found[0][0] == NEEDS_CSUM and found[0][10:24] == bytes(14)
        assert decode(found[0][24:], partial=True).payload == b"back"


@isolated
def test_no_header_does_harm() -> None:
    """Each value beside the right one, alone and in pairs; most are refused, and none reads or writes elsewhere."""
    frame, l4 = inner_tcp(4, bytes(3000))
    with Guest(vnet_hdr=True, uso=True, tunnels=True) as guest, host_socket() as sock:
        whole, at = outer(False, sock.getsockname()[1], VXLAN + frame)
        start, inner = at + 8 + l4, at + 8 + 14
        places = (0, 13, 14, 34, at - 1, at, inner - 1, inner, inner + 1, start - 1, start, start + 1, len(whole) - 21,
                  len(whole) - 20, len(whole) - 2, len(whole), 0xFFFF)  # fmt: skip
        for kind in (TCP4, TCP6, UDP_SEGMENTS, 0, 3):
            for size in (0, 1, 22, 1000, 3000, 3001, 0xFFFF):
                guest.send(header(kind | TUNNEL4, size, start, inner) + whole)
                guest.send(header(kind | TUNNEL4, size, start, inner, flags=0) + whole)
        for one in places:
            for other in places:
                guest.send(header(TCP4 | TUNNEL4, 1000, one, other) + whole)
            guest.pump(1)
        for cut in range(24, 24 + len(whole), 7):
            guest.send((header(TCP4 | TUNNEL4, 1000, start, inner) + whole)[:cut])
            guest.pump(1)
        short = bytearray(whole)
        for value in range(256):
            for place in (inner, start + 12):  # version and length of the header inside, length of TCP's
                short[place] = value
                guest.send(header(TCP4 | TUNNEL4, 1000, start, inner) + bytes(short))
                short[place] = whole[place]
            guest.pump(1)
        own = ip_frame("10.0.2.15", GATEWAY4, TCP, bytes(60))  # a tunnel over TCP
        guest.send(header(TCP4 | TUNNEL4, 1000, 60, 40) + own)
        guest.pump()
        assert guest.counter("drop_malformed") > 500
