"""A virtual machine made of bytes: a vhost-user front end over a socketpair, with rings in a memfd that both sides map.

`Machine` is a Guest whose frames go through the rings, so every test of the core that takes a Guest can have one.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import time

from guest import PATIENCE_S, Guest, plan
from packets import checksum

from pasta_py.worker import plane

# Message types and flags of the vhost-user protocol.
GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
VERSION, REPLY, NEED_REPLY = 1, 4, 8
NO_DESCRIPTOR = 0x100
# Features.
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, MQ = 0, 1, 7, 8, 11, 12, 15, 22
INDIRECT, EVENT_IDX, PROTOCOL_FEATURES, VERSION_1, GUEST_USO4, GUEST_USO6, HOST_USO = 28, 29, 30, 32, 54, 55, 56
PROTOCOL_MQ, REPLY_ACK = 0, 3
#: What is offered.
ALL = sum(
    1 << bit for bit in (CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, INDIRECT, EVENT_IDX,
                         PROTOCOL_FEATURES, VERSION_1, GUEST_USO4, GUEST_USO6, HOST_USO)
)  # fmt: skip
#: What a guest without offloads takes of it.
PLAIN = 1 << MRG_RXBUF | 1 << PROTOCOL_FEATURES | 1 << VERSION_1

MEMORY = 4 << 20
FRONT_END = 0x7F0000000000  # added to a guest's address: the front end's
TO_GUEST, FROM_GUEST = 0, 1
NEXT, WRITE = 1, 2


def message(request: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
    return struct.pack("=III", request, flags, len(payload)) + payload


def completed(frame: bytes, header: bytes) -> bytes:
    """The frame with the checksum that its header leaves to us."""
    flags, _, _, _, start, offset = struct.unpack_from("<BBHHHH", header)
    if not flags:
        return frame
    total = checksum(frame[start:]) or (0xFFFF if offset == 6 else 0)
    return frame[: start + offset] + struct.pack("!H", total) + frame[start + offset + 2 :]


class Queue:
    """The driver's side of one ring, with buffers of its own: entry n has the buffer n."""

    def __init__(self, memory: mmap.mmap, at: int, buffers: int, size: int, buffer_bytes: int) -> None:
        self.memory, self.size, self.buffers, self.buffer_bytes = memory, size, buffers, buffer_bytes
        self.descriptors, self.available = at, at + 16 * size
        self.used = (self.available + 6 + 2 * size + 3) & ~3
        self.kick, self.call = -1, -1
        self.offered = self.seen = self.next_buffer = 0

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.memory, self.descriptors + 16 * index, address, length, flags, following)

    def offer(self, *heads: int) -> None:
        for head in heads:
            struct.pack_into("<H", self.memory, self.available + 4 + 2 * (self.offered % self.size), head)
            self.offered = (self.offered + 1) % 65536
        struct.pack_into("<H", self.memory, self.available + 2, self.offered)

    def wake(self) -> None:
        os.eventfd_write(self.kick, 1)

    def used_index(self) -> int:
        return int(struct.unpack_from("<H", self.memory, self.used + 2)[0])

    def returned(self) -> list[tuple[int, int]]:
        """Head and written bytes of each chain given back since the last call."""
        out = []
        while self.seen != self.used_index():
            out.append(struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen % self.size)))
            self.seen = (self.seen + 1) % 65536
        return out


class Machine(Guest):
    """A guest behind a vhost-user front end that takes `features`, with `pairs` of queues: frames leave through `pair`."""

    def __init__(
        self,
        features: int = PLAIN,
        *,
        size: int = 256,
        buffer_bytes: int = 2048,
        start: bool = True,
        pairs: int = 1,
        **changes: object,
    ) -> None:
        self.plane = plane.Plane(plan(vhost_user=True, **changes), -1)
        self.plane.tick(1)
        self.logs, self.punts, self.ended = list[str](), list[bytes](), list[int]()
        if pairs > 1:
            self.plane.add_shards([-1] * (pairs - 1))
        self.features, self.size, self.buffer_bytes = features, size, buffer_bytes
        self.pairs, self.pair = pairs, 0
        self.header_bytes = 12 if features & (1 << VERSION_1 | 1 << MRG_RXBUF) else 10
        self.headers, self.held = list[bytes](), list[int]()
        self.fds: list[int] = []
        self.connect()
        if start:
            self.start()

    def __exit__(self, *what: object) -> None:
        self.plane.close()
        self.leave()

    # --- the connection ---

    def connect(self) -> None:
        self.sock, self.tap = socket.socketpair()
        self.sock.settimeout(PATIENCE_S)
        self.plane.attach(self.tap.fileno())

    def leave(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.sock.close()
        self.tap.close()

    def reconnect(self) -> None:
        """As after PLANE_END: the old front end is forgotten, a new one comes."""
        self.plane.detach()
        self.leave()
        self.ended.clear()
        self.connect()

    def keep(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def tell(self, request: int, payload: bytes = b"", fds: "list[int] | tuple[int, ...]" = (), flags: int = VERSION) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message(request, payload, flags)], extra)

    def ask(self, request: int, payload: bytes = b"", fds: "list[int] | tuple[int, ...]" = (), flags: int = VERSION) -> bytes:
        """The payload of the answer."""
        self.tell(request, payload, fds, flags)
        self.pump()
        head = self.sock.recv(12, socket.MSG_DONTWAIT)
        got, answer, length = struct.unpack("=III", head)
        assert (got, answer) == (request, VERSION | REPLY)
        return self.sock.recv(length, socket.MSG_DONTWAIT) if length else b""

    def number(self, request: int, value: "int | None" = None) -> int:
        payload = b"" if value is None else struct.pack("=Q", value)
        return int(struct.unpack("=Q", self.ask(request, payload, flags=VERSION if value is None else VERSION | NEED_REPLY))[0])

    # --- a device that starts, as QEMU does it ---

    def make_memory(self) -> None:
        self.memfd = self.keep(os.memfd_create("guest"))
        os.ftruncate(self.memfd, self.pairs * MEMORY)
        self.memory = mmap.mmap(self.memfd, self.pairs * MEMORY)
        self.queues = [
            Queue(self.memory, 0x1000 + 0x8000 * index, 0x100000 * (1 + index), self.size, self.buffer_bytes)
            for index in range(2 * self.pairs)
        ]

    def ring(self, direction: int) -> Queue:
        return self.queues[2 * self.pair + direction]

    def tell_memory(self, *regions: tuple[int, int, int, int]) -> None:
        """Regions of (guest's address, bytes, front end's address, offset in the file); none: all of the memory."""
        regions = regions or ((0, len(self.memory), FRONT_END, 0),)
        table = b"".join(struct.pack("=4Q", *region) for region in regions)
        self.tell(SET_MEM_TABLE, struct.pack("=II", len(regions), 0) + table, [self.memfd] * len(regions))

    def tell_queue(self, index: int, base: int = 0) -> None:
        queue = self.queues[index]
        queue.kick, queue.call = self.keep(os.eventfd(0, os.EFD_NONBLOCK)), self.keep(os.eventfd(0, os.EFD_NONBLOCK))
        where = (queue.descriptors, queue.used, queue.available, 0)
        self.tell(SET_VRING_NUM, struct.pack("=II", index, queue.size))
        self.tell(SET_VRING_BASE, struct.pack("=II", index, base))
        self.tell(SET_VRING_ADDR, struct.pack("=II4Q", index, 0, *(FRONT_END + at for at in where)))
        self.tell(SET_VRING_KICK, struct.pack("=Q", index), [queue.kick])
        self.tell(SET_VRING_CALL, struct.pack("=Q", index), [queue.call])

    def enable(self, on: int = 1) -> None:
        for index in range(2 * self.pairs):
            self.tell(SET_VRING_ENABLE, struct.pack("=II", index, on))

    def start(self) -> None:
        self.make_memory()
        self.tell(SET_OWNER)
        self.tell(SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << REPLY_ACK | (self.pairs > 1) << PROTOCOL_MQ))
        self.tell(SET_FEATURES, struct.pack("=Q", self.features | (self.pairs > 1) << MQ))
        self.tell_memory()
        for index in range(2 * self.pairs):
            self.tell_queue(index)
        self.enable()
        self.fill()
        self.pump()

    # --- frames ---

    def fill(self) -> None:
        """Offer every buffer to the back end."""
        for queue in self.queues[TO_GUEST::2]:
            for index in range(queue.size):
                queue.describe(index, queue.buffers + index * queue.buffer_bytes, queue.buffer_bytes, WRITE)
            queue.offer(*range(queue.size))
            queue.wake()

    def send(self, frame: bytes, header: bytes = b"") -> None:
        """One frame, in as many descriptors as buffers are needed; `header` as in struct virtio_net_hdr."""
        queue = self.ring(FROM_GUEST)
        data = header.ljust(self.header_bytes, b"\0") + frame
        count = -(-len(data) // queue.buffer_bytes)
        first = 0 if queue.offered == queue.used_index() else queue.next_buffer
        if first + count > queue.size:
            self.pump()
            assert queue.offered == queue.used_index(), "the guest's frames were not taken"
            first = 0
        for part in range(count):
            at, last = queue.buffers + (first + part) * queue.buffer_bytes, part == count - 1
            piece = data[part * queue.buffer_bytes : (part + 1) * queue.buffer_bytes]
            self.memory[at : at + len(piece)] = piece
            queue.describe(first + part, at, len(piece), 0 if last else NEXT, first + part + 1)
        queue.next_buffer = first + count
        queue.offer(first)
        queue.wake()

    def pump(self, ticks: int = 2) -> None:
        quiet, end = 0, time.monotonic() + PATIENCE_S
        while quiet < ticks and not self.ended and time.monotonic() < end:
            kind, ident, data = self.plane.run()
            if kind == plane.TICK:
                quiet = 0 if ident else quiet + 1
            elif kind == plane.LOG:
                self.logs.append(data.decode())
            elif kind == plane.PUNT:
                self.punts.append(data)
            elif kind == plane.END:
                self.ended.append(ident)

    def take(self, offer_again: bool = True) -> list[bytes]:
        """The frames that are in the guest's buffers now; their headers are added to `headers`."""
        queue, out = self.ring(TO_GUEST), list[bytes]()
        returned = queue.returned()
        while returned:
            head, written = returned[0]
            at = queue.buffers + head * queue.buffer_bytes
            header = self.memory[at : at + self.header_bytes]
            chains = struct.unpack_from("<H", header, 10)[0] if self.features >> MRG_RXBUF & 1 else 1
            begins = [(queue.buffers + h * queue.buffer_bytes, n) for h, n in returned[:chains]]
            data = b"".join(self.memory[begin : begin + n] for begin, n in begins)
            assert all(n == queue.buffer_bytes for _, n in returned[: chains - 1])
            self.held += [h for h, _ in returned[:chains]]
            del returned[:chains]
            self.headers.append(header)
            out.append(completed(data[self.header_bytes :], header))
        if out and offer_again:
            self.give_back(len(self.held))
        return out

    def give_back(self, count: int) -> None:
        """Offer the first `count` of the buffers whose frames were taken again."""
        self.ring(TO_GUEST).offer(*self.held[:count])
        del self.held[:count]
        self.ring(TO_GUEST).wake()

    def frames(self) -> list[bytes]:
        self.pump()
        return self.take()
