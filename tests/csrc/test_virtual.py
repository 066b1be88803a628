"""Addresses that only we have: echo is answered here, all else is refused at once, and no host socket is made."""

from __future__ import annotations

import pytest
from datagrams import Frame, frames, quoted, send
from guest import GUEST4, GUEST6, SYN, Guest, TcpPeer, mapped
from test_icmp import ping

VIRTUAL = {GUEST4: "169.254.1.1", GUEST6: "fe80::5"}
FLOWS = ("tcp_opened", "udp_opened", "icmp_flows")
BOTH = pytest.mark.parametrize("own", [GUEST4, GUEST6])


def guest_with_virtual() -> Guest:
    return Guest(virtual_addrs=tuple(map(mapped, VIRTUAL.values())))


def refused(answer: Frame, own: str) -> bool:
    """Network unreachable. RFC 792: type 3, code 0; RFC 4443, 3.1: type 1, code 0."""
    assert answer.icmp and answer.ip and str(answer.ip.dst) == own
    return (answer.icmp.type, answer.icmp.code) == ((1, 0) if ":" in own else (3, 0))


@BOTH
def test_echo_is_answered_with_its_identifier_sequence_and_data(own: str) -> None:
    with guest_with_virtual() as guest:
        for seq, size in ((1, 56), (2, 0), (3, 1), (4, 1400)):
            payload = bytes(number % 251 for number in range(size))
            ping(guest, own, VIRTUAL[own], 77, seq, payload, tos=8)
            (reply,) = frames(guest)
            assert reply.icmp and reply.ip and reply.icmp.type == (129 if ":" in own else 0)
            assert (reply.icmp.ident, reply.icmp.seq, reply.icmp.body) == (77, seq, payload)
            assert (str(reply.ip.src), str(reply.ip.dst)) == (VIRTUAL[own], own)
        assert [guest.counter(name) for name in FLOWS] == [0, 0, 0]


@BOTH
def test_tcp_and_udp_are_refused_at_once(own: str) -> None:
    with guest_with_virtual() as guest:
        peer = TcpPeer(guest, 80, v6=":" in own)
        peer.dst = VIRTUAL[own]
        peer.send(SYN, options=peer.options())
        (answer,) = frames(guest)
        assert refused(answer, own) and quoted(answer) == (own, peer.sport, VIRTUAL[own], 80)
        send(guest, own, 40000, VIRTUAL[own], 7)
        (answer,) = frames(guest)
        assert refused(answer, own) and quoted(answer) == (own, 40000, VIRTUAL[own], 7)
        assert guest.counter("drop_policy") == 2 and [guest.counter(name) for name in FLOWS] == [0, 0, 0]
