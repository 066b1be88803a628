"""Following the host, on the worker's side: forks the watcher (csrc/io/follow.c), and lets it begin.

What the watcher starts for each change is pasta_py/worker/follow_change.py. What that says is taken over by host_updates.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import sys

from pasta_py import model, worker_protocol
from pasta_py.worker import host_updates, plane  # noqa: F401 - that is needed once the worker is locked in

_PROGRAM = "import sys; sys.path += sys.argv[1:-1]; from pasta_py.worker import follow_change; follow_change.main(sys.argv[-1])"
#: The letters that csrc/io/follow.c has for the descriptors of these roles.
_LETTERS = (
    (model.FD_FOLLOW_STATE, b"s"),
    (model.FD_FOLLOW_LOOK, b"l"),
    (model.FD_FOLLOW_NETLINK, b"n"),
    (model.FD_FOLLOW_INOTIFY, b"i"),
    (model.FD_NETNS_INOTIFY, b"i"),  # there is one of these two
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
    backend = (sys.modules["_cffi_backend"].__file__ or "").rpartition("/")[0]
    if backend not in ("", *places):
        places.append(backend)
    words = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *places]
    return list(map(worker_protocol.path_bytes, words))


def begin(sock: "_socket.socket", plan: "model.WorkerPlan", roles: "dict[str, list[int]]") -> None:
    """Let the watcher go on, with the descriptors of `roles` that it needs. They are closed here, but for the namespace's watch:
    the worker goes on with that when the watcher has ended."""
    given = [(letter, roles[role][0]) for role, letter in _LETTERS if role in roles]
    fds = [fd for _letter, fd in given]
    kept = roles.get(model.FD_NETNS_INOTIFY, [])
    namespace = plan.netns_watch.to_bytes(4, sys.byteorder) + worker_protocol.path_bytes(plan.netns_name) if kept else b""
    try:
        sock.sendmsg([b"".join(letter for letter, _fd in given) + namespace], [worker_protocol.rights(fds)])
    except OSError:
        pass  # it has ended, and the socket says so
    for fd in fds:
        if fd not in kept:
            os.close(fd)
