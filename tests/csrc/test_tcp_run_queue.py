"""A stream with more for the guest than a turn's share: what is acknowledged in the middle of it, and what others say meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from clocked import CountedClock
from datagrams import host_socket, send
from guest import GATEWAY4, GUEST4, PATIENCE_S, Guest, TcpPeer, server

pytestmark = pytest.mark.usefixtures("counted_clock")

WINDOW = 4 << 20
TOTAL = 24 << 20
IP_PROTO, ETH_IP, TCP_SEQ = 23, 34, 38
MUCH = memoryview(bytes(1 << 20))


def connected(guest: Guest, sport: int) -> tuple[TcpPeer, socket.socket]:
    with server() as listener:
        peer = TcpPeer(guest, listener.getsockname()[1], sport=sport, window=WINDOW)
        peer.connect()
        sock, _ = listener.accept()
    sock.setblocking(False)
    return peer, sock


def payloads(guest: Guest) -> Iterator[tuple[int, int, bytes]]:
    """What waits of TCP for the guest: its port, sequence number and payload, taken from the frames without a look at the rest."""
    while True:
        try:
            frame = guest.sock.recv(70000)
        except BlockingIOError:
            return
        if frame[IP_PROTO] != socket.IPPROTO_TCP:
            continue
        head = ETH_IP + (frame[ETH_IP + 12] >> 4) * 4
        yield int.from_bytes(frame[ETH_IP + 2 : ETH_IP + 4]), int.from_bytes(frame[TCP_SEQ : TCP_SEQ + 4]), frame[head:]


def push(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data[: 1 << 20])
    except BlockingIOError:
        return 0


def test_bytes_acknowledged_in_the_middle_of_a_turn_come_once(guest: Guest) -> None:
    """Python sees the core every millisecond, wherever in its line it is, and acknowledges what has come by then."""
    data = random.Random(5).randbytes(TOTAL)
    streams = [connected(guest, 40000), connected(guest, 40001)]
    sent, arrived = [0, 0], [bytearray(), bytearray()]
    acknowledged_early = 0
    while min(map(len, arrived)) < TOTAL:
        for number, (_, sock) in enumerate(streams):
            sent[number] += push(sock, memoryview(data)[sent[number] :])
        guest.plane.run()
        for port, sequence, payload in payloads(guest):
            peer, _ = streams[port - 40000]
            if payload:
                assert sequence == peer.ack
                arrived[port - 40000] += payload
                peer.ack = (peer.ack + len(payload)) % 2**32
        for number, (peer, _) in enumerate(streams):
            acknowledged_early += len(arrived[number]) < sent[number]
            peer.send()
    assert all(each == data for each in arrived)
    assert acknowledged_early > 10
    assert guest.counter("tcp_retransmits") == 0
    for _, sock in streams:
        sock.close()


def test_frames_that_are_read_together_leave_no_small_piece(guest: Guest) -> None:
    """RFC 9293, 3.8.6.2.1: what is left of the window behind whole segments is less than one, so it stays there."""
    peer, sock = connected(guest, 40000)
    frame = 65535 - 20 - 20
    few = (2 * frame // 128 + 2) * 128
    assert few % peer.mss

    written = passed = 0

    def come() -> int:
        guest.pump()
        count = sum(len(payload) for _, _, payload in payloads(guest))
        peer.ack = (peer.ack + count) % 2**32
        peer.send()
        return count

    def waiting() -> int:
        """Bytes in the core's socket."""
        (unacknowledged,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
        return written - int(unacknowledged) - passed

    peer.window = 3 * frame
    while passed < 8 << 20:  # until the socket takes more than a window's worth before it is read
        written += push(sock, MUCH)
        passed += come()
    peer.window = 0
    while count := come():
        passed += count
    end = time.monotonic() + PATIENCE_S
    while waiting() < few:
        assert time.monotonic() < end, f"the socket takes {waiting()} bytes only"
        written += push(sock, MUCH)
    peer.window = few
    peer.send()
    assert come() == few - few % peer.mss, "nothing, too, that is too little for a segment"
    sock.close()


def core_socket(sock: socket.socket) -> socket.socket:
    """The other end of a connection, which is the core's and so of this process."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found = socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM)
            with contextlib.suppress(OSError):
                if found.getsockname() == sock.getpeername():
                    return found
            found.close()
    raise AssertionError("the core has no such socket")


def test_what_is_acknowledged_in_line_is_dropped_though_nothing_follows(guest: Guest) -> None:
    """No event would do it later: the guest has nothing to acknowledge, and the sender may wait for room."""
    streams = [connected(guest, 40000 + number) for number in range(7)]
    small, sender = streams[6]
    frame = 65535 - 20 - 20  # a whole one: whether more follows shows only when its turn comes

    def hear() -> int:
        """What a guest does that acknowledges what comes, and says nothing else."""
        came = [0] * len(streams)
        guest.plane.run()
        for port, _, payload in payloads(guest):
            came[port - 40000] += len(payload)
        for count, (peer, _) in zip(came, streams, strict=True):
            if count:
                peer.ack = (peer.ack + count) % 2**32
                peer.send()
        return came[6]

    with core_socket(sender) as core:
        for _ in range(20):
            for _ in range(10):
                for _, sock in streams[:6]:
                    push(sock, MUCH)
                hear()
            sender.sendall(bytes(frame))
            heard = 0
            while heard < frame:
                heard += hear()
            end = time.monotonic() + PATIENCE_S
            while left := struct.unpack("i", fcntl.ioctl(core, termios.FIONREAD, bytes(4)))[0]:
                assert time.monotonic() < end, f"{left} bytes stay in the socket"
                hear()
    for _, sock in streams:
        sock.close()


def test_a_short_message_waits_for_two_turns_at_most(guest: Guest) -> None:
    """Six streams have much for the guest; what a seventh says comes before each of them has had its share."""
    streams = [connected(guest, 40000 + number) for number in range(7)]
    small, talker = streams[6]
    before: list[int] = []
    for turn in range(600):
        for _, sock in streams[:6]:
            push(sock, MUCH)
        said = turn > 100 and turn % 10 == 0
        if said:
            talker.send(b"?")
        passed, heard = 0, not said
        while not heard:
            guest.plane.run()
            for port, _, payload in payloads(guest):
                peer, _ = streams[port - 40000]
                peer.ack = (peer.ack + len(payload)) % 2**32
                passed += 0 if heard else len(payload)
                heard |= peer is small and bool(payload)
        if said:
            before.append(passed - 1)
        guest.plane.run()
        for port, _, payload in payloads(guest):
            peer, _ = streams[port - 40000]
            peer.ack = (peer.ack + len(payload)) % 2**32
        for peer, _ in streams:
            peer.send()
    assert len(before) == 49
    assert max(before) <= (2 * 8 + 6) * 65535, "two turns' shares, and a frame of each that had waited for an acknowledgement"
    for _, sock in streams:
        sock.close()


class Beside:
    """A long stream to the guest, and somebody who says a word to it now and then."""

    def __init__(self, guest: Guest, clock: CountedClock) -> None:
        self.guest, self.clock = guest, clock
        (self.stream, self.source), (self.small, self.talker) = connected(guest, 40000), connected(guest, 40001)

    def close(self) -> None:
        self.source.close()
        self.talker.close()

    def hear(self, said: bool) -> int:
        """Bytes of the stream before the word, if one was said, or in one call."""
        passed, heard = 0, not said
        while True:
            self.guest.plane.run()
            for port, _, payload in payloads(self.guest):
                peer = self.stream if port == 40000 else self.small
                peer.ack = (peer.ack + len(payload)) % 2**32
                heard |= peer is self.small and bool(payload)
                passed += 0 if heard and said else len(payload)
            for peer in (self.stream, self.small):
                peer.send()
            if heard:
                return passed

    def word(self) -> int:
        push(self.source, MUCH)
        self.talker.send(b"?")
        return self.hear(said=True)

    def silence(self) -> None:
        """Whatever was said is forgotten."""
        self.clock.pass_ms(50)
        for _ in range(2):  # the core takes notice of the time
            push(self.source, MUCH)
            self.hear(said=False)


def test_who_has_just_spoken_waits_for_three_frames_at_most(counted_clock: CountedClock) -> None:
    """A long stream goes on in small turns while somebody else has short messages."""
    passed_again: list[int] = []
    end = time.monotonic() + 4 * PATIENCE_S
    with Guest() as guest:
        beside = Beside(guest, counted_clock)
        while len(passed_again) < 20:
            assert time.monotonic() < end, "the stream is hardly ever in line: this measures nothing"
            beside.silence()
            begun = counted_clock.now_ms()
            first, again = beside.word(), beside.word()
            # Else the stream had little, as where its sender waits for the processor; or the first word may have been forgotten.
            if first > 4 * 65535 and counted_clock.now_ms() - begun < 15:
                passed_again.append(again)
        beside.close()
    assert max(passed_again) <= 3 * 65535, "a turn that had begun, where the stream comes into line and has its step there; and one"


@pytest.mark.parametrize("answered", [True, False])
def test_datagrams_that_are_answered_make_turns_small_and_a_flood_does_not(counted_clock: CountedClock, answered: bool) -> None:
    passed: list[int] = []
    with Guest() as guest, host_socket() as service:
        beside = Beside(guest, counted_clock)
        port = service.getsockname()[1]
        while len(passed) < 10:
            beside.silence()
            for number in range(3):
                begun = counted_clock.now_ms()
                send(guest, GUEST4, 5000 if answered else 5000 + number, GATEWAY4, port)
                guest.plane.run()
                _, peer = service.recvfrom(10)
                if answered:
                    service.sendto(b"!", peer)
                beside.hear(said=False)
            wait = beside.word()
            if not answered or counted_clock.now_ms() - begun < 15:  # else the last answer may have been forgotten
                passed.append(wait)
        beside.close()
    assert max(passed) <= 3 * 65535 if answered else max(passed) > 4 * 65535


def test_what_is_acknowledged_in_line_is_not_sent_again(counted_clock: CountedClock) -> None:
    """RFC 6298, 5.3: it restarts the timer, though its flow's turn comes later, and we were stopped meanwhile."""
    size = 100_000  # two frames: all that the core's socket takes at first
    with Guest() as guest:
        streams = [connected(guest, 40000 + number) for number in range(6)]
        small, talker = connected(guest, 40006)
        ends: list[list[int]] = [[0] for _ in range(7)]

        def hear() -> None:
            """One turn of the core's."""
            counted_clock.pass_ms(1)
            guest.plane.run()
            for port, _, payload in payloads(guest):
                ends[port - 40000].append(ends[port - 40000][-1] + len(payload))

        def until(true: Callable[[], bool]) -> None:
            end = time.monotonic() + PATIENCE_S
            while not true():
                assert time.monotonic() < end
                hear()

        talker.send(b"?")
        until(lambda: ends[6][-1] == 1)
        small.ack += 1
        small.send()
        for _, sock in streams:
            assert push(sock, MUCH[:size]) == size
        until(lambda: all(len(each) > 2 for each in ends[:6]))
        in_line = sum(each[-1] < size for each in ends[:6])
        assert in_line > 2, "this measures nothing"
        for (peer, _), each in zip(streams, ends, strict=False):
            peer.ack = (peer.ack + each[-2]) % 2**32
            peer.send()
        counted_clock.pass_ms(600)
        until(lambda: all(each[-1] >= size for each in ends[:6]))
        assert guest.counter("tcp_retransmits") == 0
        for _, sock in streams:
            sock.close()
        talker.close()
