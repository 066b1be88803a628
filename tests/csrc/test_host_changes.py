"""The host changes while flows live: new mappings hold for new flows, old flows go on, and flows of an address that is gone end."""

from __future__ import annotations

import socket

import pytest
from datagrams import frames, host_socket, names, send
from guest import ACK, GATEWAY4, GUEST4, PSH, RST, SYN, Guest, TcpPeer, connected, mapped, plan, server, silent_server
from isolated import isolated
from test_shards import Shards, Streams

V4, V6 = mapped("127.0.0.1"), mapped("::1")


def test_old_flows_go_on_and_new_ones_follow_the_new_mapping(guest: Guest) -> None:
    peer, sock = connected(guest)
    guest.plane.follow(plan(map_host_loopback4=mapped("10.0.2.99"), virtual_addrs=(mapped(GATEWAY4),)))
    peer.send(ACK | PSH, b"before and after")
    guest.pump()
    assert sock.recv(100) == b"before and after"
    sock.sendall(b"answer")
    assert peer.take(guest.wait_segments()[-1:]) == b"answer"
    peer.send()
    with server() as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        old = TcpPeer(guest, port, sport=41000)
        old.send(SYN, options=old.options())
        guest.frames()
        with pytest.raises(BlockingIOError):
            listener.accept()
        new = TcpPeer(guest, port, sport=41001)
        new.dst = "10.0.2.99"
        new.connect()
    sock.close()


@isolated
def test_names_are_asked_of_the_new_nameserver_at_once() -> None:
    forward = dict(dns_forward4=mapped("10.0.2.3"))
    with Guest(**forward, dns_host4=V4) as guest, host_socket(port=53) as old, host_socket(True, port=53) as new:
        send(guest, GUEST4, 5000, "10.0.2.3", 53, b"first")
        assert old.recv(100) == b"first"
        guest.plane.follow(plan(**forward, dns_host4=V6))
        send(guest, GUEST4, 5001, "10.0.2.3", 53, b"second")
        assert new.recv(100) == b"second"


def test_connections_of_a_vanished_address_end_on_both_sides_and_others_go_on(guest: Guest) -> None:
    peer, sock = connected(guest)
    peer6, sock6 = connected(guest, True, sport=40001)
    guest.plane.follow(plan(), (V4,))
    resets = guest.wait_segments()
    assert [(s.dport, s.flags & RST) for s in resets] == [(peer.sport, RST)]
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    peer6.send(ACK | PSH, b"still here")
    guest.pump()
    assert sock6.recv(100) == b"still here" and guest.counter("tcp_flows") == 1
    sock.close()
    sock6.close()


def test_a_connect_under_way_from_a_vanished_address_is_refused() -> None:
    with Guest() as guest, silent_server() as port:
        peer = TcpPeer(guest, port)
        peer.send(SYN, options=peer.options())
        guest.pump()
        assert guest.counter("tcp_flows") == 1
        guest.plane.follow(plan(), (V4,))
        assert [s.flags & RST for s in guest.wait_segments()] == [RST]
        assert guest.counter("tcp_flows") == 0


def test_a_datagram_flow_from_a_vanished_address_ends(guest: Guest, v6: bool) -> None:
    """A client on the host wrote to this address, so its answers came from there."""
    own, gateway, loopback = names(v6)
    with host_socket(v6) as listener, host_socket(v6) as client:
        guest.listen(socket.IPPROTO_UDP, listener, 7000)
        client.sendto(b"question", listener.getsockname())
        asked = frames(guest)[0]
        assert asked.udp and guest.counter("udp_flows") == 1
        guest.plane.follow(plan(), (V4 if v6 else V6,))
        guest.pump()
        assert guest.counter("udp_flows") == 1  # the other family's is of no concern
        guest.plane.follow(plan(), (V6 if v6 else V4,))
        guest.pump()
        assert guest.counter("udp_flows") == 0


def test_the_guests_new_address_takes_what_the_host_sends(guest: Guest) -> None:
    with server() as listener:
        guest.listen(socket.IPPROTO_TCP, listener, 80)
        guest.plane.follow(plan(guest4=mapped("10.0.2.77")))
        with socket.create_connection(listener.getsockname()):
            syn = guest.wait_segments()[0]
            assert syn.flags == SYN and syn.dst == "10.0.2.77"


def test_a_family_can_be_switched_on() -> None:
    with Guest(on6=False) as guest, server(True) as listener:
        peer = TcpPeer(guest, listener.getsockname()[1], v6=True)
        peer.send(SYN, options=peer.options())
        assert guest.segments() == []
        guest.plane.follow(plan())
        peer.seq -= 1
        peer.connect()


def test_all_threads_follow() -> None:
    """Connections of every shard survive a change, then a new mapping holds on each queue, then all end."""
    with Shards(3) as guest:
        guest.pump()
        streams = Streams(guest, 48)
        guest.plane.follow(plan(map_guest_addr4=mapped("10.0.2.50"), host4=V4))
        for sport, sock in streams.socks.items():
            sock.sendall(b"%d" % sport)
        got: set[int] = set()
        for _queue, segment in streams.collect(lambda: len(got) == 48):
            got.update({segment.dport} if segment.payload else ())
        port = streams.listener.getsockname()[1]
        answered: set[int] = set()
        for sport in range(50000, 50024):  # wherever their shards are, the new address leads to the host
            peer = TcpPeer(guest, port, sport=sport)
            peer.dst = "10.0.2.50"
            guest.queue = sport % 3
            peer.send(SYN, options=peer.options())
        for _queue, segment in streams.collect(lambda: len(answered) == 24):
            answered.update({segment.dport} if segment.flags == SYN | ACK else ())
        guest.plane.follow(plan(), (V4,))
        reset: set[int] = set()
        for _queue, segment in streams.collect(lambda: len(reset) == 48 + 24):
            reset.update({segment.dport} if segment.flags & RST else ())
        guest.until(lambda: guest.counter("tcp_flows") == 0, "all flows have ended")
        streams.close()


def test_changes_while_threads_carry_traffic() -> None:
    """Two hundred changes in a row, with flows on all shards: not a byte is lost, no flow ends."""
    with Shards(3) as guest:
        guest.pump()
        streams = Streams(guest, 12)
        for turn in range(200):
            extra = tuple(mapped(f"10.9.{turn}.{i}") for i in range(turn % 7))
            guest.plane.follow(
                plan(virtual_addrs=extra, guest_addrs=extra, barred_sources=extra), (mapped("10.8.0.1"),)
            )
            for sport, peer in streams.peers.items():
                guest.queue = streams.owner[sport]
                peer.send(ACK, b"%04d" % turn)
            guest.pump(1)
        wanted = b"".join(b"%04d" % turn for turn in range(200))
        for sock in streams.socks.values():
            data = b""
            while len(data) < len(wanted):
                guest.pump(1)
                data += sock.recv(len(wanted) - len(data))
            assert data == wanted
        assert guest.counter("tcp_flows") == 12
        streams.close()
