"""Sockets that bring many datagrams in a millisecond: looked at from time to time, and waited for again when it is quiet."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from clocked import Clock
from datagrams import host_socket, names, send
from guest import PATIENCE_S, Guest, Packet

from pasta_py.worker import plane

BURST = 200
POLL_ABOVE_PER_MS = 32
LIFE_S = 300


def asked(guest: Guest, sock: socket.socket, v6: bool = False, sport: int = 5000) -> tuple[str, int]:
    """The host-side address of a flow that the guest has begun with this socket."""
    own, gateway, _ = names(v6)
    send(guest, own, sport, gateway, sock.getsockname()[1])
    return tuple(sock.recvfrom(100)[1][:2])  # type: ignore[return-value]


def payloads(guest: Guest, count: int, seconds: float = PATIENCE_S) -> list[bytes]:
    """What the next datagrams for the guest carry."""
    found: list[bytes] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += [packet.payload[8:] for packet in guest.received() if isinstance(packet, Packet)]
    return found


def numbered(first: int, count: int, size: int = 100) -> list[bytes]:
    return [struct.pack("!I", number).ljust(size, b"d") for number in range(first, first + count)]


def burst(guest: Guest, sock: socket.socket, to: tuple[str, int], first: int = 0) -> None:
    """More datagrams than any millisecond's share; they arrive, each as it was sent, in order."""
    sent = numbered(first, BURST)
    for each in sent:
        sock.sendto(each, to)
    assert payloads(guest, BURST) == sent


def test_a_burst_arrives_whole_and_in_order(guest: Guest, v6: bool) -> None:
    with host_socket(v6) as sock:
        to = asked(guest, sock, v6)
        burst(guest, sock, to)
        assert guest.counter("udp_polled") >= 1


def test_few_datagrams_are_waited_for(guest: Guest) -> None:
    with host_socket() as sock:
        to = asked(guest, sock)
        for number in range(20):
            sock.sendto(b"%d" % number, to)
            assert payloads(guest, 1) == [b"%d" % number]
        assert guest.counter("udp_polled") == 0


def test_after_a_burst_the_socket_is_waited_for_again(guest: Guest) -> None:
    with host_socket() as sock:
        to = asked(guest, sock)
        for round_ in range(5):
            burst(guest, sock, to, BURST * round_)
            guest.pump(3)
            sock.sendto(b"alone", to)
            assert payloads(guest, 1) == [b"alone"]
        assert guest.counter("udp_polled") >= 5, "each burst was looked at anew, so in between it was not"


def test_more_dense_sockets_than_are_looked_at(guest: Guest) -> None:
    with host_socket() as sock:
        to = [asked(guest, sock, sport=5000 + number) for number in range(24)]
        for address in to:
            for each in numbered(0, POLL_ABOVE_PER_MS * 2):
                sock.sendto(each, address)
        assert sorted(payloads(guest, 24 * POLL_ABOVE_PER_MS * 2)) == sorted(numbered(0, POLL_ABOVE_PER_MS * 2) * 24)
        for address in to:
            sock.sendto(b"alone", address)
        assert payloads(guest, 24) == [b"alone"] * 24


def test_errors_come_from_a_dense_socket_too(guest: Guest) -> None:
    with host_socket() as sock:
        to = asked(guest, sock)
        port = sock.getsockname()[1]
        for each in numbered(0, BURST):
            sock.sendto(each, to)
    own, gateway, _ = names(False)
    send(guest, own, 5000, gateway, port)
    found = guest.received()
    end = time.monotonic() + PATIENCE_S
    while not any(isinstance(p, Packet) and p.proto == 1 for p in found) and time.monotonic() < end:
        found += guest.received()
    assert [p.payload[:2] for p in found if isinstance(p, Packet) and p.proto == 1] == [b"\3\3"], "port unreachable"


def make_dense(guest: Guest, sock: socket.socket, to: tuple[str, int]) -> None:
    """Stop the core right after the socket has become dense: a frame of ARP, which is for Python, comes behind the burst."""
    guest.pump()
    before = guest.counter("udp_polled")
    for each in numbered(0, POLL_ABOVE_PER_MS):
        sock.sendto(each, to)
    guest.send(b"\xff" * 6 + b"\x02" + bytes(5) + b"\x08\x06" + bytes(28))
    assert any(guest.plane.run()[0] == plane.PUNT for _ in range(100))
    assert guest.counter("udp_polled") == before + 1


def test_a_dense_socket_that_goes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Guest() as guest, host_socket() as sock:
        make_dense(guest, sock, asked(guest, sock))
        clock.pass_(guest, 2 * LIFE_S, 2 * LIFE_S)
        guest.frames()
        assert guest.counter("udp_flows") == 0
        burst(guest, sock, asked(guest, sock))


def test_a_dense_port_that_is_given_up_is_forgotten(guest: Guest) -> None:
    with host_socket() as client:
        with host_socket() as listener:
            guest.listen(socket.IPPROTO_UDP, listener, 7000)
            make_dense(guest, client, listener.getsockname())
            guest.plane.remove_listener(listener.fileno())
        guest.frames()
        burst(guest, client, asked(guest, client))
