"""What it means when a watched descriptor becomes readable.

Each has a handler, under the number that the core returns with its event. A handler returns the exit status with which the worker
ends, or None to go on.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import sys

from pasta_py import model, worker_protocol
from pasta_py.errors import ConfError
from pasta_py.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the same functions, wrapped, and known to type checkers
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pasta_py.worker import host_updates, plane, port_rules

    Handler = Callable[[], int | None]
else:
    import _signal

CONTROL, SIGNAL, PROCESS, DIRECTORY, PESTO, PESTO_CLIENT, LINK, READING, CHANGING = range(1, 10)
DNS_FIRST, DNS_LAST = 1 << 16, (1 << 20) - 1  # sockets that come and go (dns_start)
CLIENTS_FIRST = 1 << 20  # clients of the control sockets (control_server)

FOLLOW = 16
METRICS, METRICS_CLIENTS = 17, 32  # the socket; the first of metrics.CLIENTS

_SIGNAL_BYTES = 64
_INOTIFY_BYTES = 16 << 10

# inotify(7)
_EVENT_HEAD_BYTES = 16  # struct inotify_event without its name
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_UNMOUNT = 0x2000
_NAME_GONE = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE
_DIRECTORY_GONE = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_UNMOUNT


def handlers(
    core: "plane.Plane", plan: "model.WorkerPlan", roles: "dict[str, list[int]]", journal: log.Log, control: "Control", signals: int
) -> "dict[int, Handler]":
    """Watch the socket to control, the pipe of signals and the guest's namespace; returns their handlers."""
    core.watch(control.fileno(), CONTROL)
    core.watch(signals, SIGNAL)
    found: dict[int, Handler] = {CONTROL: control.on_readable, SIGNAL: lambda: _on_signal(signals, control)}
    process, directory = roles.get(model.FD_NETNS_PIDFD, []), roles.get(model.FD_NETNS_INOTIFY, [])
    if process:
        core.watch(process[0], PROCESS)
        found[PROCESS] = lambda: _on_process_end(journal)
    if directory:
        core.watch(directory[0], DIRECTORY)
        found[DIRECTORY] = lambda: _on_directory(directory[0], plan, journal)
    return found


class Control:
    """The socket to control, from "ready" to "detach" or to the end (worker_protocol)."""

    def __init__(self, core: "plane.Plane", sock: "_socket.socket", rules: "port_rules.Rules | None") -> None:
        """`rules`: those that control changes; None where it says "detach"."""
        self._core, self._sock, self._rules = core, sock, rules
        self.attached = True

    def fileno(self) -> int:
        return self._sock.fileno()

    def on_readable(self) -> "int | None":
        try:
            message, fds = worker_protocol.recv_message(self._sock)
        except OSError:
            return 0
        if message and self._rules:
            self._change(self._rules, message, fds)
            return None
        if message != b"detach":
            return 0
        self._core.unwatch(self._sock.fileno())
        self._sock.close()
        self.attached = False
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        return None

    def _change(self, rules: "port_rules.Rules", message: bytes, fds: "list[int]") -> None:
        try:
            rules.change(message, fds)
            worker_protocol.send_line(self._sock, "done")
        except (ConfError, OSError) as error:
            worker_protocol.send_line(self._sock, f"error {error}")

    def is_open(self) -> bool:
        """Whether control still waits for us. At the end of a command the tap may go before control does."""
        try:
            return self.attached and bool(self._sock.recv(1, _socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False


def catch_signals() -> int:
    """A pipe that gets one byte, the number, for each signal that may end the worker: its reading end.

    The C part of Python's handler writes it, whichever thread the signal reaches and while the core blocks.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGINT, _signal.SIGHUP):
        always = number in (_signal.SIGTERM, _signal.SIGQUIT)
        if always or _signal.getsignal(number) is not _signal.SIG_IGN:  # what control's caller ignores stays ignored
            _signal.signal(number, _do_nothing)
    return reader


def _do_nothing(_number: int, _frame: "FrameType | None") -> None:
    """The pipe has the signal already; without a handler in Python it would have its default effect."""


def _on_signal(pipe: int, control: Control) -> "int | None":
    try:
        numbers = os.read(pipe, _SIGNAL_BYTES)
    except BlockingIOError:
        return None
    for number in numbers:
        if number in (_signal.SIGTERM, _signal.SIGQUIT):
            return 0
        if control.attached:
            return 128 + number
    return None


def _on_process_end(journal: log.Log) -> int:
    journal.write(log.INFO, "the process of the network namespace has ended: quitting")
    return 0


def _on_directory(inotify: int, plan: "model.WorkerPlan", journal: log.Log) -> "int | None":
    try:
        data = os.read(inotify, _INOTIFY_BYTES)
    except BlockingIOError:
        return None
    if not namespace_gone(data, worker_protocol.path_bytes(plan.netns_name), plan.netns_watch):
        return None
    return _on_namespace_gone(plan, journal)


def leave_directory(
    core: "plane.Plane", inotify: int, plan: "model.WorkerPlan", journal: log.Log, updates: "host_updates.HostUpdates"
) -> None:
    """Leave the events of the directory to the process that follows the host, which says what they mean, until that has ended."""
    core.unwatch(inotify)
    updates.on_namespace_gone = lambda: _on_namespace_gone(plan, journal)
    updates.on_end = lambda: core.watch(inotify, DIRECTORY)


def _on_namespace_gone(plan: "model.WorkerPlan", journal: log.Log) -> int:
    journal.write(log.INFO, f"the network namespace {plan.netns_name} is gone: quitting")
    return 0


def namespace_gone(events: bytes, name: bytes, number: int) -> bool:
    """Whether inotify's events (struct inotify_event, inotify(7)) say that `name` or its directory, which has the watch with that
    number, is gone."""
    return any(mask & _DIRECTORY_GONE or (mask & _NAME_GONE and found == name) for mask, found in _events_of(number, events))


def _events_of(number: int, events: bytes) -> "Iterator[tuple[int, bytes]]":
    """The mask and the name of each event of the watch with that number."""
    position = 0
    while position + _EVENT_HEAD_BYTES <= len(events):
        watch = int.from_bytes(events[position : position + 4], sys.byteorder, signed=True)
        mask = int.from_bytes(events[position + 4 : position + 8], sys.byteorder)
        size = int.from_bytes(events[position + 12 : position + 16], sys.byteorder)
        position += _EVENT_HEAD_BYTES
        if watch == number:
            yield mask, events[position : position + size].rstrip(b"\0")
        position += size
