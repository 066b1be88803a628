"""Several connections at once over a tap that loses and doubles frames both ways, with small buffers on the host.

The guest is a small TCP: it goes back to the first unacknowledged byte, keeps no out-of-order segments, acknowledges every
segment, and closes and opens its window. Each side must read exactly what the other wrote, then its end, whatever is lost and
whichever side ends first. No flow is left.

While no byte moves, the test advances the clock of both sides: timeouts take no real time, and a slow machine causes none.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from clocked import Clock
from guest import ACK, FIN, PSH, RST, SYN, Guest, Segment, TcpPeer, parse, server
from hypothesis import given, settings
from hypothesis import strategies as st

MOD = 2**32
RETRANSMIT_S = 0.03
DEADLINE_S = 3600
STEP_MS = 20


def ahead(b: int, a: int) -> int:
    return (b - a + 2**31) % MOD - 2**31


class Connection:
    """One connection: the guest's TCP, and the host's socket."""

    def __init__(self, link: Link, listener: socket.socket, number: int) -> None:
        rng = self.rng = link.rng
        self.link = link
        self.peer = TcpPeer(
            link.guest, listener.getsockname()[1], sport=40000 + number, v6=link.v6, iss=rng.choice([1000, MOD - 700]),
            wscale=rng.choice([None, 0, 7, 14]), mss=rng.choice([48, 536, 1460]),
        )  # fmt: skip
        # Lengths are in segments: with a small MSS, many segments would take minutes to repeat.
        self.up = rng.randbytes(rng.choice([0, 1, 4 * self.peer.mss, 70 * self.peer.mss]))
        self.down = rng.randbytes(rng.choice([0, 1, 4 * self.peer.mss, 200 * self.peer.mss]))
        self.base = (self.peer.seq + 1) % MOD
        self.una = self.nxt = -1  # of `up`; -1 is the SYN, len(up) the FIN
        self.edge = 0
        self.irs = -1
        self.got = bytearray()
        self.guest_edge = 0  # of `down`: the edge of the window that the guest has advertised
        self.host: socket.socket | None = None
        self.read = bytearray()
        self.wrote = 0
        self.host_shut = self.host_end = self.guest_end = self.gone = False
        # Whether this side closes only after the other's end.
        self.guest_waits = rng.random() < 0.3
        self.host_waits = not self.guest_waits and rng.random() < 0.3
        self.heard = link.now()

    # --- the guest ---

    def send(self, flags: int, at: int, payload: bytes = b"") -> None:
        unit = 1 << (self.peer.wscale or 0)
        window = self.rng.choice([0, 100, 3000, 60000, 65535, 200000])
        window = -(-max(window, self.guest_edge - len(self.got)) // unit) * unit
        self.peer.window = min(window, 65535 * unit)
        if not flags & SYN:
            self.guest_edge = max(self.guest_edge, len(self.got) + self.peer.window)
        self.peer.ack = (self.irs + 1 + len(self.got) + self.guest_end) % MOD if self.irs >= 0 else 0
        options = self.peer.options() if flags & SYN else b""
        with self.link.losing():
            self.peer.send(flags, payload, seq=(self.base + at) % MOD, options=options)

    def guest_turn(self) -> None:
        if self.gone:
            return
        if self.una < 0:
            if self.nxt < 0 or self.silent():
                self.send(SYN, -1)
                self.nxt = 0
            return
        if self.silent():
            self.nxt = self.una
            if self.nxt > len(self.up):  # everything was sent: probe like a keepalive
                self.send(ACK, self.nxt - 1)
        for _ in range(20):
            part = self.up[self.nxt : self.nxt + min(self.peer.mss, max(0, self.edge - self.nxt))]
            if self.nxt < len(self.up) and not part:
                if self.nxt == self.una and self.silent():
                    self.send(ACK, self.nxt - 1)  # the window is closed
                break
            fin = self.nxt + len(part) == len(self.up) and (self.guest_end or not self.guest_waits)
            if self.nxt > len(self.up) or not (part or fin):
                break
            self.send(ACK | PSH | (FIN if fin else 0), self.nxt, part)
            self.nxt += len(part) + fin
        if self.silent():
            if self.una > len(self.up) or self.guest_waits:
                self.send(ACK, self.nxt)
            self.heard = self.link.now()

    def silent(self) -> bool:
        return self.link.now() - self.heard > RETRANSMIT_S

    def guest_gets(self, s: Segment) -> None:
        if s.flags & RST:
            # After both ends the flow is gone, and a repeated FIN gets a reset.
            assert self.guest_end and self.nxt > len(self.up), "a reset out of nowhere"
            self.gone = True
            return
        if s.flags & SYN:
            if self.irs < 0:
                self.irs, self.una, self.nxt, self.edge = s.seq, 0, 0, s.window
                with contextlib.suppress(ValueError):
                    self.peer.peer_wscale = s.options[s.options.index(b"\x03\x03") + 2]
                self.heard = self.link.now()
            self.send(ACK, self.una)
            return
        if self.irs < 0:
            return
        acked = ahead(s.ack, self.base)
        assert acked <= len(self.up) + 1, "acknowledged what was never sent"
        if acked > self.una:
            self.una, self.heard = acked, self.link.now()
            self.nxt = max(self.nxt, acked)
        self.edge = max(self.edge, acked + (s.window << self.peer.peer_wscale))
        start = ahead(s.seq, self.irs) - 1
        if not s.payload and not s.flags & FIN:
            if start < len(self.got) + self.guest_end:
                self.send(ACK, self.nxt)  # a probe
            return
        end = start + len(s.payload)
        assert end <= max(self.guest_edge, len(self.got)), "beyond the guest's window"
        assert s.payload == self.down[start:end], "the guest got other bytes"
        if start <= len(self.got) < end:
            self.got += self.down[len(self.got) : end]
        if s.flags & FIN and end == len(self.got):
            assert end == len(self.down), "FIN before all data"
            self.guest_end = True
        self.send(ACK, self.nxt)

    # --- the host ---

    def host_turn(self) -> None:
        if not self.host:
            return
        size = self.rng.choice([0, 1, 1000, 100000])
        if not self.host_shut and self.wrote < len(self.down):
            with contextlib.suppress(BlockingIOError):
                self.wrote += self.host.send(self.down[self.wrote : self.wrote + size])
        elif not self.host_shut and (self.host_end or not self.host_waits):
            self.host.shutdown(socket.SHUT_WR)
            self.host_shut = True
        if self.host_end or not size:
            return
        with contextlib.suppress(BlockingIOError):
            data = self.host.recv(size)
            assert data == self.up[len(self.read) : len(self.read) + len(data)], "the host read other bytes"
            self.read += data
            assert data or len(self.read) == len(self.up), "an end before all bytes"
            self.host_end = not data

    def done(self) -> bool:
        return self.host_end and self.guest_end and (self.gone or self.una > len(self.up))

    def state(self) -> str:
        return (
            f"{self.peer.sport}: host read {len(self.read)}/{len(self.up)}, end {self.host_end}; "
            f"guest got {len(self.got)}/{len(self.down)} of {self.wrote} up to {self.guest_edge}, end {self.guest_end}, "
            f"sent {self.nxt} of which {self.una} arrived, may send {self.edge}"
        )


class Link:
    """The core, its lossy tap, and the connections."""

    def __init__(self, clock: Clock, seed: int, count: int, loss: float, peek: bool, v6: bool) -> None:
        self.clock = clock.module.lib
        self.rng = random.Random(seed)
        self.v6, self.loss = v6, loss
        self.guest = Guest(extra_flags=0 if peek else 128)
        self.listener = server(v6)
        small = self.rng.choice([0, 4096, 30000])
        if small:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)
        self.listener.setblocking(False)
        self.connections = [Connection(self, self.listener, i) for i in range(count)]

    def now(self) -> float:
        """The time in seconds as the core sees it."""
        return time.monotonic() + self.clock.moved_ms[0] / 1000

    @contextlib.contextmanager
    def losing(self) -> Iterator[None]:
        """Inside, some frames of the guest are lost or doubled."""
        send = self.guest.send

        def lossy(frame: bytes) -> None:
            with contextlib.suppress(BlockingIOError):  # a full tap loses frames too
                for _ in range(self.fate()):
                    send(frame)

        self.guest.send = lossy  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.guest.send = send  # type: ignore[method-assign]

    def fate(self) -> int:
        """How many times a frame arrives: 0, 1 or 2."""
        chance = self.rng.random()
        return 0 if chance < self.loss else 2 if chance < 2 * self.loss else 1

    def turn(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self.listener.accept()
            sock.setblocking(False)
            self.pending.append(sock)
        self.guest.pump(1)
        before, moved = self.moved(), False
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self.guest.sock.recv(70000)
                moved = True
                for _ in range(self.fate()):
                    s = parse(frame)
                    assert isinstance(s, Segment)
                    self.connections[s.dport - 40000].guest_gets(s)
        for c in self.connections:
            c.guest_turn()
            c.host_turn()
        if not moved and self.moved() == before:
            self.clock.moved_ms[0] += STEP_MS
            time.sleep(0.0005)  # the host's kernel uses real time

    def moved(self) -> int:
        """Bytes that the host has read and written, and the guest has sent."""
        return sum(len(c.read) + c.wrote + c.nxt for c in self.connections)

    pending: list[socket.socket]

    def run(self) -> None:
        self.pending = []
        end = self.now() + DEADLINE_S
        # Open one at a time: so the accepted socket belongs to the newest connection.
        everyone, self.connections = self.connections, []
        for c in everyone:
            self.connections.append(c)
            while not self.pending and self.now() < end:
                self.turn()
            c.host = self.pending.pop()
        while not all(c.done() for c in self.connections) and self.now() < end:
            self.turn()
        assert all(c.done() for c in self.connections), "; ".join(c.state() for c in self.connections if not c.done())
        while self.guest.counter("tcp_flows") and self.now() < end:
            self.turn()
        assert self.guest.counter("tcp_flows") == 0, "a flow was left behind"

    def close(self) -> None:
        for c in self.connections:
            if c.host:
                c.host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.host.close()
        self.listener.close()
        self.guest.__exit__(None, None, None)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([0.0, 0.01, 0.05, 0.2]), st.booleans(), st.booleans())
def test_every_byte_arrives_once_over_a_lossy_tap(seed: int, count: int, loss: float, peek: bool, v6: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        link = Link(Clock(patch), seed, count, loss, peek, v6)
        try:
            link.run()
        finally:
            link.close()
