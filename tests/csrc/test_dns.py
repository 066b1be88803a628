"""DNS that Python answers: datagrams to port 53 as frames, connections to it as sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest
from guest import (
    ACK,
    FIN,
    GATEWAY4,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    PATIENCE_S,
    SYN,
    Guest,
    TcpPeer,
    ip_frame,
    mapped,
    server,
)
from packets import checksum, pseudo
from test_egress_verdicts import policy

from pasta_py.worker import plane


class Asking(Guest):
    """Keeps what the core hands over."""

    def __init__(self, **changes: object) -> None:
        super().__init__(serves_dns=True, **changes)
        self.queries: list[tuple[bytes, int]] = []
        self.streams: list[tuple[socket.socket, bytes]] = []

    def pump(self, ticks: int = 2) -> None:
        quiet = 0
        while quiet < ticks:
            kind, ident, data = self.plane.run()
            if kind == plane.TICK:
                quiet = 0 if ident else quiet + 1
            elif kind == plane.DNS:
                self.queries.append((data, ident))
            elif kind == plane.DNS_STREAM:
                self.streams.append((socket.socket(fileno=ident), data))


@pytest.fixture
def guest() -> Iterator[Asking]:
    with Asking() as made:
        yield made
        for stream, _address in made.streams:
            stream.close()


def udp(payload: bytes, port: int = 53) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


@pytest.mark.parametrize("to", ["8.8.8.8", GATEWAY4, "127.0.0.53", "10.9.9.9"])
def test_a_datagram_to_port_53_of_any_address_is_handed_over(guest: Asking, to: str) -> None:
    guest.send(ip_frame(GUEST4, to, 17, udp(b"query") + b"padding"))
    guest.pump()
    ((frame, at),) = guest.queries
    assert frame[6:12] == GUEST_MAC and frame[at:] == udp(b"query")
    assert guest.counter("udp_opened") == 0 and guest.punts == []


def test_the_same_over_ipv6(guest: Asking) -> None:
    body = udp(b"query")
    total = checksum(pseudo(GUEST6, "2001:db8::53", 17, len(body)) + body)
    guest.send(ip_frame(GUEST6, "2001:db8::53", 17, body[:6] + struct.pack("!H", total) + body[8:]))
    guest.pump()
    ((frame, at),) = guest.queries
    assert frame[at + 8 :] == b"query" and at == 54


@pytest.mark.parametrize(("to", "port"), [("224.0.0.251", 53), ("255.255.255.255", 53), ("8.8.8.8", 5353), ("127.0.0.53", 853)])
def test_other_ports_and_groups_are_not(guest: Asking, to: str, port: int) -> None:
    guest.send(ip_frame(GUEST4, to, 17, udp(b"query", port)))
    guest.pump()
    assert guest.queries == []


def test_many_queries_are_handed_over_one_by_one_and_other_frames_pass_between(guest: Asking) -> None:
    with server() as listener:
        for number in range(50):
            guest.send(ip_frame(GUEST4, "8.8.8.8", 17, udp(b"%d" % number)))
        peer = TcpPeer(guest, listener.getsockname()[1])
        peer.connect()
    assert [frame[at + 8 :] for frame, at in guest.queries] == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
def test_a_connection_to_port_53_is_a_socket_and_opens_nothing_on_the_host(guest: Asking, v6: bool) -> None:
    peer = TcpPeer(guest, 53, v6=v6)
    peer.connect()
    ((stream, address),) = guest.streams
    assert address == mapped(GUEST6 if v6 else GUEST4)
    assert stream.family == socket.AF_UNIX
    stream.settimeout(PATIENCE_S)
    peer.send(payload=b"\0\5query")
    guest.pump()
    assert stream.recv(100) == b"\0\5query"
    answer = os.urandom(60000)
    stream.sendall(answer)
    got = b""
    while len(got) < len(answer):
        got += peer.take([segment for segment in guest.wait_segments() if segment.payload])
        peer.send()
    assert got == answer
    peer.send(FIN | ACK)
    guest.pump()
    assert stream.recv(100) == b""
    stream.close()
    assert any(segment.flags & FIN for segment in guest.wait_segments())


def test_a_lost_answer_is_sent_again(guest: Asking) -> None:
    peer = TcpPeer(guest, 53)
    peer.connect()
    guest.streams[0][0].sendall(b"answer")
    guest.wait_segments()
    assert guest.wait_segments()[0].payload == b"answer"  # nothing was acknowledged


def test_connections_that_python_does_not_take_are_bounded_and_closed_at_the_end() -> None:
    with Guest(serves_dns=True) as guest:
        for port in range(40000, 40032):
            TcpPeer(guest, 53, sport=port).send(SYN)
        while guest.plane.counters()["tap_rx_frames"] < 32:
            guest.plane.run()


def test_without_the_service_port_53_is_like_any_other() -> None:
    with Guest() as guest:
        guest.send(ip_frame(GUEST4, GATEWAY4, 17, udp(b"query")))
        guest.pump()
        assert guest.punts == [] and guest.counter("udp_opened") == 1


def query(name: str) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return bytes.fromhex("123401000001000000000000") + labels + b"\0\0\1\0\1"


def test_a_flood_of_queries_for_denied_names_leaves_the_others() -> None:
    """Names that the rules allow have no limit, also in other case; nor has anything where there is no policy."""
    with Asking() as guest:
        guest.plane.set_egress(policy("allow *.good.test:80"))
        for number in range(3000):
            guest.send(ip_frame(GUEST4, "8.8.8.8", 17, udp(query(f"n{number}.bad.test"))))
            if number % 10 == 0:
                guest.send(ip_frame(GUEST4, "8.8.8.8", 17, udp(query(f"N{number}.gOOd.test"))))
            if number % 100 == 0:
                guest.pump()
        guest.pump()
        good = [data for data, _ in guest.queries if b"gOOd" in data]
        assert len(good) == 300
        assert len(guest.queries) - 300 + guest.counter("drop_queries") == 3000 and guest.counter("drop_queries") > 0


@pytest.mark.parametrize("name", [b"", b"\0", b"\x3fa", b"\xc0\x0c", b"\x40" + b"a" * 64 + b"\0", (b"\x3f" + b"a" * 63) * 5])
def test_a_query_without_a_name_is_handed_over_too(name: bytes) -> None:
    with Asking() as guest:
        guest.plane.set_egress(policy("allow *.good.test:80"))
        guest.send(ip_frame(GUEST4, "8.8.8.8", 17, udp(bytes(12) + name)))
        guest.pump()
        assert len(guest.queries) == 1
