"""A worker in a process of its own, without a start before it; the tests are its control."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sample_plan import sample_plan

from pasta_py import model, worker_protocol
from pasta_py.control.start.worker_process import WorkerProcess

sys.path.append(str(Path(__file__).resolve().parents[1] / "control"))

from process_helpers import PYTHON, PYTHONPATH, user_prefix

_START = (
    "import sys; sys.path += sys.argv[2].split(':'); from pasta_py.worker.__main__ import main; "
    "main(int(sys.argv[1]), modules=('port_rules',))"
)


@contextmanager
def worker() -> "Iterator[socket.socket]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = theirs.fileno()
    line = [*user_prefix(), PYTHON, "-I", "-S", "-c", _START, str(fd), PYTHONPATH]
    process = subprocess.Popen(line, pass_fds=[fd], stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    ours.settimeout(30)
    try:
        yield ours
    finally:
        ours.close()
        process.wait(30)


def ready(control: socket.socket, tap: socket.socket, *more: tuple[str, int], **changes: object) -> int:
    roles = [(model.FD_TAP, tap.fileno()), *more]
    plan = sample_plan(descriptors=tuple(role for role, _ in roles), **changes)
    worker_protocol.send_plan(control, plan, [fd for _, fd in roles])
    word, pid = control.recv(4096).split()
    assert word == b"ready"
    return int(pid)


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    return ours, theirs


class Remote(WorkerProcess):
    """Control's side of a worker that is there already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
