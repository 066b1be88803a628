"""DNS for the guest: takes its queries, decides, asks the host's nameservers, answers. Loaded only where a policy needs it.

The core hands over datagrams to port 53 of any address, and connections to it as stream sockets; the answer comes from the address
that was asked. Queries for the same thing wait for one answer together.

Invariants: tables are bounded, and what has no room is dropped, as on any network: resolvers ask again. Denied queries are answered
up to _DENIALS_PER_S; beyond that they cost reading the question and the verdict. An answer leaves after its addresses are pinned.
"""

import time

from pasta_py.worker import dns_decide, dns_wire, frames
from pasta_py.worker.dns_stream import Stream
from pasta_py.worker.dns_wire import Edns, Malformed, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pasta_py.model import WorkerPlan
    from pasta_py.worker.dns_upstream import Server, Upstream, Watches

_PORT = 53
_WAITING_MAX = 64  # clients of one question
_FORGOTTEN_S = 60  # no question takes that long: its answer was lost for lack of memory
_DENIALS_PER_S, _DENIALS_BURST = 1000, 500
_STREAMS_MAX = 64

# RFC 8914, 4. Blocked: a policy of the one who runs the nameserver. Filtered would be a wish of the guest's, Prohibited is about
# who asks.
_BLOCKED, _NO_REACHABLE_AUTHORITY = 15, 22


class Client:
    """Where an answer goes, and how long it may be over that way. `guest`: its address, 16 bytes."""

    __slots__ = ("reply", "most_bytes", "guest")

    def __init__(self, reply: "Callable[[bytes], None]", most_bytes: int, guest: bytes = b"") -> None:
        """`guest`: b"" where it is no query of the guest."""
        self.reply, self.most_bytes, self.guest = reply, most_bytes, guest


class Waiting:
    """A question that is asked upstream, and who waits for the answer."""

    __slots__ = ("clients", "denial", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.clients: list[tuple[Message, Client]] = []
        self.denial: Message | None = None  # NXDOMAIN, while another type is asked


class Service:
    """DNS for one guest."""

    def __init__(
        self, plan: "WorkerPlan", decider: "dns_decide.Decider", upstream: "Upstream", watches: "Watches",
        send: "Callable[[bytes], None]", clock: "Callable[[], float]" = time.monotonic,
    ) -> None:  # fmt: skip
        """`send`: gives a frame to the guest."""
        self._plan, self._decider, self._upstream, self._watches = plan, decider, upstream, watches
        self._send, self._clock = send, clock
        # Readers of what is decided: of a query, with its name, type and the guest's address; of addresses that are left out.
        self.on_judged: list[Callable[[dns_decide.Judgement, str, int, bytes], None]] = []
        self.on_withheld: list[Callable[[dns_decide.Judgement, list[str], bytes], None]] = []
        self.hint: Callable[[str], str] = "--allow {}".format  # the option that would allow a name
        self._waiting: dict[tuple[bytes, int, bool, bool], Waiting] = {}
        self._streams: dict[int, Stream] = {}
        self._denials, self._denials_at = float(_DENIALS_BURST), clock()

    def lookup(self, address: bytes) -> "str | None":
        """The name that an address of 16 bytes was last resolved under, as plain text; None: it was not, or long ago."""
        return self._decider.lookup(address)

    def known(self) -> "list[tuple[bytes, str]]":
        """All addresses that have a name, with it."""
        return self._decider.known()

    def origin(self, address: bytes, at_s: float) -> "dns_decide.Found | None":
        """The same at an earlier time of the clock."""
        return self._decider.origin(address, at_s)

    def judge(self, name: bytes, kind: int) -> "dns_decide.Judgement":
        """What would be done with a query. `name`: lower-case, in wire form."""
        return self._decider.judge(name, kind, self._clock())

    def addresses(self, name: str) -> "list[bytes]":
        """What a name was resolved to; the latest are remembered."""
        return self._decider.addresses(name)

    @property
    def busy(self) -> bool:
        """Whether anything has a time-out, which on_tick() is for."""
        return self._upstream.busy or bool(self._streams)

    def adopt(self, plan: "WorkerPlan", servers: "Sequence[Server]") -> None:
        """Go on with a changed plan, and its nameservers."""
        self._plan = plan
        self._upstream.adopt(servers)

    def on_tick(self) -> None:
        self._upstream.on_tick()
        now = self._clock()
        for stream in [each for each in self._streams.values() if each.deadline <= now]:
            stream.close()

    # ---- clients ----

    def on_frame(self, frame: bytes, udp_at: int) -> None:
        """A datagram to port 53. The core has checked it: it ends with the datagram, whose UDP header is at udp_at."""
        data = frame[udp_at + frames.UDP_BYTES :]
        if udp_at < frames.ETHER_BYTES + frames.IPV4_BYTES or (self._flooded() and not self._is_allowed(data)):
            return
        version = frame[frames.ETHER_BYTES] >> 4
        at, size = (26, 4) if version == 4 else (22, 16)
        addresses = frame[at + size : at + 2 * size], frame[at : at + size]  # of the answer
        ports = _PORT, frame[udp_at] << 8 | frame[udp_at + 1]
        macs = self._plan.our_mac, frame[6:12]
        room = self._plan.mtu - (frames.IPV4_BYTES if version == 4 else frames.IPV6_BYTES) - frames.UDP_BYTES

        def reply(answer: bytes) -> None:
            self._send(frames.udp_frame(macs, addresses, ports, answer))

        guest = addresses[1] if version == 6 else frames.MAPPED + addresses[1]
        self.on_query(data, Client(reply, max(room, dns_wire.UDP_PLAIN_BYTES), guest))

    def on_stream(self, fd: int, guest: bytes) -> None:
        """A connection to port 53 from this address: fd becomes ours."""
        if len(self._streams) >= _STREAMS_MAX:
            next(iter(self._streams.values())).close()  # the oldest
        stream = Stream(fd, guest, self._watches, self._clock, self._on_stream_query, self._streams.pop)
        self._streams[fd] = stream

    def _on_stream_query(self, stream: Stream, query: bytes) -> None:
        self.on_query(query, Client(stream.reply, dns_wire.MESSAGE_MAX_BYTES, stream.guest))

    # ---- queries ----

    def on_query(self, data: bytes, client: Client) -> None:
        try:
            query = dns_wire.read_query(data)
        except Malformed:
            if self._may_deny():
                client.reply(dns_wire.write_error(data, dns_wire.FORMERR))
            return
        if query is None:
            return
        if not dns_wire.is_query(query):
            if self._may_deny():
                client.reply(dns_wire.write_error(data, dns_wire.NOTIMP))
        elif query.edns and query.edns.version:
            _answer(query, client, Message(0, 0, query.name, query.kind), rcode_high=1)  # BADVERS
        elif query.klass != dns_wire.IN:
            _answer(query, client, Message(0, dns_wire.NOERROR, query.name, query.kind))
        else:
            self._on_question(query, client)

    def _on_question(self, query: Message, client: Client) -> None:
        name = query.name.lower()
        judgement = self._judge(name, query.kind, client)
        if judgement.what == dns_decide.ALLOWED:
            self._ask(query, name, client)
        elif judgement.what == dns_decide.LOCALHOST:
            records = dns_decide.localhost(query.name, query.kind)
            own = Message(0, dns_wire.NOERROR, query.name, query.kind, sections=(records, [], []))
            if not records:
                own.sections[1].append(dns_decide.soa(query.name))
            _answer(query, client, own)
        elif self._may_deny():
            self._deny(query, client, judgement)

    def _judge(self, name: bytes, kind: int, client: Client) -> "dns_decide.Judgement":
        judgement = self.judge(name, kind)
        for tell in self.on_judged:
            tell(judgement, dns_wire.text(name), kind, client.guest)
        return judgement

    def _flooded(self) -> bool:
        """Whether the bucket for answers that say no is empty."""
        now = self._clock()
        self._denials = min(_DENIALS_BURST, self._denials + (now - self._denials_at) * _DENIALS_PER_S)
        self._denials_at = now
        return self._denials < 1

    def _may_deny(self) -> bool:
        if self._flooded():
            return False
        self._denials -= 1
        return True

    def _is_allowed(self, data: bytes) -> bool:
        """Whether a query is for an allowed name: the least that has to be known of it in a flood."""
        asked = dns_wire.question(data)
        if asked is None:
            return False
        return self._decider.judge(asked[0].lower(), asked[1], self._clock()).what in (dns_decide.ALLOWED, dns_decide.LOCALHOST)

    def ask_again(self, name: str, address: bytes, done: "Callable[[], None]") -> None:
        """A connection to an address waits for a name that it was an answer for too long ago: ask for it as a guest's query would.

        `done` is called when the addresses in the answer are pinned, or there is no answer; perhaps at once.
        """
        wire, kind = dns_wire.from_text(name), dns_wire.A if frames.ipv4(address) else dns_wire.AAAA
        waits = Client(lambda _answer: done(), dns_wire.MESSAGE_MAX_BYTES)
        allowed = self.judge(wire, kind).what == dns_decide.ALLOWED
        if not allowed or not self._ask(Message(0, dns_wire.RD, wire, kind), wire, waits):
            done()

    def _ask(self, query: Message, name: bytes, client: Client) -> bool:
        """Whether the client will get an answer."""
        key = (name, query.kind, bool(query.edns and query.edns.do), bool(query.flags & dns_wire.CD))
        waiting = self._waiting.get(key)
        if waiting and self._clock() < waiting.until:
            if len(waiting.clients) >= _WAITING_MAX:
                return False
            waiting.clients.append((query, client))
            return True
        waiting = self._waiting[key] = Waiting(self._clock() + _FORGOTTEN_S)
        waiting.clients.append((query, client))
        if not self._upstream.ask(name, query.kind, lambda answer: self._answered(key, answer), do=key[2], cd=key[3]):
            del self._waiting[key]
            return False
        return True

    def _answered(self, key: "tuple[bytes, int, bool, bool]", answer: "Message | None") -> None:
        waiting, (name, kind, do, cd) = self._waiting.get(key), key
        if waiting is None:
            return
        if answer is not None and answer.rcode == dns_wire.NXDOMAIN and kind in (dns_wire.AAAA, dns_wire.HTTPS):
            # Some nameservers say so for a type that they do not have, and musl would not look for another one then. Whether
            # the name exists is what the answer for A says.
            waiting.denial = answer
            if self._upstream.ask(name, dns_wire.A, lambda other: self._resolved_doubt(key, other), do=do, cd=cd):
                return
        self._finish(key, answer)

    def _resolved_doubt(self, key: "tuple[bytes, int, bool, bool]", other: "Message | None") -> None:
        waiting = self._waiting.get(key)
        denial = waiting.denial if waiting else None
        if denial is None:
            return
        if other is not None and other.rcode == dns_wire.NOERROR:
            denial.flags &= ~(15 | dns_wire.AD)
        self._finish(key, denial)

    def _finish(self, key: "tuple[bytes, int, bool, bool]", answer: "Message | None") -> None:
        waiting = self._waiting.pop(key)
        if answer is None or answer.rcode not in (dns_wire.NOERROR, dns_wire.NXDOMAIN):
            for query, client in waiting.clients:
                failure = Message(0, dns_wire.SERVFAIL, query.name, query.kind)
                error = (_NO_REACHABLE_AUTHORITY, "no nameserver of the host answers") if answer is None else None
                _answer(query, client, failure, error=error)
            return
        judgement = self.judge(key[0], key[1])
        if judgement.what != dns_decide.ALLOWED:  # the rules have changed since the question
            for query, client in waiting.clients:
                self._deny(query, client, self._judge(key[0], key[1], client) if client.guest else judgement)
            return
        told, withheld = self._decider.filtered(key[0], key[1], judgement, answer, self._clock())
        for tell in self.on_withheld if withheld else ():
            tell(judgement, withheld, waiting.clients[0][1].guest)
        for query, client in waiting.clients:
            why = f"pasta-py: {judgement.owner} may not lead to {', '.join(withheld[:3])}"
            error = (_BLOCKED, why) if withheld else None
            _answer(query, client, told, error=error)

    def _deny(self, query: Message, client: Client, judgement: "dns_decide.Judgement") -> None:
        """Say no, with a line that tells a person what to do, in the answer itself."""
        rcode = dns_wire.NXDOMAIN if judgement.what == dns_decide.DENIED else dns_wire.NOERROR
        own = Message(0, rcode, query.name, query.kind, sections=([], [dns_decide.soa(query.name)], []))
        what_to_do = f"rule {judgement.rule + 1}" if judgement.rule >= 0 else self.hint(judgement.owner)
        _answer(query, client, own, error=(_BLOCKED, f"pasta-py: {judgement.why}: {what_to_do}"))


def _answer(
    query: Message, client: Client, told: Message, error: "tuple[int, str] | None" = None, rcode_high: int = 0
) -> None:
    """Answer a query with the records of `told`, in its own case, with its own ID, as long as it takes."""
    asked = query.edns
    flags = dns_wire.QR | dns_wire.RA | query.flags & (dns_wire.RD | dns_wire.CD) | told.flags & 15
    if told.flags & dns_wire.AD and (query.flags & dns_wire.AD or (asked and asked.do)):
        flags |= dns_wire.AD  # RFC 6840, 5.8
    most, edns = min(client.most_bytes, dns_wire.UDP_PLAIN_BYTES), None
    if asked:
        most = min(client.most_bytes, max(asked.udp_bytes, dns_wire.UDP_PLAIN_BYTES), _UDP_BYTES)
        options = [(dns_wire.EDE, error[0].to_bytes(2, "big") + error[1].encode("ascii", "replace"))] if error else []
        signed = told.edns is None or told.edns.do  # an answer of our own never is, and no reason to ask us for less
        edns = Edns(_UDP_BYTES, asked.do and signed, rcode_high=rcode_high, options=options)
    if client.most_bytes == dns_wire.MESSAGE_MAX_BYTES:
        most = client.most_bytes
    client.reply(dns_wire.write(Message(query.ident, flags, query.name, query.kind, query.klass, told.sections, edns), most))


_UDP_BYTES = 1232  # DNS Flag Day 2020
