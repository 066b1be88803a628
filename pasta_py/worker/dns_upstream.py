"""Questions to the host's nameservers, built anew: the guest's query decides the name, the type, DO and CD, and nothing else.

Every question has an ID, a mix of upper and lower case and a source port of its own, all random. What comes back counts only from
the address that was asked, on the socket that asked, with that ID and that very name. Nameservers are asked one after another, a
second each, the last good one first, all of them twice. One that changes the case is asked in lower case from then on. A truncated
answer is asked for again over TCP.

Invariants: each question has one socket at most, and ends with one call of its `done`; there are _ASKING_MAX questions at most.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py import defaults
from pasta_py.worker import dns_wire
from pasta_py.worker.dns_wire import Edns, Malformed, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class Watches(Protocol):
        """Calls a handler when a descriptor is readable; with `connect` once, when its connect() has ended."""

        def add(self, fd: int, handler: "Callable[[], None]", *, connect: bool = False) -> None: ...
        def remove(self, fd: int) -> None: ...


PORT = 53
_ASKING_MAX = 256
#: DNS Flag Day 2020's size, which passes every network unfragmented.
UDP_BYTES = 1232
_NEVER = float("inf")
#: A nameserver that says this may lack what another one knows, or does not know EDNS.
_TRY_NEXT = frozenset((dns_wire.SERVFAIL, dns_wire.FORMERR, dns_wire.NOTIMP, 5))


class Server:
    """A nameserver. `address`: for socket.connect(). `source`: to bind to, or None; `ifname`: to bind to, or ""."""

    __slots__ = ("family", "address", "source", "ifname", "keeps_case")

    def __init__(
        self, family: int, address: "tuple[str | int, ...]", source: "tuple[str, int] | None" = None, ifname: str = ""
    ) -> None:  # fmt: skip
        self.family, self.address, self.source, self.ifname = family, address, source, ifname
        self.keeps_case = True

    def open(self, kind: int) -> "_socket.socket":
        sock = _socket.socket(self.family, kind | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            if self.ifname:
                sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, self.ifname.encode("utf-8", "surrogateescape"))
            if self.source:
                sock.bind(self.source)
        except OSError:
            sock.close()
            raise
        return sock


class Asked:
    """One question under way."""

    __slots__ = (
        "name", "kind", "do", "cd", "done", "turn", "edns", "sock", "deadline", "sent", "received", "stream", "best", "order"
    )  # fmt: skip

    def __init__(self, name: bytes, kind: int, do: bool, cd: bool, done: "Callable[[Message | None], None]") -> None:
        self.name, self.kind, self.do, self.cd, self.done = name, kind, do, cd, done
        self.turn, self.edns, self.stream = 0, True, False
        self.sock: _socket.socket | None = None
        self.deadline = _NEVER
        self.sent = self.received = b""
        self.best: Message | None = None  # an answer that says "cannot"
        self.order: Sequence[int] = ()


class Upstream:
    """Asks the nameservers."""

    def __init__(
        self, servers: "Sequence[Server]", watches: "Watches", clock: "Callable[[], float]",
        random: "Callable[[int], bytes]" = os.urandom,
    ) -> None:  # fmt: skip
        """`clock`: seconds, such as time.monotonic. `random`: that many bytes."""
        self._servers, self._watches, self._clock, self._random = servers, watches, clock, random
        self._asking: dict[Asked, None] = {}
        self._good = 0

    @property
    def busy(self) -> bool:
        """Whether anything is asked, so that on_tick() may have something to do."""
        return bool(self._asking)

    def ask(
        self, name: bytes, kind: int, done: "Callable[[Message | None], None]", *, do: bool = False, cd: bool = False
    ) -> bool:
        """Ask for a name in wire form. `done` gets the answer, or None; perhaps at once. False: too many are asked already."""
        if len(self._asking) >= _ASKING_MAX:
            return False
        asked = Asked(name, kind, do, cd, done)
        count = len(self._servers)
        asked.order = [(self._good + step) % count for step in range(count)]
        self._asking[asked] = None
        self._send(asked)
        return True

    def adopt(self, servers: "Sequence[Server]") -> None:
        """Ask these nameservers from now on, also what is under way."""
        self._servers, self._good = servers, 0
        for asked in list(self._asking):
            asked.order, asked.turn = range(len(servers)), -1
            self._next(asked)

    def on_tick(self) -> None:
        now = self._clock()
        for asked in [each for each in self._asking if each.deadline <= now]:
            if asked in self._asking:
                self._next(asked)

    def close(self) -> None:
        for asked in self._asking:
            self._close(asked)
        self._asking.clear()

    # ---- sending ----

    def _server(self, asked: Asked) -> Server:
        return self._servers[asked.order[asked.turn % len(asked.order)]]

    def _message(self, asked: Asked) -> bytes:
        random = self._random(2 + len(asked.name) // 8 + 1)
        name = asked.name
        if self._server(asked).keeps_case and asked.turn < len(asked.order):
            bits = int.from_bytes(random[2:], "big")
            name = bytes(
                byte & 0xDF if bits >> at & 1 and 0x61 <= byte <= 0x7A else byte for at, byte in enumerate(asked.name)
            )  # no length is the code of a letter
        flags = dns_wire.RD | dns_wire.AD | (dns_wire.CD if asked.cd else 0)
        edns = Edns(UDP_BYTES, asked.do) if asked.edns else None
        return dns_wire.write(Message(int.from_bytes(random[:2], "big"), flags, name, asked.kind, edns=edns))

    def _send(self, asked: Asked) -> None:
        """Ask the present server, or the next one that can be asked; with none left, it is over."""
        self._close(asked)
        while asked.turn < defaults.NAMESERVER_ROUNDS * len(asked.order):
            kind = _socket.SOCK_STREAM if asked.stream else _socket.SOCK_DGRAM
            try:
                server = self._server(asked)
                asked.sock = server.open(kind)
                asked.sent = self._message(asked)
                asked.deadline = self._clock() + defaults.NAMESERVER_S
                waits = asked.sock.connect_ex(server.address)
                if waits not in (0, errno.EINPROGRESS):
                    raise OSError(waits, os.strerror(waits))
                if asked.stream:
                    asked.received = b""
                    self._watches.add(asked.sock.fileno(), lambda: self._connected(asked), connect=True)
                else:
                    asked.sock.send(asked.sent)
                    self._watches.add(asked.sock.fileno(), lambda: self._readable(asked))
                return
            except OSError:
                if asked.sock:
                    asked.sock.close()
                asked.sock = None
                self._turn(asked)
        self._end(asked, asked.best)

    def _turn(self, asked: Asked) -> None:
        asked.turn += 1
        asked.edns, asked.stream = True, False

    def _next(self, asked: Asked) -> None:
        self._turn(asked)
        self._send(asked)

    def _close(self, asked: Asked) -> None:
        if asked.sock:
            self._watches.remove(asked.sock.fileno())
            asked.sock.close()
        asked.sock, asked.deadline = None, _NEVER

    def _end(self, asked: Asked, answer: "Message | None") -> None:
        self._close(asked)
        del self._asking[asked]
        asked.done(answer)

    # ---- receiving ----

    def _connected(self, asked: Asked) -> None:
        sock = asked.sock
        assert sock
        try:
            failed = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if failed:
                raise OSError(failed, os.strerror(failed))
            sock.send(len(asked.sent).to_bytes(2, "big") + asked.sent)
        except OSError:
            self._next(asked)
            return
        self._watches.remove(sock.fileno())
        self._watches.add(sock.fileno(), lambda: self._readable(asked))

    def _readable(self, asked: Asked) -> None:
        assert asked.sock
        try:
            data = asked.sock.recv(dns_wire.MESSAGE_MAX_BYTES + 2)
        except BlockingIOError:
            return
        except OSError:  # nothing listens there, or the path is cut
            self._next(asked)
            return
        if asked.stream:
            asked.received += data
            size = int.from_bytes(asked.received[:2], "big")
            if len(asked.received) < 2 or len(asked.received) < 2 + size:
                if not data:
                    self._next(asked)
                return
            data = asked.received[2 : 2 + size]
        self._take(asked, data)

    def _take(self, asked: Asked, data: bytes) -> None:
        question_end = dns_wire.HEADER_BYTES + len(asked.name) + 4
        if len(data) < dns_wire.HEADER_BYTES or data[:2] != asked.sent[:2] or not data[2] & 0x80:
            self._refuse(asked)
            return
        rcode = data[3] & 15
        if rcode in (dns_wire.FORMERR, dns_wire.NOTIMP) and asked.edns and not asked.do:
            asked.edns = False
            self._send(asked)
            return
        server, question, sent = self._server(asked), data[12:question_end], asked.sent[12:question_end]
        if question != sent and question.lower() == sent.lower() and server.keeps_case:
            server.keeps_case = False  # a forger knows the ID and the port then: the next question has others
            self._send(asked)
            return
        # Some nameservers answer an error without the question.
        if question != sent and not (rcode in _TRY_NEXT and data[4:6] == b"\0\0"):
            self._refuse(asked)
            return
        if data[2] << 8 & dns_wire.TC and not asked.stream:
            asked.stream = True
            self._send(asked)
            return
        try:
            answer = dns_wire.read(data)
        except Malformed:
            self._next(asked)
            return
        if rcode in _TRY_NEXT:
            asked.best = asked.best or answer
            self._next(asked)
            return
        self._good = asked.order[asked.turn % len(asked.order)]
        self._end(asked, answer)

    def _refuse(self, asked: Asked) -> None:
        """What is no answer to the question: it may be forged, so the wait goes on. A stream has nothing else to come."""
        if asked.stream:
            self._next(asked)
