"""The egress policy in the data plane: who is asked, how a no is told, and what is never judged."""

from __future__ import annotations

import socket
import struct

import pytest
from datagrams import UDP, send, udp_packet
from guest import GATEWAY4, GATEWAY6, GUEST4, GUEST6, RST, SYN, Guest, Packet, Segment, TcpPeer, ip_frame, silent_server
from test_egress_verdicts import policy

from pasta_py.worker import plane

PROHIBITED = {False: (3, 13), True: (1, 1)}  # type and code of ICMP and ICMPv6


def closed(*lines: str, **options: object) -> Guest:
    guest = Guest(**options)  # type: ignore[arg-type]
    guest.plane.set_egress(policy(*lines))
    return guest


def icmp(guest: Guest) -> list[tuple[int, int]]:
    return [(p.payload[0], p.payload[1]) for p in guest.received() if isinstance(p, Packet) and p.proto in (1, 58)]


def listener(v6: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    sock.bind(("::1" if v6 else "127.0.0.1", 0))
    sock.listen()
    return sock


@pytest.mark.parametrize("v6", [False, True])
def test_a_denied_syn_gets_a_reset(v6: bool) -> None:
    with listener(v6) as server, closed() as guest:
        TcpPeer(guest, server.getsockname()[1], v6=v6).send(SYN)
        (answer,) = guest.received()
        assert isinstance(answer, Segment) and answer.flags & RST
        assert guest.counter("tcp_opened") == 0 and guest.counter("drop_egress") == 1


def test_an_allowed_syn_connects() -> None:
    with listener() as server, closed(f"allow {GATEWAY4}") as guest:
        TcpPeer(guest, server.getsockname()[1]).connect()
        assert guest.counter("tcp_opened") == 1 and guest.counter("drop_egress") == 0


def test_denied_datagrams_and_pings_get_icmp_errors_up_to_a_limit() -> None:
    with closed() as guest:
        send(guest, GUEST4, 5000, GATEWAY4, 7)
        assert icmp(guest) == [PROHIBITED[False]]
        send(guest, GUEST6, 5000, GATEWAY6, 7)
        assert icmp(guest) == [PROHIBITED[True]]
        echo = struct.pack("!BBHHH", 8, 0, 0xF7FF - 1, 1, 0)
        guest.send(ip_frame(GUEST4, GATEWAY4, 1, echo))
        assert icmp(guest) == [PROHIBITED[False]]
        for port in range(1000, 1599):
            guest.send(ip_frame(GUEST4, GATEWAY4, UDP, udp_packet(GUEST4, 5000, GATEWAY4, port, b"x")))
        assert 0 < len(icmp(guest)) < 599
        assert guest.counter("drop_egress") == 602 and guest.counter("udp_opened") == 0


def test_a_denied_group_gets_no_answer() -> None:
    with closed(multicast=True, broadcast=True) as guest:
        for group in ("224.0.0.251", "255.255.255.255"):
            frame = ip_frame(GUEST4, group, UDP, udp_packet(GUEST4, 5000, group, 5353, b"?"))
            guest.send(b"\xff" * 6 + frame[6:])
        assert guest.received() == [] and guest.counter("udp_opened") == 0


def test_flows_that_come_in_are_not_judged() -> None:
    with closed() as guest, listener() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        guest.listen(socket.IPPROTO_TCP, server, 80)
        guest.listen(socket.IPPROTO_UDP, udp, 81)
        with socket.create_connection(server.getsockname()), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            syn = guest.wait_segments()[0]
            assert syn.dport == 80 and syn.flags == SYN
            client.sendto(b"question", udp.getsockname())
            guest.pump()
            (question,) = [p for p in guest.received() if isinstance(p, Packet)]
            sport, dport = struct.unpack_from("!HH", question.payload)
            send(guest, GUEST4, dport, question.src, sport, b"answer")
            assert client.recv(100) == b"answer"
            send(guest, GUEST4, 9000, question.src, sport, b"another port of the guest")
            assert icmp(guest) == [PROHIBITED[False]]


def test_a_replaced_policy_counts_for_the_next_flow() -> None:
    with listener() as server, closed() as guest:
        port = server.getsockname()[1]
        guest.plane.set_egress(policy(f"allow {GATEWAY4}:{port}"))
        TcpPeer(guest, port).connect()
        with pytest.raises(OSError, match="Invalid argument"):
            guest.plane.set_egress(b"other bytes")
        assert guest.plane.flow_verdict(6, b"\0" * 10 + b"\xff\xff" + socket.inet_aton(GATEWAY4), port) == (True, 0, 0)


def judged(guest: Guest) -> tuple[int, int]:
    """After a change of rules: flows kept and ended, once all threads have looked at theirs."""
    for _ in range(200):
        guest.pump()
        waiting, kept, ended = guest.plane.egress_outcome()
        if not waiting:
            return kept, ended
    raise AssertionError("a thread has not judged its flows")


def test_a_change_ends_what_it_denies_and_nothing_else() -> None:
    with listener() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, closed(f"allow {GATEWAY4}") as guest:
        udp.bind(("127.0.0.1", 0))
        port, other = server.getsockname()[1], udp.getsockname()[1]
        TcpPeer(guest, port).connect()
        send(guest, GUEST4, 5000, GATEWAY4, other, b"x")
        assert flows(guest) == (1, 1)
        narrower = (f"allow {GATEWAY4}:{port}/tcp", f"allow {GATEWAY4}:{other}/udp")
        assert guest.plane.set_egress(policy(*narrower))
        assert judged(guest) == (2, 0) and guest.received() == []
        assert not guest.plane.set_egress(policy(*narrower))  # the same: nothing is looked at
        assert guest.plane.set_egress(policy(*narrower[1:]))
        assert judged(guest) == (1, 1) and flows(guest) == (0, 1)
        (reset,) = guest.received()
        assert isinstance(reset, Segment) and reset.flags & RST
        assert guest.plane.set_egress(policy(narrower[0]))
        assert judged(guest) == (0, 1) and flows(guest) == (0, 0)


def flows(guest: Guest) -> tuple[int, int]:
    return guest.counter("tcp_flows"), guest.counter("udp_flows")


def test_a_change_ends_no_flow_that_came_in() -> None:
    with closed() as guest, listener() as server:
        guest.listen(socket.IPPROTO_TCP, server, 80)
        with socket.create_connection(server.getsockname()):
            assert guest.wait_segments()[0].dport == 80
            assert guest.plane.set_egress(policy("deny *"))
            assert judged(guest) == (0, 0) and guest.counter("tcp_flows") == 1


def test_a_connect_that_is_under_way_is_reset_too() -> None:
    with silent_server() as port, closed(f"allow {GATEWAY4}") as guest:
        TcpPeer(guest, port).send(SYN)
        guest.pump()
        assert guest.received() == [] and guest.counter("tcp_flows") == 1
        assert guest.plane.set_egress(policy())
        assert judged(guest) == (0, 1) and guest.counter("tcp_flows") == 0
        (reset,) = guest.received()
        assert isinstance(reset, Segment) and reset.flags & RST


def test_a_flow_to_a_name_whose_pin_has_ended_stays_while_the_name_is_allowed() -> None:
    loopback = b"\0" * 10 + b"\xff\xff\x7f\0\0\1"
    with listener() as server, closed(f"allow {GATEWAY4}", "allow here.test=127.0.0.1") as guest:
        port = server.getsockname()[1]
        TcpPeer(guest, port).connect()
        assert guest.plane.pin(loopback, b"here.test", 1)
        named = (f"allow here.test=127.0.0.1:{port}", "allow other.test")
        guest.plane.set_egress(policy(*named))
        while guest.plane.flow_verdict(6, loopback, port)[1] != plane.PIN_ENDED:
            pass
        assert guest.plane.set_egress(policy(named[0]))
        assert judged(guest) == (1, 0)
        assert guest.plane.set_egress(policy("allow other.test"))
        assert judged(guest) == (0, 1)
