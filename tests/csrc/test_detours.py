"""Connections that go to a proxy: what the guest hears, and when. The proxy is the test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from guest import ACK, RST, SYN, Guest, Segment, TcpPeer, plan
from sample_plan import addr as mapped
from test_egress_verdicts import policy

SOCKS5, HTTP = 2, 3
YES = {SOCKS5: b"\5\0" + b"\5\0\0\1" + bytes(6), HTTP: b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n"}
BEHIND = b"220 ready\r\n"


@contextmanager
def proxied(kind: int) -> Iterator[tuple[Guest, TcpPeer, socket.socket]]:
    """A guest that has sent a SYN, and the proxy's end of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = mapped("127.0.0.1") + server.getsockname()[1].to_bytes(2, "big") + bytes((kind,))
        with Guest() as guest:
            guest.plane.set_egress(policy("allow *"))
            guest.plane.set_detours(plan().replace(detours=policy("allow *"), detour_targets=target + bytes(19)))
            peer = TcpPeer(guest, 443)
            peer.send(SYN)
            guest.pump()
            server.settimeout(30)
            conn, _ = server.accept()
            with conn:
                conn.settimeout(30)
                guest.pump()
                yield guest, peer, conn


def answered(kind: int) -> None:
    with proxied(kind) as (guest, peer, conn):
        heard = conn.recv(4096)
        for byte in YES[kind][:-1]:
            conn.sendall(bytes((byte,)))
            guest.pump()
            if kind == SOCKS5 and byte == YES[kind][1] and heard == b"\5\1\0":
                heard = conn.recv(4096)  # the request follows the method
        assert guest.segments() == [], "no answer before the proxy's is complete"
        conn.sendall(YES[kind][-1:] + BEHIND)
        (answer,) = guest.wait_segments()
        assert answer.flags == SYN | ACK
        peer.ack = answer.seq + 1
        peer.send(ACK)
        assert b"".join(segment.payload for segment in guest.wait_segments()) == BEHIND
        assert guest.counter("tcp_opened") == 1


def test_the_guest_hears_a_yes_after_the_last_byte_of_a_socks_answer_and_all_that_is_behind_it() -> None:
    answered(SOCKS5)


def test_the_same_with_an_answer_of_http() -> None:
    answered(HTTP)


def test_a_proxy_that_leaves_before_it_has_answered_is_a_refusal() -> None:
    with proxied(HTTP) as (guest, _peer, conn):
        conn.sendall(YES[HTTP][:-2])
        conn.close()
        (answer,) = guest.wait_segments()
        assert isinstance(answer, Segment) and answer.flags & RST
        assert guest.counter("tcp_flows") == 0


def test_a_guest_that_gives_up_takes_its_connection_to_the_proxy_along() -> None:
    with proxied(SOCKS5) as (guest, peer, conn):
        conn.recv(4096)
        peer.send(RST, seq=peer.seq)
        guest.pump()
        assert guest.counter("tcp_flows") == 0
        with suppress(ConnectionResetError):
            assert conn.recv(1) == b""


def test_a_repeated_syn_waits_for_the_same_answer() -> None:
    with proxied(SOCKS5) as (guest, peer, conn):
        peer.send(SYN, seq=peer.seq - 1)
        guest.pump()
        assert guest.counter("tcp_opened") == 1 and guest.segments() == []
