"""TCP of the core, segment by segment, against real sockets on the host's loopback."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from guest import ACK, FIN, GATEWAY4, GUEST4, PATIENCE_S, PSH, RST, SYN, Guest, Packet, TcpPeer, connected, server
from isolated import ip, isolated, refused_destinations

pytestmark = pytest.mark.usefixtures("counted_clock")

NO_PEEK_OFF = 128


@pytest.fixture(params=[0, NO_PEEK_OFF], ids=["peek_off", "discard"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with Guest(extra_flags=request.param) as made:
        yield made


def receive(guest: Guest, peer: TcpPeer, count: int) -> bytes:
    """Read count bytes in the guest, acknowledging as they come."""
    out = b""
    end = time.monotonic() + PATIENCE_S
    while len(out) < count and time.monotonic() < end:
        segments = [s for s in guest.segments() if s.payload]
        out += peer.take(segments)
        if segments:
            peer.send()
    return out


def test_syn_ack_comes_after_the_connect_and_carries_mss_and_wscale(guest: Guest, v6: bool) -> None:
    with server(v6) as listener:
        peer = TcpPeer(guest, listener.getsockname()[1], v6=v6)
        answer = peer.connect()
    assert answer.options[:4] == struct.pack("!BBH", 2, 4, 1500 - (60 if v6 else 40))
    assert answer.options[4:7] == b"\x01\x03\x03"


def test_mss_is_a_whole_number_of_the_host_s_segments() -> None:
    with Guest(mtu=65520) as guest, server() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        peer = TcpPeer(guest, listener.getsockname()[1])
        mss = int.from_bytes(peer.connect().options[2:4], "big")
        sock, _ = listener.accept()
        with sock:
            host = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert mss == 65480 - 65480 % host


@pytest.mark.parametrize("limit", (1400, 0))
def test_mss_is_a_whole_number_of_an_accepted_client_s_segments(limit: int) -> None:
    """Also where they are larger than what the kernel sends until the client opens its window: half of 64 KiB."""
    with Guest(mtu=65535) as guest, server() as listener, socket.socket() as client:
        guest.listen(6, listener, 8080)
        for sock in (client, listener) if limit else ():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, limit)
        client.connect(listener.getsockname())
        host = (limit or 65535 - 40) - 12  # with time stamps; IPv4 cannot fill the loopback's MTU, 65536
        assert int.from_bytes(guest.wait_segments()[0].options[2:4], "big") == 65495 - 65495 % host


def test_no_window_scale_unless_offered(guest: Guest) -> None:
    with server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1], wscale=None)
        assert len(peer.connect().options) == 4


def test_bytes_both_ways(guest: Guest, v6: bool) -> None:
    peer, sock = connected(guest, v6)
    with sock:
        peer.send(ACK | PSH, b"hello")
        guest.pump()
        assert sock.recv(100) == b"hello"
        sock.sendall(b"world" * 5000)
        assert receive(guest, peer, 25000) == b"world" * 5000


def test_refused_port_is_a_reset(guest: Guest, v6: bool) -> None:
    with server(v6) as listener:
        port = listener.getsockname()[1]
    peer = TcpPeer(guest, port, v6=v6)
    peer.send(SYN)
    answer = guest.wait_segments()[0]
    assert answer.flags == RST | ACK and answer.ack == peer.seq
    assert guest.counter("tcp_flows") == 0


def test_destination_that_the_rules_refuse_is_a_reset_and_opens_nothing(guest: Guest) -> None:
    peer = TcpPeer(guest, 80)
    for peer.dst in ("127.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1"):
        peer.send(SYN, seq=1)
        assert guest.wait_segments()[0].flags & RST
    assert guest.counter("tcp_opened") == 0 and guest.counter("drop_policy") == 4


def test_unreachable_network_is_an_icmp_error_that_quotes_the_syn() -> None:
    # A namespace without routes is not at hand here: an interface that does not exist gives ENODEV on binding instead.
    with Guest(outbound_if4="nosuchif0") as guest:
        peer = TcpPeer(guest, 80)
        peer.dst = "192.0.2.10"
        peer.send(SYN)
        answers = guest.received()
    assert answers, "the guest was left in the dark"


@isolated
def test_a_connect_that_the_host_s_routes_refuse_is_answered_at_once() -> None:
    expected = refused_destinations()
    ip("route add blackhole 203.0.113.3\nroute add blackhole 2001:db8:2::3")  # EINVAL, which no ICMP error stands for
    expected |= {"203.0.113.3": (3, 1), "2001:db8:2::3": (1, 3)}
    with Guest() as guest:
        for destination, what in expected.items():
            peer = TcpPeer(guest, 80, v6=":" in destination)
            peer.dst = destination
            peer.send(SYN)
            (answer,) = guest.received()
            assert isinstance(answer, Packet) and tuple(answer.payload[:2]) == what, destination


def test_half_close_by_the_guest(guest: Guest, v6: bool) -> None:
    peer, sock = connected(guest, v6)
    with sock:
        peer.send(ACK | PSH | FIN, b"last words")
        guest.pump()
        assert sock.recv(100) == b"last words" and sock.recv(100) == b""
        sock.sendall(b"answer after the end")
        assert receive(guest, peer, 20) == b"answer after the end"
    fin = [s for s in guest.wait_segments() if s.flags & FIN]
    assert fin
    peer.take(fin)
    peer.send()
    guest.pump()
    assert guest.counter("tcp_flows") == 0


def test_what_the_guest_sends_after_its_end_is_passed_over_wherever_it_stands(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        peer.send(ACK | FIN)
        assert [s.flags for s in guest.wait_segments()] == [ACK]
        peer.send(ACK | PSH, b"more", seq=peer.seq)
        peer.send(ACK | PSH, b"later", seq=peer.seq + 100)
        assert guest.segments() == [] and guest.counter("tcp_out_of_order") == 0
        assert sock.recv(100) == b""


def test_half_close_by_the_host(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        segments = guest.wait_segments(1)  # the FIN travels with the data before it
        assert peer.take([s for s in segments if s.payload or s.flags & FIN]) == b"bye"
        assert segments[-1].flags & FIN
        peer.send(ACK | PSH, b"still here")
        guest.pump()
        assert sock.recv(100) == b"still here"
        peer.send(ACK | FIN)
        guest.pump()
        assert sock.recv(100) == b""
    assert guest.counter("tcp_flows") == 0


def test_reset_by_the_guest_reaches_the_host(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock, pytest.raises(ConnectionResetError):
        peer.send(RST | ACK)
        guest.pump()
        sock.recv(1)
    assert guest.counter("tcp_flows") == 0


def test_reset_by_the_host_reaches_the_guest_after_its_data(guest: Guest) -> None:
    peer, sock = connected(guest)
    sock.sendall(b"before")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    segments = guest.wait_segments(1)
    end = time.monotonic() + PATIENCE_S
    while not segments[-1].flags & RST and time.monotonic() < end:
        segments += guest.segments()
    assert segments[-1].flags & RST and segments[-1].seq == (peer.ack + 6) % 2**32
    assert segments[0].payload == b"before"


def test_reset_outside_the_window_changes_nothing_and_inexact_is_challenged(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        peer.send(RST | ACK, seq=peer.seq - 10)
        assert guest.segments() == []
        peer.send(RST | ACK, seq=peer.seq + 10)
        challenge = guest.wait_segments()[0]
        assert challenge.flags == ACK and challenge.ack == peer.seq
        peer.send(ACK | PSH, b"x")
        guest.pump()
        assert sock.recv(1) == b"x"
    assert guest.counter("tcp_challenges") == 1


def test_syn_in_an_established_connection_is_challenged(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        peer.send(SYN, seq=peer.seq)
        assert guest.wait_segments()[0].flags == ACK


def test_ack_of_what_was_never_sent_is_challenged(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        peer.send(ACK, ack=peer.ack + 1000)
        assert guest.wait_segments()[0].ack == peer.seq


def test_overlap_is_cut_and_a_hole_is_asked_for(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        start = peer.seq
        peer.send(ACK | PSH, b"abcdef")
        peer.send(ACK | PSH, b"defghi", seq=start + 3)
        peer.send(ACK | PSH, b"mno", seq=start + 12)
        last = guest.wait_segments()[-1]
        assert last.ack == (start + 9) % 2**32
        assert sock.recv(100) == b"abcdefghi"
    assert guest.counter("tcp_out_of_order") == 1


def test_lost_segment_is_sent_again_after_three_duplicate_acks(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"a" * 1000)
        first = guest.wait_segments()[0]
        for _ in range(3):
            peer.send()
        again = [s for s in guest.wait_segments() if s.payload]
        assert again and again[0].seq == first.seq and again[0].payload[:1000] == b"a" * len(again[0].payload)
    assert guest.counter("tcp_retransmits") == 1


def test_lost_segment_is_sent_again_after_a_timeout(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"a" * 1000)
        first = guest.wait_segments()[0]
        again = guest.wait_segments()[0]
        assert (again.seq, again.payload) == (first.seq, first.payload)


def test_guest_window_is_obeyed_and_a_closed_one_is_probed(guest: Guest) -> None:
    peer, sock = connected(guest, wscale=0)
    with sock:
        peer.send(ACK, window=3000)
        guest.pump()
        sock.sendall(b"z" * 10000)
        got = guest.wait_segments()
        got += guest.segments()
        assert sum(len(s.payload) for s in got) == 3000
        peer.take(got)
        peer.send(ACK, window=0)
        probe = guest.wait_segments()[0]
        assert not probe.payload and probe.seq == (peer.ack - 1) % 2**32
        peer.send(ACK, window=60000)
        assert sum(len(s.payload) for s in guest.wait_segments()) > 0


def test_window_promises_only_what_is_held_and_nothing_inside_it_is_lost(guest: Guest) -> None:
    """The host does not read: the guest fills every byte it is promised, then the host reads all of it."""
    peer, sock = connected(guest)
    with sock:
        sent = bytearray()
        last = guest.segments()
        edge, quiet = peer.seq + 60000, 0
        while quiet < 5 and len(sent) < 64 << 20:
            room = min(1400, edge - (peer.seq if peer.seq + 2**31 > edge else peer.seq))
            if room > 0:
                chunk = bytes([len(sent) // 1400 % 256]) * room
                sent += chunk
                peer.send(ACK | PSH, chunk)
            if room <= 0 or len(sent) % 14000 == 0:
                last = guest.segments()
                for s in last:
                    if not s.flags & SYN:
                        assert s.ack + (s.window << peer.peer_wscale) >= edge - 255, "the window's edge moved left"
                        edge = max(edge, s.ack + (s.window << peer.peer_wscale))
                quiet = quiet + 1 if room <= 0 else 0
        guest.pump()
        assert guest.counter("tcp_retransmits") == 0
        got = bytearray()
        sock.settimeout(PATIENCE_S)
        while len(got) < len(sent):
            guest.pump(1)
            got += sock.recv(1 << 20)
        assert got == sent and len(sent) > 100000


def test_closed_window_is_reopened_at_once(guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        edge, quiet = peer.seq + 60000, 0
        while quiet < 5:
            while peer.seq < edge:
                peer.send(ACK | PSH, bytes(min(1400, edge - peer.seq)))
                if (peer.seq // 1400) % 32 == 0:
                    break
            news = [s.ack + (s.window << peer.peer_wscale) for s in guest.segments()]
            quiet = 0 if peer.seq < max([edge, *news]) else quiet + 1
            edge = max([edge, *news])
        assert guest.segments() == [], "something was said without a reason"
        total = 0
        while total < 1 << 20:
            total += len(sock.recv(1 << 20))
        update = guest.wait_segments()
        assert max(s.ack + (s.window << peer.peer_wscale) for s in update) > edge


def test_inbound_connection_keeps_port_and_shows_the_mapped_address(guest: Guest, v6: bool) -> None:
    with server(v6) as listener:
        guest.listen(6, listener, 8080)
        host = "::1" if v6 else "127.0.0.1"
        client = socket.create_connection((host, listener.getsockname()[1]))
        client.settimeout(PATIENCE_S)
        syn = guest.wait_segments()[0]
        assert syn.flags == SYN and syn.dport == 8080 and syn.sport == client.getsockname()[1]
        peer = TcpPeer(guest, syn.sport, v6=v6, sport=8080)
        assert (syn.src, syn.dst) == (peer.dst, peer.src)
        peer.ack = (syn.seq + 1) % 2**32
        peer.send(SYN | ACK, options=peer.options())
        assert guest.wait_segments()[0].flags == ACK
        client.sendall(b"request")
        assert receive(guest, peer, 7) == b"request"
        peer.send(ACK | PSH | FIN, b"response")
        guest.pump()
        assert client.recv(100) == b"response" and client.recv(1) == b""
        client.close()


def test_no_answer_takes_back_the_window_that_the_first_segment_of_an_inbound_connection_promised(guest: Guest) -> None:
    with server() as listener:
        guest.listen(6, listener, 8080)
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
            syn = guest.wait_segments()[0]
            peer = TcpPeer(guest, syn.sport, sport=8080)
            peer.ack = (syn.seq + 1) % 2**32
            for _ in range(2):  # both in one batch: the second is challenged before anything else is done
                peer.send(SYN | ACK, seq=1000, options=peer.options())
            answers = guest.wait_segments()
            assert all(s.flags == ACK and s.window << 8 >= syn.window - 255 for s in answers), answers


def test_inbound_connection_that_the_guest_refuses_is_reset(guest: Guest) -> None:
    with server() as listener:
        guest.listen(6, listener, 8080)
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client:
            client.settimeout(PATIENCE_S)
            syn = guest.wait_segments()[0]
            peer = TcpPeer(guest, syn.sport, sport=8080)
            peer.ack = (syn.seq + 1) % 2**32
            peer.send(RST | ACK)
            guest.pump()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_unknown_segments_get_a_reset(guest: Guest) -> None:
    peer = TcpPeer(guest, 80)
    peer.send(ACK, b"who?", ack=4711)
    answer = guest.wait_segments()[0]
    assert answer.flags == RST and answer.seq == 4711
    peer.send(RST)
    assert guest.segments() == []


@pytest.mark.parametrize("error", ["checksum", "header length", "short"])
def test_malformed_segments_are_dropped_and_counted(guest: Guest, error: str) -> None:
    peer = TcpPeer(guest, 80)
    peer.send(SYN)
    frame = bytearray(guest.tap.recv(2000))
    if error == "checksum":
        frame[50] ^= 1
    elif error == "header length":
        frame[46] = 0xF0
    else:
        del frame[40:]
    guest.send(bytes(frame))
    assert guest.received() == []
    assert guest.counter("drop_malformed") == 1


def test_connection_end_leaves_nothing(guest: Guest) -> None:
    for i in range(50):
        peer, sock = connected(guest, sport=41000 + i)
        sock.close()
        peer.take([s for s in guest.wait_segments() if s.flags & FIN])
        peer.send(ACK | FIN)
        assert guest.wait_segments()[0].ack == peer.seq
    assert guest.counter("tcp_flows") == 0 and guest.counter("tcp_opened") == 50


def test_answers_are_for_the_guest_that_asked(guest: Guest) -> None:
    _, sock = connected(guest)
    with sock:
        sock.sendall(b"x")
        segment = guest.wait_segments()[0]
    assert not isinstance(segment, Packet) and (segment.src, segment.dst) == (GATEWAY4, GUEST4)
