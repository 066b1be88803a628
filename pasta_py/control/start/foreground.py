"""What an instance in the foreground does after "ready": it waits for the command, the worker and signals, with one sigwait."""

import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.commandline.notices import WARNING, tell
from pasta_py.errors import WorkerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
    from collections.abc import Sequence

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.guest.spawn import Command
    from pasta_py.control.start.worker_process import WorkerProcess
else:
    import _signal

_SI_USER = 0  # siginfo: sent by a process with kill(2); above 0 the kernel itself, such as Ctrl-C on a terminal
_ALWAYS = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGQUIT)
_UNLESS_IGNORED = (_signal.SIGINT, _signal.SIGHUP)


def hold_signals() -> "Sequence[int]":
    """Block the signals that `wait` handles: a reader of the pidfile may send one at once.

    SIGINT and SIGHUP stay ignored if our caller ignores them (nohup(1), a background job of a script).
    """
    held = [*_ALWAYS, *(number for number in _UNLESS_IGNORED if _signal.getsignal(number) != _signal.SIG_IGN)]
    _signal.pthread_sigmask(_signal.SIG_BLOCK, held)
    return held


def wait(options: "Options", worker: "WorkerProcess", command: "Command | None", held: "Sequence[int]") -> int:
    """The exit status: once the command ends, without one the worker, or a signal says so (0). `held`: from hold_signals."""
    terminal = _terminal()
    if command:
        command.run()
    try:
        while True:
            status = _reap(options, worker, command)
            if status is not None:
                return status
            info = _signal.sigwaitinfo(held)
            if info.si_signo == _signal.SIGCHLD:
                continue
            if command and info.si_code > _SI_USER:
                continue  # typed on the terminal: the command got it too, and decides
            if info.si_signo in (_signal.SIGTERM, _signal.SIGQUIT):
                return 0
            _die_of(info.si_signo)
    finally:
        if terminal >= 0:
            _take_back(terminal)


def _reap(options: "Options", worker: "WorkerProcess", command: "Command | None") -> int | None:
    """Reap what has ended; the exit status to end with, or None to go on."""
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None if worker.status is None or command else 1
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(raw)
        if command and pid == command.pid:
            command.ended = True
            return code if code >= 0 else 128 - code
        if pid == worker.pid:
            worker.status = code
            why = _ending(code)
            if command:
                tell(options, WARNING, f"the worker process ended {why}: the command has no network any more")
                continue
            if code < 0:
                raise WorkerError(f"the worker process ended {why}: the namespace has no network any more")
            return code


def _ending(code: int) -> str:
    if code == -_signal.SIGSYS:
        return "by its sandbox, for a system call that is not allowed (the kernel's log names it; please report it)"
    if code == -_signal.SIGKILL:
        return "by signal 9 (from another process, or from the kernel, for lack of memory: see its log)"
    return f"by signal {-code}" if code < 0 else f"with status {code}"


def _die_of(signum: int) -> None:
    """Take the default action of a signal that we blocked."""
    _signal.signal(signum, _signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [signum])


def _terminal() -> int:
    """A standard stream that is a terminal with us in the foreground; -1: none."""
    for stream in (0, 1, 2):
        try:
            if os.tcgetpgrp(stream) == os.getpgrp():
                return stream
        except OSError:  # no terminal
            pass
    return -1


def _take_back(terminal: int) -> None:
    """Take the terminal back from a shell with job control that ended in the foreground."""
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)
            os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:  # it is gone
        pass
