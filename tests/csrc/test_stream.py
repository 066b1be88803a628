"""The link of virtual machines: a socket with a 32-bit length before each frame, whose peer comes, reads or not, and leaves."""

from __future__ import annotations

import errno
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from guest import ACK, GUEST_MAC, OUR_MAC, PATIENCE_S, PSH, SYN, Guest, Segment, TcpPeer, ip_frame, parse, plan, server
from packets import checksum, pseudo

from pasta_py.worker import plane

FRAME_MAX = 65535
ARP = b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + bytes(28)
STREAM, PACKETS, DATAGRAMS = socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


def split(data: bytearray) -> Iterator[bytes]:
    """Take the whole frames off the front of data."""
    while len(data) >= 4:
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) < end:
            return
        yield bytes(data[4:end])
        del data[:end]


class Machine(Guest):
    """A guest behind a socket with lengths; `connected=False`: nothing is there at first."""

    def __init__(self, kind: int = STREAM, *, connected: bool = True, **changes: object) -> None:
        self.kind, self.ends, self.read = kind, list[int](), bytearray()
        self.plane = plane.Plane(plan(stream=True, **changes), -1)
        self.plane.tick(1)
        self.logs, self.punts = [], []
        if connected:
            self.come()

    def come(self) -> None:
        self.sock, self.tap = socket.socketpair(socket.AF_UNIX, self.kind)
        self.sock.setblocking(False)
        self.plane.attach(self.tap.fileno())

    def leave(self) -> None:
        """What the worker does when its client has gone."""
        self.sock.close()
        self.read.clear()
        self.run_until_end()
        self.plane.detach()
        self.tap.close()

    def run_until_end(self) -> None:
        before, deadline = len(self.ends), time.monotonic() + PATIENCE_S
        while len(self.ends) == before and time.monotonic() < deadline:
            kind, ident, data = self.plane.run()
            if kind == plane.END:
                self.ends.append(ident)
            elif kind == plane.PUNT:
                self.punts.append(data)
        assert len(self.ends) > before, "the core did not see the end of its peer"

    def send(self, frame: bytes) -> None:
        self.sock.send(framed(frame))

    def send_all(self, data: bytes) -> None:
        while data:
            with suppress(BlockingIOError):
                data = data[self.sock.send(data) :]
            self.pump(1)

    def frames(self) -> list[bytes]:
        self.pump()
        with suppress(BlockingIOError):
            while data := self.sock.recv(1 << 20):
                self.read += data
        return list(split(self.read))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def stream_from_host(
    machine: Machine, data: bytes, window: int = 65535, *, v6: bool = False, mss: int = 1460
) -> tuple[TcpPeer, socket.socket]:
    """A connection of the guest whose host peer has sent data."""
    with server(v6) as listener:
        peer = TcpPeer(machine, listener.getsockname()[1], window=window, v6=v6, mss=mss)
        peer.connect()
        host, _ = listener.accept()
    host.setblocking(False)
    machine.pump()
    host.send(data)
    return peer, host


@pytest.mark.parametrize("kind", [STREAM, PACKETS, DATAGRAMS])
def test_a_connection_over_each_kind_of_socket(kind: int) -> None:
    with Machine(kind) as machine:
        peer, host = stream_from_host(machine, b"down")
        assert peer.take(machine.wait_segments()) == b"down"
        peer.send(ACK | PSH, b"up")
        machine.pump()
        assert host.recv(10) == b"up"
        host.close()


def test_frames_byte_by_byte(machine: Machine) -> None:
    for byte in framed(ARP, ARP):
        machine.sock.send(bytes([byte]))
        machine.pump(1)
    assert machine.punts == [ARP, ARP]


@pytest.mark.parametrize("kind", [STREAM, PACKETS, DATAGRAMS])
def test_many_frames_in_one_write(kind: int) -> None:
    with Machine(kind) as machine:
        machine.sock.send(framed(*[ARP] * 100))
        machine.pump()
        assert machine.punts == [ARP] * 100


@pytest.mark.parametrize("length", [14, FRAME_MAX])
def test_the_shortest_and_the_longest_frame_pass(machine: Machine, length: int) -> None:
    frame = OUR_MAC + GUEST_MAC + b"\x88\xb5" + bytes(length - 14)
    machine.send_all(framed(frame, ARP))
    machine.pump()
    assert machine.counter("tap_rx_frames") == 2 and machine.counter("tap_rx_bytes") == length + len(ARP)
    assert machine.punts == [ARP]


@pytest.mark.parametrize("length", [0, 13, FRAME_MAX + 1, 1 << 24, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_the_peer(machine: Machine, length: int) -> None:
    machine.sock.send(framed(ARP) + struct.pack("!I", length) + bytes(20))
    machine.run_until_end()
    assert machine.ends == [errno.EPROTO]
    assert machine.punts == [ARP]


def test_half_a_frame_of_a_peer_that_left_is_forgotten(machine: Machine) -> None:
    machine.sock.send(framed(ARP)[:20])
    machine.pump()
    machine.leave()
    assert machine.ends == [errno.ENODEV]
    machine.come()
    machine.send(ARP)
    machine.pump()
    assert machine.punts == [ARP]


def test_what_a_peer_did_not_read_does_not_reach_the_next(machine: Machine) -> None:
    fill(machine)
    machine.leave()
    machine.come()
    assert machine.frames() == []
    machine.plane.send(ARP)
    assert machine.frames() == [ARP]


def fill(machine: Machine) -> int:
    """Send frames that nothing reads, until one is dropped; returns how many were taken."""
    for count in range(100000):
        machine.plane.send(ARP + bytes(958) + struct.pack("!I", count))
        machine.pump(1) if count % 64 == 0 else None
        if machine.counter("tap_tx_dropped"):
            return count
    raise AssertionError("nothing bounds what waits for a peer that does not read")


def test_a_peer_that_stops_reading_loses_only_what_is_over_the_bound(machine: Machine) -> None:
    taken = fill(machine)
    numbers: list[int] = []
    while found := machine.frames():
        numbers += [int.from_bytes(frame[-4:], "big") for frame in found]
    assert numbers == list(range(taken)), "the frames that were taken come whole and in order"
    machine.plane.send(ARP)
    assert machine.frames() == [ARP]


def test_what_the_guest_sends_is_read_while_it_reads_nothing(machine: Machine) -> None:
    fill(machine)
    machine.send(ARP)
    machine.pump()
    assert machine.punts == [ARP]


def test_a_long_stream_to_a_slow_reader_loses_nothing(machine: Machine) -> None:
    """The peer reads a little at a time, far slower than the host sends: every byte comes once, and none is sent again."""
    data = random.Random(3).randbytes(3 << 20)
    peer, host = stream_from_host(machine, b"", window=1 << 20)
    sent, arrived = 0, bytearray()
    deadline = time.monotonic() + 4 * PATIENCE_S
    while len(arrived) < len(data) and time.monotonic() < deadline:
        with suppress(BlockingIOError):
            sent += host.send(data[sent:])
        machine.pump(1)
        try:
            machine.read += machine.sock.recv(50000)
        except BlockingIOError:
            continue
        segments = [parse(frame) for frame in split(machine.read)]
        for segment in segments:
            assert isinstance(segment, Segment)
            arrived += peer.take([segment])
        if segments:
            peer.send(ACK)
    assert bytes(arrived) == data
    assert machine.counter("tcp_retransmits") == 0 and machine.counter("tap_tx_dropped") == 0
    host.close()


def test_each_segment_carries_at_most_the_guests_mss(machine: Machine) -> None:
    peer, host = stream_from_host(machine, bytes(200000), window=1 << 20)
    frames = [frame for frame in machine.frames() if frame[23] == 6]
    payload = peer.take([segment for segment in map(parse, frames) if isinstance(segment, Segment)])
    assert len(payload) >= 64000 and max(map(len, frames)) == 14 + 20 + 20 + 1460
    host.close()


@pytest.mark.parametrize(("v6", "mss"), [(False, 536), (False, 65480), (True, 1440), (True, 65460)])
def test_many_frames_leave_as_whole_segments(v6: bool, mss: int) -> None:
    """Each has right lengths, numbers and checksums (parse()); a frame of 64 KiB leaves no small piece behind the last segment."""
    data = random.Random(mss).randbytes(1 << 20)
    longest = 65535 - 20 - (0 if v6 else 20)
    with Machine(mtu=65520) as machine:
        peer, host = stream_from_host(machine, b"", window=1 << 20, v6=v6, mss=mss)
        sent, arrived, lengths = 0, bytearray(), list[int]()
        deadline = time.monotonic() + 4 * PATIENCE_S
        while len(arrived) < len(data) and time.monotonic() < deadline:
            with suppress(BlockingIOError):
                sent += host.send(data[sent:])
            segments = [each for each in machine.received() if isinstance(each, Segment)]
            lengths += [len(each.payload) for each in segments]
            arrived += peer.take(segments)
            if segments:
                peer.send(ACK)
        assert bytes(arrived) == data and max(lengths) == mss
        if mss > 60000:
            assert longest % mss not in lengths
        assert machine.counter("tcp_retransmits") == 0 and machine.counter("tap_tx_dropped") == 0
        host.close()


def test_a_stream_of_the_guest_arrives_once_and_in_order(machine: Machine) -> None:
    """Small frames are joined before TCP sees them."""
    data = random.Random(4).randbytes(200 * 1460 + 77)
    with server() as listener:
        peer = TcpPeer(machine, listener.getsockname()[1], window=1 << 20)
        peer.connect()
        host, _ = listener.accept()
    machine.pump()
    written = Collected(machine)
    for at in range(0, len(data), 1460):
        TcpPeer.send(written.peer(peer), ACK, data[at : at + 1460])
    machine.send_all(framed(*written.sent))
    host.setblocking(False)
    got, deadline = bytearray(), time.monotonic() + PATIENCE_S
    while len(got) < len(data) and time.monotonic() < deadline:
        machine.pump()
        with suppress(BlockingIOError):
            got += host.recv(1 << 20)
    assert bytes(got) == data
    assert machine.counter("tap_rx_frames") < 50, "200 segments came as few frames"
    host.close()


class Collected:
    """Stands in for the guest of a TcpPeer: keeps the frames instead of sending them."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.sent = machine, list[bytes]()

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def peer(self, of: TcpPeer) -> TcpPeer:
        of.guest = self  # type: ignore[assignment]
        return of


def test_a_forwarded_connection_waits_for_a_machine() -> None:
    """No peer is there when the host's client connects. It gets its SYN soon after the machine has come."""
    with Machine(connected=False) as machine, server() as listener:
        machine.listen(socket.IPPROTO_TCP, listener, 80)
        with socket.create_connection(listener.getsockname()) as client:
            client.settimeout(PATIENCE_S)
            machine.pump()
            machine.come()
            machine.send(ARP)
            syn = machine.wait_segments()[0]
            assert syn.flags == SYN and syn.dport == 80
            head = struct.pack("!HHIIBBHHH", 80, syn.sport, 5, (syn.seq + 1) % 2**32, 5 << 4, SYN | ACK, 65535, 0, 0)
            machine.send(with_checksum(head, syn))
            assert machine.wait_segments()[0].flags & ACK


def with_checksum(head: bytes, to: Segment) -> bytes:
    total = checksum(pseudo(to.dst, to.src, 6, len(head)) + head)
    return ip_frame(to.dst, to.src, 6, head[:16] + struct.pack("!H", total) + head[18:])


def test_connections_outlive_the_socket_of_their_machine(machine: Machine) -> None:
    peer, host = stream_from_host(machine, b"before")
    assert peer.take(machine.wait_segments()) == b"before"
    peer.send(ACK)
    machine.pump()
    machine.leave()
    host.send(b"after")
    machine.pump()
    machine.come()
    assert b"after" in peer.take(machine.wait_segments())
    host.close()


def test_one_peer_at_a_time_and_none_for_a_tap(machine: Machine, guest: Guest) -> None:
    with pytest.raises(OSError, match=r"\[Errno 16\]"):
        machine.plane.attach(machine.tap.fileno())
    with pytest.raises(OSError, match=r"\[Errno 95\]"):
        guest.plane.attach(machine.tap.fileno())
    machine.send(ARP)
    machine.pump()
    assert machine.punts == [ARP], "the peer that was there first goes on"


def test_frames_longer_than_the_longest_are_dropped(machine: Machine) -> None:
    machine.plane.send(ARP + bytes(FRAME_MAX + 1 - len(ARP)))
    assert machine.counter("tap_tx_dropped") == 1
    machine.plane.send(ARP + bytes(FRAME_MAX - len(ARP)))
    assert [len(frame) for frame in machine.frames()] == [FRAME_MAX]


def test_a_capture_has_the_frames_as_the_guest_sent_them(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    with path.open("wb") as file:
        machine.plane.capture([file.fileno()])
        written = Collected(machine)
        peer = TcpPeer(written, 9, window=1000)  # type: ignore[arg-type]
        for _ in range(3):
            peer.send(ACK, bytes(100))
        machine.sock.send(framed(*written.sent))
        machine.pump()
        machine.plane.close()
    data = path.read_bytes()
    assert all(frame in data for frame in written.sent)
