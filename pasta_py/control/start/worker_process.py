"""The worker process as control sees it: started early, sent the plan, then released or waited for.

The worker ends when its socket to control closes, also when control is killed. This module imports nothing slow: until
the worker is started, everything waits.
"""

import _socket
import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py import defaults, worker_protocol
from pasta_py.control.commandline.notices import WARNING, tell
from pasta_py.errors import WorkerError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
    from collections.abc import Callable

    from pasta_py import model
    from pasta_py.control.commandline.options import Options
else:
    import _signal

_WORKER_FD = 3
_BOOTSTRAP = (
    "import sys; sys.path += sys.argv[1:{0}]; from pasta_py.worker.__main__ import main; "
    "main({1}, by_chroot={2}, called=sys.argv[{0}:], modules={3})"
)

#: The PID of a fork that becomes the worker, and control's end of the socket to it, if `dispatch` has made them.
early: "list[tuple[int, _socket.socket]]" = []


class WorkerProcess:
    """The worker process, from its start to its end or its release. `pid` is 0 until it is ready."""

    def __init__(
        self, runas: "tuple[int, int] | None" = None, *, by_chroot: bool = False, modules: "tuple[str, ...]" = ()
    ) -> None:  # fmt: skip
        self.pid = 0
        self.status: int | None = None  # wait status, once it has ended
        if early:
            self._starter, self._sock = early.pop()
            try:
                worker_protocol.send_arguments(self._sock, runas or (), by_chroot, modules)
            except OSError:
                pass  # it has ended: hand_over() reports that
            return
        self._sock, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self._starter = _start_worker(theirs.fileno(), runas or (), by_chroot, modules)
        finally:
            theirs.close()

    def hand_over(
        self, plan: "model.WorkerPlan", fds: list[int], options: "Options", meanwhile: "Callable[[], None] | None" = None
    ) -> None:
        """Send everything, wait until the worker is locked in and serving. WorkerError when that does not happen. `meanwhile`: what
        there is to do while the worker gets ready."""
        self._sock.settimeout(defaults.WORKER_READY_S)
        try:
            try:
                worker_protocol.send_plan(self._sock, plan, fds)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has ended: its last message is still to be read
            if meanwhile:
                meanwhile()
            while not self.pid:
                self._take(*worker_protocol.recv_line(self._sock), options)
        except TimeoutError:
            late = f"the worker process was not ready after {defaults.WORKER_READY_S} s"
            raise WorkerError(f"{late}: is the machine overloaded?") from None
        except OSError as error:
            raise WorkerError(f"the worker process cannot be reached: {error.strerror}") from None
        if self._starter != self.pid:
            os.waitpid(self._starter, 0)  # its child in a PID namespace is the worker

    def _take(self, word: str, rest: str, options: "Options") -> None:
        if word == "ready" and rest.isdigit():
            self.pid = int(rest)
        elif word == "warning":
            tell(options, WARNING, rest)
        elif word == "error":
            raise WorkerError(rest)
        else:
            raise WorkerError("the worker process died while it started: see its last words above, if it had any")

    def change(self, rule: "model.ForwardRule", fd: int = -1) -> None:
        """Add a rule of one port, with the socket bound for it (the caller keeps its copy), or remove it; WorkerError.

        TCP connections live on.
        """
        try:
            worker_protocol.send_change(self._sock, rule, fd)
            word, rest = worker_protocol.recv_line(self._sock)
        except OSError as error:
            raise WorkerError(f"the worker process cannot be reached: {error.strerror}") from None
        if word != "done":
            raise WorkerError(rest or "the worker process has ended")

    def fileno(self) -> int:
        """For poll(2): readable once the worker has ended. Only between changes."""
        return self._sock.fileno()

    def detach(self) -> None:
        """Release the worker: it goes on without us."""
        try:
            self._sock.send(b"detach")
        except OSError:
            raise WorkerError("the worker process died as soon as it had started: see the log") from None
        self._sock.close()

    def close(self) -> None:
        """End the worker, unless it was released; returns at once."""
        self._sock.close()

    def finish(self) -> None:
        """End the worker and wait until it has written everything; only for its parent (a subreaper)."""
        self._sock.close()
        if self.status is not None or not self.pid:
            return
        from pasta_py.control.guest import syscalls

        pidfd = os.pidfd_open(self.pid)
        try:
            if not syscalls.readable(pidfd, defaults.WORKER_END_S):
                os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)
        finally:
            os.close(pidfd)


def _start_worker(fd: int, runas: "tuple[int, ...]", by_chroot: bool, modules: "tuple[str, ...]") -> int:
    import os
    from importlib.machinery import PathFinder

    if not sys.executable:
        raise WorkerError("no Python interpreter is known to start the worker with (sys.executable is empty)")
    backend = PathFinder.find_spec("_cffi_backend")
    package = sys.modules["pasta_py"].__path__[0]
    paths = [os.path.dirname(os.path.abspath(package))]
    if backend and backend.origin:
        paths.append(os.path.dirname(backend.origin))
    environment = {k: v for k, v in os.environ.items() if k.startswith(worker_protocol.KEPT_ENVIRONMENT)}
    code = _BOOTSTRAP.format(1 + len(paths), ", ".join(map(str, (_WORKER_FD, *runas))), by_chroot, modules)
    # If the socket is descriptor 3 itself, dup2 onto 3 would leave it close-on-exec: start from a duplicate.
    source = os.dup(fd) if fd == _WORKER_FD else fd
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", code, *paths, *sys.argv],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, source, _WORKER_FD)],
            setsigmask=[],
            setsigdef=[_signal.SIGTERM, _signal.SIGQUIT],
        )
    except OSError as error:
        raise WorkerError(f"the worker process does not start: {sys.executable}: {reason(error)}") from None
    finally:
        if source != fd:
            os.close(source)
