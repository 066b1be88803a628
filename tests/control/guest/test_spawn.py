"""A command's first processes when what starts them is killed in between: nothing runs without a network."""

import os
import socket
from pathlib import Path

import pytest

from pasta_py.control.guest import spawn


def forked_init(messages: list[bytes], command: list[str]) -> int:
    """The exit status of an init that gets to run when control has said all this, and has gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for message in messages:
            ours.send(message)
        ours.close()
        child = os.fork()
        if child == 0:
            spawn._init(theirs, "pasta", command, pidns=False)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("messages", [[], [b"arm"], [b"arm", b"run"]])
def test_control_that_was_killed_before_init_ran_starts_no_command(tmp_path: Path, messages: list[bytes]) -> None:
    """It gets no signal for an end before it asked for one."""
    assert forked_init(messages, ["touch", str(tmp_path / "ran")]) == 1
    assert not (tmp_path / "ran").exists()


def test_init_that_was_killed_before_the_command_ran_starts_no_command(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # so that its end is the command's, too
    init = os.fork()
    if init == 0:
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            os.sched_yield()
        spawn._execute("pasta", ["touch", str(tmp_path / "ran")], {}, parent=parent)
    os.close(writer)
    os.waitpid(init, 0)
    assert os.read(reader, 1) == b"", "the command's process has ended, too"
    os.close(reader)
    assert not (tmp_path / "ran").exists()
