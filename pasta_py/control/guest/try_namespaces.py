"""Finds out which namespace this machine refuses, by making them one by one in a process that ends afterwards.

A start makes all of them in one call, which does not say which was refused. `pasta-py doctor` and a start that has failed ask here.
"""

import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py import worker_protocol
from pasta_py.control.guest import syscalls
from pasta_py.control.guest.namespaces import flush_streams, map_ids
from pasta_py.control.requirements import why_no_namespace
from pasta_py.control.requirements.settings import Cause
from pasta_py.errors import HostError, reason
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FLAGS = {
    "user": syscalls.CLONE_NEWUSER,
    "network": syscalls.CLONE_NEWNET,
    "mount": syscalls.CLONE_NEWNS,
    "IPC": syscalls.CLONE_NEWIPC,
    "UTS": syscalls.CLONE_NEWUTS,
    "PID": syscalls.CLONE_NEWPID,
}
_REPLY_BYTES = 4096
_PERMISSION = (errno.EPERM, errno.EACCES)


class Refusal(Record):
    """What the kernel refused first. `path`: a file that could not be written after the namespace was made; ""."""

    kind: str  # a key of FLAGS
    number: int  # errno
    path: str = ""
    filtered: bool = False  # as for why_no_namespace.cause

    def cause(self) -> Cause:
        """The reason; in the user namespace of the process that had the refusal."""
        return why_no_namespace.cause(self.kind, self.number, filtered=self.filtered)

    def __str__(self) -> str:
        """One line: what was refused, why, and what to do."""
        what = f"Couldn't set up namespaces: {self.path}" if self.path else f"Couldn't create {self.kind} namespace"
        error = OSError(self.number, os.strerror(self.number))
        return f"{what}: {reason(error, str(self.cause()))}"


def first_refusal(*, userns: bool = True, then: "Callable[[], None] | None" = None) -> Refusal | None:
    """What the kernel refuses first, in a child; None if it refuses nothing. `then`: more to try with all of them, as root.

    A HostError of `then` is raised here.
    """
    flush_streams()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found: "worker_protocol.Value"
            try:
                found = _try_all(userns, then)
            except HostError as error:
                found = str(error)
            os.write(writer, worker_protocol.encode(found))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        reply = worker_protocol.decode(os.read(reader, _REPLY_BYTES) or b"n")
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    if isinstance(reply, str):
        raise HostError(reply)
    if not isinstance(reply, tuple):
        return None
    kind, number, path, filtered = reply
    assert isinstance(kind, str) and isinstance(number, int)
    return Refusal(kind=kind, number=number, path=str(path), filtered=bool(filtered))


def _try_all(userns: bool, then: "Callable[[], None] | None") -> "worker_protocol.Value":
    uid, gid = os.geteuid(), os.getegid()
    for kind, flag in FLAGS.items():
        if kind == "user" and not userns:
            continue
        try:
            syscalls.unshare(flag)
        except OSError as error:
            return kind, error.errno or 0, "", error.errno in _PERMISSION and _filtered()
        if kind == "user":
            try:
                map_ids(uid, gid)
            except OSError as error:
                return kind, error.errno or 0, str(error.filename), False
    if then:
        then()
    return None


def _filtered() -> bool:
    try:
        syscalls.unshare(0)
    except OSError:
        return True
    return False
