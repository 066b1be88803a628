"""A guest made of bytes: drives the core over a socketpair, one frame per message, without any privilege.

The host side is real: sockets on 127.0.0.1 and ::1, reached through the mapped addresses below.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

from checker.frame import IPv6, decode
from packets import ether, ip, tcp
from sample_plan import addr as mapped
from sample_plan import sample_plan

from pasta_py.model import Listener, WorkerPlan
from pasta_py.worker import plane

GUEST_MAC = bytes.fromhex("525400123456")
OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST4, GATEWAY4 = "10.0.2.15", "10.0.2.2"
GUEST6, GATEWAY6 = "fd00::15", "fd00::2"

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PATIENCE_S = 30.0  # for what has to come, on a machine however busy; whoever waits goes on at once


def plan(**changes: object) -> WorkerPlan:
    """The gateways are mapped to the host's loopback; the guest is told nothing; there are no offloads."""
    values: dict[str, object] = dict(
        guest_mac=GUEST_MAC, our_mac=OUR_MAC, mtu=1500, link_mtu=65536,
        guest4=mapped(GUEST4), guest6=mapped(GUEST6), gateway4=mapped(GATEWAY4), gateway6=mapped(GATEWAY6),
        map_host_loopback4=mapped(GATEWAY4), map_host_loopback6=mapped(GATEWAY6),
        guest_addrs=(), dns=(), search=(), hostname="", fqdn="", log_level=3,
    )  # fmt: skip
    return sample_plan(**{**values, **changes})


def ip_frame(src: str, dst: str, proto: int, payload: bytes, *, ttl: int = 64, tos: int = 0, df: bool = True) -> bytes:
    """An Ethernet frame from the guest with one IP packet."""
    return ether(ip(src, dst, proto, payload, ttl=ttl, tos=tos, fragment=0x4000 if df else 0), OUR_MAC, GUEST_MAC)


@dataclass
class Segment:
    """One TCP segment to the guest, parsed from its frame; the checksums were right."""

    src: str
    dst: str
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes
    frame_len: int


@dataclass
class Packet:
    """Any other IP packet to the guest."""

    src: str
    dst: str
    proto: int
    payload: bytes


def parse(frame: bytes) -> Segment | Packet:
    """Checks every length and checksum of a frame that the core emitted, then takes it apart."""
    assert frame[:6] == GUEST_MAC and frame[6:12] == OUR_MAC
    found = decode(frame)
    assert found.ip and (found.tcp or found.udp or found.icmp)
    src, dst, header = str(found.ip.src), str(found.ip.dst), 40 if isinstance(found.ip, IPv6) else 20
    payload = frame[14 + header :]
    assert len(payload) == found.ip.length - header % 40, "no options, and nothing behind the packet"
    assert not found.udp or payload[6:8] != bytes(2), "the checksum is left out"
    if not found.tcp:
        return Packet(src, dst, found.ip.protocol, payload)
    tcp, options = found.tcp, payload[20 : len(payload) - len(found.payload)]
    return Segment(
        src, dst, tcp.sport, tcp.dport, tcp.seq, tcp.ack, payload[13], tcp.window, options, found.payload, len(frame)
    )


class Guest:
    """The core with a guest on its tap. Use as a context manager."""

    def __init__(self, extra_flags: int = 0, **changes: object) -> None:
        self.sock, self.tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.sock, self.tap):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self.sock.setblocking(False)
        self.plane = plane.Plane(plan(**changes), self.tap.fileno(), extra_flags)
        self.plane.tick(1)
        self.logs: list[str] = []
        self.punts: list[bytes] = []
        self.asked: list[tuple[bytes, bytes]] = []  # addresses and names that are to be asked again

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.plane.close()
        self.sock.close()
        self.tap.close()

    def pump(self, ticks: int = 2) -> None:
        """Let the core run until it has nothing to do: that many ticks in a row at which that was so.

        However slowly the machine runs, all that was sent by now, on either side, has then been dealt with, and so has what
        it led to. What waits for a timer has not.
        """
        quiet = 0
        while quiet < ticks:
            kind, ident, data = self.plane.run()
            if kind == plane.TICK:
                quiet = 0 if ident else quiet + 1
            elif kind == plane.LOG:
                self.logs.append(data.decode())
            elif kind == plane.PUNT:
                self.punts.append(data)
            elif kind == plane.ASK:
                self.asked.append((data[:16], data[16:]))

    def send(self, frame: bytes) -> None:
        self.sock.send(frame)

    def frames(self) -> list[bytes]:
        """Every frame that waits for the guest, after a pump."""
        self.pump()
        out: list[bytes] = []
        while True:
            try:
                out.append(self.sock.recv(70000))
            except BlockingIOError:
                return out

    def received(self) -> list[Segment | Packet]:
        return [parse(frame) for frame in self.frames()]

    def segments(self) -> list[Segment]:
        return [s for s in self.received() if isinstance(s, Segment)]

    def wait_segments(self, count: int = 1) -> list[Segment]:
        """At least count segments; the kernel's loopback may take a moment to deliver, and some need a timer."""
        found = self.segments()
        end = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < end:
            found += self.segments()
        assert len(found) >= count, f"{len(found)} of {count} segments within {PATIENCE_S} s"
        return found

    def counter(self, name: str) -> int:
        return self.plane.counters()[name]

    def listen(self, proto: int, sock: socket.socket, target_port: int, *, to_host: bool = False) -> None:
        """Forward a bound host socket to the guest (`to_host`: as one of the guest's namespace, to the host's loopback)."""
        port = sock.getsockname()[1]
        sock.setblocking(False)
        listener = Listener(proto=proto, port=port, target=b"", target_port=target_port)
        self.plane.add_listeners(listener, [sock.fileno()], to_host=to_host)


class TcpPeer:
    """One TCP connection of the guest, driven segment by segment; it acknowledges only when told to."""

    def __init__(self, guest: Guest, port: int, *, v6: bool = False, sport: int = 40000, iss: int = 1000, window: int = 65535,
                 wscale: int | None = 7, mss: int = 1460) -> None:  # fmt: skip
        self.guest, self.sport, self.dport = guest, sport, port
        self.src, self.dst = (GUEST6, GATEWAY6) if v6 else (GUEST4, GATEWAY4)
        self.seq, self.ack, self.window, self.wscale, self.mss = iss, 0, window, wscale, mss
        self.peer_wscale = 0

    def send(self, flags: int = ACK, payload: bytes = b"", *, seq: int | None = None, ack: int | None = None, options: bytes = b"",
             window: int | None = None) -> None:  # fmt: skip
        """One segment as given; the connection's own numbers where nothing is said. Moves seq only if seq is not given."""
        number = self.seq if seq is None else seq
        ack_number = self.ack if ack is None else ack
        scaled = self.window if flags & SYN else self.window >> (self.wscale or 0)
        body = tcp(
            self.src, self.sport, self.dst, self.dport, flags, seq=number, ack=ack_number if flags & ACK else 0,
            window=min(scaled, 65535) if window is None else window, options=options, payload=payload,
        )  # fmt: skip
        self.guest.send(ip_frame(self.src, self.dst, 6, body))
        if seq is None:
            self.seq = (self.seq + len(payload) + bool(flags & SYN) + bool(flags & FIN)) % 2**32

    def options(self) -> bytes:
        out = struct.pack("!BBH", 2, 4, self.mss)
        return out + (b"\x01\x03\x03" + bytes([self.wscale]) if self.wscale is not None else b"")

    def connect(self) -> Segment:
        """SYN, SYN-ACK, ACK; returns the SYN-ACK."""
        self.send(SYN, options=self.options())
        answer = self.guest.wait_segments()[0]
        assert answer.flags == SYN | ACK and answer.ack == self.seq, answer
        self.ack = (answer.seq + 1) % 2**32
        if b"\x03\x03" in answer.options:
            self.peer_wscale = answer.options[answer.options.index(b"\x03\x03") + 2]
        self.send(ACK)
        return answer

    def take(self, segments: list[Segment]) -> bytes:
        """Accepts in-sequence segments: moves ack past their payload and FIN, returns the payload."""
        out = b""
        for s in segments:
            assert s.seq == self.ack, f"expected sequence {self.ack}, got {s.seq}"
            out += s.payload
            self.ack = (self.ack + len(s.payload) + bool(s.flags & FIN)) % 2**32
        return out


def server(v6: bool = False) -> socket.socket:
    """A listening socket on the host's loopback."""
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::1" if v6 else "127.0.0.1", 0))
    sock.listen(16)
    sock.settimeout(PATIENCE_S)
    return sock


@contextmanager
def silent_server() -> Iterator[int]:
    """A port of the host's loopback at which a connect has no answer: its backlog is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield int(full.getsockname()[1])


def connected(guest: Guest, v6: bool = False, *, rcvbuf: int = 0, **changes: int) -> tuple[TcpPeer, socket.socket]:
    """A connection of the guest, and the host's end of it (`rcvbuf`: with a receive buffer of that size)."""
    with server(v6) as listener:
        if rcvbuf:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        peer = TcpPeer(guest, listener.getsockname()[1], v6=v6, **changes)
        peer.connect()
        sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    guest.pump()
    return peer, sock
