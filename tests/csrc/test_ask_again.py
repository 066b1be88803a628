"""A flow to an address whose name was resolved too long ago waits until the name is asked again, and is judged anew."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from datagrams import send
from guest import ACK, GATEWAY4, GATEWAY6, GUEST4, RST, SYN, Guest, Segment, TcpPeer
from guest import server as listening
from test_egress_verdicts import Egress, ffi, lib, packed, policy
from test_gate import icmp

from pasta_py.worker import plane

HOUR_MS = 3_600_000
LOOPBACK = {False: packed("127.0.0.1"), True: packed("::1")}
HELD = 64
ASKED_MS = 5000
PATIENCE_TURNS = 2000


@contextmanager
def ended(*, v6: bool = False) -> Iterator[tuple[Guest, int]]:
    """A guest that may connect to a.test, whose address has been resolved too long ago, and the port of a server there."""
    with listening(v6) as server, Guest(serves_dns=True) as guest:
        port, where = server.getsockname()[1], "[::1]" if v6 else "127.0.0.1"
        guest.plane.set_egress(policy(f"allow a.test={where}:{port}"))
        assert guest.plane.pin(LOOPBACK[v6], b"a.test", 0)
        assert guest.plane.flow_verdict(6, packed(GATEWAY6 if v6 else GATEWAY4), port)[:2] == (False, plane.PIN_ENDED)
        yield guest, port


def answer(guest: Guest, v6: bool = False, *, found: bool = True) -> None:
    if found:
        assert guest.plane.pin(LOOPBACK[v6], b"a.test", HOUR_MS)
    guest.plane.answered(LOOPBACK[v6], b"a.test")


@pytest.mark.parametrize("v6", [False, True])
def test_a_syn_waits_for_one_question_and_connects(v6: bool) -> None:
    with ended(v6=v6) as (guest, port):
        peer = TcpPeer(guest, port, v6=v6)
        peer.send(SYN, seq=peer.seq, options=peer.options())
        assert guest.received() == [] and guest.asked == [(LOOPBACK[v6], b"a.test")]
        peer.send(SYN, seq=peer.seq, options=peer.options())  # again, as kernels do
        assert guest.received() == [] and len(guest.asked) == 1
        answer(guest, v6)
        (connected,) = guest.wait_segments()
        assert connected.flags == SYN | ACK and connected.ack == peer.seq + 1
        assert guest.counter("drop_egress") == 0 and guest.counter("tcp_flows") == 1


def test_where_the_address_is_no_longer_in_the_answer_it_is_denied_and_not_asked_at_once_again() -> None:
    with ended() as (guest, port):
        guest.plane.want_events(True)
        for sport in (40000, 40001):
            TcpPeer(guest, port, sport=sport).send(SYN)
            if sport == 40000:
                assert guest.received() == []
                answer(guest, found=False)
            (reset,) = guest.received()
            assert isinstance(reset, Segment) and reset.flags & RST and reset.dport == sport
        assert len(guest.asked) == 1 and guest.counter("drop_egress") == 2
        assert [flow.outcome for flow in plane.judged_flows(guest.plane.take_events())] == ["name_ended"]


def test_no_more_than_a_few_wait_and_the_others_are_denied() -> None:
    with ended() as (guest, port):
        for sport in range(40000, 40000 + HELD + 3):
            TcpPeer(guest, port, sport=sport).send(SYN)
        assert [s.dport for s in guest.segments() if s.flags & RST] == [40000 + HELD + n for n in range(3)]
        assert len(guest.asked) == 1
        answer(guest)
        answers = guest.wait_segments(16)
        assert all(s.flags == SYN | ACK for s in answers) and guest.counter("tcp_opened") == HELD


def test_a_datagram_waits_as_well() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, Guest(serves_dns=True) as guest:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(30)
        port = udp.getsockname()[1]
        guest.plane.set_egress(policy(f"allow a.test=127.0.0.1:{port}"))
        assert guest.plane.pin(LOOPBACK[False], b"a.test", 0)
        send(guest, GUEST4, 5000, GATEWAY4, port, b"first")
        assert icmp(guest) == [] and guest.asked == [(LOOPBACK[False], b"a.test")]
        answer(guest)
        guest.pump()
        assert udp.recv(100) == b"first"


def test_rules_that_forbid_the_name_meanwhile_count() -> None:
    with ended() as (guest, port):
        TcpPeer(guest, port).send(SYN)
        assert guest.received() == []
        guest.plane.set_egress(policy("allow b.test"))
        answer(guest, found=False)
        (reset,) = guest.received()
        assert isinstance(reset, Segment) and reset.flags & RST


@pytest.mark.parametrize("shards", [2])
def test_with_threads_each_lets_its_own_go_on(shards: int) -> None:
    with listening() as server, Guest(serves_dns=True) as guest:
        port = server.getsockname()[1]
        guest.plane.set_egress(policy(f"allow a.test=127.0.0.1:{port}"))
        assert guest.plane.pin(LOOPBACK[False], b"a.test", 0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            guest.plane.add_shards([theirs.fileno()] * (shards - 1))
            for sport in range(40000, 40016):
                TcpPeer(guest, port, sport=sport).send(SYN)
            for _ in range(PATIENCE_TURNS):
                guest.pump()
                if guest.asked:
                    break
            assert guest.asked == [(LOOPBACK[False], b"a.test")]
            answer(guest)
            for _ in range(PATIENCE_TURNS):
                guest.pump()
                if guest.counter("tcp_opened") == 16:
                    break
            assert guest.counter("tcp_opened") == 16 and guest.counter("drop_egress") == 0


# ---- the policy alone, with a clock of ours ----


def question(e: Egress) -> str:
    address, name = ffi.new("struct addr *"), ffi.new("char[253]")
    return ffi.buffer(name, lib.egress_take_question(e.own, address, name))[:].decode()


def waits(e: Egress, now: int, port: int = 443) -> bool:
    where = e.address("203.0.113.7")
    return bool(lib.egress_ask_again(e.own, 6, where, where, port, now))


def test_a_name_is_asked_once_in_five_seconds_and_only_where_it_would_allow_the_flow() -> None:
    e = Egress(policy("allow a.test:443", "allow b.test:443", "allow c.test:80"))
    for name, until in (("a.test", 1000), ("b.test", 9000), ("c.test", 1000)):  # of the address of waits()
        assert e.pin("203.0.113.7", name, 0, until) == 0
    assert not waits(e, 999) and waits(e, 1000) and waits(e, 1001)
    assert (question(e), question(e)) == ("a.test", "")
    lib.egress_answered(e.own, e.address("203.0.113.7"), b"a.test", 6, 2000)
    assert not waits(e, 2000) and not waits(e, 2000 + ASKED_MS - 1) and question(e) == ""
    assert waits(e, 2000 + ASKED_MS) and question(e) == "a.test"
    assert waits(e, 2000 + ASKED_MS, port=80) and question(e) == "c.test"
    assert waits(e, 9000) and question(e) == "b.test"


def test_a_question_that_is_lost_is_asked_again() -> None:
    e = Egress(policy("allow a.test:443"))
    assert e.pin("203.0.113.7", "a.test", 0, 0) == 0
    assert waits(e, 0) and question(e) == "a.test"
    assert waits(e, 19_999) and question(e) == ""
    assert waits(e, 20_000) and question(e) == "a.test"


def test_questions_have_a_limit() -> None:
    e = Egress(policy("allow *.test:443"))
    for n in range(65):
        assert e.pin("203.0.113.7", f"n{n}.test", 0, 0) == 0
    assert waits(e, 1)
    assert len({question(e) for _ in range(65)} - {""}) == 64
