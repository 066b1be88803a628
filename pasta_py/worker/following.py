"""What the worker does when the host changes: it takes over what the watcher says (follower.py), and says it in the log."""

from pasta_py import model, worker_protocol
from pasta_py.errors import WireError
from pasta_py.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from pasta_py.worker import plane

_MESSAGE_BYTES = 1 << 20
_ENDED = (
    "the host's network is no longer followed: the process that does this has ended; what the guest has stays as it is"
)


class Following:
    """The socket to the watcher. `adopt` takes the changed plan, once the core has it."""

    def __init__(self, core: "plane.Plane", plan: "model.WorkerPlan", journal: log.Log, sock: "_socket.socket") -> None:
        self._core, self._plan, self._log, self._sock = core, plan, journal, sock
        self.adopt: Callable[[model.WorkerPlan], None] = lambda _plan: None

    def fileno(self) -> int:
        return self._sock.fileno()

    def on_readable(self) -> None:
        try:
            data = self._sock.recv(_MESSAGE_BYTES)
            message: Any = worker_protocol.decode(data) if data else None
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
                self._core.set_egress(changed.egress)
            self._plan = self._plan.replace(**values)
            self._core.follow(self._plan, changed.gone)
            self.adopt(self._plan)
        for level, line in lines:
            self._log.write(level, line)
