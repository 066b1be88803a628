"""A front end with two pairs of queues, each with a thread of the core. test_shard_races.py runs this under ThreadSanitizer.

Which thread a connection belongs to follows from a random key. A test sees it by the pair that the answer comes through.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import front_end as fe
import pytest
from front_end import ALL, PLAIN, Machine
from guest import ACK, PSH, Segment
from test_shards import Shards, Streams, readable
from test_vhost_user import NO_FRONT_END, NO_NETWORK

STREAMS = 16
WHY = "a buffer outside the guest's memory"


class Pairs(Machine):
    """With the names that Streams knows: a queue is a pair."""

    def __init__(self, features: int) -> None:
        super().__init__(features, pairs=2)
        self.frame_queues: list[int] = []

    queue = property(lambda self: self.pair, lambda self, pair: setattr(self, "pair", pair))
    until = Shards.until

    def frames(self) -> list[bytes]:
        self.pump()
        out: list[bytes] = []
        self.frame_queues = []
        for pair in range(self.pairs):
            self.pair = pair
            found = self.take()
            out += found
            self.frame_queues += [pair] * len(found)
        return out


@pytest.fixture(params=[PLAIN, ALL], ids=["plain", "all"])
def machine(request: pytest.FixtureRequest) -> Iterator[Pairs]:
    with Pairs(request.param) as made:
        yield made


def has(sock: socket.socket, count: int) -> bool:
    return readable(sock) and len(sock.recv(count, socket.MSG_PEEK)) == count


def new(streams: Streams, segment: Segment) -> bytes:
    """Its payload, unless it is sent again: the guest here acknowledges late."""
    peer = streams.peers[segment.dport]
    return peer.take([segment]) if segment.seq == peer.ack else b""


def ask_and_answer(machine: Pairs, streams: Streams, word: bytes) -> None:
    """On each connection, from the pair that it belongs to: all are answered there."""
    for sport, peer in streams.peers.items():
        machine.pair = streams.owner[sport]
        peer.send(ACK | PSH, word)
    for sock in streams.socks.values():
        machine.until(lambda sock=sock: has(sock, len(word)), "a question")
    for sock in streams.socks.values():
        assert sock.recv(100) == word
        sock.sendall(word[::-1])
    missing = set(streams.peers)
    for pair, segment in streams.collect(lambda: not missing):
        if payload := new(streams, segment):
            assert payload == word[::-1] and pair == streams.owner[segment.dport]
            missing.discard(segment.dport)


def begins(machine: Pairs, bases: "list[int] | None" = None) -> None:
    """The device starts, again in the same memory if it says where."""
    machine.tell(fe.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << fe.REPLY_ACK | 1 << fe.PROTOCOL_MQ))
    machine.tell(fe.SET_FEATURES, struct.pack("=Q", machine.features | 1 << fe.MQ))
    machine.tell_memory()
    for index in range(4):
        machine.tell_queue(index, bases[index] if bases else 0)
    machine.enable()


def test_connections_of_both_threads(machine: Pairs) -> None:
    streams = Streams(machine, STREAMS)
    assert set(streams.owner.values()) == {0, 1}, "a chance of 1 in 32,768"
    for word in (b"one", b"two"):
        ask_and_answer(machine, streams, word)
    streams.close()
    assert machine.logs == []


def test_the_device_stops_and_goes_on_under_traffic(machine: Pairs) -> None:
    """What the front end says about one queue is heard while the other thread has frames to read and to send."""
    streams = Streams(machine, STREAMS)
    for number in range(6):
        for sport, peer in streams.peers.items():
            machine.pair = streams.owner[sport]
            peer.send(ACK | PSH, bytes([number]) * 100)
        for sock in streams.socks.values():
            sock.sendall(bytes([number]) * 3000)
        bases = [
            struct.unpack("=II", machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0)))[1] for index in range(4)
        ]
        begins(machine, bases)
        for sock in streams.socks.values():
            machine.until(lambda sock=sock: has(sock, 100), "a question")
            assert sock.recv(1000) == bytes([number]) * 100
        missing = dict.fromkeys(streams.peers, 3000)
        for _, segment in streams.collect(lambda missing=missing: not any(missing.values())):
            missing[segment.dport] -= len(new(streams, segment))
            machine.pair = streams.owner[segment.dport]
            streams.peers[segment.dport].send()
    streams.close()


def test_a_pair_that_is_off_gets_what_is_its_own_by_the_first(machine: Pairs) -> None:
    streams = Streams(machine, STREAMS)
    for index in (2, 3):
        machine.ask(fe.SET_VRING_ENABLE, struct.pack("=II", index, 0), flags=fe.VERSION | fe.NEED_REPLY)
    streams.owner = dict.fromkeys(streams.owner, 0)
    ask_and_answer(machine, streams, b"by the first")
    streams.close()


def break_ring(machine: Pairs, pair: int, direction: int) -> None:
    queue = machine.queues[2 * pair + direction]
    for index in range(queue.size):
        queue.describe(index, 1 << 40, 100, fe.WRITE if direction == fe.TO_GUEST else 0)
    if direction == fe.FROM_GUEST:
        queue.offer(0)
        queue.wake()


def test_a_guest_that_breaks_all_its_rings_gets_one_line(machine: Pairs) -> None:
    """And has a network again, and the next line, when its device has begun anew."""
    for _ in range(2):
        streams = Streams(machine, STREAMS)
        for pair in (0, 1):
            for direction in (fe.TO_GUEST, fe.FROM_GUEST):
                break_ring(machine, pair, direction)
        for sock in streams.socks.values():
            sock.sendall(b"what finds no room")
        machine.until(lambda: machine.logs, "the line")
        machine.pump(5)
        assert machine.logs == [NO_NETWORK.format(WHY)] and not machine.ended
        machine.logs.clear()
        streams.close()
        for index in range(4):
            machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0))
        machine.make_memory()
        begins(machine)
        machine.fill()
        machine.frames()
    streams = Streams(machine, STREAMS)
    ask_and_answer(machine, streams, b"again")
    streams.close()
    assert machine.logs == []


def test_memory_that_shrinks_under_both_threads(machine: Pairs) -> None:
    """The front end is dropped, with one line. The next has all connections."""
    streams = Streams(machine, STREAMS)
    os.ftruncate(machine.memfd, 0)
    for sock in streams.socks.values():
        sock.sendall(b"kept")
    machine.until(lambda: machine.ended, "the end")
    assert machine.ended == [errno.EFAULT]
    machine.pump()
    assert machine.logs == [NO_FRONT_END.format("memory that has shrunk")]
    machine.reconnect()
    machine.make_memory()
    begins(machine)
    machine.fill()
    kept = set(streams.peers)
    for _, segment in streams.collect(lambda: not kept):
        if new(streams, segment) == b"kept":
            kept.discard(segment.dport)
    for sport, peer in streams.peers.items():
        machine.pair = streams.owner[sport]
        peer.send()
    ask_and_answer(machine, streams, b"goes on")
    streams.close()


def test_front_ends_come_and_go_under_traffic(machine: Pairs) -> None:
    streams = Streams(machine, 4)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        for sock in streams.socks.values():
            sock.sendall(bytes([number]))
        machine.reconnect()
        machine.make_memory()
        begins(machine)
        machine.fill()
        machine.pump(1)
        assert len(os.listdir("/proc/self/fd")) <= before
    machine.frames()
    machine.pair = 0
    assert machine.number(fe.GET_QUEUE_NUM) == 2
    streams.close()
