"""A model of sessions on the control socket (--conf-path), driven at random: a real socket, a real core, real ports of the host.

Several clients connect; the server serves the first, the others wait. A client sends an update, valid or changed, byte by byte
or at once. It waits, ends or closes at any point. After every step:

- a client has got the rules that were in force when its turn came;
- the rules are those of the last complete and valid update, and exactly their ports are bound;
- a client whose update is refused gets the reason in one line before the server closes; any other client gets no more bytes;
- a client keeps the server for at most the time limit, then the next has its turn at once;
- no descriptor is left open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from guest import mapped, plan
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from isolated import isolated

from pasta_py import defaults, pesto_protocol
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, ForwardRule
from pasta_py.worker import log, pesto_server, plane, port_rules

LISTENER, CLIENT = 5, 6
TAKEN = 1105  # another program has it
PORTS = (*range(1100, 1105), TAKEN)
ADDRESSES = (b"", mapped("127.0.0.1"), mapped("127.0.0.2"), mapped("::1"))
Key = tuple[int, int, str]  # protocol, port, address


class Clock:
    """Replaces the module `time` in the server."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Session:
    """A client, what it will send, and after how many bytes the server can act."""

    sock: socket.socket
    rules: tuple[ForwardRule, ...]
    data: bytes
    whole_at: int  # bytes of an update
    wrong_at: int  # bytes after which the server must refuse
    sent: int = 0
    got: bytearray = field(default_factory=bytearray)
    shown: bytes = b""  # what the server sends when its turn comes
    deadline: float = 0
    ended: bool = False


@st.composite
def forward_rules(draw: st.DrawFn) -> ForwardRule:
    first = draw(st.sampled_from(PORTS))
    return ForwardRule(
        proto=draw(st.sampled_from((IPPROTO_TCP, IPPROTO_UDP))), to_host=draw(st.integers(0, 19)) == 0,
        address=draw(st.sampled_from(ADDRESSES)), ifname="", first=first, last=min(first + draw(st.integers(0, 1)), TAKEN),
        target=b"", target_first=draw(st.sampled_from((first, 80))), weak=draw(st.booleans()), scan=False,
    )  # fmt: skip


def meet(one: ForwardRule, other: ForwardRule) -> bool:
    """Whether two rules want the same port of an address."""
    if (one.proto, one.to_host) != (other.proto, other.to_host) or one.first > other.last or other.first > one.last:
        return False
    return one.address == other.address or not one.address or not other.address


def can_be_had(rules: tuple[ForwardRule, ...], before: tuple[ForwardRule, ...]) -> bool:
    """Whether the server accepts these rules.

    It refuses two rules that meet, rules of the guest's namespace (this test has no helper), and a port that is taken. Best-effort
    rules do without the taken port; they are refused only if a protocol gets no port at all.
    """
    if rules == before:
        return True
    if any(r.to_host for r in rules) or any(meet(a, b) for i, a in enumerate(rules) for b in rules[:i]):
        return False
    if any(r.last == TAKEN and r.proto == IPPROTO_TCP and not r.weak for r in rules):
        return False
    mine = [r for r in rules if r.proto == IPPROTO_TCP]
    tried = [r for r in mine if r.last == TAKEN and r not in before]
    return not tried or any(r.first != TAKEN for r in mine)


def ports_of(rules: tuple[ForwardRule, ...]) -> set[Key]:
    """The ports that these rules bind: all but the taken one."""
    found = set()
    for r in rules:
        for port in range(r.first, r.last + 1):
            if port == TAKEN and r.proto == IPPROTO_TCP:
                continue
            address = pesto_protocol.describe(r).split()[1].rpartition(":")[0].strip("[]")
            found.add((r.proto, port, address))
    return found


def bound_ports() -> set[Key]:
    """The bound ports of this network namespace, from /proc/net; "*" means any address of both families."""
    found = set()
    for name, proto, state in (("tcp", 6, "0A"), ("tcp6", 6, "0A"), ("udp", 17, "07"), ("udp6", 17, "07")):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            local, status = line.split()[1], line.split()[3]
            if status != state:
                continue
            text, _, port = local.partition(":")
            words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
            family = socket.AF_INET6 if len(text) > 8 else socket.AF_INET
            address = socket.inet_ntop(family, b"".join(words))
            found.add((proto, int(port, 16), "*" if address == "::" else address))
    return found - {(IPPROTO_TCP, TAKEN, "*")}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class ConfSessions(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        pesto_server.time = self.clock  # type: ignore[assignment]
        self.guest, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tap = tap
        self.directory = tempfile.TemporaryDirectory()
        self.path = f"{self.directory.name}/s"
        self.other = socket.create_server(("::", TAKEN), family=socket.AF_INET6, dualstack_ipv6=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(self.path)
        listener.listen(16)
        made = plan(rules=(), log_level=3)
        self.core = plane.Plane(made, tap.fileno())
        self.memory = os.memfd_create("log")
        self.served = port_rules.Rules(self.core, made, [], {}, None)
        self.journal = log.Log(os.dup(self.memory), made, 1)
        self.server = pesto_server.Server(self.core, listener.detach(), (LISTENER, CLIENT), self.served, self.journal)
        self.queue: list[Session] = []
        self.rules: tuple[ForwardRule, ...] = ()
        self.ends = 0
        self.open = descriptors()

    # ---- the server's side ----

    def settle(self) -> None:
        """Do what the worker's loop does, until nothing happens for two ticks."""
        quiet = 0
        self.core.tick(1)
        while quiet < 2:
            kind, ident, _ = self.core.run()
            if kind == plane.WATCH:
                self.server.on_listener() if ident == LISTENER else self.server.on_client()
                quiet = 0
            elif kind == plane.TICK:
                self.server.on_tick()
                quiet += 1
            for session in self.queue:
                self.read(session)
        self.core.tick(0)

    @staticmethod
    def read(session: Session) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while piece := session.sock.recv(65536, socket.MSG_DONTWAIT):
                session.got += piece

    # ---- the model ----

    def outcome(self, session: Session) -> str:
        """How the session of the served client ends; "" if it goes on."""
        if session.sent >= min(session.wrong_at, session.whole_at + 1):
            return "refused"
        if session.sent < session.whole_at:
            return "over" if session.ended else ""
        return "taken" if can_be_had(session.rules, self.rules) else "refused"

    def advance(self) -> None:
        """Serve the clients in turn, up to one whose update is not complete."""
        self.settle()
        while self.queue:
            session = self.queue[0]
            if not session.shown:
                session.shown = pesto_protocol.hello() + pesto_protocol.write_tables(self.rules, self.served.capabilities)
                session.deadline = self.clock.now + defaults.PESTO_CLIENT_S
            outcome = self.outcome(session)
            if not outcome:
                assert bytes(session.got) == session.shown
                return
            self.end(outcome)

    def end(self, outcome: str) -> None:
        """Check the end of the first session: the client has got the rules, the reason if it was refused, and the end of file."""
        session = self.queue.pop(0)
        self.ends += 1
        if outcome == "taken":
            self.rules = session.rules
        assert bytes(session.got).startswith(session.shown)
        reason, refused = bytes(session.got)[len(session.shown) :], outcome == "refused"
        assert reason.count(b"\n") == refused and reason.endswith(b"\n") == refused, (outcome, reason)
        with contextlib.suppress(ConnectionResetError):  # the server closed with unread bytes
            assert session.sock.recv(1, socket.MSG_DONTWAIT) == b"", "the server has closed"
        session.sock.close()

    # ---- what may happen ----

    @precondition(lambda self: len(self.queue) < 3)
    @rule(
        rules=st.lists(forward_rules(), max_size=4),
        change=st.sampled_from(("",) * 6 + ("more", "protocol", "table", "count")),
        at_once=st.booleans(),
        moved=st.one_of(st.none(), st.sampled_from(ADDRESSES)),
    )
    def a_client_connects(self, rules: list[ForwardRule], change: str, at_once: bool, moved: bytes | None) -> None:
        """Its update has new rules, or also the present ones moved to another address."""
        if moved is not None:
            rules = [r.replace(address=moved) for r in self.rules] + rules[:1]
        wanted = [r.replace(address=b"") if r.to_host else r for r in dict.fromkeys(rules)]
        wanted.sort(key=lambda r: r.to_host)  # the order of the tables
        tables = {
            table: [pesto_protocol.write_rule(r) for r in wanted if r.to_host == (table == pesto_protocol.SPLICE)]
            for table in pesto_protocol.NAMES
        }
        data = pesto_protocol.write_update(tables)
        whole = wrong = len(data)
        wrong += 1
        if change == "more":
            data += b"\0"
        elif change == "protocol" and tables[pesto_protocol.HOST]:
            data, wrong = data[:59] + b"\x84" + data[60:], 5 + pesto_protocol.RULE_BYTES
        elif change == "table":
            data, wrong = b"\x02" + data[1:], 1
        elif change == "count":
            data, wrong = data[:1] + b"\xff" + data[2:], 5
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.path)
        self.queue.append(Session(sock, tuple(wanted), data, whole, wrong))
        if at_once:
            self.a_client_sends(-1, len(data))
        self.advance()

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 2), count=st.sampled_from((1, 1, 4, 56, 10_000, 10_000)))
    def a_client_sends(self, which: int, count: int) -> None:
        session = self.queue[which % len(self.queue)]
        if session.ended:
            return
        piece = session.data[session.sent : session.sent + count]
        session.sock.sendall(piece)
        session.sent += len(piece)
        self.advance()

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 2))
    def a_client_has_said_all(self, which: int) -> None:
        session = self.queue[which % len(self.queue)]
        session.sock.shutdown(socket.SHUT_WR)
        session.ended = True
        self.advance()

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 2))
    def a_client_goes(self, which: int) -> None:
        """It closes before its update has taken effect."""
        session = self.queue.pop(which % len(self.queue))
        session.sock.close()
        self.advance()

    @precondition(lambda self: self.queue)
    @rule(seconds=st.sampled_from((1.0, 2.5, defaults.PESTO_CLIENT_S + 0.1)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.settle()
        if self.clock.now >= self.queue[0].deadline:
            self.end("over")
        self.advance()

    @invariant()
    def the_rules_are_those_of_the_model_and_so_are_their_ports(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.served.rules == self.rules
        if self.ends:  # only then can they have changed; listing them is slow
            self.ends = 0
            assert bound_ports() == ports_of(self.rules)
        served = bool(self.queue)
        assert descriptors() == self.open + len(self.queue) + served + len(ports_of(self.rules))

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for session in self.queue:
            session.sock.close()
        self.served.swap(())
        for held in (self.server._client, self.server._listener, self.journal):
            if held:
                held.close()
        os.close(self.memory)
        self.core.close()
        for sock in (self.guest, self.tap, self.other):
            sock.close()
        self.directory.cleanup()


@isolated
def test_conf_sessions() -> None:
    """Runs in its own namespace, where all ports are free."""
    run_state_machine_as_test(
        ConfSessions,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, phases=(Phase.generate,)),
    )
