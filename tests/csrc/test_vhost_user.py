"""The vhost-user link: front ends in any order of messages, hostile ones too, and frames through rings in the guest's memory."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import front_end as fe
import pytest
from datagrams import host_socket, names, send
from front_end import ALL, FRONT_END, MEMORY, PLAIN, Machine
from guest import ACK, GATEWAY4, GUEST4, GUEST_MAC, PATIENCE_S, PSH, Segment, TcpPeer, connected, ip_frame, parse
from packets import fold, pseudo

ARP = b"\xff" * 6 + GUEST_MAC + bytes.fromhex("0806 0001 0800 0604 0001") + GUEST_MAC
ARP += bytes([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2])
LEGACY = 0
EVENT = PLAIN | 1 << fe.EVENT_IDX
KINDS = pytest.mark.parametrize("features", [PLAIN, EVENT, ALL, LEGACY], ids=["plain", "event-index", "all", "legacy"])
NEEDS_CSUM, TCPV4 = 1, 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_tcp(peer: TcpPeer, payload: bytes) -> tuple[bytes, bytes]:
    """A virtio header and a frame of `payload`, with a partial checksum, to be segmented at 1448 bytes."""
    length = 20 + len(payload)
    head = struct.pack("!HHIIBBHHH", peer.sport, peer.dport, peer.seq, peer.ack, 5 << 4, ACK | PSH, 1000, 0, 0)
    head = head[:16] + struct.pack("!H", fold(pseudo(GUEST4, GATEWAY4, 6, length))) + head[18:]
    peer.seq += len(payload)
    return struct.pack("<BBHHHH", NEEDS_CSUM, TCPV4, 54, 1448, 34, 16), ip_frame(GUEST4, GATEWAY4, 6, head + payload)


def all_of(sock: socket.socket, count: int, machine: Machine) -> bytes:
    data = bytearray()
    while len(data) < count:
        machine.pump(1)
        sock.settimeout(PATIENCE_S)
        data += sock.recv(count - len(data))
    return bytes(data)


# --- frames ---


@KINDS
def test_frames_pass_both_ways(features: int) -> None:
    with Machine(features) as machine:
        machine.send(ARP)
        machine.pump()
        assert machine.punts == [ARP]
        peer, sock = connected(machine)
        with sock:
            peer.send(ACK | PSH, b"question")
            assert all_of(sock, 8, machine) == b"question"
            sock.send(b"answer" * 100)
            assert peer.take(machine.wait_segments()) == b"answer" * 100
        assert machine.logs == [] and machine.counter("drop_malformed") == 0


@KINDS
def test_a_ring_goes_round_many_times(features: int) -> None:
    """More frames than entries, so that indexes and buffers are used again."""
    with Machine(features, size=8) as machine:
        peer, sock = connected(machine)
        with sock:
            for number in range(60):
                peer.send(ACK | PSH, bytes([number]) * 100)
                assert all_of(sock, 100, machine) == bytes([number]) * 100
                sock.send(bytes([number]) * 50)
                assert peer.take([s for s in machine.wait_segments() if s.payload]) == bytes([number]) * 50
                peer.send()


def test_64_kib_from_the_guest_are_one_frame() -> None:
    with Machine(ALL) as machine:
        peer, sock = connected(machine)
        payload = os.urandom(60_000)
        with sock:
            before = machine.counter("tap_rx_frames")
            header, frame = open_tcp(peer, payload)
            machine.send(frame, header)
            assert all_of(sock, len(payload), machine) == payload
            assert machine.counter("tap_rx_frames") == before + 1


def test_large_frames_out_of_order_repeated_and_overlapping_arrive_as_one_stream() -> None:
    """Payload that stays in the guest's memory is delivered once, in order, whatever the order of the frames."""
    with Machine(ALL) as machine:
        peer, sock = connected(machine)
        payload, first = os.urandom(90_000), peer.seq
        with sock:
            for begin, end in ((30_000, 60_000), (0, 20_000), (0, 30_000), (50_000, 90_000), (59_000, 90_000)):
                peer.seq = first + begin
                header, frame = open_tcp(peer, payload[begin:end])
                machine.send(frame, header)
                machine.pump()
            assert all_of(sock, len(payload), machine) == payload
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)


def test_large_frames_for_a_slow_reader_wait() -> None:
    """What the host's socket does not take is copied; the guest may use its buffers again at once."""
    with Machine(ALL, size=64) as machine:
        peer, sock = connected(machine, rcvbuf=4096)
        sent, edge = b"", peer.seq + 60_000
        with sock:
            while peer.seq + 60_000 <= edge:
                part = os.urandom(60_000)
                header, frame = open_tcp(peer, part)
                machine.send(frame, header)
                sent += part
                edge = max([edge, *(s.ack + (s.window << peer.peer_wscale) for s in machine.segments())])
            assert machine.counter("tcp_backlog_bytes") > 0
            assert all_of(sock, len(sent), machine) == sent


def test_large_frames_in_a_capture_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    with path.open("wb") as file, Machine(ALL) as machine:
        machine.plane.capture([file.fileno()])
        peer, sock = connected(machine, window=1 << 20)
        payload = os.urandom(40_000)
        with sock:
            header, frame = open_tcp(peer, payload)
            machine.send(frame, header)
            assert all_of(sock, len(payload), machine) == payload
            sock.sendall(payload[::-1])
            got = b""
            while len(got) < len(payload):
                got += peer.take(machine.segments())
                peer.send()
    data = path.read_bytes()
    assert payload in data
    assert payload[-500:][::-1] in data


def test_64_kib_to_the_guest_are_one_frame_in_many_buffers() -> None:
    with Machine(ALL) as machine:
        peer, sock = connected(machine, window=1 << 20)
        payload = os.urandom(50_000)
        with sock:
            machine.headers.clear()
            machine.frames()
            machine.headers.clear()
            sock.sendall(payload)
            frames = []
            while sum(len(frame) - 54 for frame in frames) < len(payload):
                frames += [f for f in machine.frames() if len(f) > 54]
            assert b"".join(frame[54:] for frame in frames) == payload
            assert max(map(len, frames)) > 30_000
            largest = max(range(len(frames)), key=lambda n: len(frames[n]))
            flags, kind, _, size, start, offset, chains = struct.unpack("<BBHHHHH", machine.headers[largest])
            assert (flags, kind, start, offset) == (NEEDS_CSUM, TCPV4, 34, 16) and size == 1460
            assert chains == -(-(12 + len(frames[largest])) // 2048)


def test_a_guest_without_offloads_gets_segments_of_its_mtu() -> None:
    with Machine(PLAIN) as machine:
        peer, sock = connected(machine, window=1 << 20)
        with sock:
            sock.sendall(bytes(20_000))
            got = list[Segment]()
            while sum(len(s.payload) for s in got) < 20_000:
                got += machine.segments()
            assert max(len(s.payload) for s in got) == 1460
            assert all(header == bytes(10) + b"\1\0" for header in machine.headers)


def test_a_guest_without_merged_buffers_gets_frames_of_one_buffer() -> None:
    with Machine(PLAIN & ~(1 << fe.MRG_RXBUF)) as machine:
        peer, sock = connected(machine, window=1 << 20)
        with sock:
            sock.sendall(bytes(5000))
            got = list[Segment]()
            while sum(len(s.payload) for s in got) < 5000:
                got += machine.segments()
            assert max(len(s.payload) for s in got) == 1460


@pytest.mark.parametrize("length", [0, 5, 11, 12, 25, 70_000])
def test_chains_that_hold_no_frame_are_dropped_and_given_back(length: int) -> None:
    with Machine(PLAIN) as machine:
        queue = machine.queues[fe.FROM_GUEST]
        queue.describe(0, 0x200000, length)
        queue.offer(0)
        queue.wake()
        machine.pump()
        assert machine.counter("drop_malformed") == 1 and queue.returned() == [(0, 0)]
        machine.send(ARP)
        machine.pump()
        assert machine.punts == [ARP] and not machine.ended


def test_tunnelled_segments_were_not_offered() -> None:
    with Machine(ALL) as machine:
        machine.send(ARP, struct.pack("<BBHHHH", NEEDS_CSUM, 0x20 | 5, 54, 100, 14, 6))
        machine.pump()
        assert machine.counter("drop_malformed") == 1 and machine.punts == []


# --- a guest that offers no room ---


@pytest.mark.parametrize("features", [PLAIN, EVENT, ALL], ids=["plain", "event-index", "all"])
@pytest.mark.parametrize("at_once", [64, 5])
def test_data_waits_for_buffers_and_none_is_lost(features: int, at_once: int) -> None:
    """The guest has few buffers and offers them again late: what does not fit waits, without a retransmission."""
    with Machine(features, size=64) as machine:
        peer, sock = connected(machine, window=1 << 20)
        machine.frames()
        payload, got, sent = os.urandom(400_000), b"", 0
        with sock:
            sock.setblocking(False)
            while len(got) < len(payload):
                with suppress(BlockingIOError):
                    sent += sock.send(payload[sent:])
                machine.pump(1)
                while len(frames := machine.take(offer_again=False)) or machine.held:
                    got += peer.take([s for s in map(parse, frames) if isinstance(s, Segment)])
                    machine.give_back(at_once)
                    machine.pump(1)
                peer.send()
        assert got == payload
        assert machine.counter("tcp_retransmits") == 0 and machine.counter("tap_tx_dropped") == 0


# --- datagrams in groups ---

DATAGRAM, DATAGRAMS = 1000, 12
UDP_SEGMENT, UDP_GRO, UDP_L4 = 103, 104, 5  # linux/udp.h, and a gso_type


def host_group(sock: socket.socket, source: object, data: bytes) -> None:
    """Many datagrams with one call."""
    sock.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM))], 0, source)


@pytest.mark.parametrize("v6", [False, True])
def test_a_group_of_datagrams_from_the_guest_is_one_frame_and_arrives_as_one(v6: bool) -> None:
    """The kernel gets it in one call, and would divide it where the network begins."""
    own, gateway, _ = names(v6)
    data = os.urandom(DATAGRAM * DATAGRAMS - 300)
    length, transport = 8 + len(data), 54 if v6 else 34
    with Machine(ALL) as machine, host_socket(v6) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        head = struct.pack("!HHHH", 5000, sock.getsockname()[1], length, fold(pseudo(own, gateway, 17, length)))
        header = struct.pack("<BBHHHH", NEEDS_CSUM, UDP_L4, transport + 8, DATAGRAM, transport, 6)
        machine.send(ip_frame(own, gateway, 17, head + data), header)
        machine.pump()
        got, controls, _, _ = sock.recvmsg(70000, 100)
        assert got == data
        assert [int.from_bytes(value, "little") for _, kind, value in controls if kind == UDP_GRO] == [DATAGRAM]
        assert machine.counter("tap_rx_frames") == 1 and machine.counter("drop_malformed") == 0


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("taken", [True, False], ids=["uso", "no uso"])
def test_a_group_of_datagrams_to_the_guest_is_one_frame_where_it_takes_that(v6: bool, taken: bool) -> None:
    own, gateway, _ = names(v6)
    features = ALL if taken else ALL & ~(1 << fe.GUEST_USO4 | 1 << fe.GUEST_USO6)
    with Machine(features) as machine, host_socket(v6) as sock:
        send(machine, own, 5000, gateway, sock.getsockname()[1], b"question")
        _, source = sock.recvfrom(100)
        data = os.urandom(DATAGRAM * DATAGRAMS)
        for _ in range(2):  # the core joins what comes after the first group
            host_group(sock, source, data)
            found = machine.frames()
            while sum(len(frame) for frame in found) < len(data):
                found += machine.frames()
        transport = 54 if v6 else 34
        assert len(found) == (1 if taken else DATAGRAMS)
        assert b"".join(frame[transport + 8 :] for frame in found) == data
        flags, kind, _, size, start, offset = struct.unpack_from("<BBHHHH", machine.headers[-1])
        assert (flags, start, offset) == (NEEDS_CSUM, transport, 6)
        assert (kind, size) == ((UDP_L4, DATAGRAM) if taken else (0, 0))


# --- starting, stopping, starting again ---


def qemu(m: Machine) -> None:
    """ENABLE before anything is known; the call descriptors twice; need_reply on most."""
    assert m.number(fe.GET_FEATURES) == ALL
    assert m.number(fe.GET_PROTOCOL_FEATURES) == 1 << fe.REPLY_ACK
    assert m.number(fe.GET_QUEUE_NUM) == 1
    m.tell(fe.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << fe.REPLY_ACK))
    m.tell(fe.SET_OWNER)
    assert m.number(fe.GET_FEATURES) == ALL
    for index in range(2):
        call, err = m.keep(os.eventfd(0)), m.keep(os.eventfd(0))
        assert m.ask(fe.SET_VRING_CALL, struct.pack("=Q", index), [call], fe.VERSION | fe.NEED_REPLY) == bytes(8)
        assert m.ask(fe.SET_VRING_ERR, struct.pack("=Q", index), [err], fe.VERSION | fe.NEED_REPLY) == bytes(8)
    for _ in range(5):
        for index in range(2):
            assert m.ask(fe.SET_VRING_ENABLE, struct.pack("=II", index, 1), (), fe.VERSION | fe.NEED_REPLY) == bytes(8)
    m.make_memory()
    m.tell(fe.SET_FEATURES, struct.pack("=Q", m.features))
    low, high = (0, 0xA0000, FRONT_END, 0), (0xC0000, MEMORY - 0xC0000, FRONT_END + 0xC0000, 0xC0000)
    m.tell_memory(low, high)
    m.tell_queue(0)
    m.tell_queue(1)


def dpdk(m: Machine) -> None:
    """SET_OWNER first, calls before the features, ENABLE on, off and on."""
    m.tell(fe.SET_OWNER)
    m.number(fe.GET_FEATURES)
    m.number(fe.GET_PROTOCOL_FEATURES)
    m.tell(fe.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << fe.REPLY_ACK))
    for index in range(2):
        m.tell(fe.SET_VRING_CALL, struct.pack("=Q", index), [m.keep(os.eventfd(0))])
    m.tell(fe.SET_FEATURES, struct.pack("=Q", m.features))
    m.make_memory()
    m.tell_memory()
    m.tell_queue(0)
    m.tell_queue(1)
    m.enable()
    m.enable(0)
    m.enable()


def user_mode_linux(m: Machine) -> None:
    """Memory first, then a queue at a time, KICK and ENABLE last, all with need_reply."""
    answered = fe.VERSION | fe.NEED_REPLY
    m.tell(fe.SET_OWNER)
    m.number(fe.GET_FEATURES)
    m.number(fe.GET_PROTOCOL_FEATURES)
    m.tell(fe.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << fe.REPLY_ACK))
    assert m.number(fe.SET_FEATURES, m.features) == 0
    m.make_memory()
    # Its table has a fixed length, with room for two regions.
    table = struct.pack("=II4Q4Q", 1, 0, 0, MEMORY, FRONT_END, 0, 0, 0, 0, 0)
    assert m.ask(fe.SET_MEM_TABLE, table, [m.memfd], answered) == bytes(8)
    for index, queue in enumerate(m.queues):
        queue.kick, queue.call = m.keep(os.eventfd(0)), m.keep(os.eventfd(0))
        at = struct.pack("=4Q", *(FRONT_END + a for a in (queue.descriptors, queue.used, queue.available, 0)))
        assert m.ask(fe.SET_VRING_NUM, struct.pack("=II", index, queue.size), (), answered) == bytes(8)
        assert m.ask(fe.SET_VRING_BASE, struct.pack("=II", index, 0), (), answered) == bytes(8)
        assert m.ask(fe.SET_VRING_ADDR, struct.pack("=II", index, 0) + at, (), answered) == bytes(8)
        assert m.ask(fe.SET_VRING_CALL, struct.pack("=Q", index), [queue.call], answered) == bytes(8)
        assert m.ask(fe.SET_VRING_KICK, struct.pack("=Q", index), [queue.kick], answered) == bytes(8)
    m.enable()


def works(machine: Machine) -> None:
    machine.send(ARP)
    machine.pump()
    assert machine.punts.pop() == ARP and machine.plane.send(GUEST_MAC + bytes(54)) is None
    assert [len(frame) for frame in machine.frames()] == [60]


@pytest.mark.parametrize("order", [qemu, dpdk, user_mode_linux])
def test_front_ends_may_tell_in_their_own_order(order: Callable[[Machine], None]) -> None:
    with Machine(ALL, start=False) as machine:
        order(machine)
        machine.fill()
        works(machine)


def test_a_queue_that_is_not_enabled_carries_nothing() -> None:
    with Machine(ALL) as machine:
        machine.enable(0)
        machine.pump()
        machine.send(ARP)
        machine.pump()
        assert machine.punts == []
        machine.enable()
        machine.pump()
        assert machine.punts == [ARP]


def test_stop_and_go_on() -> None:
    """As QEMU's stop and cont: the position is asked for and told again; memory comes anew."""
    with Machine(ALL) as machine:
        for _ in range(3):
            works(machine)
        bases = [struct.unpack("=II", machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0))) for index in range(2)]
        assert bases == [(0, 3), (1, 3)]
        machine.send(ARP)
        machine.pump()
        assert machine.punts == []
        machine.tell_memory()
        for index, base in bases:
            machine.tell_queue(index, base)
        machine.pump()
        assert machine.punts.pop() == ARP
        works(machine)


def test_the_guest_starts_its_device_anew() -> None:
    """As at a reboot: the rings begin at 0 again, at another place."""
    with Machine(ALL) as machine:
        works(machine)
        for _ in range(2):
            for index in range(2):
                machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0))
            machine.make_memory()
            machine.enable()
            machine.tell(fe.SET_FEATURES, struct.pack("=Q", PLAIN))
            machine.features = PLAIN
            machine.tell_memory()
            machine.tell_queue(0)
            machine.tell_queue(1)
            machine.fill()
            works(machine)


def test_memory_is_added_while_rings_run() -> None:
    with Machine(ALL) as machine:
        works(machine)
        half = MEMORY // 2
        machine.tell_memory((0, half, FRONT_END, 0), (half, half, FRONT_END + half, half), (1 << 40, 4096, 1 << 41, 0))
        works(machine)


def test_another_front_end_takes_over_where_the_first_has_left() -> None:
    """As after our own restart, or QEMU's: the new one begins at the used index of the same memory."""
    with Machine(ALL) as machine:
        works(machine)
        before = descriptors()
        machine.sock.shutdown(socket.SHUT_RDWR)
        machine.pump()
        assert machine.ended == [errno.ENODEV]
        memory, memfd, queues = machine.memory, os.dup(machine.memfd), machine.queues
        machine.reconnect()
        machine.keep(memfd)
        machine.memory, machine.memfd, machine.queues = memory, memfd, queues
        machine.tell(fe.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << fe.REPLY_ACK))
        machine.tell(fe.SET_FEATURES, struct.pack("=Q", ALL))
        machine.tell_memory()
        for index in range(2):
            machine.tell_queue(index, queues[index].used_index())
        machine.enable()
        works(machine)
        assert descriptors() == before


def test_a_front_end_that_has_left_leaves_no_descriptor() -> None:
    with Machine(ALL, start=False) as machine:
        machine.reconnect()
        before = descriptors()
        machine.start()
        works(machine)
        machine.tell(fe.SET_VRING_ERR, struct.pack("=Q", 0), [machine.fds[0]])
        machine.sock.close()
        machine.pump()
        machine.reconnect()
        machine.memory.close()
        assert descriptors() == before


# --- hostile front ends ---

U64 = struct.Struct("=Q")
U32_2 = struct.Struct("=II")
NO_FRONT_END = "vhost-user: the guest's machine gave us {}: it is disconnected"
NO_NETWORK = "vhost-user: the guest's machine gave us {}: it has no network until it starts its device again"
OVERLAPPING = struct.pack("=8Q", 0, 8192, 0, 0, 4096, 8192, 0, 0)


def region(*numbers: int, count: int = 1) -> bytes:
    return U32_2.pack(count, 0) + struct.pack("=4Q", *numbers)


@pytest.mark.parametrize(
    ("request_", "payload", "fds", "why"),
    [
        (0, b"", 0, "an unknown request"),
        (6, bytes(16), 0, "an unknown request"),
        (19, bytes(8), 0, "an unknown request"),
        (2**32 - 1, b"", 0, "an unknown request"),
        (fe.GET_FEATURES, b"x", 0, "a message of a wrong length"),
        (fe.SET_FEATURES, bytes(7), 0, "a message of a wrong length"),
        (fe.SET_VRING_ADDR, bytes(39), 0, "a message of a wrong length"),
        (fe.SET_MEM_TABLE, bytes(7), 0, "a message of a wrong length"),
        (fe.SET_FEATURES, U64.pack(1 << 33), 0, "features that were not offered"),
        (fe.SET_FEATURES, U64.pack(1 << 26), 0, "features that were not offered"),
        (fe.SET_FEATURES, U64.pack(1 << fe.MQ), 0, "features that were not offered"),
        (fe.SET_PROTOCOL_FEATURES, U64.pack(1 << 5), 0, "protocol features that were not offered"),
        (fe.SET_VRING_NUM, U32_2.pack(2, 8), 0, "a queue that does not exist"),
        (fe.SET_VRING_NUM, U32_2.pack(2**32 - 1, 8), 0, "a queue that does not exist"),
        (fe.SET_VRING_BASE, U32_2.pack(2, 8), 0, "a queue that does not exist"),
        (fe.GET_VRING_BASE, U32_2.pack(2, 0), 0, "a queue that does not exist"),
        (fe.SET_VRING_ENABLE, U32_2.pack(2, 1), 0, "a queue that does not exist"),
        (fe.SET_VRING_ADDR, U32_2.pack(2, 0) + bytes(32), 0, "a queue that does not exist"),
        (fe.SET_VRING_KICK, U64.pack(2), 1, "a queue that does not exist"),
        (fe.SET_VRING_CALL, U64.pack(255), 1, "a queue that does not exist"),
        (fe.SET_VRING_CALL, U64.pack(0), 0, "a message with too many or too few descriptors"),
        (fe.SET_VRING_CALL, U64.pack(fe.NO_DESCRIPTOR), 1, "a message with too many or too few descriptors"),
        (fe.SET_VRING_CALL, U64.pack(0), 2, "a message with too many or too few descriptors"),
        (fe.SET_VRING_CALL, U64.pack(1 << 9), 1, "a message with too many or too few descriptors"),
        (fe.SET_VRING_ERR, U64.pack(1 << 32), 1, "a message with too many or too few descriptors"),
        (fe.GET_FEATURES, b"", 1, "a message with too many or too few descriptors"),
        (fe.SET_VRING_KICK, U64.pack(fe.NO_DESCRIPTOR), 0, "a ring without a kick descriptor"),
        (fe.SET_VRING_NUM, U32_2.pack(0, 0), 0, "an impossible size of a ring"),
        (fe.SET_VRING_NUM, U32_2.pack(0, 3), 0, "an impossible size of a ring"),
        (fe.SET_VRING_NUM, U32_2.pack(0, 65536), 0, "an impossible size of a ring"),
        (fe.SET_MEM_TABLE, region(0, 4096, 0, 0, count=2), 2, "a memory table of an impossible size"),
        (fe.SET_MEM_TABLE, region(0, 4096, 0, 0), 0, "a memory table of an impossible size"),
        (fe.SET_MEM_TABLE, U32_2.pack(2**32 - 1, 0), 0, "a memory table of an impossible size"),
        (fe.SET_MEM_TABLE, U32_2.pack(9, 0) + bytes(9 * 32), 8, "a memory table of an impossible size"),
        (fe.SET_MEM_TABLE, region(0, 0, 0, 0), 1, "memory that cannot be mapped"),
        (fe.SET_MEM_TABLE, region(0, 4096, 0, 2**64 - 4096), 1, "memory that cannot be mapped"),
        (fe.SET_MEM_TABLE, region(0, 2**63, 0, 0), 1, "memory that cannot be mapped"),
        (fe.SET_MEM_TABLE, region(2**64 - 1, 4096, 0, 0), 1, "memory that cannot be mapped"),
        (fe.SET_MEM_TABLE, region(0, 4096, 2**64 - 1, 0), 1, "memory that cannot be mapped"),
        (fe.SET_MEM_TABLE, U32_2.pack(2, 0) + OVERLAPPING, 2, "memory that cannot be mapped"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("started", [False, True])
def test_what_no_message_can_be_ends_the_connection(request_: int, payload: bytes, fds: int, why: str, started: bool) -> None:
    with Machine(ALL, start=started) as machine:
        if not started:
            machine.make_memory()
        machine.tell(request_, payload, [machine.memfd] * fds)
        machine.pump()
        assert machine.ended == [errno.EPROTO]
        machine.pump()
        assert machine.logs == [NO_FRONT_END.format(why)]
        machine.reconnect()
        machine.start()
        works(machine)


@pytest.mark.parametrize("flags", [0, 2, 3, fe.VERSION | fe.REPLY])
def test_another_version_is_no_message(flags: int) -> None:
    with Machine(ALL) as machine:
        machine.tell(fe.GET_FEATURES, flags=flags)
        machine.pump()
        assert machine.ended == [errno.EPROTO]


def test_a_long_message_is_no_message() -> None:
    with Machine(ALL) as machine:
        machine.sock.send(struct.pack("=III", fe.GET_FEATURES, fe.VERSION, 501))
        machine.pump()
        assert machine.ended == [errno.EPROTO]


def test_more_descriptors_than_a_message_can_have_are_closed() -> None:
    with Machine(ALL) as machine:
        before = descriptors()
        machine.tell(fe.GET_FEATURES, fds=[machine.memfd] * 40)
        machine.pump()
        assert machine.ended == [errno.EPROTO]
        machine.plane.detach()
        assert descriptors() <= before


def test_messages_may_come_byte_by_byte_and_many_at_once() -> None:
    with Machine(ALL) as machine:
        for byte in fe.message(fe.GET_FEATURES):
            machine.sock.send(bytes([byte]))
            machine.pump(1)
        assert machine.sock.recv(20)[12:] == U64.pack(ALL)
        machine.sock.send(fe.message(fe.GET_QUEUE_NUM) * 200)
        machine.pump()
        assert machine.sock.recv(20 * 200, socket.MSG_WAITALL) == (
            struct.pack("=IIIQ", fe.GET_QUEUE_NUM, fe.VERSION | fe.REPLY, 8, 1) * 200
        )


def test_a_front_end_that_reads_no_answers_is_left() -> None:
    with Machine(ALL) as machine:
        machine.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        machine.sock.setblocking(False)
        for _ in range(4000):
            try:
                machine.sock.send(fe.message(fe.GET_FEATURES))
            except BlockingIOError:
                machine.pump(1)
            if machine.ended:
                break
        assert machine.ended == [errno.EPROTO]


def test_a_ring_outside_the_memory_ends_the_connection() -> None:
    with Machine(ALL, start=False) as machine:
        machine.make_memory()
        machine.tell_memory((0, 0x8000, FRONT_END, 0))
        machine.tell_queue(1)
        machine.pump()
        assert machine.ended == [errno.EPROTO]


# --- hostile guests ---


def test_a_guest_that_breaks_its_ring_has_no_network_until_it_starts_its_device_again() -> None:
    with Machine(ALL) as machine:
        works(machine)
        queue = machine.queues[fe.FROM_GUEST]
        queue.describe(0, 1 << 40, 100)
        queue.offer(0)
        queue.wake()
        machine.pump()
        machine.send(ARP)
        machine.pump()
        assert machine.logs == [NO_NETWORK.format("a buffer outside the guest's memory")]
        assert not machine.ended and machine.punts == []
        for index in range(2):
            machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0))
        machine.make_memory()
        machine.tell_memory()
        machine.tell_queue(0)
        machine.tell_queue(1)
        machine.fill()
        works(machine)


def test_a_guest_that_breaks_the_ring_of_its_buffers() -> None:
    with Machine(ALL) as machine:
        queue = machine.queues[fe.TO_GUEST]
        for index in range(queue.size):
            queue.describe(index, 0x100000, 2048)  # not to be written
        machine.send(ARP)
        machine.plane.send(GUEST_MAC + bytes(54))
        machine.pump()
        assert len(machine.logs) == 1 and "to be read among those to be written" in machine.logs[0]


def test_a_guest_that_breaks_both_rings_gets_one_line() -> None:
    with Machine(ALL) as machine:
        works(machine)
        for queue in machine.queues:
            queue.offered += 1000
            queue.offer(0)
        machine.queues[fe.FROM_GUEST].wake()
        for _ in range(300):  # more than fit into the buffers that were offered before
            machine.plane.send(GUEST_MAC + bytes(54))
        machine.pump()
        assert machine.logs == [NO_NETWORK.format("more chains than the ring has entries")]


def test_a_ring_that_breaks_while_a_frame_waits_for_room() -> None:
    with Machine(ALL, size=8) as machine:
        queue = machine.queues[fe.TO_GUEST]
        for _ in range(12):
            machine.plane.send(GUEST_MAC + bytes(54))
        machine.pump()
        assert queue.used_index() == 8
        queue.offered += 1000
        queue.offer(0)
        queue.wake()
        machine.pump()
        assert machine.logs == [NO_NETWORK.format("more chains than the ring has entries")] and not machine.ended


@pytest.mark.parametrize("shrunk", [0, 0x100000])
def test_memory_that_shrinks_ends_the_connection_only(shrunk: int) -> None:
    with Machine(ALL) as machine:
        works(machine)
        machine.send(ARP)
        before = machine.memory[:]
        os.ftruncate(machine.memfd, shrunk)
        machine.pump()
        assert before and machine.ended == [errno.EFAULT]
        machine.pump()
        assert machine.logs == [NO_FRONT_END.format("memory that has shrunk")]
        machine.reconnect()
        machine.start()
        works(machine)


def test_a_call_descriptor_that_is_full_does_not_stop_us() -> None:
    with Machine(ALL & ~(1 << fe.EVENT_IDX)) as machine:
        os.eventfd_write(machine.queues[fe.TO_GUEST].call, 2**64 - 2 - 1 - os.eventfd_read(machine.queues[fe.TO_GUEST].call))
        for _ in range(5):
            works(machine)
