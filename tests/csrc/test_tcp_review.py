"""TCP where kernel, guest or peer is least helpful: slow readers, urgent bytes, resets at the wrong moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clocked import CountedClock
from guest import ACK, FIN, PATIENCE_S, PSH, RST, SYN, Guest, Segment, TcpPeer, connected, server
from isolated import isolated

NO_PEEK_OFF = 128
SPILL_BYTES = 128 << 10
TCP_NOTSENT_LOWAT = 25
RCVBUF = 4096  # of the host, which then holds only a few thousand bytes


@pytest.fixture(params=[0, NO_PEEK_OFF], ids=["peek_off", "discard"])
def guest(request: pytest.FixtureRequest, counted_clock: CountedClock) -> Iterator[Guest]:
    with Guest(extra_flags=request.param) as made:
        yield made


def core_socket(far: socket.socket) -> socket.socket:
    """The core's own end of a connection of which the host holds `far`: a duplicate, to set options on."""
    for path in Path("/proc/self/fd").iterdir():
        if not (path.is_symlink() and str(path.readlink()).startswith("socket:")):
            continue
        sock = socket.socket(fileno=os.dup(int(path.name)))
        try:
            if sock.getsockname() == far.getpeername() and sock.getpeername() == far.getsockname():
                return sock
        except OSError:
            pass
        sock.close()
    raise AssertionError("the core has no such connection")


def slow_connection(guest: Guest) -> tuple[TcpPeer, socket.socket, int]:
    """Such a connection with a core whose send buffer is as small, its earlier promises used up; and the window's edge."""
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with core_socket(sock) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    start = peer.seq
    edge = fill_window(guest, peer, start + 60000)
    read, end = 0, time.monotonic() + PATIENCE_S
    while read < peer.seq - start and time.monotonic() < end:
        guest.pump()
        with contextlib.suppress(BlockingIOError):
            read += len(sock.recv(1 << 20, socket.MSG_DONTWAIT))
    assert read == peer.seq - start
    return peer, sock, edge_of(peer, guest.wait_segments(), edge)


def edge_of(peer: TcpPeer, segments: list[Segment], edge: int) -> int:
    return max([edge, *(s.ack + (s.window << peer.peer_wscale) for s in segments if not s.flags & SYN)])


def fill_window(guest: Guest, peer: TcpPeer, edge: int, limit: int = 16 << 20) -> int:
    """Send whatever the window allows until it stays closed; returns its edge."""
    start, quiet = peer.seq, 0
    while quiet < 3 and peer.seq - start < limit:
        for _ in range(32):
            peer.send(ACK | PSH, bytes(min(1400, edge - peer.seq)))
            if peer.seq >= edge:
                break
        edge = edge_of(peer, guest.segments(), edge)
        quiet = quiet + 1 if peer.seq >= edge else 0
    return edge


def test_window_closes_though_its_unit_is_coarse(guest: Guest) -> None:
    """A guest that never sends up to the edge is not promised another unit of the window's scale each time."""
    peer, sock, edge = slow_connection(guest)
    with sock:
        sent = 0
        while sent < 3 * SPILL_BYTES and edge > peer.seq:
            size = min(1400, max(1, edge - peer.seq - 1))
            sent += size
            peer.send(ACK | PSH, bytes(size))
            if edge - peer.seq < 1400:
                last = guest.segments()[-1]
                edge = last.ack + (last.window << peer.peer_wscale)
        assert sent < 2 * SPILL_BYTES, "the window never closed"


def test_spill_is_bounded_when_the_socket_refuses_what_it_has_room_for(guest: Guest) -> None:
    """net.ipv4.tcp_notsent_lowat and short memory make send() refuse while the send buffer has room."""
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with sock, core_socket(sock) as own:
        own.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1)
        fill_window(guest, peer, peer.seq + 60000)
        assert guest.counter("tcp_backlog_bytes") < 5 << 20


def test_window_that_reopens_in_small_steps_is_announced(guest: Guest) -> None:
    """A closed window opens by what a slow reader takes, though each step alone is too small to be worth an ACK."""
    peer, sock, edge = slow_connection(guest)
    with sock:
        start, edge = peer.seq, fill_window(guest, peer, edge)
        news: list[Segment] = guest.segments()
        assert news == []
        read = 0
        while read < peer.seq - start and not news:
            with contextlib.suppress(BlockingIOError):
                read += len(sock.recv(2000, socket.MSG_DONTWAIT))
            news = guest.segments()
        assert edge_of(peer, news, edge) > edge and read < 80000, f"{read} bytes read before the window opened"


def test_urgent_bytes_of_the_host_stay_in_the_stream(guest: Guest) -> None:
    """RFC 6093, 4: urgent data belongs to the stream; nothing is doubled, left out or held back around it."""
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with sock:
        sock.sendall(b"before")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"after")
        got, end = b"", time.monotonic() + PATIENCE_S
        while len(got) < 12 and time.monotonic() < end:
            segments = [s for s in guest.segments() if s.payload]
            got += peer.take(segments)
            if segments:
                peer.send()
        assert got == b"before!after"
        sock.shutdown(socket.SHUT_WR)
        assert guest.wait_segments()[0].flags & FIN


def test_urgent_byte_right_before_the_end(guest: Guest) -> None:
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with sock:
        sock.sendall(b"before")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"after")
        sock.shutdown(socket.SHUT_WR)
        got, fin, end = b"", False, time.monotonic() + PATIENCE_S
        while not fin and time.monotonic() < end:
            segments = [s for s in guest.segments() if s.payload or s.flags & FIN]
            got += peer.take(segments)
            fin = any(s.flags & FIN for s in segments)
            if segments:
                peer.send()
        assert (got, fin) == (b"before!after", True)


def test_words_of_a_server_that_resets_at_once_reach_the_guest(guest: Guest) -> None:
    """The server speaks and resets before the guest's ACK of the SYN-ACK has come."""
    with server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1])
        peer.send(SYN, options=peer.options())
        answer = guest.wait_segments()[0]
        sock, _ = listener.accept()
        sock.sendall(b"go away")
        guest.pump()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        assert guest.segments() == []
    peer.ack = (answer.seq + 1) % 2**32
    peer.send(ACK)
    got = guest.wait_segments(2)
    assert got[0].payload == b"go away" and got[-1].flags & RST


def test_syn_ack_is_repeated_however_talkative_the_server(counted_clock: CountedClock) -> None:
    """Events of the socket do not push the timer back on which the SYN-ACK depends."""
    with Guest() as guest, server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1])
        peer.send(SYN, options=peer.options())
        guest.wait_segments()
        sock, _ = listener.accept()
        with sock:
            again: list[Segment] = []
            for _ in range(32):
                sock.sendall(b"x")
                counted_clock.pass_(guest, 0.05)
                again += guest.segments()
            assert again and again[0].flags == SYN | ACK


def test_all_spills_together_are_bounded_and_nothing_is_lost_beyond() -> None:
    """Peers of the host that read nothing cost 64 MiB at most; what was not taken by then is not acknowledged either."""
    stream = os.urandom(4 << 20)
    with Guest(mtu=65520) as guest, contextlib.ExitStack() as stack:
        peers: list[tuple[TcpPeer, socket.socket, int]] = []
        owned: list[socket.socket] = []
        acked: dict[int, int] = {}
        edges: dict[int, int] = {}

        def listen_to_core() -> None:
            for s in guest.segments():
                acked[s.dport] = max(acked[s.dport], s.ack)
                edges[s.dport] = max(edges[s.dport], s.ack + (s.window << 8))

        def say(peer: TcpPeer, start: int) -> int:
            """One segment of what the core has not acknowledged; how much that was."""
            done = acked[peer.sport] - start
            part = stream[done : done + min(60000, edges[peer.sport] - acked[peer.sport])]
            if part:
                peer.send(ACK | PSH, part, seq=start + done)
            listen_to_core()
            return len(part) and acked[peer.sport] - start - done

        with server() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for i in range(24):
                peer = TcpPeer(guest, listener.getsockname()[1], sport=40000 + i, mss=65480)
                peer.connect()
                sock, _ = listener.accept()
                stack.enter_context(sock)
                owned.append(stack.enter_context(core_socket(sock)))
                owned[-1].setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1)
                peers.append((peer, sock, peer.seq))
                acked[peer.sport], edges[peer.sport] = peer.seq, peer.seq + 60000
        for peer, _, start in peers:
            while say(peer, start):
                pass
        assert (32 << 20) < guest.counter("tcp_backlog_bytes") <= (64 << 20)
        assert guest.counter("tcp_backlog_limit") > 0 and any("slow peers" in line for line in guest.logs)
        for (peer, sock, start), own in list(zip(peers, owned, strict=True))[::-8]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            own.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1 << 30)
            got = bytearray()
            end = time.monotonic() + PATIENCE_S
            while len(got) < len(stream) and time.monotonic() < end:
                say(peer, start)
                with contextlib.suppress(BlockingIOError):
                    got += sock.recv(1 << 20, socket.MSG_DONTWAIT)
            assert got == stream


def test_guest_that_restarts_gets_its_old_ports_again(guest: Guest) -> None:
    """RFC 5961, 4.2: the SYN of a guest that has forgotten the connection is challenged, and its reset clears the way."""
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with sock, server() as listener:
        sock.sendall(b"x" * 3000)
        guest.pump()
        guest.frames()
        again = TcpPeer(guest, sock.getsockname()[1], iss=7777777)
        again.send(SYN, options=again.options())
        challenge = guest.wait_segments()[-1]
        assert challenge.flags == ACK and challenge.ack == peer.seq
        again.send(RST, seq=challenge.ack)
        guest.pump()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        again = TcpPeer(guest, listener.getsockname()[1], iss=7777777)
        again.connect()
    assert guest.counter("tcp_opened") == 2


def test_clients_wait_while_no_descriptor_is_left_and_are_served_then(guest: Guest) -> None:
    """accept() without a descriptor does not spin, and the listener is not forgotten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with server() as listener, socket.socket() as client:
        guest.listen(6, listener, 8080)
        lowest = os.dup(0)
        os.close(lowest)
        client.connect(listener.getsockname())
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            guest.pump(50)
            refusals = guest.counter("tcp_limit")
            guest.pump(100)
            assert refusals == guest.counter("tcp_limit") == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert any("ulimit -n" in line for line in guest.logs)
        assert guest.wait_segments()[0].flags == SYN


def test_window_of_an_old_acknowledgement_does_not_count(guest: Guest) -> None:
    """RFC 9293, 3.10.7.4: only with SND.UNA =< SEG.ACK, however new the sequence number is."""
    peer, sock = connected(guest, rcvbuf=RCVBUF)
    with sock:
        sock.sendall(b"first")
        peer.take(guest.wait_segments())
        old = peer.ack - len(b"first")
        peer.send(ACK)
        for _ in range(2):
            peer.send(ACK | PSH, b"x", ack=old, window=0)
        guest.pump()
        sock.sendall(b"second")
        assert peer.take([s for s in guest.wait_segments(2) if s.payload]) == b"second", "the window is as it was"
        peer.send(ACK, window=0)
        guest.pump()
        sock.sendall(b"third")
        assert not [s for s in guest.segments() if s.payload], "the window of the last acknowledgement does"


@isolated
def test_an_answer_that_came_while_we_were_stopped_counts_before_its_timeout() -> None:
    """A process that goes on after SIGSTOP has its wait interrupted (signal(7)): late, and without a look at what has come."""
    question, core = b"question", os.getpid()
    with Guest() as guest:
        (go, ready), (over, done) = os.pipe(), os.pipe()
        guest.plane.watch(over, 1)
        sent, sports = 0, itertools.count(40000)
        while sent != 1:  # else the timeout came before the stop, which a slow machine may delay: this measures nothing
            peer, sock = connected(guest, sport=next(sports))
            before = guest.counter("tcp_retransmits")
            guest.plane.tick(0)
            child = os.fork()
            if not child:
                sent = 0
                os.read(go, 1)
                os.kill(core, signal.SIGSTOP)
                while "State:\tT" not in Path(f"/proc/{core}/status").read_text():
                    time.sleep(0.01)
                with contextlib.suppress(BlockingIOError):
                    while guest.sock.recv(2000):
                        sent += 1
                peer.ack += len(question)
                peer.send()
                time.sleep(1)
                os.kill(core, signal.SIGCONT)
                time.sleep(0.2)
                os.write(done, bytes([sent]))
                os._exit(0)
            running = threading.Thread(target=guest.plane.run)
            running.start()
            sock.sendall(question)
            select.select([guest.sock], [], [])
            os.write(ready, b"x")
            running.join()
            (sent,) = os.read(over, 1)
            os.waitpid(child, 0)
            again = guest.counter("tcp_retransmits") - before
            guest.plane.tick(1)
            peer.send(RST)
            guest.frames()
            sock.close()
        assert again == 0
