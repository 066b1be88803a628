"""The worker's entry points: `main` in an interpreter of its own, `forked` in a fork of control. Neither returns.

What the worker says and is told, and which exit status it ends with: pasta_py.worker_protocol.
"""

import _socket
import posix as os  # os takes 0.8 ms to import

from pasta_py import descriptors, worker_protocol
from pasta_py.errors import PastaError, last_resort
from pasta_py.worker import confine, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the same functions, wrapped, and known to type checkers
    from collections.abc import Sequence
else:
    import _signal

_FORKED_FD = 3


def main(
    socket_fd: int, *runas: int, by_chroot: bool = False, called: "Sequence[str]" = (), modules: "Sequence[str]" = ()
) -> None:  # fmt: skip
    """Serve the control process at the other end of socket_fd; never returns.

    `runas`: UID and GID to run as, or nothing. `by_chroot`: see sandbox.enter. `called`: the command line that ps(1) is to show;
    empty keeps the present one. `modules`: of this package, what the plan will need besides: once the worker is locked in, it
    can load none.
    """
    status = 1
    if called:
        confine.set_command_line(called)
    for name in modules:
        __import__(f"pasta_py.worker.{name}")
    sock = _socket.socket(fileno=socket_fd)
    try:
        worker = start.start_worker(sock, runas, by_chroot)
        status = worker.serve() if worker else 0
    except (PastaError, OSError, ValueError, MemoryError) as error:
        worker_protocol.send_line(sock, f"error {_line(error)}")
    finally:
        os._exit(status)


def forked(socket_fd: int, called: "Sequence[str]") -> None:
    """As `main`, in a fork of control that has imported nothing yet; never returns.

    It drops what the fork inherited (descriptors, signal handlers, environment), then control sends the other arguments of `main`.
    """
    if socket_fd != _FORKED_FD:
        os.dup2(socket_fd, _FORKED_FD, inheritable=False)
    descriptors.close_from(_FORKED_FD + 1)
    for number in (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    confine.forget_environment(worker_protocol.KEPT_ENVIRONMENT)
    sock = _socket.socket(fileno=_FORKED_FD)
    arguments = worker_protocol.recv_arguments(sock)
    sock.detach()
    if arguments is None:  # control has closed: it needs no worker
        os._exit(0)
    runas, by_chroot, modules = arguments
    main(_FORKED_FD, *runas, by_chroot=by_chroot, called=called, modules=modules)


def _line(error: "PastaError | OSError | ValueError | MemoryError") -> str:
    if isinstance(error, OSError | MemoryError):
        return f"the worker process cannot go on: {last_resort(error)}"
    return str(error)
