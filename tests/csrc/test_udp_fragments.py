"""Fragments that the guest sends: UDP datagrams put together by the core, or by nobody."""

from __future__ import annotations

import random

from datagrams import host_socket, names, udp_packet
from fragmenting import fragment, fragments
from guest import GUEST4, GUEST6, Guest
from isolated import isolated, narrow_link


def test_fragments_become_one_datagram_in_any_order(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    rng = random.Random(8)
    with host_socket(v6) as sock:
        for ident, size in enumerate((1473, 3000, 8192, 60000, 65507)):
            payload = rng.randbytes(size)
            pieces = fragments(own, gateway, udp_packet(own, 5000, gateway, sock.getsockname()[1], payload), 1448, ident)
            if ident % 2:
                rng.shuffle(pieces)
            for number, piece in enumerate(pieces):
                guest.send(piece)
                if number % 20 == 0:
                    guest.send(piece)  # a repetition
            guest.pump()
            assert sock.recv(70000) == payload
        assert guest.counter("reassembled") == 5


def test_interleaved_packets_do_not_mix(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        payloads = [random.Random(n).randbytes(4000) for n in range(8)]
        cut = [
            fragments(own, gateway, udp_packet(own, 5000, gateway, sock.getsockname()[1], payload), 1448, n)
            for n, payload in enumerate(payloads)
        ]
        for row in zip(*cut, strict=True):
            for piece in row:
                guest.send(piece)
        guest.pump()
        assert [sock.recv(5000) for _ in payloads] == payloads


def test_contradictory_fragments_end_their_packet(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        packet = udp_packet(own, 5000, gateway, sock.getsockname()[1], bytes(3000))
        contradictions = (
            [(8, 1448, True)],  # overlaps the first and the second
            [(2896, 104, False)],  # another end
            [(4000, 80, True)],  # beyond the end
        )
        for ident, extra in enumerate(contradictions):
            pieces = fragments(own, gateway, packet, 1448, ident)
            guest.send(pieces[2])
            guest.send(pieces[0])
            for offset, size, more in extra:
                guest.send(fragment(own, gateway, bytes(size), offset, more, ident))
            guest.send(pieces[1])
            guest.pump()
            assert guest.counter("drop_fragment") == 2 * (ident + 1)
        assert guest.counter("reassembled") == 0 and guest.counter("udp_opened") == 0


def test_fragments_that_cannot_be_are_dropped(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    for offset, size, more in ((0, 7, True), (8, 0, False), (65528, 64, True), (65528, 64, False), (0, 0, True)):
        guest.send(fragment(own, gateway, bytes(size), offset, more))
    guest.pump()
    assert guest.counter("drop_fragment") == 5


def test_a_flood_of_first_fragments_keeps_nobody_from_finishing(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        for ident in range(1000):
            guest.send(fragment(own, gateway, bytes(1448), 0, True, 5000 + ident))
            if ident % 100 == 0:
                guest.pump()
        payload = random.Random(9).randbytes(60000)
        for piece in fragments(own, gateway, udp_packet(own, 5000, gateway, sock.getsockname()[1], payload), 1448):
            guest.send(piece)
        guest.pump()
        assert sock.recv(70000) == payload


@isolated
def test_what_the_guest_cut_may_be_cut_again_on_a_narrow_path() -> None:
    narrow_link()
    for own, remote in ((GUEST4, "192.0.2.10"), (GUEST6, "2001:db8::10")):
        with Guest(link_mtu=65520) as guest:
            for piece in fragments(own, remote, udp_packet(own, 5000, remote, 7777, bytes(3000)), 1448):
                guest.send(piece)
            guest.pump()
            assert guest.frames() == [] and guest.counter("reassembled") == 1 and guest.counter("udp_tx_errors") == 0


def test_random_fragments_never_make_anything_but_the_datagram_that_was_cut(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    rng = random.Random(10)
    with host_socket(v6) as sock:
        sock.settimeout(0)
        packet = udp_packet(own, 5000, gateway, sock.getsockname()[1], rng.randbytes(4000))
        for _ in range(200):
            for _ in range(rng.randrange(1, 12)):
                offset = rng.randrange(0, len(packet) // 8) * 8
                size = rng.randrange(1, 200) * 8 if rng.random() < 0.9 else rng.randrange(1, 1400)
                piece = packet[offset : offset + size]
                more = offset + size < len(packet) if rng.random() < 0.9 else rng.random() < 0.5
                guest.send(fragment(own, gateway, piece, offset, more, rng.randrange(4)))
            guest.pump()
            while True:
                try:
                    assert sock.recv(5000) == packet[8:]
                except BlockingIOError:
                    break
