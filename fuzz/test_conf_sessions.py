"""Sessions on the control socket (--conf-path), driven at random: a real socket, a real core, real ports of the host.

Several clients connect; the first is served, the others wait. Each sends an update byte by byte or all at once, sound or
changed, waits, ends or closes in the middle. After every step, exactly what the model says holds:

- a client is shown the rules that are in force when its turn comes, whatever it then does;
- the rules are those of the last whole and sound update, and exactly their ports are bound;
- an update that is refused has its reason in one line, before the server closes; other ends say nothing;
- nobody keeps the server for longer than its limit, and the next in the queue has its turn at once;
- no descriptor is left over.
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

from pasta_py import pesto_protocol
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, ForwardRule
from pasta_py.worker import log, pesto_server, plane, port_rules

LISTENER, CLIENT = 5, 6
TAKEN = 1105  # another program has it
PORTS = (*range(1100, 1105), TAKEN)
ADDRESSES = (b"", mapped("127.0.0.1"), mapped("127.0.0.2"), mapped("::1"))
Key = tuple[int, int, str]  # protocol, port, address


class Clock:
    """In the place of the module `time`, for the server alone."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Session:
    """A client, what it is about to send, and after how many bytes the server knows what to do."""

    sock: socket.socket
    rules: tuple[ForwardRule, ...]
    data: bytes
    whole_at: int  # bytes of an update
    wrong_at: int  # bytes after which no update can come of it
    sent: int = 0
    got: bytearray = field(default_factory=bytearray)
    shown: bytes = b""  # what it is to see, once it is served
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
    """Whether both want one port of one address."""
    if (one.proto, one.to_host) != (other.proto, other.to_host) or one.first > other.last or other.first > one.last:
        return False
    return one.address == other.address or not one.address or not other.address


def can_be_had(rules: tuple[ForwardRule, ...], before: tuple[ForwardRule, ...]) -> bool:
    """No two that meet, none of the guest's namespace, which the helper would have to enter, and none that is taken.

    Best-effort rules go without the taken port; together they fail only where a protocol gets no port at all.
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
    """Without the one that is taken."""
    found = set()
    for r in rules:
        for port in range(r.first, r.last + 1):
            if port == TAKEN and r.proto == IPPROTO_TCP:
                continue
            address = pesto_protocol.describe(r).split()[1].rpartition(":")[0].strip("[]")
            found.add((r.proto, port, address))
    return found


def bound_ports() -> set[Key]:
    """Those of this network namespace, from /proc/net; "*" for any address of both families."""
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
        """What the worker's loop does, until nothing has happened for a tick."""
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
        """What becomes of the one that is served: "" if it goes on."""
        if session.sent >= min(session.wrong_at, session.whole_at + 1):
            return "refused"
        if session.sent < session.whole_at:
            return "over" if session.ended else ""
        return "taken" if can_be_had(session.rules, self.rules) else "refused"

    def advance(self) -> None:
        """Everybody whose turn has come, until one is served that has more to say."""
        self.settle()
        while self.queue:
            session = self.queue[0]
            if not session.shown:
                session.shown = pesto_protocol.hello() + pesto_protocol.write_tables(self.rules, self.served.capabilities)
                session.deadline = self.clock.now + pesto_server.LIMIT_S
            outcome = self.outcome(session)
            if not outcome:
                assert bytes(session.got) == session.shown
                return
            self.end(outcome)

    def end(self, outcome: str) -> None:
        """The first has been shown what was in force, told why if it was refused, and the server has closed."""
        session = self.queue.pop(0)
        self.ends += 1
        if outcome == "taken":
            self.rules = session.rules
        assert bytes(session.got).startswith(session.shown)
        reason, refused = bytes(session.got)[len(session.shown) :], outcome == "refused"
        assert reason.count(b"\n") == refused and reason.endswith(b"\n") == refused, (outcome, reason)
        with contextlib.suppress(ConnectionResetError):  # it had sent more than was read
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
        """With rules of its own, or also with those that are there, at another address."""
        if moved is not None:
            rules = [r.replace(address=moved) for r in self.rules] + rules[:1]
        wanted = [r.replace(address=b"") if r.to_host else r for r in dict.fromkeys(rules)]
        wanted.sort(key=lambda r: r.to_host)  # as the tables bring them
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
        """Whatever it has sent: it has not seen what it would have changed, or was not done."""
        session = self.queue.pop(which % len(self.queue))
        session.sock.close()
        self.advance()

    @precondition(lambda self: self.queue)
    @rule(seconds=st.sampled_from((1.0, 2.5, pesto_server.LIMIT_S + 0.1)))
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
        if self.ends:  # else nothing has touched them, and the kernel takes its time to list them
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
    """In a namespace of its own: nobody else has these ports."""
    run_state_machine_as_test(
        ConfSessions,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, phases=(Phase.generate,)),
    )
