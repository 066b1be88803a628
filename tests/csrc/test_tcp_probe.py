"""Keepalive probes of the guest: one of the host's for each, and an answer when the host's peer has shown life.

The kernel's clock decides when that was, so the core's goes with it here.
"""

from __future__ import annotations

import re
import socket
import subprocess

from guest import ACK, PSH, Guest, TcpPeer, connected
from isolated import isolated

COUNT_MAX = 127  # TCP_KEEPCNT, tcp(7)


class Outage:
    """Nothing that is sent to the port arrives; how many packets that were."""

    def __init__(self, port: int) -> None:
        self.nft(f"table inet t {{ chain c {{ type filter hook output priority 0; tcp dport {port} counter drop; }}; }}")

    @staticmethod
    def nft(text: str) -> str:
        return subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, capture_output=True).stdout

    def lost(self) -> int:
        found = re.search(r"counter packets (\d+)", self.nft("list table inet t"))
        assert found
        return int(found[1])

    def end(self) -> None:
        self.nft("delete table inet t")


def probe(guest: Guest, peer: TcpPeer) -> bool:
    """Whether it is answered at once."""
    peer.send(ACK, seq=peer.seq - 1)
    return bool(guest.segments())


def silent(guest: Guest, peer: TcpPeer, sock: socket.socket) -> Outage:
    """An outage, and a first probe in it that was not answered, because the peer was heard too long ago."""
    outage = Outage(sock.getsockname()[1])
    while probe(guest, peer):
        assert outage.lost() == 0, "the peer was asked, and answered for"
    lost(guest, outage, 1)
    return outage


def lost(guest: Guest, outage: Outage, count: int) -> None:
    """Waits until so many packets to the peer are lost, none of which is answered for."""
    while outage.lost() < count:
        assert not guest.segments()
    assert outage.lost() == count


def test_keepalive_probe_is_answered(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        peer.send(ACK, seq=peer.seq - 1)
        answer = guest.wait_segments()[0]
        assert answer.flags == ACK and answer.ack == peer.seq and not answer.payload


def test_every_keepalive_probe_is_answered_however_many_come_at_once(guest: Guest) -> None:
    """The limit of challenge ACKs (RFC 5961, 7) is not one of answers to probes: connections without any would end."""
    peer, sock = connected(guest)
    with sock:
        for _ in range(250):
            peer.send(ACK, seq=peer.seq - 1)
            assert [s.ack for s in guest.wait_segments()] == [peer.seq]
    assert guest.counter("tcp_challenges") == 0


@isolated
def test_each_probe_asks_the_peer_once_and_is_answered_when_the_peer_has_answered() -> None:
    with Guest() as guest:
        peer, sock = connected(guest)
        with sock:
            outage = silent(guest, peer, sock)
            for count in range(2, 5):
                assert not probe(guest, peer)
                lost(guest, outage, count)
            outage.end()
            assert not probe(guest, peer)
            (answer,) = guest.wait_segments()
            assert answer.flags == ACK and answer.ack == peer.seq and not answer.payload
            sock.sendall(b"later")
            assert peer.take(guest.wait_segments()) == b"later"


@isolated
def test_the_host_gives_up_no_connection_whose_guest_goes_on_asking() -> None:
    with Guest() as guest:
        peer, sock = connected(guest)
        with sock:
            outage = silent(guest, peer, sock)
            for count in range(2, COUNT_MAX + 1):
                assert not probe(guest, peer)
                lost(guest, outage, count)
            for _ in range(3):
                assert not probe(guest, peer)
            assert guest.counter("tcp_flows") == 1
            outage.end()
            sock.sendall(b"still here")
            assert peer.take([s for s in guest.wait_segments() if s.payload]) == b"still here"


@isolated
def test_bytes_on_their_way_to_the_peer_are_life_enough() -> None:
    """The guest's own kernel would send them again, and not probe; the host's does it in its place."""
    with Guest() as guest:
        peer, sock = connected(guest)
        with sock:
            silent(guest, peer, sock)
            peer.send(ACK | PSH, b"lost for now")
            guest.wait_segments()
            for _ in range(5):
                assert probe(guest, peer)


@isolated
def test_what_the_peer_sends_is_an_answer_as_well() -> None:
    with Guest() as guest:
        peer, sock = connected(guest)
        with sock:
            silent(guest, peer, sock)
            sock.sendall(b"alive")
            segments = guest.wait_segments()
            while not any(s.payload for s in segments):
                segments += guest.wait_segments()
            # Data that arrives between a wait and the look at the peer is found by that look: then the probe's answer comes first.
            assert [s.payload for s in segments if s.payload] == [b"alive"] and len(segments) <= 2, "one answer beside it at most"
            assert all(s.flags == ACK and s.ack == peer.seq for s in segments if not s.payload)


def test_a_probe_of_a_closed_window_is_answered_by_us() -> None:
    """The guest wants to know of the window, not of the peer, and the peer's is closed."""
    with Guest() as guest:
        peer, sock = connected(guest, rcvbuf=4096, wscale=None)
        with sock:
            window = 60000
            while window:
                for _ in range(0, window, 1000):
                    peer.send(ACK | PSH, b"x" * min(1000, window))
                window = guest.wait_segments()[-1].window
            for _ in range(3):
                assert probe(guest, peer)
