"""Following the host, on the worker's side: forks the watcher (csrc/io/follow.c), lets it begin, and takes over what it says.

What the watcher starts for each change is pasta_py/worker/follow_change.py.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import sys

from pasta_py import model, worker_protocol
from pasta_py.errors import WireError
from pasta_py.worker import log, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MESSAGE_BYTES = 1 << 20
_NUMBER_BYTES = 4  # of the only message that csrc/io/follow.c itself sends
_ENDED = (
    "the host's network is no longer followed: the process that does this has ended; what the guest has stays as it is"
)
_PROGRAM = "import sys; sys.path += sys.argv[1:-1]; from pasta_py.worker import follow_change; follow_change.main(sys.argv[-1])"
#: The letters that csrc/io/follow.c has for the descriptors of these roles.
_LETTERS = (
    (model.FD_FOLLOW_STATE, b"s"),
    (model.FD_FOLLOW_LOOK, b"l"),
    (model.FD_FOLLOW_NETLINK, b"n"),
    (model.FD_FOLLOW_INOTIFY, b"i"),
    (model.FD_GUEST_USERNS, b"u"),
    (model.FD_GUEST_NETNS, b"t"),
)


def start(null: int, ours: int) -> "_socket.socket":
    """Fork the watcher, which waits; the worker's end of the socket to it, which is descriptor `ours`. OSError.

    `null`: a descriptor of /dev/null, for its standard streams.
    """
    environment = (name + b"=" + value for name, value in os.environ.items())
    plane.start_watcher(null, ours, _command(), environment)
    return _socket.socket(fileno=ours)


def _command() -> "list[bytes]":
    """What starts a Python for a change. It finds modules where this one does."""
    places = [sys.modules["pasta_py"].__path__[0].rpartition("/")[0]]
    backend = sys.modules["_cffi_backend"].__file__
    if backend and not backend.startswith(places[0] + "/"):
        places.append(backend.rpartition("/")[0])
    words = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *places]
    return list(map(worker_protocol.path_bytes, words))


def begin(sock: "_socket.socket", roles: "dict[str, list[int]]") -> None:
    """Let the watcher go on, with the descriptors of `roles` that it needs. They are closed here."""
    given = [(letter, roles[role][0]) for role, letter in _LETTERS if role in roles]
    fds = [fd for _letter, fd in given]
    try:
        sock.sendmsg([b"".join(letter for letter, _fd in given)], [worker_protocol.rights(fds)])
    except OSError:
        pass  # it has ended, and the socket says so
    for fd in fds:
        os.close(fd)


class Following:
    """The socket to the watcher. `adopt` takes the changed plan, once the core has it, `adopt_policy` its egress policy."""

    def __init__(self, core: "plane.Plane", plan: "model.WorkerPlan", journal: log.Log, sock: "_socket.socket") -> None:
        self._core, self._plan, self._log, self._sock = core, plan, journal, sock
        self.adopt: Callable[[model.WorkerPlan], None] = lambda _plan: None
        self.adopt_policy: Callable[[bytes], object] = core.set_egress

    def fileno(self) -> int:
        return self._sock.fileno()

    def on_readable(self) -> None:
        try:
            data = self._sock.recv(_MESSAGE_BYTES)
            message: Any = _decoded(data)
        except (OSError, WireError):
            message = None
        if not isinstance(message, tuple):
            self._core.unwatch(self._sock.fileno())
            self._sock.close()
            self._log.write(log.WARNING, _ENDED)
            return
        update, lines = message
        if update:
            changed = worker_protocol.decode(update)
            assert isinstance(changed, model.HostUpdate)
            values = {name: value for name, value in changed.__dict__.items() if name != "gone"}
            if changed.egress != self._plan.egress:  # first: what the host has now is closed before it is reached
                self.adopt_policy(changed.egress)
            self._plan = self._plan.replace(**values)
            self._core.follow(self._plan, changed.gone)
            self.adopt(self._plan)
        for level, line in lines:
            self._log.write(level, line)


def _decoded(data: bytes) -> "Any":
    """An update, encoded, b"" for none, and lines with their levels; None: the other end has closed."""
    if len(data) == _NUMBER_BYTES:
        number = int.from_bytes(data, sys.byteorder, signed=True)
        counts = number == plane.FOLLOW_COUNTS_ON_HOST
        why = "the right to change them in the guest would count on the host too" if counts else os.strerror(-number)
        return b"", ((log.INFO, f"addresses and routes of the host are not followed: {why}"),)
    return worker_protocol.decode(data) if data else None
