"""What a change of the host means for a worker that serves, as the process that sees it says over a socket: pasta's watcher
(pasta_py/worker/following.py), or slirp4netns's control process.
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
_NUMBER_BYTES = 4  # of the messages that csrc/io/follow.c itself sends
_ENDED = (
    "the host's network is no longer followed: the process that does this has ended; what the guest has stays as it is"
)


class HostUpdates:
    """`adopt` takes the changed plan, once the core has it, `adopt_policy` its egress policy."""

    def __init__(
        self, core: "plane.Plane", plan: "model.WorkerPlan", journal: log.Log, sock: "_socket.socket", *, outlived: bool
    ) -> None:
        """`outlived`: the worker goes on without the process at the other end, and says so."""
        self._core, self._plan, self._log, self._sock, self._outlived = core, plan, journal, sock, outlived
        self.adopt: Callable[[model.WorkerPlan], None] = lambda _plan: None
        self.adopt_policy: Callable[[bytes], object] = core.set_egress
        self.on_namespace_gone: Callable[[], int | None] = lambda: None  # returns the status with which the worker ends
        self.on_end: Callable[[], None] = lambda: None  # the process at the other end has ended

    def fileno(self) -> int:
        return self._sock.fileno()

    def on_readable(self) -> "int | None":
        try:
            data = self._sock.recv(_MESSAGE_BYTES)
            if _number(data) == plane.FOLLOW_NAMESPACE_GONE:
                return self.on_namespace_gone()
            message: Any = _decoded(data)
        except (OSError, WireError):
            message = None
        if not isinstance(message, tuple):
            self._core.unwatch(self._sock.fileno())
            self._sock.close()
            if self._outlived:
                self._log.write(log.WARNING, _ENDED)
            self.on_end()
            return None
        update, lines = message
        if update:
            changed = worker_protocol.decode(update)
            assert isinstance(changed, model.HostUpdate)
            values = {name: value for name, value in changed.__dict__.items() if name != "gone"}
            if changed.egress != self._plan.egress:  # first: what the host has now is closed before it is reached
                self.adopt_policy(changed.egress)
                if self._plan.detours:
                    from pasta_py.worker import rule_set  # loaded before the worker was locked in

                    self._core.follow_detours(rule_set.with_prefixes(self._plan.detours, changed.egress))
            self._plan = self._plan.replace(**values)
            self._core.follow(self._plan, changed.gone)
            self.adopt(self._plan)
        for level, line in lines:
            self._log.write(level, line)
        return None


def _decoded(data: bytes) -> "Any":
    """An update, encoded, b"" for none, and lines with their levels; None: the other end has closed."""
    number = _number(data)
    if number:
        counts = number == plane.FOLLOW_COUNTS_ON_HOST
        why = "the right to change them in the guest would count on the host too" if counts else os.strerror(-number)
        return b"", ((log.INFO, f"addresses and routes of the host are not followed: {why}"),)
    return worker_protocol.decode(data) if data else None


def _number(data: bytes) -> int:
    """0 if it is a message of another kind."""
    return int.from_bytes(data, sys.byteorder, signed=True) if len(data) == _NUMBER_BYTES else 0
