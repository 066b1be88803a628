"""Bytes behind a hole: kept, told with SACK, and delivered in order when the hole is filled."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import pytest
from guest import ACK, FIN, PATIENCE_S, SYN, Guest, TcpPeer, server

pytestmark = pytest.mark.usefixtures("counted_clock")

SACK_PERMITTED = b"\x01\x01\x04\x02"
OOO_BYTES, RANGES = 256 << 10, 32


@contextlib.contextmanager
def connected(guest: Guest, sack: bool = True) -> Iterator[tuple[TcpPeer, socket.socket]]:
    with server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1])
        peer.send(SYN, options=peer.options() + (SACK_PERMITTED if sack else b""))
        answer = guest.wait_segments()[0]
        assert (SACK_PERMITTED in answer.options) == sack
        peer.ack = (answer.seq + 1) % 2**32
        peer.send(ACK)
        guest.pump()
        sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    with sock:
        yield peer, sock


def blocks(options: bytes, base: int) -> list[tuple[int, int]]:
    """The ranges of a SACK option, from `base`."""
    assert options[:3] == b"\x01\x01\x05"
    numbers = struct.unpack(f"!{(options[3] - 2) // 4}I", options[4:])
    return [((a - base) % 2**32, (b - base) % 2**32) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]


@pytest.mark.parametrize("sack", [True, False])
def test_what_lies_behind_a_hole_is_kept_and_told(sack: bool) -> None:
    with Guest(lossy=True) as guest, connected(guest, sack) as (peer, sock):
        base, data = peer.seq, random.Random(1).randbytes(6000)
        told = []
        for start in (1000, 4000, 2000):
            peer.send(ACK, data[start : start + 1000], seq=base + start)
            (ack,) = guest.wait_segments()
            assert ack.ack == base, "each gets an acknowledgement of its own, for what is in order"
            told.append(blocks(ack.options, base) if sack else ack.options)
        assert told == ([[(1000, 2000)], [(4000, 5000), (1000, 2000)], [(1000, 3000), (4000, 5000)]] if sack else [b"", b"", b""])
        peer.send(ACK, data[:1000], seq=base)
        assert guest.wait_segments()[-1].ack == base + 3000
        peer.send(ACK, data[3000:4000], seq=base + 3000)
        last = guest.wait_segments()[-1]
        assert last.ack == base + 5000 and not last.options
        assert sock.recv(9000) == data[:5000]


def test_what_comes_again_together_with_the_end_is_no_longer_told() -> None:
    """A guest may put what it repeats into larger segments, the end included. A range before the ACK is a D-SACK (RFC 2883, 4)."""
    with Guest(lossy=True) as guest, connected(guest) as (peer, sock):
        base, data = peer.seq, random.Random(1).randbytes(2000)
        peer.send(ACK, data[1000:], seq=base + 1000)
        assert blocks(guest.wait_segments()[0].options, base) == [(1000, 2000)]
        peer.send(ACK | FIN, data, seq=base)
        last = guest.wait_segments()[-1]
        assert last.ack == base + 2001 and not last.options
        assert sock.recv(9000) == data and sock.recv(1) == b""


def test_over_a_tap_of_ours_sack_is_not_offered_though_the_guest_does() -> None:
    """Its kernel would repeat what was not lost (csrc/proto/tcp_out_of_order.c)."""
    with Guest() as guest, server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1])
        peer.send(SYN, options=peer.options() + SACK_PERMITTED)
        assert SACK_PERMITTED not in guest.wait_segments()[0].options


@pytest.mark.parametrize("seed", range(8))
def test_any_order_gives_the_stream(seed: int) -> None:
    """Overlapping pieces, many of them twice, across the wrap of sequence numbers and of the ring."""
    rng = random.Random(seed)
    with Guest() as guest:
        with server() as listener:
            peer = TcpPeer(guest, listener.getsockname()[1], iss=2**32 - 40_000)
            peer.connect()
            sock, _ = listener.accept()
        data, base = rng.randbytes(120_000), peer.seq
        got, edge = b"", 60_000
        sock.setblocking(False)
        while len(got) < len(data):
            for _ in range(20):
                start = rng.randrange(len(got), min(len(data), len(got) + edge))
                peer.send(ACK, data[start : start + rng.randrange(1, 1400)], seq=(base + start) % 2**32)
            peer.send(ACK, data[len(got) : len(got) + 700], seq=(base + len(got)) % 2**32)
            guest.frames()
            try:
                got += sock.recv(1 << 20)
            except BlockingIOError:
                continue
            assert got == data[: len(got)]
        sock.close()


def test_too_many_holes_and_what_is_too_far_are_counted_and_lost() -> None:
    with Guest(lossy=True) as guest, connected(guest) as (peer, _):
        for number in range(RANGES + 5):
            peer.send(ACK, b"x", seq=peer.seq + 10 + 2 * number)
        guest.pump()
        assert guest.counter("tcp_ooo_limit") == 5
        peer.send(ACK, b"far", seq=peer.seq + OOO_BYTES + 10)
        guest.pump()
        assert guest.counter("tcp_ooo_limit") == 6


def test_an_acknowledgement_that_overtook_data_is_not_answered() -> None:
    with Guest(lossy=True) as guest, connected(guest) as (peer, _):
        peer.send(ACK, seq=peer.seq + 1000)
        assert guest.segments() == []
