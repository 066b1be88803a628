"""A model of one TCP connection, driven at random from both sides.

The guest sends segments in order, out of order, repeated and overlapping, with any acknowledgement and window. The host's socket
writes, reads, stops reading, closes and resets. After every step:

- the host has read a prefix of the guest's stream, and each segment to the guest has the host's bytes of its sequence number;
- the core acknowledges only what the guest has sent, and sends only within the guest's window;
- the right edge of the window advertised to the guest never moves left;
- a FIN comes only after all data.

At the end, a connection that was not reset delivers every byte both ways and leaves no flow behind.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from guest import ACK, FIN, PSH, RST, SYN, Guest, Segment, TcpPeer, server
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

MOD = 2**32
GUEST_STREAM = bytes(i * 7 % 251 for i in range(1 << 20))
HOST_STREAM = bytes(i * 11 % 241 for i in range(1 << 20))


def ahead(b: int, a: int) -> int:
    """b - a as a signed distance of sequence numbers."""
    return (b - a + 2**31) % MOD - 2**31


class TcpModel(RuleBasedStateMachine):
    @initialize(iss=st.sampled_from([1000, MOD - 50, 2**31 - 20]), peek=st.booleans(), wscale=st.sampled_from([None, 0, 7]))
    def open(self, iss: int, peek: bool, wscale: int | None) -> None:
        self.guest = Guest(extra_flags=0 if peek else 128)
        with server() as listener:
            self.peer = TcpPeer(self.guest, listener.getsockname()[1], iss=iss, wscale=wscale, window=65535)
            answer = self.peer.connect()
            self.sock, _ = listener.accept()
        self.sock.setblocking(False)
        self.irs = self.peer.ack  # sequence number of HOST_STREAM[0]
        self.base = self.peer.seq  # of GUEST_STREAM[0]
        self.sent = 0  # bytes of GUEST_STREAM that were sent without a hole
        self.behind: list[tuple[int, int]] = []  # ranges sent behind a hole; they count in `sent` once it is filled
        self.edge = self.base + answer.window
        self.scale = self.peer.peer_wscale
        self.acked_by_core = 0
        self.host_wrote = self.host_read = self.guest_got = 0
        self.guest_edge = 65535  # of HOST_STREAM: edge of the window advertised to the core
        self.guest_fin = self.host_shut = self.host_fin_seen = self.dead = False

    # --- the guest ---

    def room(self) -> int:
        return max(0, min(1400, ahead(self.edge, self.base + self.sent), len(GUEST_STREAM) - self.sent))

    @precondition(lambda self: not self.dead and not self.guest_fin)
    @rule(size=st.integers(1, 1400), push=st.booleans())
    def guest_sends(self, size: int, push: bool) -> None:
        size = min(size, self.room())
        if size:
            start, end = self.sent, self.sent + size
            self.sent = end
            for first, last in sorted(self.behind):
                if first <= self.sent < last:
                    self.sent = last
            self.segment(start, GUEST_STREAM[start:end], ACK | (PSH if push else 0))

    @precondition(lambda self: not self.dead and self.sent)
    @rule(back=st.integers(1, 5000), size=st.integers(1, 1400))
    def guest_repeats(self, back: int, size: int) -> None:
        start = max(0, self.sent - back)
        self.segment(start, GUEST_STREAM[start : min(start + size, self.sent)], ACK)

    @precondition(lambda self: not self.dead and not self.guest_fin)
    @rule(gap=st.integers(1, 3000), size=st.integers(1, 1400))
    def guest_leaves_a_hole(self, gap: int, size: int) -> None:
        start = self.sent + gap
        payload = GUEST_STREAM[start : start + size]
        self.behind.append((start, start + len(payload)))
        self.segment(start, payload, ACK)

    @precondition(lambda self: not self.dead)
    @rule(amount=st.integers(0, 1 << 17), window=st.sampled_from([0, 1, 500, 1460, 20000, 65535]))
    def guest_acknowledges(self, amount: int, window: int) -> None:
        """Acknowledges any part of what it has got, with any window. The guest's edge does not move left either."""
        done = min(self.guest_got, ahead(self.peer.ack, self.irs) + amount)
        unit = 1 << (self.peer.wscale or 0)
        window = -(-max(window, self.guest_edge - done) // unit) * unit
        self.peer.window = min(window, 65535 * unit)
        self.guest_edge = max(self.guest_edge, done + self.peer.window)
        self.peer.ack = (self.irs + done) % MOD
        self.segment(self.sent, b"", ACK)

    @precondition(lambda self: not self.dead)
    @rule(seq=st.integers(0, MOD - 1), ack=st.integers(0, MOD - 1), flags=st.integers(0, 63), size=st.integers(0, 100))
    def guest_sends_garbage(self, seq: int, ack: int, flags: int, size: int) -> None:
        """A segment far outside the window: it must have no effect."""
        if abs(ahead(seq, self.base + self.sent)) < 1 << 27:
            return
        self.peer.send(flags, bytes(size), seq=seq, ack=ack)
        self.look()

    @precondition(lambda self: not self.dead and not self.guest_fin)
    @rule()
    def guest_closes(self) -> None:
        self.guest_fin = True
        self.segment(self.sent, b"", ACK | FIN)

    @precondition(lambda self: not self.dead and self.guest_fin)
    @rule()
    def guest_repeats_its_end(self) -> None:
        self.segment(self.sent, b"", ACK | FIN)

    def segment(self, start: int, payload: bytes, flags: int) -> None:
        number = self.base + start + (1 if self.guest_fin and not flags & FIN and start == self.sent else 0)
        self.peer.send(flags, payload, seq=number % MOD)
        self.look()

    # --- the host ---

    @precondition(lambda self: not self.dead and not self.host_shut)
    @rule(size=st.integers(1, 200000))
    def host_writes(self, size: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self.host_wrote += self.sock.send(HOST_STREAM[self.host_wrote : self.host_wrote + size])
        self.look()

    @precondition(lambda self: not self.dead)
    @rule(size=st.integers(1, 300000))
    def host_reads(self, size: int) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(size)
            assert data == GUEST_STREAM[self.host_read : self.host_read + len(data)], "the host read other bytes"
            self.host_read += len(data)
            assert data or (self.guest_fin and self.host_read == self.sent), "an end before all bytes"
        self.look()

    @precondition(lambda self: not self.dead and not self.host_shut)
    @rule()
    def host_shuts_down(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        self.host_shut = True
        self.look()

    @precondition(lambda self: not self.dead and not self.host_done())
    @rule(by_guest=st.booleans())
    def reset(self, by_guest: bool) -> None:
        if by_guest:
            self.peer.send(RST | ACK, seq=(self.base + self.acked_by_core) % MOD)
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
        self.dead = True

    @rule(ticks=st.integers(1, 5))
    def time_passes(self, ticks: int) -> None:
        self.guest.pump(ticks)

    # --- what must hold ---

    def look(self) -> None:
        for s in self.guest.segments():
            self.check(s)

    def check(self, s: Segment) -> None:
        if s.flags & (RST | SYN):
            assert not s.flags & RST or self.host_done() or self.dead, "a reset out of nowhere"
            return
        limit = self.base + self.sent + self.guest_fin
        assert ahead(s.ack, limit) <= 0, "acknowledged what was never sent"
        self.acked_by_core = max(self.acked_by_core, ahead(s.ack, self.base))
        right = (s.ack + (s.window << self.scale)) % MOD
        assert self.guest_fin or ahead(right, self.edge) >= 0, "the window's edge moved left"
        self.edge = right if ahead(right, self.edge) > 0 else self.edge
        start = ahead(s.seq, self.irs)
        if s.payload:
            assert s.payload == HOST_STREAM[start : start + len(s.payload)], "the guest got other bytes"
            assert start + len(s.payload) <= self.host_wrote, "bytes that the host has not written"
            assert start + len(s.payload) <= self.guest_edge, "beyond the guest's window"
            if start <= self.guest_got:
                self.guest_got = max(self.guest_got, start + len(s.payload))
        if s.flags & FIN:
            assert self.host_shut and start + len(s.payload) == self.host_wrote, "FIN before all data"
            if self.guest_got == self.host_wrote:
                self.host_fin_seen = True

    def host_done(self) -> bool:
        """Both sides have sent their end. Then the flow is gone, and later segments get a reset."""
        return self.host_shut and self.guest_fin

    @invariant()
    def acknowledged_is_held(self) -> None:
        """There is at most one flow. That acknowledged bytes reach the host is checked in teardown."""
        if hasattr(self, "guest"):
            assert self.guest.counter("tcp_flows") <= 1

    def teardown(self) -> None:
        if not hasattr(self, "guest"):
            return
        try:
            if self.dead:
                self.drain()
            else:
                self.finish()
            self.guest.pump(5)
            assert self.guest.counter("tcp_flows") == 0, "a flow was left behind"
        finally:
            self.sock.close()
            self.guest.__exit__(None, None, None)

    def drain(self) -> None:
        """After a reset by the host the guest first gets the bytes sent before, and acknowledges them."""
        for _ in range(100):
            if not self.guest.counter("tcp_flows"):
                break
            self.acknowledge_all()

    def finish(self) -> None:
        """Sends all that is left and closes both sides. Then every byte must have arrived."""
        if not self.host_shut:
            self.host_shuts_down()
        if not self.guest_fin:
            self.guest_closes()
        for _ in range(400):
            self.host_reads(1 << 20)
            if self.acked_by_core < self.sent + 1:
                start = max(0, self.acked_by_core)
                if start < self.sent:
                    size = min(1400, self.sent - start)
                    self.segment(start, GUEST_STREAM[start : start + size], ACK)
                else:
                    self.guest_repeats_its_end()
            self.acknowledge_all()
            if self.host_read == self.sent and self.host_fin_seen and self.acked_by_core > self.sent:
                break
        self.acknowledge_all()
        assert self.host_read == self.sent, f"the host got {self.host_read} of {self.sent} bytes"
        assert self.guest_got == self.host_wrote, f"the guest got {self.guest_got} of {self.host_wrote} bytes"
        assert self.host_fin_seen and self.acked_by_core == self.sent + 1

    def acknowledge_all(self) -> None:
        self.peer.ack = (self.irs + self.guest_got + self.host_fin_seen) % MOD
        self.peer.window = 65535
        self.guest_edge = max(self.guest_edge, self.guest_got + 65535)
        self.segment(self.sent, b"", ACK)


TestTcpModel = TcpModel.TestCase
TestTcpModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
