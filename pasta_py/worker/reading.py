"""What of the control socket and the readers of events every worker has: as little as lets the rest be loaded when it is needed."""

import _socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan
    from pasta_py.worker import control_server, decisions, dns_service, flow_log, log, plane, readers, rule_set

    Handlers = dict[int, Callable[[], int | None]]

_NEVER = float("inf")


def owner_of(sock: "_socket.socket") -> int:
    """The user at the other end of the socket to control, in the present user namespace (SO_PEERCRED, unix(7))."""
    return int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


class Reading:
    """The readers of one core's events, and its control sockets."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: "log.Log", owner: int, lookup: "readers.Lookup | None" = None
    ) -> None:  # fmt: skip
        """`owner`: see owner_of(). `lookup`: see readers.Readers."""
        self._core, self._plan, self._log, self._owner, self._lookup = core, plan, journal, owner, lookup
        self._readers: readers.Readers | None = None
        self._context: control_server.Context | None = None
        self._servers: list[control_server.Server] = []
        self._flow_log: flow_log.FlowLog | None = None
        self._decisions: decisions.Decisions | None = None
        self._since = time.time()
        self.holds: Callable[[int, int], bool] = lambda _proto, _port: False

    def readers(self) -> "readers.Readers":
        """Where to add a reader of events."""
        if not self._readers:
            from pasta_py.worker import readers

            self._readers = readers.Readers(self._core, self._lookup)
        return self._readers

    def listen(self, fd: int, ident: int, handlers: "Handlers", arm: "Callable[[], None]", *, changing: bool = False) -> None:
        """Serve a control socket from its first client on. The core watches it under `ident`."""
        self._core.watch(fd, ident)

        def on_first() -> None:
            from pasta_py.worker import control_server

            if not self._context:
                hub = self.readers()
                self._context = control_server.Context(self._core, self._plan, self._log, self._log.pid, self._since, hub)
                self._context.holds = self.holds
            server = control_server.Server(fd, ident, self._context, handlers, arm, self._owner, changing=changing)
            self._servers.append(server)
            handlers[ident] = server.on_listener
            server.on_listener()

        handlers[ident] = on_first

    def log_flows(self, fds: "list[int]", limit: int) -> None:
        """Write the flow log to these files, `limit` bytes each."""
        from pasta_py.worker import flow_log

        self._flow_log = flow_log.FlowLog(self._core, fds, limit, self.readers())

    def log_decisions(
        self, fds: "list[int]", limit: int, rules: "rule_set.RuleSet", search: "tuple[str, ...]", dns: "dns_service.Service",
        arm: "Callable[[], None]",
    ) -> None:  # fmt: skip
        """Write the decision log to these files, `limit` bytes each. `search`: the guest's search domains."""
        from pasta_py.worker import decision_lines, decisions, rotating

        lines = decision_lines.Lines(arm)
        self._decisions = decisions.Decisions(self._core, rules, search, dns.origin, lines)
        self.readers().add_taker(self._decisions.on_records)
        dns.on_judged.append(self._decisions.on_query)
        dns.on_withheld.append(self._decisions.on_withheld)
        files = rotating.Rotating(fds, limit)
        lines.add(lambda line, _denied: files.write(line))

    def finish(self) -> None:
        """The core ends: the logs get what is left."""
        try:
            if self._flow_log:
                self._flow_log.finish()
            if self._decisions:
                self.on_events()
                self._decisions.lines.on_tick(end=True)
        except MemoryError:
            pass  # a log lacks its end

    @property
    def due(self) -> float:
        """When on_tick() wants to be called (time.monotonic())."""
        logged = self._decisions.lines.due if self._decisions else _NEVER
        return min([logged, *(server.due for server in self._servers)])

    def on_tick(self) -> None:
        for server in self._servers:
            server.on_tick()
        if self._decisions:
            self._decisions.lines.on_tick()

    def on_events(self) -> None:
        self.readers().on_events()

    def on_list(self, place: int, records: bytes) -> None:
        """A piece of a list of flows: for the server that has asked."""
        for server in self._servers:
            server.on_list(place, records)
