"""What the processes that follow the host (csrc/io/follow.c) start for each change: a Python of its own, which ends after it.

    plan    in the host's network namespace, no capability: makes the plan again, tells the worker and the applier what has changed,
            writes the state down for the next time, and says what to wait for
    apply   in the guest's namespaces, CAP_NET_ADMIN there: sets and removes on the guest's interface what one request says

They have descriptors with fixed numbers, and load what they need of `control`.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import sys
import time

from pasta_py import worker_protocol
from pasta_py.errors import WireError
from pasta_py.worker import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WARNING, INFO = 1, 2  # log levels, as in WorkerPlan.log_level
# enum given of csrc/io/follow.c
_LOOK, _STATE, _INOTIFY, _WORKER, _APPLIER = range(3, 8)
_WATCHER = 3
_LENGTH_BYTES = 4


def main(purpose: str) -> None:
    """`purpose`: "plan" or "apply". Does not return."""
    status = 1
    try:
        _give_up(confine.CAP_NET_ADMIN if purpose == "apply" else 0)
        if purpose == "apply":
            _apply()
        else:
            _plan()
        status = 0
    finally:
        os._exit(status)


def _give_up(kept: int) -> None:
    """Let the guest's root not trace us, pass no capability on, and read files only where modules and resolv.conf are."""
    confine.drop_privileges(kept)
    readable = [*sys.modules["pasta_py"].__path__, *sys.path, sys.prefix, sys.base_prefix, "/usr/lib", "/etc", "/run"]
    target = "/etc/resolv.conf"
    try:
        target = os.readlink(target)
    except OSError:
        pass
    try:
        confine.landlock([*filter(None, readable), target.rpartition("/")[0] or "/etc"])
    except OSError:
        pass  # many kernels lack it


# ---- plan ----


def _plan() -> None:
    worker = _socket.socket(fileno=_WORKER)
    applier = _socket.socket(fileno=_APPLIER) if _is_open(_APPLIER) else None
    try:
        _plan_again(worker, applier)
    except Exception as error:
        _tell(worker, b"", [(WARNING, f"a change of the host could not be read: {type(error).__name__}: {error}")])


def _plan_again(worker: "_socket.socket", applier: "_socket.socket | None") -> None:
    from pasta_py.control import follow
    from pasta_py.control.follow import packing, replan

    inotify = _INOTIFY if _is_open(_INOTIFY) else -1
    was, ours, index = packing.read_state(os.pread(_STATE, os.fstat(_STATE).st_size, 0))
    made = replan.run(was, inotify, time.monotonic_ns() // 1_000_000)
    told = [(INFO, f"the host's network has changed: {line}") for line in made.lines]
    if made.update:
        _tell(worker, made.update, told)
        told = []
    if made.link and applier:
        ours, failed = _ask(applier, (index, made.before if ours is None else ours, made.link))
        told += [(WARNING, line) for line in failed]
    if told:
        _tell(worker, b"", told)
    _write_state(follow.written(made.state, ours, index))
    changed = bool(made.link or made.update or made.lines)
    os.write(_LOOK, follow.look(made.links, made.names, due_ms=made.due_ms, changed=changed))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _tell(worker: "_socket.socket", update: bytes, lines: "list[tuple[int, str]]") -> None:
    try:
        worker.send(worker_protocol.encode((update, tuple(lines))))
    except OSError:
        pass  # it has ended


def _write_state(data: bytes) -> None:
    os.ftruncate(_STATE, 0)
    at = 0
    while at < len(data):
        at += os.pwrite(_STATE, data[at:], at)


# ---- apply ----


def _apply() -> None:
    from pasta_py.control.follow import apply, packing

    watcher = _socket.socket(fileno=_WATCHER)
    index, ours, wanted = _receive(watcher)
    made, lines = apply.change(index, packing.unpack(ours), packing.unpack(wanted))
    _send(watcher, (packing.pack(made), tuple(lines)))


# ---- between the two ----


def _ask(applier: "_socket.socket", request: "worker_protocol.Value") -> "tuple[bytes, list[str]]":
    """What is ours afterwards, as the applier encodes it, and lines about what it could not do."""
    _send(applier, request)
    ours, lines = _receive(applier)
    if not isinstance(ours, bytes):
        raise WireError("the applier's answer is malformed")
    return ours, [str(line) for line in lines]


def _send(sock: "_socket.socket", value: "worker_protocol.Value") -> None:
    data = worker_protocol.encode(value)
    sock.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


def _receive(sock: "_socket.socket") -> "Any":
    head = sock.recv(_LENGTH_BYTES, _socket.MSG_WAITALL)
    if len(head) < _LENGTH_BYTES:
        raise WireError("the process at the other end has ended")
    return worker_protocol.decode(sock.recv(int.from_bytes(head, "big"), _socket.MSG_WAITALL))
