"""Many connections at once, from either side: bounded by descriptors and flows, counted, and gone when they are refused."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from clocked import CountedClock
from datagrams import host_socket, names, send
from guest import ACK, GATEWAY4, RST, SYN, Guest, Segment, TcpPeer, mapped, server, silent_server

from pasta_py.model import IPPROTO_TCP, Listener
from pasta_py.worker import plane

STORM = 500


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """At most that many more descriptors for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")}
    free = (number for number in itertools.count() if number not in taken)
    # The limit is on numbers: one more than the last that may still be given out.
    limit = next(itertools.islice(free, count - 1, None)) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def collect(guest: Guest, count: int) -> list[Segment]:
    segments: list[Segment] = []
    while len(segments) < count:
        segments += guest.wait_segments()
    return segments


def test_a_storm_of_clients_that_the_guest_refuses_leaves_nothing() -> None:
    with Guest() as guest, server() as listener, contextlib.ExitStack() as stack:
        listener.listen(STORM)
        guest.listen(IPPROTO_TCP, listener, 8080)
        for _ in range(STORM):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        syns = collect(guest, STORM)
        assert {syn.flags for syn in syns} == {SYN} and len({syn.sport for syn in syns}) == STORM
        assert guest.counter("tcp_flows") == STORM
        for syn in syns:
            peer = TcpPeer(guest, syn.sport, sport=8080)
            peer.ack = (syn.seq + 1) % 2**32
            peer.send(RST | ACK)
            guest.pump(1)
        assert guest.counter("tcp_flows") == 0


def test_clients_beyond_the_descriptors_wait_in_the_backlog_and_are_served_later() -> None:
    with Guest() as guest, server() as listener, contextlib.ExitStack() as stack:
        listener.listen(64)
        guest.listen(IPPROTO_TCP, listener, 8080)
        clients = [stack.enter_context(socket.socket()) for _ in range(40)]
        with descriptors_left(10):
            for client in clients:
                client.connect(listener.getsockname())
            first = collect(guest, 10)
            assert guest.counter("tcp_flows") == 10 and guest.counter("tcp_limit") >= 1
            assert any("raise the limit of open files" in line for line in guest.logs)
        assert len(collect(guest, 30)) >= 30, "those who waited are accepted once there is room"
        assert len(first) >= 10 and guest.counter("tcp_flows") == 40


def test_clients_leave_a_quarter_of_the_descriptors_to_the_guest_and_are_served_when_others_have_left() -> None:
    with host_socket() as sock, server() as listener, server() as other, server() as shut, contextlib.ExitStack() as stack:
        listener.listen(64)
        for _ in range(60):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with descriptors_left(50), Guest() as guest:
            guest.listen(IPPROTO_TCP, listener, 8080)
            guest.listen(IPPROTO_TCP, shut, 8081)
            syns = collect(guest, 1) + guest.segments()
            assert 0 < len(syns) < 40 and guest.counter("tcp_limit") == 0
            assert any("new clients of forwarded ports wait" in line for line in guest.logs)
            TcpPeer(guest, other.getsockname()[1]).connect()
            own, gateway, _ = names(False)
            for number in range(5):
                send(guest, own, 5000 + number, gateway, sock.getsockname()[1])
            assert guest.counter("udp_flows") == 5
            shut.shutdown(socket.SHUT_RDWR)
            guest.pump()
            assert any("was shut down" in line for line in guest.logs), "that is told even while listeners rest"
            for served in range(60):
                if served == len(syns):
                    syns += collect(guest, 1)
                peer = TcpPeer(guest, syns[served].sport, sport=8080)
                peer.ack = (syns[served].seq + 1) % 2**32
                peer.send(RST | ACK)


def test_a_flood_of_syns_is_refused_beyond_the_descriptors_and_older_connections_live_on() -> None:
    with Guest() as guest, server() as listener:
        listener.listen(STORM)
        peer = TcpPeer(guest, listener.getsockname()[1], sport=30000)
        peer.connect()
        sock, _ = listener.accept()
        with sock, descriptors_left(50):
            for number in range(STORM):
                TcpPeer(guest, listener.getsockname()[1], sport=40000 + number).send(SYN)
                if number % 50 == 49:
                    guest.pump(1)
            answers = collect(guest, STORM)
            refused = [s for s in answers if s.flags & RST]
            assert len(refused) >= STORM - 50 and guest.counter("tcp_limit") == len(refused)
            peer.send(ACK, b"still here")
            guest.pump()
            assert sock.recv(100) == b"still here"


def flood(guest: Guest, port: int, sport: int = 40000) -> None:
    for number in range(STORM):
        TcpPeer(guest, port, sport=sport + number).send(SYN)
        if number % 50 == 49:
            guest.pump(1)


def test_connects_without_an_answer_give_way_to_new_ones_the_oldest_first(counted_clock: CountedClock) -> None:
    with Guest() as guest, server() as listener, silent_server() as port, descriptors_left(50):
        flood(guest, port)
        assert guest.counter("tcp_flows") == 50 and guest.counter("tcp_displaced") == 0, "not before an answer can have come"
        assert guest.counter("tcp_rate_limit") == STORM - 50 and not guest.frames(), "what is not answered comes again"
        counted_clock.pass_(guest, 1)
        TcpPeer(guest, listener.getsockname()[1], sport=30000).connect()
        assert guest.counter("tcp_displaced") == 1 and guest.counter("tcp_opened") == 51
        for number in range(1, 50):
            TcpPeer(guest, port, sport=40000 + number).send(SYN)
        guest.pump()
        assert guest.counter("tcp_opened") == 51, "the others are there as before"
        counted_clock.pass_(guest, 1)
        TcpPeer(guest, port, sport=40000).send(SYN)
        guest.pump()
        assert guest.counter("tcp_displaced") == 2 and guest.counter("tcp_opened") == 52, "the oldest begins anew"


def test_connects_without_an_answer_leave_descriptors_to_others(counted_clock: CountedClock) -> None:
    with host_socket() as sock, silent_server() as port, descriptors_left(200), Guest() as guest:
        flood(guest, port)
        counted_clock.pass_(guest, 1)
        flood(guest, port, 50000)
        assert guest.counter("tcp_displaced") > 0
        own, gateway, _ = names(False)
        for number in range(20):
            send(guest, own, 5000 + number, gateway, sock.getsockname()[1])
        guest.pump()
        assert guest.counter("udp_flows") == 20 and guest.counter("udp_limit") == 0


def test_a_flood_of_syns_to_a_closed_port_is_answered_one_by_one() -> None:
    with server() as listener:
        port = listener.getsockname()[1]
    with Guest() as guest:
        for number in range(STORM):
            TcpPeer(guest, port, sport=40000 + number).send(SYN)
        assert all(s.flags == RST | ACK for s in collect(guest, STORM))
        assert guest.counter("tcp_flows") == 0 and guest.counter("tcp_refused") == STORM


@pytest.mark.parametrize("target", ["10.0.2.99", "192.0.2.7"])
def test_a_rule_with_a_target_address_leads_there(target: str) -> None:
    with Guest() as guest, server() as listener:
        port = listener.getsockname()[1]
        rule = Listener(proto=IPPROTO_TCP, port=port, target=mapped(target), target_port=99)
        guest.plane.add_listeners(rule, [listener.fileno()])
        with socket.create_connection(listener.getsockname()):
            (syn,) = guest.wait_segments()
            assert (syn.src, syn.dst, syn.dport) == (GATEWAY4, target, 99)


def test_frames_that_are_none_end_a_turn_like_others() -> None:
    """A guest that sends too little for a header, and without end, leaves time for all else, signals and the end included."""
    with Guest() as guest:
        for _ in range(1000):
            guest.send(b"\0")
        guest.plane.tick(0)
        reader, writer = os.pipe()
        with open(reader), open(writer, "w") as last:
            guest.plane.watch(reader, 7)
            last.write("x")
            last.flush()
            assert guest.plane.run()[:2] == (plane.WATCH, 7)
            assert 0 < guest.counter("drop_malformed") <= 32
            guest.plane.unwatch(reader)
        guest.plane.tick(1)
        guest.pump()
        assert guest.counter("drop_malformed") == 1000 == guest.counter("tap_rx_frames")
