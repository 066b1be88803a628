"""Multicast and broadcast of the guest: what leaves on the wire, and what takes neither a flow nor an answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from checker.frame import Frame, IPv4, decode
from clocked import CountedClock
from datagrams import UDP, frames, quoted, send, udp_packet
from guest import GUEST4, GUEST6, PATIENCE_S, RST, SYN, Guest, Segment, TcpPeer, ip_frame
from isolated import ip, isolated, narrow_link
from test_icmp import ping

ALL_MAC = b"\xff" * 6
SSDP, SITE6 = "239.255.255.250", "ff05::c"
SUBNET = "192.0.2.255"
ALL = "255.255.255.255"


@contextlib.contextmanager
def on_the_wire(**options: object) -> Iterator[tuple[Guest, socket.socket]]:
    """A guest, and what its host sends on its link."""
    if "narrow" not in (name for _, name in socket.if_nameindex()):
        narrow_link()
    link = socket.if_nametoindex("narrow")
    with Guest(ifindex4=link, ifindex6=link, **options) as guest, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("far", 3))  # ETH_P_ALL
        wire.settimeout(PATIENCE_S)
        yield guest, wire


def seen(wire: socket.socket) -> Frame:
    """The next UDP datagram; the kernel's own neighbour discovery and MLD are passed over."""
    while True:
        frame = decode(wire.recv(70000), partial=True)
        if frame.udp:
            return frame


def send_to_all(guest: Guest, dst: str, dport: int, payload: bytes = b"x", *, ttl: int = 64) -> None:
    """A datagram in a frame to the broadcast address of the link."""
    frame = ip_frame(GUEST4, dst, UDP, udp_packet(GUEST4, 5000, dst, dport, payload), ttl=ttl)
    guest.send(ALL_MAC + frame[6:])
    guest.pump()


@isolated
def test_multicast_leaves_with_its_ttl_and_a_port_of_the_host_kernel_s_choice() -> None:
    with on_the_wire(multicast=True) as (guest, wire):
        for own, group in ((GUEST4, SSDP), (GUEST6, SITE6)):
            for ttl in (1, 4, 64, 255):
                send(guest, own, 1900, group, 1900, b"who?", ttl=ttl)
                frame = seen(wire)
                assert frame.udp and frame.ip and (frame.ip.ttl if isinstance(frame.ip, IPv4) else frame.ip.hop_limit) == ttl
                assert (str(frame.ip.dst), frame.udp.dport, frame.payload) == (group, 1900, b"who?")
                assert frame.udp.sport != 1900


@isolated
def test_members_answer_from_anywhere_for_two_minutes_after_the_last_question(counted_clock: CountedClock) -> None:
    ip("addr add 198.51.100.7/32 dev lo")
    with on_the_wire(multicast=True) as (guest, wire), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind(("198.51.100.7", 0))

        def answered(text: bytes) -> list[Frame]:
            member.sendto(text, ("192.0.2.2", port))
            return [decode(raw) for raw in guest.frames()]

        for _ in range(2):
            send(guest, GUEST4, 5000, SSDP, 1900)
            question = seen(wire)
            assert question.udp
            port = question.udp.sport
            counted_clock.pass_(guest, 119)
        (reply,) = answered(b"late")
        assert reply.ip and reply.udp and reply.payload == b"late"
        assert (str(reply.ip.src), reply.udp.sport) == member.getsockname()
        assert (str(reply.ip.dst), reply.udp.dport) == (GUEST4, 5000)
        # The conversation with the member has a life of its own; nothing else comes in when the group's has ended.
        counted_clock.pass_(guest, 2)
        assert len(answered(b"again")) == 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("198.51.100.7", 0))
            stranger.sendto(b"too late", ("192.0.2.2", port))
            assert guest.frames() == [] and guest.counter("udp_unsolicited") == 1
        counted_clock.pass_(guest, 121)
        assert guest.counter("udp_flows") == 0


@isolated
def test_groups_that_may_not_be_reached_open_nothing() -> None:
    """Switched off; DHCP; and what never leaves a machine (RFC 4291, 2.7), which would be the host."""
    for multicast in (False, True):
        with on_the_wire(multicast=multicast) as (guest, _):
            refused = [(GUEST4, "224.0.0.1", port) for port in (67, 68, 546, 547)]
            refused += [(GUEST6, "ff02::1:3", port) for port in (67, 68, 546)]  # 547 is for our own server
            refused += [(GUEST6, "ff01::1", 1900), (GUEST6, "ff10::1", 1900)]
            if not multicast:
                refused += [(GUEST4, SSDP, 1900), (GUEST6, SITE6, 1900)]
            for own, group, port in refused:
                send(guest, own, 5000, group, port)
            assert guest.counter("drop_policy") == len(refused)
            assert guest.counter("udp_opened") == 0 and guest.frames() == []


@isolated
def test_without_an_interface_of_the_host_no_group_is_reached() -> None:
    """The routing table's choice could be any."""
    with Guest(multicast=True, broadcast=True) as guest:
        send(guest, GUEST4, 5000, SSDP, 1900)
        send(guest, GUEST6, 5000, SITE6, 1900)
        send_to_all(guest, ALL, 9999)
        assert guest.counter("drop_policy") == 3 and guest.counter("udp_opened") == 0


@isolated
def test_nothing_but_udp_goes_to_groups_or_to_all_on_the_link() -> None:
    """IGMP, MLD and pings; a SYN in a frame for all, which the kernel passes over, too."""
    with on_the_wire(multicast=True, broadcast=True) as (guest, _):
        guest.send(ip_frame(GUEST4, "224.0.0.22", 2, bytes(8)))
        ping(guest, GUEST4, SSDP)
        ping(guest, GUEST6, "ff02::1")
        guest.send(ip_frame(GUEST6, "ff02::16", 58, bytes.fromhex("8f00") + bytes(6)))
        peer = TcpPeer(guest, 80)
        peer.dst = SSDP
        peer.send(SYN)
        assert guest.frames() == []
        assert guest.counter("tcp_opened") == 0 and guest.counter("icmp_flows") == 0


@isolated
def test_broadcast_leaves_only_where_it_may_and_never_to_dhcp() -> None:
    for broadcast in (False, True):
        with on_the_wire(broadcast=broadcast) as (guest, _):
            for dst in (ALL, "10.0.2.255"):
                for port in (68, 546, 547, *(() if broadcast else (9999,))):
                    send_to_all(guest, dst, port)
            assert guest.counter("udp_opened") == 0 and guest.frames() == []
            assert guest.counter("drop_policy") == (6 if broadcast else 8)


@isolated
def test_broadcast_reaches_the_host_s_link_under_its_own_address_or_that_of_all() -> None:
    """The guest's subnet, 10.0.2.0/24, is not the host's."""
    with on_the_wire(broadcast=True) as (guest, wire):
        for dst, shown in ((ALL, ALL), (SUBNET, SUBNET), ("10.0.2.255", ALL)):
            send_to_all(guest, dst, 9999, ttl=7)
            frame = seen(wire)
            assert isinstance(frame.ip, IPv4) and (str(frame.ip.dst), frame.ip.ttl) == (shown, 7)


@isolated
def test_a_broadcast_address_as_if_it_were_a_machine_s_gets_nothing_and_no_icmp_error() -> None:
    """Through the same socket as a broadcast that may leave. A route that forbids has the same errno, and is told."""
    with on_the_wire(broadcast=True) as (guest, wire):
        ip("route add prohibit 203.0.113.1")
        send_to_all(guest, ALL, 9999, b"for all")
        assert seen(wire).payload == b"for all"
        for port in (67, 9999):
            send(guest, GUEST4, 5000, SUBNET, port)
        ping(guest, GUEST4, SUBNET)
        assert guest.frames() == []
        peer = TcpPeer(guest, 80)
        peer.dst = SUBNET
        peer.send(SYN)
        (answer,) = guest.received()
        assert isinstance(answer, Segment) and answer.flags & RST
        send(guest, GUEST4, 5000, "203.0.113.1", 9999)
        (error,) = frames(guest)
        assert error.icmp and (error.icmp.type, error.icmp.code) == (3, 13) and quoted(error)[2] == "203.0.113.1"
        send(guest, GUEST4, 5000, "192.0.2.10", 7, b"last")
        assert seen(wire).payload == b"last"  # nothing in between


@isolated
def test_no_icmp_error_answers_multicast() -> None:
    """Neither where the host's interface is gone, nor where a datagram is too large for it."""
    with Guest(multicast=True, ifindex4=99, ifindex6=99) as guest:
        for own, group in ((GUEST4, SSDP), (GUEST6, SITE6)):
            send(guest, own, 5000, group, 1900)
        assert guest.frames() == [] and guest.counter("udp_tx_errors") == 2
    with on_the_wire(multicast=True, link_mtu=65535) as (guest, _):  # it believes so
        for own, group in ((GUEST4, SSDP), (GUEST6, SITE6)):
            send(guest, own, 5000, group, 1900, bytes(1450))
        assert guest.frames() == []
