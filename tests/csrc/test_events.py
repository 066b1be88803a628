"""What readers learn of flows: events, counters and lists, compared with what guest and host have counted themselves."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import time

import pytest
from datagrams import UDP, host_socket, names, send, udp_packet
from guest import ACK, FIN, GATEWAY4, GUEST4, PSH, RST, SYN, Guest, TcpPeer, connected, ip_frame, server
from isolated import isolated
from test_icmp import ping
from test_shards import Shards
from test_splice import Splice, read_all, reset, until

from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP
from pasta_py.worker import plane

PATIENCE_S = 60


class Reader:
    """Collects the events of a plane, and lists its flows."""

    def __init__(self, core: plane.Plane) -> None:
        self.core = core
        core.want_events(True)

    def events(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        while records := self.core.take_events():
            found += parsed(records)
        return found

    def flows(self, shards: int = 1) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for shard in range(shards):
            start = 0
            assert self.core.list_flows(shard, start)
            while True:
                kind, ident, data = self.core.run()
                if kind != plane.LIST:
                    continue
                found += parsed(data)
                start = ident
                if not start:
                    break
                assert self.core.list_flows(shard, start)
        assert not self.core.list_flows(shards, 0)
        return found


def parsed(records: bytes) -> list[dict[str, object]]:
    text = plane.events_json(records, 0, b"\n")
    return [json.loads(line) for line in text.splitlines()]


def shown(event: dict[str, object], *names: str) -> tuple[object, ...]:
    return tuple(event.get(name) for name in names)


def close_in_order(peer: TcpPeer, sock: socket.socket, guest: Guest, order: str) -> str:
    """End a connection; the reason that its record must have."""
    if order == "guest first":
        peer.send(FIN | ACK)
        guest.pump()
        sock.close()
        peer.take(guest.wait_segments(1)[-1:])
        peer.send(ACK)
    elif order == "host first":
        sock.close()
        peer.take([s for s in guest.wait_segments(1) if s.flags & FIN])
        peer.send(FIN | ACK)
    elif order == "guest resets":
        peer.send(RST | ACK)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        assert guest.wait_segments(1)[-1].flags & RST
    guest.pump()
    return {"guest resets": "guest_reset", "host resets": "peer_reset"}.get(order, "finished")


@pytest.mark.parametrize("order", ["guest first", "host first", "guest resets", "host resets"])
def test_a_connection_is_opened_and_closed_with_what_passed(guest: Guest, v6: bool, order: str) -> None:
    reader = Reader(guest.plane)
    before = time.monotonic()
    peer, sock = connected(guest, v6)
    port = sock.getsockname()[1]
    (opened,) = reader.events()
    own, gateway, loopback = names(v6)
    assert shown(opened, "v", "event", "protocol", "from") == (1, "opened", "tcp", "guest")
    assert shown(opened, "guest", "guest_port", "dest", "dest_port") == (own, 40000, gateway, port)
    assert shown(opened, "peer", "peer_port") == (loopback, port)
    assert "sent_bytes" not in opened and "rule" not in opened
    sent = random.Random(1).randbytes(3000)
    for at in range(0, 3000, 1000):
        peer.send(ACK | PSH, sent[at : at + 1000])
    peer.send(ACK | PSH, sent[2000:], seq=peer.seq - 1000)  # once more: it must not count again
    guest.pump()
    assert sock.recv(len(sent), socket.MSG_WAITALL) == sent
    sock.send(b"answer")
    got = peer.take([s for s in guest.wait_segments(1) if s.payload])
    peer.send(ACK)
    guest.pump()
    assert got == b"answer"
    with sock:
        reason = close_in_order(peer, sock, guest, order)
    (closed,) = reader.events()
    assert shown(closed, "event", "flow", "reason") == ("closed", opened["flow"], reason)
    assert shown(closed, "sent_bytes", "received_bytes") == (3000, 6)
    assert shown(closed, "peer_port", "guest_port", "dest_port") == (port, 40000, port)
    duration = closed["duration_s"]
    assert isinstance(duration, float) and 0 <= duration <= time.monotonic() - before


def test_bytes_behind_a_hole_and_at_the_end_are_counted_once(guest: Guest) -> None:
    reader = Reader(guest.plane)
    peer, sock = connected(guest)
    start = peer.seq
    for at in (1000, 2000, 0, 1000, 3000):
        peer.send(ACK, bytes(1000), seq=start + at)
    peer.send(FIN | ACK, bytes(500), seq=start + 4000)
    guest.pump()
    assert len(read_all(sock)) == 4500
    sock.close()
    guest.pump()
    (flow,) = reader.flows()
    assert shown(flow, "event", "sent_bytes", "received_bytes") == ("flow", 4500, 0)


def test_packets_are_the_frames_on_the_link(guest: Guest) -> None:
    reader = Reader(guest.plane)
    peer, sock = connected(guest)
    sock.sendall(bytes(20_000))
    got = 0
    while got < 20_000:
        got += len(peer.take([s for s in guest.wait_segments(1) if s.payload]))
        peer.send(ACK)
    guest.pump()
    (flow,) = reader.flows()
    counters = guest.plane.counters()
    assert shown(flow, "sent_packets", "received_packets") == (counters["tap_rx_frames"], counters["tap_tx_frames"])
    assert flow["received_bytes"] == 20_000
    sock.close()


def test_a_retransmission_is_a_packet_and_no_bytes(guest: Guest) -> None:
    reader = Reader(guest.plane)
    peer, sock = connected(guest)
    sock.sendall(b"once")
    guest.wait_segments(2)  # it comes again, for want of an acknowledgement
    (flow,) = reader.flows()
    assert shown(flow, "received_bytes", "received_packets", "unacked_bytes") == (4, guest.counter("tap_tx_frames"), 4)
    assert guest.counter("tcp_retransmits") >= 1
    sock.close()


def test_a_refused_connection_says_why(guest: Guest, v6: bool) -> None:
    reader = Reader(guest.plane)
    with server(v6) as listener:
        port = listener.getsockname()[1]
    peer = TcpPeer(guest, port, v6=v6)
    peer.send(SYN, options=peer.options())
    assert guest.wait_segments()[0].flags & RST
    (refused,) = reader.events()
    assert shown(refused, "event", "reason", "error", "dest_port") == ("refused", "refused", "Connection refused", port)
    assert "sent_bytes" not in refused


def test_an_address_that_the_guest_cannot_reach_is_told_once_a_second() -> None:
    with Guest(map_host_loopback4=b"") as guest:
        reader = Reader(guest.plane)
        for _ in range(3):
            send(guest, GUEST4, 5000, "127.0.0.5", 53, b"x")
            send(guest, GUEST4, 5000, "240.0.0.1", 53, b"x")
        told = reader.events()
        assert [shown(e, "event", "protocol", "reason", "dest") for e in told] == [
            ("refused", "udp", "address", dest) for dest in ("127.0.0.5", "240.0.0.1")
        ]


def test_so_is_each_of_fifty_in_turn() -> None:
    """A flood of them gives Python next to nothing to do."""
    with Guest(map_host_loopback4=b"") as guest:
        guest.plane.want_events(True)
        for number in range(200):
            send(guest, GUEST4, 5000, "127.0.0.5", 4000 + number % 50, b"x")
        told: dict[int, list[int]] = {}
        for flow in plane.judged_flows(guest.plane.take_events()):
            told.setdefault(flow.port, []).append(flow.at_ms)
    assert len(told) == 50
    assert all(later - earlier >= 1000 for times in told.values() for earlier, later in itertools.pairwise(times))


def test_a_client_of_the_host_is_from_the_host(guest: Guest) -> None:
    reader = Reader(guest.plane)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        guest.listen(IPPROTO_TCP, listener, 80)
        with socket.create_connection(listener.getsockname()) as client:
            (syn,) = guest.wait_segments()
            peer = TcpPeer(guest, syn.sport, sport=80)
            peer.ack = syn.seq + 1
            assert reader.events() == []
            peer.send(SYN | ACK, options=peer.options())
            guest.pump()
            (opened,) = reader.events()
            own = client.getsockname()
            assert shown(opened, "event", "from", "guest_port", "dest_port") == ("opened", "host", 80, syn.sport)
            assert shown(opened, "peer", "peer_port") == own
        guest.pump()


def test_a_client_that_the_guest_refuses_is_refused(guest: Guest) -> None:
    reader = Reader(guest.plane)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        guest.listen(IPPROTO_TCP, listener, 80)
        with socket.create_connection(listener.getsockname()):
            (syn,) = guest.wait_segments()
            peer = TcpPeer(guest, syn.sport, sport=80)
            peer.ack = syn.seq + 1
            peer.send(RST | ACK)
            guest.pump()
            (refused,) = reader.events()
            assert shown(refused, "event", "from", "reason") == ("refused", "host", "refused")


def test_datagrams_are_counted_both_ways(guest: Guest, v6: bool) -> None:
    reader = Reader(guest.plane)
    own, gateway, loopback = names(v6)
    with host_socket(v6) as sock:
        port = sock.getsockname()[1]
        for size in (0, 1, 1000):
            send(guest, own, 5000, gateway, port, bytes(size))
            data, source = sock.recvfrom(2000)
            assert len(data) == size
        for size in (5, 700):
            sock.sendto(bytes(size), source)
        guest.frames()
        (opened,) = reader.events()
        assert shown(opened, "event", "protocol", "peer", "peer_port") == ("opened", "udp", loopback, port)
        (flow,) = reader.flows()
        assert shown(flow, "sent_packets", "sent_bytes") == (3, 1001)
        assert shown(flow, "received_packets", "received_bytes", "state") == (2, 705, "open")


@isolated
def test_pings_are_counted() -> None:
    with Guest() as guest:
        reader = Reader(guest.plane)
        for seq in range(3):
            ping(guest, GUEST4, GATEWAY4, seq=seq, payload=bytes(56))
            guest.frames()
        (flow,) = reader.flows()
    assert shown(flow, "protocol", "dest", "peer") == ("ping", GATEWAY4, "127.0.0.1")
    assert shown(flow, "sent_packets", "sent_bytes", "received_packets", "received_bytes") == (3, 168, 3, 168)
    assert "guest_port" not in flow


def test_the_hosts_kernel_tells_round_trip_and_retransmissions(guest: Guest) -> None:
    reader = Reader(guest.plane)
    _peer, sock = connected(guest)
    (flow,) = reader.flows()
    rtt = flow["rtt_us"]
    assert isinstance(rtt, int) and 0 < rtt < PATIENCE_S * 1_000_000
    assert flow["retransmits"] == 0 and flow["guest_window"] == 65535 & ~127
    assert shown(flow, "unacked_bytes", "backlog_bytes") == (0, 0)
    sock.close()


def read(sock: socket.socket, size: int) -> None:
    while size:
        size -= len(sock.recv(size))


@isolated
@pytest.mark.parametrize("resets", [False, True])
def test_a_spliced_connection_has_its_ends_and_bytes(resets: bool) -> None:
    with Splice() as made:
        reader = Reader(made.guest.plane)
        client, inside = made.pair()
        client.sendall(bytes(300_000))
        read(inside, 300_000)
        inside.sendall(bytes(1234))
        read(client, 1234)
        own, port = client.getsockname(), inside.getsockname()[1]
        if resets:
            reset(client)
        else:
            client.close()
        with contextlib.suppress(ConnectionResetError):
            assert inside.recv(1) == b""
        inside.close()
        until(lambda: not made.guest.counter("splice_flows"), "the connection has not ended")
        made.stop()
        opened, closed = reader.events()
    assert shown(opened, "event", "protocol", "from") == ("opened", "tcp-splice", "host")
    assert shown(opened, "guest", "guest_port", "peer", "peer_port") == (GUEST4, port, *own)
    assert shown(closed, "event", "received_bytes", "sent_bytes") == ("closed", 300_000, 1234)
    assert shown(closed, "reason") == ("peer_reset" if resets else "finished",)
    assert "sent_packets" not in closed


@isolated
def test_spliced_datagrams_have_their_ends_and_are_counted() -> None:
    with Splice() as made:
        reader = Reader(made.guest.plane)
        server = made.server(False, socket.SOCK_DGRAM)
        where = made.forward(False, socket.SOCK_DGRAM, target_port=server.getsockname()[1])
        made.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            client.connect(where)
            for size in (3, 50):
                client.send(bytes(size))
                data, source = server.recvfrom(100)
                assert len(data) == size
            server.sendto(bytes(7), source)
            assert len(client.recv(100)) == 7
            own = client.getsockname()
        made.stop()
        server_name = server.getsockname()
        (opened,) = reader.events()
        (flow,) = reader.flows()
    assert shown(opened, "event", "protocol", "from", "dest", "dest_port") == ("opened", "udp-splice", "host", *own)
    assert shown(opened, "guest", "guest_port") == server_name
    assert shown(flow, "received_packets", "received_bytes", "sent_packets", "sent_bytes") == (2, 53, 1, 7)


def test_every_flow_is_in_the_list_once_also_of_other_threads() -> None:
    with Shards(3) as guest, server() as listener:
        listener.listen(512)
        reader = Reader(guest.plane)
        peers = [TcpPeer(guest, listener.getsockname()[1], sport=40000 + i) for i in range(300)]
        for peer in peers:
            peer.send(SYN, options=peer.options())
        opened: list[dict[str, object]] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(opened) < len(peers) and time.monotonic() < deadline:
            guest.frames()
            opened += reader.events()
        ports = {e["guest_port"] for e in opened}
        assert ports == set(range(40000, 40300)) and len(opened) == 300
        flows = reader.flows(3)
        assert sorted(f["guest_port"] for f in flows) == list(range(40000, 40300))  # type: ignore[type-var]
        assert {f["flow"] for f in flows} == {e["flow"] for e in opened}
        assert len({str(f["flow"]).partition(".")[0] for f in flows}) == 3


def test_one_piece_at_a_time(guest: Guest) -> None:
    assert guest.plane.list_flows(0, 0)
    with pytest.raises(BlockingIOError):
        guest.plane.list_flows(0, 0)


def test_traffic_has_its_turn_between_two_pieces_of_a_list(guest: Guest) -> None:
    """However fast Python asks for the next piece, a datagram that waits is passed on before it comes."""
    with host_socket(False) as sock:
        sock.setblocking(False)
        port = sock.getsockname()[1]
        for own in range(5000, 5600):
            send_quietly(guest, own, port)
            guest.pump()
            assert sock.recv(100) == b""
        pieces = place = 0
        while place or not pieces:
            sent = b"%d" % pieces
            guest.send(ip_frame(GUEST4, GATEWAY4, UDP, udp_packet(GUEST4, 5000, GATEWAY4, port, sent)))
            assert guest.plane.list_flows(0, place)
            kind, place, _records = guest.plane.run()
            while kind != plane.LIST:
                kind, place, _records = guest.plane.run()
            assert sock.recv(100) == sent
            pieces += 1
        assert pieces > 2


def test_python_is_told_of_events_and_of_none_that_are_not_wanted(guest: Guest) -> None:
    reader = Reader(guest.plane)
    connected(guest)[1].close()
    guest.plane.tick(0)
    while guest.plane.run()[0] != plane.EVENTS:
        pass
    assert [e["event"] for e in reader.events()] == ["opened"]
    guest.plane.tick(1)
    guest.plane.want_events(False)
    guest.frames()
    connected(guest, sport=40001)[1].close()
    assert reader.events() == []


def test_events_without_room_are_counted() -> None:
    with Guest() as guest, host_socket(False) as sock:
        reader = Reader(guest.plane)
        send(guest, GUEST4, 5000, GATEWAY4, sock.getsockname()[1], b"")
        port = sock.getsockname()[1]
        for at in range(9000):
            send_quietly(guest, 1024 + at, port)
        assert len(reader.events()) == 8192
        assert guest.plane.lost_events() > 0


def test_events_keep_their_order_wherever_the_ring_begins() -> None:
    with Guest() as guest, host_socket(False) as sock:
        reader, port = Reader(guest.plane), sock.getsockname()[1]
        sent, found = 0, list[object]()
        for count in (1, 200, 300, 63, 5, 700):
            for at in range(sent, sent + count):
                send(guest, GUEST4, 1024 + at, GATEWAY4, port, b"")
            sent += count
            found += [event["guest_port"] for event in parsed(guest.plane.take_events())]  # not all of them, at times
        found += [event["guest_port"] for event in reader.events()]
        assert found == list(range(1024, 1024 + sent))


def send_quietly(guest: Guest, own: int, port: int) -> None:
    guest.send(ip_frame(GUEST4, GATEWAY4, UDP, udp_packet(GUEST4, own, GATEWAY4, port, b"")))
    if own % 64 == 0:
        guest.pump()


def test_the_longest_object_has_room() -> None:
    size = plane.ffi.sizeof("struct flow_event")
    record = plane.ffi.new("struct flow_event *")
    plane.ffi.buffer(record)[:] = b"\xff" * size
    record.kind, record.error, record.at_ms, record.opened_ms = 0, 0, 2**40, 0
    (flow,) = parsed(bytes(plane.ffi.buffer(record)))
    assert flow["sent_bytes"] == 2**64 - 1
    for error in range(134):
        record.error, record.kind = error, 3
        text = plane.events_json(bytes(plane.ffi.buffer(record)), 0, b"\n")
        assert len(json.loads(text)) > 10 and len(text) < 1024


def test_udp_of_a_port_that_is_removed_says_so(guest: Guest) -> None:
    reader = Reader(guest.plane)
    with host_socket(False) as front, host_socket(False) as client:
        guest.listen(IPPROTO_UDP, front, 53)
        client.sendto(b"question", front.getsockname())
        while not guest.frames():
            pass
        guest.plane.remove_listener(front.fileno())
    opened, closed = reader.events()
    assert shown(opened, "event", "from", "guest_port") == ("opened", "host", 53)
    assert shown(closed, "event", "reason", "received_bytes", "sent_bytes") == ("closed", "port_removed", 8, 0)
