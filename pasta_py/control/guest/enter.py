"""Runs a command in the namespaces of another process: for the Python API, whose caller may have threads and so cannot fork.

    pasta-enter FD PID COMMAND [ARG]...

FD is a pipe, or empty. An errno that ends this before the command runs is written to it as a number, or told on standard error; it
closes when the command runs. The command keeps the caller's working directory, if there is one of that name in the mount namespace.
"""

import os
import sys

from pasta_py.control.guest import syscalls
from pasta_py.control.guest.environment import environment
from pasta_py.errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
else:
    import _signal

# The user namespace first: the others belong to it.
_KINDS = (
    ("user", syscalls.CLONE_NEWUSER),
    ("mnt", syscalls.CLONE_NEWNS),
    ("net", syscalls.CLONE_NEWNET),
    ("uts", syscalls.CLONE_NEWUTS),
    ("ipc", syscalls.CLONE_NEWIPC),
)


def main() -> None:
    fd, pid, *command = sys.argv[1:]
    if fd:
        os.set_inheritable(int(fd), False)
    try:
        _enter(int(pid))
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores these for itself
            _signal.signal(number, _signal.SIG_DFL)
        os.execvpe(command[0], command, environment())
    except OSError as error:
        if fd:
            os.write(int(fd), str(error.errno).encode())
        else:
            print(f"pasta-py: {command[0]}: {reason(error)}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _enter(pid: int) -> None:
    directory = os.getcwd()
    namespaces = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in _KINDS]
    for namespace, kind in namespaces:
        syscalls.setns(namespace, kind)
    try:
        os.chdir(directory)  # joining a mount namespace goes to its root
    except OSError:
        pass
