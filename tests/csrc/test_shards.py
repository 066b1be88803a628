"""Several threads of the core, each with a queue of the tap of its own: here one socketpair for each.

What a test does not know is which shard a flow belongs to: the key is random. It sees it by the queue that the answer comes from.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import (
    ACK,
    FIN,
    GATEWAY4,
    GUEST4,
    GUEST_MAC,
    OUR_MAC,
    PSH,
    RST,
    SYN,
    Guest,
    Segment,
    TcpPeer,
    ip_frame,
    mapped,
    parse,
    server,
)  # fmt: skip

from pasta_py.model import Listener
from pasta_py.worker import plane

WAIT_S = 60
ARP = b"\xff" * 6 + GUEST_MAC + bytes.fromhex("0806 0001 0800 0604 0001") + GUEST_MAC
ARP += bytes([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2])
#: Of the rest (no TCP) a shard holds half as many frames for another as of TCP: csrc/plane/messages.c.
REST_MAX, FRAMES_MAX = 256, 512
TRACE = 4


class Shards(Guest):
    """A guest whose tap has several queues; frames leave through the one that is named, answers come from any."""

    def __init__(self, shards: int = 2, capture: int = -1, **changes: object) -> None:
        super().__init__(**changes)
        self.socks, self.taps = [self.sock], [self.tap]
        for _shard in range(shards - 1):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            ours.setblocking(False)
            self.socks.append(ours)
            self.taps.append(theirs)
        if capture >= 0:
            self.plane.capture([capture])
        self.plane.add_shards([tap.fileno() for tap in self.taps[1:]])
        self.queue = 0
        self.ended: int | None = None
        self.frame_queues: list[int] = []

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)  # type: ignore[arg-type]
        for end in self.socks + self.taps:
            end.close()

    def pump(self, ticks: int = 2) -> None:
        while ticks and self.ended is None:
            kind, ident, data = self.plane.run()
            if kind == plane.TICK:
                ticks -= 1
            elif kind == plane.LOG:
                self.logs.append(data.decode())
            elif kind == plane.PUNT:
                self.punts.append(data)
            elif kind == plane.END:
                self.ended = ident

    def send(self, frame: bytes) -> None:
        self.socks[self.queue].send(frame)

    def frames(self) -> list[bytes]:
        """Which queue each came from is in frame_queues."""
        self.pump()
        out: list[bytes] = []
        self.frame_queues = []
        for queue, sock in enumerate(self.socks):
            while True:
                try:
                    out.append(sock.recv(70000))
                    self.frame_queues.append(queue)
                except BlockingIOError:
                    break
        return out

    def until(self, true: object, what: str) -> None:
        assert callable(true)
        end = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < end, what
            self.pump()


def shard_threads() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.append((task / "comm").read_text())
    return [name for name in found if name.startswith("pasta-shard")]


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


class Streams:
    """Connections of the guest to a server on the host, and the queue that each is answered from."""

    def __init__(self, guest: Shards, count: int, *, queue: int = 0, first: int = 30000) -> None:
        self.guest, self.listener = guest, server()
        self.listener.listen(256)
        port = self.listener.getsockname()[1]
        self.peers = {first + i: TcpPeer(guest, port, sport=first + i) for i in range(count)}
        self.owner: dict[int, int] = {}
        guest.queue = queue
        for peer in self.peers.values():
            peer.send(SYN, options=peer.options())
        for queue_seen, segment in self.collect(lambda: len(self.owner) == count):
            assert segment.flags == SYN | ACK, segment
            peer = self.peers[segment.dport]
            peer.ack = (segment.seq + 1) % 2**32
            self.owner[segment.dport] = queue_seen
        for sport, peer in self.peers.items():
            guest.queue = self.owner[sport]
            peer.send(ACK | PSH, struct.pack("!H", sport))
        self.socks: dict[int, socket.socket] = {}
        for _ in range(count):
            guest.until(lambda: readable(self.listener), "a connection arrives")
            sock, _address = self.listener.accept()
            guest.until(lambda sock=sock: readable(sock), "its first word, which says whose it is")
            sock.settimeout(WAIT_S)
            self.socks[struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0]] = sock

    def collect(self, done: object) -> Iterator[tuple[int, Segment]]:
        assert callable(done)
        end = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end, "segments are missing"
            frames = self.guest.frames()
            for queue, frame in zip(self.guest.frame_queues, frames, strict=True):
                segment = parse(frame)
                if isinstance(segment, Segment):
                    yield queue, segment

    def close(self) -> None:
        for sock in self.socks.values():
            sock.close()
        self.listener.close()


@pytest.fixture
def guest() -> Iterator[Shards]:
    with Shards() as made:
        made.pump()
        yield made


def test_connections_are_spread_and_stay(guest: Shards) -> None:
    """A SYN on the wrong queue changes shards once; on the right one nothing does."""
    streams = Streams(guest, 64)
    shards = list(streams.owner.values())
    assert 8 < shards.count(1) < 56  # by chance outside: less than 1 in 10^9
    assert guest.counter("shard_frames") == shards.count(1)
    before = guest.counter("shard_frames")
    for sport, sock in streams.socks.items():
        sock.sendall(b"answer to %d" % sport)
    got: dict[int, bytes] = {}
    for queue, segment in streams.collect(lambda: len(got) == 64):
        if segment.payload:
            assert queue == streams.owner[segment.dport]
            assert got.setdefault(segment.dport, segment.payload) == b"answer to %d" % segment.dport
    assert guest.counter("shard_frames") == before and guest.counter("tcp_flows") == 64
    assert guest.counter("shard_dropped") == 0
    streams.close()


def test_what_comes_on_the_wrong_queue_arrives_in_order(guest: Shards) -> None:
    streams = Streams(guest, 16)
    wanted: dict[int, bytes] = dict.fromkeys(streams.peers, b"")
    before = guest.counter("shard_frames")
    for turn in range(40):
        for sport, peer in streams.peers.items():
            part = bytes([turn]) * 1000
            guest.queue = 1 - streams.owner[sport]
            peer.send(ACK, part)
            wanted[sport] += part
        if turn % 10 == 9:
            guest.frames()
    guest.until(lambda: guest.counter("shard_frames") - before + guest.counter("shard_dropped") == 40 * 16, "all are handed over")
    assert guest.counter("shard_dropped") == 0
    for sport, sock in streams.socks.items():
        data = b""
        while len(data) < 40_000:
            guest.pump(1)
            data += sock.recv(40_000 - len(data))
        assert data == wanted[sport]
    streams.close()


def test_the_slow_path_is_reached_from_every_queue() -> None:
    with Shards(4) as guest:
        guest.pump()
        for queue in range(4):
            guest.queue = queue
            guest.send(ARP)
        dhcp = struct.pack("!HHHH", 68, 67, 8 + 4, 0) + b"dhcp"
        guest.send(ip_frame("0.0.0.0", "255.255.255.255", 17, dhcp))
        guest.until(lambda: len(guest.punts) == 5, "frames for Python")
        assert guest.punts.count(ARP) == 4 and guest.counter("punt_frames") == 5
        assert guest.counter("shard_frames") == 4


def test_udp_is_the_first_shards(guest: Shards) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(WAIT_S)
        datagram = struct.pack("!HHHH", 5000, sock.getsockname()[1], 8 + 5, 0) + b"hello"
        guest.queue = 1
        guest.send(ip_frame(GUEST4, GATEWAY4, 17, datagram))
        guest.until(lambda: readable(sock), "the datagram arrives")
        data, peer = sock.recvfrom(100)
        assert data == b"hello"
        sock.sendto(b"world", peer)
        frames: list[bytes] = []
        guest.until(lambda: frames.extend(guest.frames()) or frames, "its answer")
        assert frames[0].endswith(b"world") and guest.frame_queues == [0]


def test_fragments_of_a_segment_reach_their_shard(guest: Shards) -> None:
    """Put together by the first, whichever queue they come on."""
    streams = Streams(guest, 8)
    for sport, peer in streams.peers.items():
        sent: list[bytes] = []
        guest.send = sent.append  # type: ignore[method-assign]
        peer.send(ACK, b"f" * 999)
        del guest.send  # type: ignore[method-assign]
        (frame,) = sent
        packet = frame[34:]
        for at, more in ((0, True), (512, False)):
            piece = packet[at : at + 512] if more else packet[at:]
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(piece), sport, at // 8 | 0x2000 * more, 64, 6, 0) + frame[26:34]
            total = sum(struct.unpack("!10H", head))
            total = (total & 0xFFFF) + (total >> 16)
            guest.queue = 1
            guest.send(frame[:14] + head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + piece)
        sock = streams.socks[sport]
        guest.until(lambda sock=sock: readable(sock), "the segment arrives")
        assert sock.recv(2000) == b"f" * 999
    assert guest.counter("reassembled") == 8
    streams.close()


def clients(guest: Shards, count: int) -> tuple[socket.socket, list[socket.socket], dict[int, tuple[int, Segment]]]:
    """Host-side clients of a forwarded port; the SYN that announces each, by its port, with the queue."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    guest.listen(6, listener, 80)
    socks = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    seen: dict[int, tuple[int, Segment]] = {}

    end = time.monotonic() + WAIT_S
    while len(seen) < count and time.monotonic() < end:
        frames = guest.frames()
        for queue, frame in zip(guest.frame_queues, frames, strict=True):
            segment = parse(frame)
            if isinstance(segment, Segment):
                assert segment.flags == SYN, segment
                seen[segment.sport] = (queue, segment)
    assert len(seen) == count
    return listener, socks, seen


def test_clients_of_the_host_are_spread(guest: Shards) -> None:
    listener, socks, seen = clients(guest, 64)
    shards = [queue for queue, _segment in seen.values()]
    assert 8 < shards.count(1) < 56
    assert guest.counter("shard_sockets") == shards.count(1) and guest.counter("tcp_flows") == 64
    for sock in socks:
        queue, syn = seen[sock.getsockname()[1]]
        guest.queue = queue
        peer = TcpPeer(guest, syn.sport, sport=80)
        peer.ack = (syn.seq + 1) % 2**32
        peer.send(SYN | ACK, options=peer.options())
        peer.send(ACK, b"from %d" % syn.sport)
        sock.settimeout(0.01)
        data = b""

        def heard(sock: socket.socket = sock) -> bool:
            nonlocal data
            with contextlib.suppress(TimeoutError):
                data = sock.recv(100)
            return bool(data)

        guest.until(heard, "the guest is heard")
        assert data == b"from %d" % syn.sport
        sock.close()
    assert guest.counter("shard_frames") == 0
    listener.close()


def test_clients_that_look_alike_get_ports_of_the_same_shard() -> None:
    """Two host addresses shown as one: the second connection from the same port is shown with another."""
    with Shards(4) as guest:
        guest.pump()
        listener = socket.create_server(("0.0.0.0", 0), backlog=256)
        guest.listen(6, listener, 80)
        socks = []
        for last in range(1, 9):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((f"127.0.0.{last}", socks[0].getsockname()[1] if socks else 0))
            sock.connect(("127.0.0.1", listener.getsockname()[1]))
            socks.append(sock)
        ports: set[int] = set()

        def all_seen() -> bool:
            ports.update(s.sport for s in guest.segments())
            return len(ports) == 8

        guest.until(all_seen, "each has a port of its own")
        assert guest.counter("tcp_flows") == 8
        for sock in socks:
            sock.close()
        listener.close()


def test_local_connections_are_dealt_out(guest: Shards) -> None:
    """From socket to socket, every other one in the second shard; each carries a megabyte each way, and both ends."""
    target, listener = server(), socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    ports = Listener(proto=6, port=listener.getsockname()[1], target=b"", target_port=target.getsockname()[1])
    guest.plane.add_listeners(ports, [listener.fileno()], to_host=True)
    ends: list[tuple[socket.socket, socket.socket]] = []
    for _ in range(8):
        ours = socket.create_connection(listener.getsockname())
        guest.until(lambda: readable(target), "it is joined")
        ends.append((ours, target.accept()[0]))
    assert guest.counter("splice_flows") == 8 and guest.counter("shard_sockets") == 4
    left = {sock.fileno(): 1 << 20 for pair in ends for sock in pair}
    got = dict.fromkeys(left, b"")
    socks = {sock.fileno(): sock for pair in ends for sock in pair}
    for sock in socks.values():
        sock.setblocking(False)
    ended: set[int] = set()

    def moved() -> bool:
        for fd, sock in socks.items():
            with contextlib.suppress(BlockingIOError):
                while left[fd]:
                    left[fd] -= sock.send(bytes([fd % 251]) * min(left[fd], 50_000))
                    if not left[fd]:
                        sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(BlockingIOError):
                while part := sock.recv(1 << 20):
                    got[fd] += part
                ended.add(fd)
        return len(ended) == 16

    guest.until(moved, "every byte, and every end")
    for one, other in ends:
        assert got[one.fileno()] == bytes([other.fileno() % 251]) * (1 << 20)
        assert got[other.fileno()] == bytes([one.fileno() % 251]) * (1 << 20)
    guest.until(lambda: guest.counter("splice_flows") == 0, "the pairs are gone")
    for sock in (*socks.values(), listener, target):
        sock.close()


@pytest.mark.parametrize("queue", [0, 1])
def test_all_lanes_know_where_the_guest_is(guest: Shards, queue: int) -> None:
    """It takes another address, and says so on one queue."""
    guest.queue = queue
    guest.send(ip_frame("10.0.2.77", GATEWAY4, 17, struct.pack("!HHHH", 5000, 9, 8, 0)))
    guest.until(lambda: guest.counter("udp_opened") == 1, "the datagram is seen")
    listener, socks, seen = clients(guest, 24)
    assert {segment.dst for _queue, segment in seen.values()} == {"10.0.2.77"}
    assert {queue for queue, _segment in seen.values()} == {0, 1}
    for sock in (*socks, listener):
        sock.close()


@pytest.mark.parametrize("queue", [0, 1])
def test_all_lanes_know_the_stations(guest: Shards, queue: int) -> None:
    """A second MAC address, heard on one queue: both are sent to from either."""
    other = bytes.fromhex("525400abcdef")
    guest.queue = queue
    guest.send(ip_frame(GUEST4, GATEWAY4, 17, struct.pack("!HHHH", 5000, 9, 8, 0)))
    frame = ip_frame("10.0.2.77", GATEWAY4, 17, struct.pack("!HHHH", 5000, 9, 8, 0))
    guest.send(frame[:6] + other + frame[12:])
    guest.send(ip_frame(GUEST4, GATEWAY4, 17, struct.pack("!HHHH", 5000, 9, 8, 0)))
    guest.until(lambda: guest.counter("udp_opened") == 2, "the datagrams are seen")
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    guest.plane.add_listeners(Listener(proto=6, port=port, target=mapped("10.0.2.77"), target_port=80), [listener.fileno()])
    socks = [socket.create_connection(listener.getsockname()) for _ in range(24)]
    seen: set[tuple[int, bytes]] = set()

    def all_seen() -> bool:
        frames = guest.frames()
        seen.update((shard, frame[:6]) for shard, frame in zip(guest.frame_queues, frames, strict=True) if frame[23] == 6)
        return len(seen) == 2

    guest.until(all_seen, "a SYN from each shard")
    assert seen == {(0, other), (1, other)}
    for sock in (*socks, listener):
        sock.close()


def test_a_flood_leaves_room_for_tcp(guest: Shards) -> None:
    """The first shard does nothing meanwhile: what the second leaves for it is bounded, and TCP has a part of it to itself."""
    streams = Streams(guest, 16)
    firsts = [sport for sport, shard in streams.owner.items() if shard == 0]
    before = guest.counter("shard_frames")
    guest.queue = 1

    def settled(frames: int) -> None:
        end = time.monotonic() + WAIT_S
        while guest.counter("shard_frames") + guest.counter("shard_dropped") - before < frames:
            assert time.monotonic() < end
            time.sleep(0.005)

    sent = 0
    for _ in range(8):
        for _ in range(100):
            guest.send(ARP)
        sent += 100
        settled(sent)
    assert guest.counter("shard_frames") - before == REST_MAX and guest.counter("shard_dropped") == 800 - REST_MAX
    for sport in firsts:
        streams.peers[sport].send(ACK, b"through the flood")
    settled(sent + len(firsts))
    assert guest.counter("shard_frames") - before == REST_MAX + len(firsts)
    for sport in firsts:
        sock = streams.socks[sport]
        guest.until(lambda sock=sock: readable(sock), "the segment arrives")
        assert sock.recv(100) == b"through the flood"
    streams.close()


def test_hostile_segments_find_no_lane_without_an_answer(guest: Shards) -> None:
    """Too short for ports, of no connection, with the wrong checksum: all as with one shard."""
    guest.queue = 1
    guest.send(ip_frame(GUEST4, GATEWAY4, 6, b"\x01\x02\x03"))
    guest.send(ip_frame(GUEST4, GATEWAY4, 6, bytes(20)))
    guest.until(lambda: guest.counter("drop_malformed") == 2, "both are dropped")
    peers = [TcpPeer(guest, 9, sport=30000 + i) for i in range(8)]
    for peer in peers:
        peer.send(ACK)
    seen: list[Segment] = []
    guest.until(lambda: seen.extend(guest.segments()) or len(seen) >= 8, "resets")
    assert {s.flags & RST for s in seen} == {RST} and len(seen) == 8


def test_lines_of_all_lanes_come_to_python() -> None:
    with Shards(log_level=4) as guest:
        guest.pump()
        peers = [TcpPeer(guest, 1, sport=30000 + i) for i in range(16)]
        guest.queue = 1
        for peer in peers:
            peer.send(ACK)
        guest.until(lambda: len([line for line in guest.logs if line.startswith("from guest:")]) == 16, "one line each")


def test_lines_of_another_lane_leave_the_first_its_turns() -> None:
    """There is always one more of them when Python comes back: what waits on the first queue is dealt with all the same."""
    with Shards(log_level=TRACE) as guest:
        guest.pump()
        guest.queue = 1

        def dealt_with(sport: int) -> bool:
            """A frame with a wrong checksum; true: it stays in the second shard, which has left its line when it counts it."""
            before = guest.plane.counters()
            guest.send(ip_frame(GUEST4, GATEWAY4, 6, struct.pack("!HH", sport, 9) + bytes(16)))
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                now = guest.plane.counters()
                if now["drop_malformed"] > before["drop_malformed"] or now["shard_frames"] > before["shard_frames"]:
                    return now["shard_frames"] == before["shard_frames"]
            raise AssertionError("the second shard does nothing")

        sport = next(sport for sport in range(1000, 1064) if dealt_with(sport))
        guest.pump()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        guest.socks[0].send(ip_frame(GUEST4, GATEWAY4, 17, struct.pack("!HHHH", 5000, sock.getsockname()[1], 12, 0) + b"here"))
        for _ in range(100):
            dealt_with(sport)
            guest.plane.run()
            if readable(sock):
                break
        assert readable(sock), "the first shard does nothing but log"
        sock.close()


@pytest.mark.parametrize("queue", [0, 1])
def test_the_end_of_a_queue_is_the_end(guest: Shards, queue: int) -> None:
    guest.socks[queue].close()
    guest.until(lambda: guest.ended is not None, "the end")
    assert guest.ended


def test_last_words_are_passed_on(guest: Shards) -> None:
    """Also what comes on the wrong queue, when nobody turns the crank any more."""
    streams = Streams(guest, 24)
    for sport, peer in streams.peers.items():
        guest.queue = sport % 2
        for turn in range(4):
            peer.send(ACK, b"%d" % turn)
        peer.send(ACK | FIN)
    guest.plane.close()
    for sock in streams.socks.values():
        data = b""
        while part := sock.recv(100):
            data += part
        assert data == b"0123"
    streams.close()


def test_lanes_that_nothing_was_asked_of_end_as_well() -> None:
    with Shards(16) as guest:
        assert len(shard_threads()) == 15
        guest.plane.close()
    end = time.monotonic() + WAIT_S
    while shard_threads():  # a thread that has been joined is in the kernel's list for a moment yet
        assert time.monotonic() < end


def test_nothing_is_read_before_the_first_turn() -> None:
    """The door is closed in between: csrc/plane/shard.c."""
    with Shards() as guest:
        guest.queue = 1
        guest.send(ARP)
        time.sleep(0.1)
        assert guest.counter("tap_rx_frames") == 0
        guest.until(lambda: guest.punts == [ARP], "now it is")


def test_what_lanes_share_cannot_change_afterwards(guest: Shards) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(OSError, match="busy"):
        guest.plane.capture([null])
    os.close(null)
    with pytest.raises(OSError, match="Invalid"):
        guest.plane.add_shards([guest.tap.fileno()])


@pytest.mark.parametrize("count", [0, 16])
def test_numbers_of_lanes_that_cannot_be(count: int) -> None:
    with Guest() as guest, pytest.raises(OSError, match="Invalid"):
        guest.plane.add_shards([guest.tap.fileno()] * count)


def test_a_queue_that_is_none_is_refused() -> None:
    """And leaves a core that can be freed; with addresses of the host, which shards share."""
    with Guest(guest_addrs=(mapped("192.0.2.2"),)) as guest, pytest.raises(OSError, match="Bad file descriptor"):
        guest.plane.add_shards([guest.tap.fileno(), 1 << 20])


def test_one_capture_for_all(tmp_path: Path) -> None:
    path = tmp_path / "shards.pcap"
    with path.open("wb") as file, Shards(4, capture=file.fileno()) as guest:
        guest.pump()
        streams = Streams(guest, 32)
        streams.close()
        guest.frames()
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, at)
        assert kept == length
        frames.append((seconds, nanoseconds, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    assert at == len(data)
    assert [f[:2] for f in frames] == sorted(f[:2] for f in frames)
    syns = [frame[34:36] for _s, _n, frame in frames if frame[:6] == OUR_MAC and frame[47] == SYN]
    answers = {frame[36:38] for _s, _n, frame in frames if frame[:6] == GUEST_MAC and frame[47] == SYN | ACK}
    assert len(syns) == 32 and answers == set(syns)  # an answer comes again where its ACK takes a second
