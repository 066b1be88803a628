"""The nameservers and search domains of the host while the program runs: inotify says that resolv.conf may have changed.

The guest asks at the same address as before; the worker asks the new nameserver. While the host names none, the old one stays.
"""

import _socket
import posix as os  # lean imports: docs/architecture.md

from pasta_py import model, worker_protocol
from pasta_py.control.guest import path_watch, syscalls
from pasta_py.control.planning import resolv_conf
from pasta_py.errors import PastaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.control.planning.resolv_conf import Resolv

_WATCHED = path_watch.CHANGES | syscalls.IN_CLOSE_WRITE


class Nameservers:
    """`plan`: what the worker's plan is with this resolv.conf. `sock`: to the worker, which has the plan for `known`."""

    def __init__(self, known: "Resolv", plan: "Callable[[Resolv], model.WorkerPlan]", sock: "_socket.socket") -> None:
        """Begin to watch; OSError. What has changed since `known` was read is told at once."""
        self._known, self._plan, self._sock = known, plan, sock
        self._events = syscalls.inotify()
        self._look()

    def fileno(self) -> int:
        """For poll(2): readable when resolv.conf may have changed."""
        return self._events

    def changed(self) -> None:
        """Read the events, and tell the worker what is different."""
        path_watch.drain(self._events)
        self._look()

    def close(self) -> None:
        os.close(self._events)

    def _look(self) -> None:
        path, _names = path_watch.follow(self._events, resolv_conf.PATH, _WATCHED)
        if path:
            try:  # the directory's watch misses changes of a file that is a mount itself
                syscalls.inotify_add(self._events, path, syscalls.IN_CLOSE_WRITE)
            except OSError:
                pass  # it is missing, or may not be read
        try:
            found = resolv_conf.read()
            if found == self._known or not found.nameservers:
                return
            update = model.host_update(self._plan(found))
            self._sock.send(worker_protocol.encode((worker_protocol.encode(update), ())))
        except (PastaError, OSError):
            return  # it cannot be read now, or the worker has ended
        self._known = found
