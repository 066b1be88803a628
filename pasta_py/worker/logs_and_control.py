"""The logs of one core (flow log, decision log, what is learned) and its control sockets, each loaded when it is needed."""

import _socket
import sys
import time

from pasta_py.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan
    from pasta_py.worker import control_server, event_readers, flow_log, learning, plane, rotating, rule_set

    Handlers = dict[int, Callable[[], int | None]]

_NEVER = float("inf")


def owner_of(sock: "_socket.socket") -> int:
    """The user at the other end of the socket to control, in the present user namespace (SO_PEERCRED, unix(7))."""
    return int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


class LogsAndControl:
    """What every worker has of them: as little as lets the rest be loaded when it is needed."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: "log.Log", owner: int, names: "event_readers.Names | None" = None
    ) -> None:  # fmt: skip
        """`owner`: see owner_of(). `names`: see event_readers.Readers."""
        self._core, self._plan, self._log, self._owner, self._names = core, plan, journal, owner, names
        self._readers: event_readers.Readers | None = None
        self._context: control_server.Context | None = None
        self._servers: list[control_server.Server] = []
        self._flow_log: flow_log.FlowLog | None = None
        self.policy: rule_set.Policy | None = None
        self._learner: learning.Learner | None = None
        self._since = time.time()
        self.holds: Callable[[int, int], bool] = lambda _proto, _port: False

    def readers(self) -> "event_readers.Readers":
        """Where to add a reader of events."""
        if not self._readers:
            from pasta_py.worker import event_readers

            self._readers = event_readers.Readers(self._core, self._names, self._rule if self._plan.egress else None)
        return self._readers

    def _rule(self, index: int) -> str:
        found = self.policy.rules.rule(index) if self.policy else None
        return found[1] if found else ""

    def listen(self, fd: int, ident: int, handlers: "Handlers", arm: "Callable[[], None]", *, changing: bool = False) -> None:
        """Serve a control socket from its first client on. The core watches it under `ident`."""
        self._core.watch(fd, ident)

        def on_first() -> None:
            from pasta_py.worker import control_server

            if not self._context:
                hub = self.readers()
                self._context = control_server.Context(self._core, self._plan, self._log, self._log.pid, self._since, hub)
                self._context.holds = self.holds
                self._context.policy = self.policy
            server = control_server.Server(fd, ident, self._context, handlers, arm, self._owner, changing=changing)
            self._servers.append(server)
            handlers[ident] = server.on_listener
            server.on_listener()

        handlers[ident] = on_first

    def name_capture(self) -> None:
        """The capture (--pcap) has a place for names."""
        self.readers().name_captures(True)

    def _files(self, what: str, fds: "list[int]", limit: int) -> "rotating.Rotating":
        from pasta_py.worker import rotating

        why = "it takes no more (is the disk full, or its reader slow?)"
        return rotating.Rotating(fds, limit, lambda: self._log.write(log.WARNING, f"lines of the {what} are lost: {why}"))

    def log_flows(self, fds: "list[int]", limit: int) -> None:
        """Write the flow log to these files, `limit` bytes each."""
        from pasta_py.worker import flow_log

        self._flow_log = flow_log.FlowLog(self._core, self._files("flow log", fds, limit), self.readers())

    def log_decisions(self, fds: "list[int]", limit: int) -> None:
        """Write the decision log to these files, `limit` bytes each."""
        files = self._files("decision log", fds, limit)
        assert self.policy
        self.policy.decisions().lines.add(lambda line, _denied: files.write(line))

    def learn(self, fd: int) -> None:
        """Tell the process at the other end of this socket what the guest opens (--learn)."""
        from pasta_py.worker import learning  # loaded before the worker was locked in

        assert self.policy
        learner = self._learner = learning.Learner(fd, self.policy.dns.origin)
        self.readers().add_taker(learner.on_records)
        self.policy.dns.on_judged.append(learner.on_query)

    def finish(self) -> None:
        """The core ends: the logs get what is left."""
        try:
            if self._flow_log:
                self._flow_log.finish()
            if self.policy:
                self.policy.on_tick(end=True)
            if self._learner:
                self._learner.finish()
        except MemoryError:
            pass  # a log lacks its end

    @property
    def due(self) -> float:
        """When on_tick() wants to be called (time.monotonic())."""
        return min([self.policy.due if self.policy else _NEVER, *(server.due for server in self._servers)])

    def on_tick(self) -> None:
        for server in self._servers:
            server.on_tick()
        if self.policy:
            self.policy.on_tick()

    def on_events(self) -> None:
        self.readers().on_events()

    def on_list(self, place: int, records: bytes) -> None:
        """A piece of a list of flows: for the server that has asked."""
        for server in self._servers:
            server.on_list(place, records)
