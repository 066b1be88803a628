"""The server of the control socket: JSON lines (docs/control.md), several clients at a time. Loaded at the first connection.

A request is one line, {"v":1,"command":NAME,...}; each answer is one or more lines. Commands are functions in other modules, loaded
when they are first asked for (COMMANDS).

Invariants: nothing here blocks. A client costs at most one request line, one piece of an answer and _FOLLOW_BYTES of events. A
client of another user is let go. A client that neither asks nor reads is let go after CONTROL_IDLE_S. Where there is no room for
a client it waits in the backlog.

The sandbox allows neither fcntl(2) nor ioctl(2), so MSG_DONTWAIT stands in for setblocking() and timeouts.
"""

import _socket
import struct
import time

from pasta_py import defaults
from pasta_py.errors import ConfError, ControlError
from pasta_py.worker import event_readers, json_lines, log, plane, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan
    from pasta_py.worker import control_capture, rule_set
    from pasta_py.worker.json_lines import Object, Value

    Request = Object
    #: answers a request with the members of its answer
    Command = Callable[["Context", Request], "dict[str, Value]"]

VERSION = 1
CLIENTS = 16
REQUEST_BYTES = 16 << 10
CHANGING_BYTES = 8 << 20  # on a socket that --control names: 65,534 rules have to fit
_FOLLOW_BYTES = 512 << 10  # of events, for a client that reads too slowly
_RECEIVE_BYTES = 16 << 10
_NEVER = float("inf")

#: Command: where its function is. `flows` is the server's own, because its answer has many lines.
COMMANDS = {
    **{name: f"control_commands:{name}" for name in ("status", "stats", "show", "port")},
    "egress": "control_egress:egress", "egress-explain": "control_egress:explain",
}  # fmt: skip
#: Only on a socket that --control names.
CHANGING = {"egress-replace": "control_egress:replace", "egress-add": "control_egress:add"}
#: Commands with many lines of answer, which are the server's own.
_OWN = ("capture", "egress-denials", "flows")


class Context:
    """What commands work on."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: "log.Log", pid: int, since: float,
        hub: "event_readers.Readers",
    ) -> None:  # fmt: skip
        self.core, self.plan, self.log, self.pid, self.readers = core, plan, journal, pid, hub
        self.since = since
        self.holds: Callable[[int, int], bool] = lambda _proto, _port: False  # whether a port of the host is bound here
        self.policy: rule_set.Policy | None = None


class Server:
    """A listening socket and its clients."""

    def __init__(
        self, fd: int, ident: int, context: Context, handlers: "dict[int, Callable[[], int | None]]", arm: "Callable[[], None]",
        owner: int, *, changing: bool = False,
    ) -> None:  # fmt: skip
        """`ident`: under which the core watches the socket. `owner`: the user whose clients are served, as SO_PEERCRED shows it."""
        self._listener = _socket.socket(fileno=fd)
        self._ident, self.context, self._handlers, self._arm, self._owner = ident, context, handlers, arm, owner
        self.commands = {**COMMANDS, **(CHANGING if changing else {})}
        self.request_bytes = CHANGING_BYTES if changing else REQUEST_BYTES
        self._clients: dict[int, _Client] = {}
        self._lister: _Client | None = None  # the core makes one list at a time
        self._waiting: list[_Client] = []
        self._watched = True

    @property
    def due(self) -> float:
        """When on_tick() wants to be called (time.monotonic())."""
        return min((client.deadline for client in self._clients.values()), default=_NEVER)

    def on_listener(self) -> None:
        """A client waits to be served."""
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # socket.accept() is built on it
        except OSError:
            return  # the client has gone, or no descriptor is left: the core reports the socket again if one waits
        sock = _socket.socket(fileno=fd)
        # struct ucred (unix(7)): pid, uid, gid
        _pid, uid, _gid = struct.unpack("iII", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
        if uid != self._owner:
            self.context.log.write(log.WARNING, f"control socket: a client of user {uid} is let go")
            sock.close()
            return
        number = next(n for n in range(CLIENTS) if n not in self._clients)
        ident = watch.CLIENTS_FIRST + CLIENTS * self._ident + number
        client = _Client(self, sock, number, ident)
        self._clients[number] = client
        self._handlers[ident] = client.on_ready
        self.context.core.watch(fd, ident)
        if len(self._clients) == CLIENTS:
            self.context.core.unwatch(self._listener.fileno())
            self._watched = False
        self._arm()

    def on_tick(self) -> None:
        now = time.monotonic()
        for client in tuple(self._clients.values()):
            if now >= client.deadline:
                client.drop()

    def on_list(self, place: int, records: bytes) -> None:
        """A piece of a list of flows has come."""
        client, self._lister = self._lister, None
        if client:
            client.on_list(place, records)
        self.list_next()

    def ask_list(self, client: "_Client") -> None:
        """Have the core make the next piece for this client, in its turn."""
        self._waiting.append(client)
        self.list_next()

    def list_next(self) -> None:
        while self._waiting and not self._lister:
            client = self._waiting.pop(0)
            try:
                if self.context.core.list_flows(client.shard, client.place):
                    self._lister = client
                else:
                    client.on_list_end()
            except BlockingIOError:  # another server's turn: it comes again with that one's answer
                self._waiting.insert(0, client)
                return

    def forget(self, client: "_Client") -> None:
        self._clients.pop(client.number, None)
        self._handlers.pop(client.ident, None)
        if client in self._waiting:
            self._waiting.remove(client)
        if self._lister is client:
            self._lister = None  # its piece will come, and is for no client
        if not self._watched:
            self.context.core.watch(self._listener.fileno(), self._ident)
            self._watched = True

    def answer(self, request: "Request") -> "dict[str, Value]":
        """The members of the answer to a request of one line. ControlError: it is refused."""
        name = request.get("command")
        where = self.commands.get(name) if isinstance(name, str) else None
        if where is None and name in CHANGING:
            raise ControlError(f"{name} works on a socket that --control PATH has named at the start: give that path")
        if isinstance(name, str) and name.startswith("egress") and (where or name in _OWN) and not self.context.policy:
            raise ControlError("this instance has no egress policy: start it with --egress, --allow, --deny or --egress-file")
        if where is None:
            known = ", ".join(each for each in sorted((*self.commands, *_OWN)) if self.context.policy or each[:6] != "egress")
            raise ControlError(f"unknown command {json_lines.text(name)[:80]}: choose one of {known}")
        module, _, function = where.partition(":")
        loaded = __import__(f"pasta_py.worker.{module}", fromlist=[function])
        command: Command = getattr(loaded, function)
        return command(self.context, request)



class _Client:
    def __init__(self, server: Server, sock: "_socket.socket", number: int, ident: int) -> None:
        self.server, self.sock, self.number, self.ident = server, sock, number, ident
        self.deadline = time.monotonic() + defaults.CONTROL_IDLE_S
        self.shard = self.place = 0
        self._request = b""  # what has come of the next one
        self._id: Value = None
        self._listing = self._follows = False
        self._list_head = self._unsent = b""
        self._missed = 0  # events that the client was too slow for
        self._awaits_room = self._asked_all = self._gone = False
        self._capture: control_capture.Capture | None = None

    def on_ready(self) -> None:
        """Something has come, there is room again, or the client has closed."""
        if self._asked_all:
            self.server.context.core.unwatch(self.sock.fileno())
            self._awaits_room = False
            self._send(b"")
            return
        if self._unsent:
            self._send(b"")
        try:
            data = self.sock.recv(_RECEIVE_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_last_request()
            return
        if self._capture:
            self._end_capture()
            return
        self._request += data
        self._take_requests()

    def _on_last_request(self) -> None:
        """The client asks nothing more, but may still read: `nc -N` ends its side at once. The core would report that forever."""
        if self._follows or self._capture or not (self._listing or self._unsent):
            self.drop()
            return
        self._asked_all, self._awaits_room = True, False
        self.server.context.core.unwatch(self.sock.fileno())
        self._await_room()

    def _take_requests(self) -> None:
        """Answer what is complete. While an answer is under way, the next request waits. What follows on a capture ends it."""
        while not self._listing and not self._unsent and not self._gone:
            if self._capture and self._request:
                self._request = b""
                self._end_capture()
                continue
            line, newline, rest = self._request.partition(b"\n")
            if len(line) > self.server.request_bytes:
                self._refuse(ControlError(f"a request has at most {self.server.request_bytes} bytes"))
                self.drop()
                return
            if not newline:
                break
            self._request = rest
            self._id = None
            self.deadline = time.monotonic() + defaults.CONTROL_IDLE_S
            try:
                self._answer(json_lines.parse(line))
            except (ControlError, ConfError, OSError) as error:
                self._refuse(error)
        if len(self._request) > 2 * self.server.request_bytes or (self._asked_all and not self._listing and not self._unsent):
            self.drop()  # it asks and does not read, or has all its answers

    def _answer(self, request: "Request") -> None:
        self._id = request.get("id")
        if isinstance(self._id, (dict, list)):
            self._id = None
        if request.get("v", VERSION) != VERSION:
            raise ControlError(f"version {json_lines.text(request['v'])[:20]} is not known: this is version {VERSION}")
        if self._follows:
            raise ControlError("this connection follows what happens: open another one")
        if request.get("command") == "egress-denials" and self.server.context.policy:
            self._follow_denials(self.server.context.policy)
            return
        if request.get("command") == "capture":
            self._begin_capture(request)
            return
        if request.get("command") != "flows":
            self._say(self.server.answer(request))
            return
        if request.get("follow") is True:
            self.server.context.readers.add(self.on_events)
            self._follows = True
            self.deadline = _NEVER
        self.server.context.readers.begin_list()
        self._list_head = self._line({})[:-2] + b',"flows":['
        self._listing, self.shard, self.place = True, 0, 0
        self.server.ask_list(self)

    def _follow_denials(self, policy: "rule_set.Policy") -> None:
        """Answer, and from then on send a line for each denial."""
        policy.decisions().lines.add(self._on_decision)
        self._follows = True
        self.deadline = _NEVER
        self._say({"following": True})

    def _on_decision(self, line: bytes, denied: bool) -> None:
        if denied:
            self.on_events(line)

    def _begin_capture(self, request: "Request") -> None:
        """Answer, and leave the connection to the core, which captures to it."""
        from pasta_py.worker import control_capture

        context = self.server.context
        answer = self._line({"capturing": True, "format": control_capture.format_of(request)})
        self._capture = control_capture.Capture(context.core, context.readers, self.sock, request, answer)
        self.deadline = _NEVER

    def _end_capture(self) -> None:
        from pasta_py.worker import control_capture

        if self._capture:
            rest, answer = self._capture.end()
            self._capture = None
            self.deadline = time.monotonic() + defaults.CONTROL_IDLE_S
            self._unsent = rest + control_capture.END
            self._say(answer)

    def on_list(self, place: int, records: bytes) -> None:
        flows = self.server.context.readers.lines(records).replace(b"\n", b",")  # faster than to split and join
        self.shard, self.place = (self.shard, place) if place else (self.shard + 1, 0)
        self._send(b"".join((self._list_head, memoryview(flows)[:-1], b'],"more":true}\n')))  # one copy of many bytes
        self._go_on()

    def _go_on(self) -> None:
        """Ask for the next piece when the client has read the last one."""
        if self._listing and not self._unsent and not self._gone:
            self.server.ask_list(self)

    def on_list_end(self) -> None:
        self._listing = False
        self._say({"flows": [], "more": False})
        self._take_requests()

    def on_events(self, lines: bytes) -> None:
        if len(self._unsent) + len(lines) > _FOLLOW_BYTES:
            self._missed += lines.count(b"\n")
            return
        if self._missed:
            lines = event_readers.lost_line(self._missed) + lines
            self._missed = 0
        self._send(lines)

    def _refuse(self, error: Exception) -> None:
        self._say({"error": " ".join(str(error).splitlines())})

    def _say(self, members: "dict[str, Value]") -> None:
        self._send(self._line(members))

    def _line(self, members: "dict[str, Value]") -> bytes:
        return json_lines.text({"v": VERSION, "id": self._id, **members}).encode() + b"\n"

    def _send(self, data: bytes) -> None:
        self._unsent += data
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent, _socket.MSG_DONTWAIT) :]
                if not self._follows:
                    self.deadline = time.monotonic() + defaults.CONTROL_IDLE_S
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        self._await_room()
        if not self._unsent and not data:
            self._go_on()
            self._take_requests()

    def _await_room(self) -> None:
        """Be called when there is room again, if something is left to send."""
        wanted, core = bool(self._unsent), self.server.context.core
        if wanted == self._awaits_room:
            return
        self._awaits_room = wanted
        if not self._asked_all:
            core.await_room(self.sock.fileno(), self.ident, wanted)
        elif wanted:
            core.watch_connect(self.sock.fileno(), self.ident)  # room to write is what it waits for

    def drop(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._follows:
            self.server.context.readers.remove(self.on_events)
            if self.server.context.policy:
                self.server.context.policy.forget(self._on_decision)
        if self._capture:
            self._capture.end()
        if self._awaits_room or not self._asked_all:
            self.server.context.core.unwatch(self.sock.fileno())
        self.sock.close()
        self.server.forget(self)
