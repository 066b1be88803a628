"""Sends the same segments to our TCP and to the kernel's: both must accept, acknowledge, challenge, reset and ignore the same ones.

Our TCP is behind a socketpair tap. The kernel's is behind a veth with a packet socket at the other end. Both have an ordinary
listening socket, in the test's own namespace, and the program does the same to its connected sockets. After every step both
must have reacted alike: reset, answer, acknowledgement number, bytes sent, FIN. Sequence numbers count from the initial ones.
"The edge" is the edge of each side's own window.

The kernel must answer each segment at once (route attribute quickack, tcp_invalid_ratelimit 0). It must not assume a loss when
the machine is slow (rto_min, tcp_early_retrans). The test runs on one CPU, which keeps the kernel's queues in order: an echo
reply means that everything before it was handled. Where the two differ on purpose, the sequence ends or avoids the difference;
docs/differences.md says why.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from guest import ACK, FIN, GATEWAY4, GUEST4, PSH, RST, SYN, Guest, ip_frame, parse
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from isolated import ip, isolated, sysctl
from packets import checksum, pseudo

GUEST_PORT = 40000
MSS, WSCALE = 1460, 7
NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
WRITES = 3  # of at most three segments: the kernel sends ten before the first ACK (RFC 6928)
ISS = 0xFFFFFE00  # the numbers wrap within the test
MOD = 1 << 32


@dataclass
class Heard:
    """A segment from one side, numbers relative to the initial ones."""

    flags: int
    seq: int
    ack: int
    window: int
    length: int


def signed(number: int) -> int:
    return (number + (1 << 31)) % MOD - (1 << 31)


class Side:
    """One TCP and its connection with the test."""

    def __init__(self, address: str, bound_to: str) -> None:
        self.address = address
        self.listener = socket.socket()
        self.listener.bind((bound_to, 0))
        self.listener.listen(16)  # a half-open connection of a failed run must not cause SYN cookies: they lose options
        self.port = self.listener.getsockname()[1]
        self.isn = self.acked = self.edge = self.sent = 0
        self.fin = False
        self.sport = GUEST_PORT

    def transmit(self, packet: bytes) -> None:
        raise NotImplementedError

    def packets(self) -> list[bytes]:
        """The IP packets that came, once this side has handled everything."""
        raise NotImplementedError

    def send(self, flags: int, seq: int, ack: int, payload: bytes = b"", options: bytes = b"") -> None:
        numbers = (ISS + seq) % MOD, (self.isn + ack) % MOD if flags & ACK else 0
        head = struct.pack(
            "!HHIIBBHHH", self.sport, self.port, *numbers, (20 + len(options)) // 4 << 4, flags, 60000, 0, 0
        )
        body = head + options + payload
        total = checksum(pseudo(GUEST4, self.address, 6, len(body)) + body)
        self.transmit(ip_frame(GUEST4, self.address, 6, body[:16] + struct.pack("!H", total) + body[18:]))

    def heard(self) -> list[Heard]:
        out = []
        for packet in self.packets():
            tcp = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
            if packet[9] != 6 or int.from_bytes(tcp[2:4], "big") != self.sport:
                continue
            seq, ack, offset, flags, window = struct.unpack_from("!IIBBH", tcp, 4)
            if flags & SYN:
                self.isn = seq
                window >>= WSCALE
            header = (offset >> 4) * 4
            if flags & SYN:
                at = tcp.index(b"\x03\x03", 20, header)
                self.shift = tcp[at + 2]
            relative = signed(seq - self.isn), signed(ack - ISS) if flags & ACK else 0
            out.append(Heard(flags & ~PSH, *relative, window << self.shift, len(tcp) - header))
        return out

    def connect(self, serial: int) -> None:
        self.sport = GUEST_PORT + serial % 20000
        self.isn = self.sent = 0
        self.fin = False
        self.send(SYN, 0, 0, options=struct.pack("!BBHBBBB", 2, 4, MSS, 1, 3, 3, WSCALE))
        answers = self.heard()  # repeated if a second has passed
        assert answers and all(answer.flags == SYN | ACK and answer.ack == 1 for answer in answers)
        self.acked, self.sent = 1, 1
        self.send(ACK, 1, 1)
        self.react()
        self.conn, _ = self.listener.accept()
        self.conn.setblocking(False)
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def react(self) -> tuple[bool, bool, int, int, bool]:
        """The reaction to the last step: reset, answer, acknowledged up to, sent up to, FIN."""
        reset = answered = False
        for h in self.heard():
            end = h.seq + h.length + bool(h.flags & FIN)
            if h.flags & RST:
                reset = True
                continue
            if end > self.sent or not (h.length or h.flags & FIN):
                answered = True  # a retransmission is no answer: each side has its own timing
            self.sent, self.fin = max(self.sent, end), self.fin or bool(h.flags & FIN)
            self.acked, self.edge = h.ack, h.ack + h.window
        return reset, answered, self.acked, self.sent, self.fin

    def close(self) -> None:
        self.conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.conn.close()


class Ours(Side):
    def __init__(self, guest: Guest) -> None:
        super().__init__(GATEWAY4, "127.0.0.1")
        self.guest = guest

    def transmit(self, packet: bytes) -> None:
        self.guest.send(packet)

    def packets(self) -> list[bytes]:
        self.guest.pump()
        frames = self.guest.frames()
        for frame in frames:
            parse(frame)
        return [frame[14:] for frame in frames]


class Kernels(Side):
    ADDRESS = "10.0.2.3"

    def __init__(self) -> None:
        ip(f"link add near address {NEAR_MAC} type veth peer name far address {FAR_MAC}\n"
           f"link set near up\nlink set far up\naddr add {self.ADDRESS}/24 dev near\n"
           f"route replace 10.0.2.0/24 dev near src {self.ADDRESS} quickack 1 rto_min 10s")  # fmt: skip
        sysctl("ipv4/tcp_invalid_ratelimit", 0)
        sysctl("ipv4/tcp_early_retrans", 0)
        sysctl("ipv4/conf/near/rp_filter", 0)
        ip(f"neigh replace {GUEST4} lladdr {FAR_MAC} dev near")
        self.ether = bytes.fromhex((NEAR_MAC + FAR_MAC).replace(":", ""))
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.raw.bind(("far", 0x0800))
        self.raw.settimeout(30)
        self.serial = 0
        super().__init__(self.ADDRESS, self.ADDRESS)

    def transmit(self, packet: bytes) -> None:
        self.raw.send(self.ether + packet[12:])

    def packets(self) -> list[bytes]:
        self.serial += 1
        echo = struct.pack("!BBHII", 8, 0, 0, 0x4711, self.serial)
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        self.transmit(ip_frame(GUEST4, self.ADDRESS, 1, echo))
        out: list[bytes] = []
        while True:
            packet, (_, _, kind, *_) = self.raw.recvfrom(70000)
            if kind == socket.PACKET_OUTGOING:
                continue
            packet = packet[14:]
            if packet[9] == 1 and packet[20] == 0 and packet[24:32] == echo[4:12]:
                return out
            out.append(packet)


Step = tuple[str, str, int, str, int]
KINDS = {
    "data": ACK | PSH, "ack": ACK, "fin": ACK | FIN, "reset": RST, "reset+ack": RST | ACK, "syn": SYN, "syn+ack": SYN | ACK,
    "nothing": 0, "fin alone": FIN,
}  # fmt: skip
PLACES = ("next", "next", "next", "before", "old", "far old", "hole", "edge", "beyond", "far beyond")
ACKS = ("all", "all", "all", "start", "future", "ancient")
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(PLACES), st.sampled_from([0, 1, 100]), st.sampled_from(ACKS)),
        st.tuples(st.sampled_from(["writes", "reads", "shuts"]), st.just(""), st.sampled_from([1, 700, 3000]), st.just("")),
    ),
    min_size=1,
    max_size=14,
)


def on_purpose(kind: str, where: str, length: int, ack: str, guest_fin: bool) -> bool:
    """Whether the two differ here on purpose (docs/differences.md)."""
    if guest_fin and where == "before" and (KINDS[kind] & RST or (kind == "data" and length > 1)):
        return True
    without_ack = not KINDS[kind] & (ACK | RST | SYN)
    if ack == "ancient" and kind in ("data", "fin"):
        return True
    return without_ack and where not in ("next", "hole")


def place(side: Side, where: str, nxt: int, length: int) -> int:
    return {"next": nxt, "before": nxt - 1, "old": nxt - max(length, 1), "far old": nxt - 100000, "hole": nxt + 10,
            "edge": side.edge, "beyond": side.edge + 1, "far beyond": side.edge + 1000000}[where]  # fmt: skip


class Run:
    """One sequence of steps on both sides."""

    def __init__(self, sides: tuple[Side, Side], serial: int) -> None:
        self.sides = sides
        self.next, self.guest_fin, self.shut = 1, False, False
        self.writes = 0
        self.said: list[str] = []
        for side in sides:
            side.connect(serial)

    def compare(self, what: str, *, answers: bool = True) -> tuple[bool, bool, int, int, bool]:
        ours, kernels = (side.react() for side in self.sides)
        self.said.append(f"{what}: {ours}")
        if not answers:
            ours, kernels = (ours[0], False, *ours[2:]), (kernels[0], False, *kernels[2:])
        reactions = f"ours {ours}, the kernel's {kernels} (reset, answer, acknowledged, sent, end) after:"
        assert ours == kernels, "\n".join([reactions, *self.said])
        self.next = max(self.next, ours[2])
        return ours

    def segment(self, kind: str, where: str, length: int, ack: str) -> bool:
        """False: the connection is over."""
        if on_purpose(kind, where, length, ack, self.guest_fin):
            return True
        flags = KINDS[kind]
        payload = bytes(length) if kind == "data" else b""
        for side in self.sides:
            number = {"all": side.sent, "start": 1, "future": side.sent + 1000, "ancient": -(1 << 30) - 5000}[ack]
            side.send(flags, place(side, where, self.next, len(payload)), number, payload)
        before = self.next
        reset, *_ = self.compare(f"{kind} at {where}, {len(payload)} bytes, ack {ack}")
        if reset:
            return False
        if flags & RST and where == "next":
            for side in self.sides:
                side.send(ACK, self.next, side.sent)
            assert self.compare("an ACK after the reset")[0], "the connection is still there"
            return False
        if payload and where == "hole" and not self.guest_fin:
            return self.fill(before, 10)
        if flags & FIN and self.next > before:
            self.guest_fin = True
        return not (self.guest_fin and self.sides[0].fin)

    def fill(self, start: int, length: int) -> bool:
        """Sends the bytes of the hole: both sides have kept what came behind it."""
        for side in self.sides:
            side.send(ACK, start, side.sent, bytes(length))
        return not self.compare(f"the hole from {start}, {length} bytes")[0]

    def program(self, what: str, size: int) -> bool:
        for side in self.sides:
            if what == "writes" and not self.shut and self.writes < WRITES:
                side.conn.send(bytes(size))
            elif what == "reads":
                with contextlib.suppress(BlockingIOError):
                    side.conn.recv(size)
            elif what == "shuts" and not self.shut:
                side.conn.shutdown(socket.SHUT_WR)
        self.shut |= what == "shuts"
        self.writes += what == "writes"
        self.compare(f"the program {what} {size}", answers=False)
        return not (self.guest_fin and self.sides[0].fin)

    def finish(self) -> None:
        """Both programs have read the same bytes and the same end."""
        got = []
        for side in self.sides:
            data, last = b"", "waits"
            try:
                while piece := side.conn.recv(1 << 16):
                    data += piece
                last = "end"
            except BlockingIOError:
                pass
            except ConnectionError as error:
                last = type(error).__name__
            got.append((data, last))
        assert got[0] == got[1], "\n".join([f"the program got {got}", *self.said])


@isolated
def test_ours_and_the_kernels_tcp_react_alike() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with Guest() as guest:
        sides = (Ours(guest), Kernels())
        serial = 0

        @settings(max_examples=int(os.environ.get("PASTA_DIFFERENTIAL", "200")), deadline=None, database=None,
                  phases=(Phase.explicit, Phase.generate, Phase.shrink))  # fmt: skip
        @given(steps)
        def run(script: list[tuple[str, str, int, str]]) -> None:
            nonlocal serial
            serial += 1
            both = Run(sides, serial)
            try:
                for kind, where, size, ack in script:
                    alive = both.segment(kind, where, size, ack) if where else both.program(kind, size)
                    if not alive:
                        break
                both.finish()
            finally:
                for side in sides:
                    side.close()
                    side.react()

        run()

