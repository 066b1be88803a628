"""Many streams that send at once: what they are promised together, not more than the queue of the tap holds, and when they hear."""

from __future__ import annotations

import socket
import time

from clocked import CountedClock
from guest import Guest, Segment, TcpPeer, connected, server

COUNT = 150
PIECE = 9000  # more than after which a window is computed again
DEADLINE_S = 200


class Sender:
    """A stream from the guest, whose reader keeps up."""

    def __init__(self, guest: Guest, listener: socket.socket, sport: int) -> None:
        self.peer = TcpPeer(guest, listener.getsockname()[1], sport=sport)
        self.peer.connect()
        self.sock, _ = listener.accept()
        self.sock.setblocking(False)
        self.edge = self.window = 0

    def send(self, size: int = PIECE) -> None:
        self.peer.send(payload=bytes(size))

    def read(self) -> None:
        try:
            while self.sock.recv(1 << 20):
                pass
        except BlockingIOError:
            pass

    def hear(self, segment: Segment) -> None:
        edge = segment.ack + (segment.window << self.peer.peer_wscale)
        assert edge >= self.edge, "the window's edge moved left"
        self.edge, self.window = edge, edge - self.peer.seq


def exchange(guest: Guest, senders: list[Sender]) -> None:
    for number, each in enumerate(senders):
        each.send()
        if number % 20 == 19:
            guest.pump(1)  # the queue of the test's tap is short
    by_port = {each.peer.sport: each for each in senders}
    for segment in guest.segments():
        by_port[segment.dport].hear(segment)
    for each in senders:
        each.read()


def test_many_that_send_share_what_the_queue_of_the_tap_holds(counted_clock: CountedClock) -> None:
    with Guest() as guest, server() as listener:
        senders = [Sender(guest, listener, 40000 + number) for number in range(COUNT)]
        counted_clock.pass_ms(400)  # the connections are no longer counted
        first, end = senders[0], time.monotonic() + DEADLINE_S
        for _ in range(20):
            exchange(guest, senders[:1])
        alone = first.window
        assert alone > 1 << 20, "otherwise this measures nothing"
        while first.window > alone / 2:
            assert time.monotonic() < end, f"{first.window} bytes are promised as before, though {COUNT} send"
            exchange(guest, [first] * 8 + senders)  # its window cannot shrink by more than it sends
        assert min(each.window for each in senders) > 65536
        counted_clock.pass_ms(400)
        while first.window < alone * 3 / 4:
            assert time.monotonic() < end, f"{first.window} bytes are promised, though nobody else sends"
            exchange(guest, senders[:1])
        for each in senders:
            each.sock.close()


def test_acknowledgements_wait_for_one_look_where_several_send(counted_clock: CountedClock) -> None:
    """Another connection's answer goes first, though it came later; that the look finds nothing ends the wait."""
    with Guest(mtu=65520) as guest, server() as listener:
        senders = stream, other = [Sender(guest, listener, 40000 + number) for number in range(2)]

        def order(size: int) -> list[int]:
            stream.send(size)
            other.sock.send(b"answer")
            segments = guest.wait_segments(2)
            for each in senders:
                each.read()
            assert other.peer.take([each for each in segments if each.dport == other.peer.sport]) == b"answer"
            other.peer.send()
            assert guest.segments() == []
            return [each.dport for each in segments]

        for _ in range(20):
            exchange(guest, senders)
        assert stream.window > 1 << 20, "otherwise nothing may wait"
        counted_clock.pass_ms(128)
        exchange(guest, senders)  # from now on it is known how many have sent
        assert order(20000) == [40001, 40000]
        assert order(2000) == [40000, 40001], "no part of a stream"
        counted_clock.pass_ms(400)
        exchange(guest, [stream])
        counted_clock.pass_ms(128)
        exchange(guest, [stream])
        assert order(20000) == [40000, 40001], "nobody else sends"
        for each in senders:
            each.sock.close()


def test_what_a_guest_short_of_memory_drops_comes_again_when_its_window_opens(counted_clock: CountedClock) -> None:
    """It closes the window over data in flight. Time stands still, so no timer sends them again."""
    with Guest() as guest:
        peer, sock = connected(guest)
        with sock:
            sock.sendall(bytes(5000))
            dropped = [s for s in guest.wait_segments(4) if s.payload]
            assert dropped[0].seq == peer.ack
            peer.send(window=0)
            assert guest.segments() == [] and guest.counter("tcp_retransmits") == 0
            peer.send()
            while guest.counter("tcp_retransmits") < len(dropped):
                again = guest.wait_segments()
                peer.take(again[:1])
                peer.send()
            assert again[0].seq == dropped[-1].seq
