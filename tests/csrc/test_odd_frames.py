"""Frames of the guest that few send: checksums that its kernel leaves to us, tags, lengths and flags that hardly occur."""

from __future__ import annotations

import random
import struct

import pytest
from datagrams import UDP, host_socket, names, udp_packet
from guest import ACK, FIN, GUEST4, SYN, Guest, TcpPeer, ip_frame, server
from packets import checksum, pseudo

NEEDS_CSUM = 1
TAG = b"\x81\x00\xa0\x00"  # IEEE 802.1Q, 9.6: priority 5, no VLAN


def offload(frame: bytes, start: int, offset: int, *, gso: int = 0, size: int = 0) -> bytes:
    """The frame behind the virtio header that says: this checksum is yours to finish."""
    return struct.pack("=BBHHHH", NEEDS_CSUM, gso, 0, size, start, offset) + frame


def layers(frame: bytes) -> int:
    """Where the transport header begins."""
    return 14 + (20 if frame[12:14] == b"\x08\x00" else 40)


def in_a_tunnel(own: str, remote: str, port: int, *, inner_at: int, size: int) -> tuple[bytes, bytes]:
    """A frame of a tunnel as Linux leaves it, and the payload that is to arrive.

    The outer checksum is right once the inner one, of what begins at `inner_at`, is finished; until then the inner field holds
    the sum of its pseudo-header, here made up.
    """
    open_payload = bytearray(random.Random(size).randbytes(size))
    finished = bytearray(open_payload)
    finished[inner_at + 16 : inner_at + 18] = struct.pack("!H", checksum(bytes(open_payload[inner_at:])))
    whole = udp_packet(own, 5000, remote, port, bytes(finished))
    return ip_frame(own, remote, UDP, whole[:8] + bytes(open_payload)), bytes(finished)


@pytest.mark.parametrize("size", [60, 61, 1400])
def test_a_checksum_inside_a_tunnel_is_finished(v6: bool, size: int) -> None:
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        frame, expected = in_a_tunnel(own, gateway, sock.getsockname()[1], inner_at=30, size=size)
        guest.send(offload(frame, layers(frame) + 8 + 30, 16))
        guest.pump()
        assert sock.recv(2000) == expected


def test_the_outer_checksum_counts_once_the_inner_one_is_finished(v6: bool) -> None:
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        frame, _ = in_a_tunnel(own, gateway, sock.getsockname()[1], inner_at=30, size=100)
        payload = layers(frame) + 8
        guest.send(offload(frame[:payload] + bytes([frame[payload] ^ 1]) + frame[payload + 1 :], payload + 30, 16))
        guest.send(bytes(10) + frame)  # nothing is left to us, and the inner one is open
        guest.pump()
        assert guest.counter("drop_malformed") == 2 and guest.counter("udp_opened") == 0


def test_no_place_of_an_open_checksum_does_harm(v6: bool) -> None:
    """Every place in a frame and some beyond: only those behind the headers that were read already are finished."""
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        frame = ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, sock.getsockname()[1], bytes(40)))
        transport = layers(frame)
        for start in (*range(len(frame) + 3), 0xFFFE, 0xFFFF):
            for offset in (0, 2, 6, 16, 0xFFFF):
                before = guest.counter("drop_malformed")
                guest.send(offload(frame, start, offset))
                guest.pump(1)
                outside = start < 14 or start + offset + 2 > len(frame)
                if outside or start < transport:
                    assert guest.counter("drop_malformed") == before + 1, (start, offset)
                elif start == transport:
                    assert guest.counter("drop_malformed") == before and sock.recv(100) == bytes(40)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_priority_tags_are_taken_off(v6: bool, count: int) -> None:
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        frame = ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, sock.getsockname()[1], b"data"))
        guest.send(bytes(10) + frame[:12] + TAG * count + frame[12:])
        guest.pump()
        assert sock.recv(100) == b"data"
        tunnel, expected = in_a_tunnel(own, gateway, sock.getsockname()[1], inner_at=30, size=100)
        tagged = tunnel[:12] + TAG * count + tunnel[12:]
        guest.send(offload(tagged, layers(tunnel) + 4 * count + 8 + 30, 16))
        guest.pump()
        assert sock.recv(200) == expected


def test_other_tags_and_what_is_cut_in_one_are_dropped(guest: Guest) -> None:
    frame = ip_frame(GUEST4, "10.0.2.2", UDP, udp_packet(GUEST4, 5000, "10.0.2.2", 5000, b"data"))
    for tags in (b"\x81\x00\x00\x01", b"\x88\xa8\xaf\xff", TAG + b"\x81\x00\x00\x01"):
        guest.send(frame[:12] + tags + frame[12:])
    for length in (14, 15, 17):
        guest.send((frame[:12] + TAG * 2)[:length])
    guest.pump()
    assert guest.counter("drop_unsupported") == 6
    guest.send(frame[:12] + TAG + frame[12:14])  # an Ethernet header, and nothing in it
    guest.pump()
    assert guest.counter("drop_malformed") == 1


def test_a_tag_with_the_place_of_a_checksum_in_it_is_dropped() -> None:
    with Guest(vnet_hdr=True, uso=True) as guest:
        frame = ip_frame(GUEST4, "10.0.2.2", UDP, udp_packet(GUEST4, 5000, "10.0.2.2", 5000, b"data"))
        for start in range(14, 22):
            guest.send(offload(frame[:12] + TAG * 2 + frame[12:], start, 0))
        guest.pump()
        assert guest.counter("drop_unsupported") == 8 and guest.counter("tap_rx_frames") == 8


def test_arp_with_a_priority_tag_gets_to_the_slow_path_without_it(guest: Guest) -> None:
    arp = b"\xff" * 6 + bytes.fromhex("525400123456") + b"\x08\x06" + bytes(28)
    guest.send(arp[:12] + TAG + arp[12:])
    guest.pump()
    assert guest.punts == [arp]


def test_udp_is_cut_to_its_own_length(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        datagram = udp_packet(own, 5000, gateway, sock.getsockname()[1], b"data")
        guest.send(ip_frame(own, gateway, UDP, datagram + b"options"))
        guest.pump()
        assert sock.recv(100) == b"data"
        guest.send(ip_frame(own, gateway, UDP, datagram[:4] + b"\0\x0b" + datagram[6:]))
        guest.send(ip_frame(own, gateway, UDP, datagram[:4] + b"\0\x07" + datagram[6:]))
        guest.pump()
        assert guest.counter("drop_malformed") == 2


def test_ipv6_lets_the_length_of_udp_be_zero(guest: Guest) -> None:
    own, gateway, _ = names(True)
    with host_socket(True) as sock:
        datagram = udp_packet(own, 5000, gateway, sock.getsockname()[1], b"data")
        unsummed = datagram[:4] + bytes(4) + datagram[8:]
        total = checksum(pseudo(own, gateway, UDP, len(datagram)) + unsummed)
        guest.send(ip_frame(own, gateway, UDP, unsummed[:6] + struct.pack("!H", total) + unsummed[8:]))
        guest.pump()
        assert sock.recv(100) == b"data"


def test_no_connection_begins_with_its_end(guest: Guest, v6: bool) -> None:
    with server(v6) as listener:
        peer = TcpPeer(guest, listener.getsockname()[1], v6=v6)
        peer.send(SYN | FIN, seq=1000, options=peer.options())
        guest.pump()
        assert not guest.frames() and guest.counter("tcp_flows") == 0 and guest.counter("drop_malformed") == 1
        peer.connect()
        peer.send(SYN | FIN, seq=peer.seq)
        (challenge,) = guest.segments()
        assert challenge.flags == ACK  # RFC 5961, 4.2
