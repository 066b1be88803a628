"""Frames that few send: what reaches a server from the guest is what a kernel takes from a wire."""

import json
import sys

import pytest
from lab import NO_PORTS, PROGRAMS, REMOTES, Lab

PORT = 5950


@pytest.mark.parametrize("family", [4, 6])
def test_the_same_frames_are_taken_as_by_a_kernel(lab: Lab, family: int) -> None:
    server = lab.remote.start("answer.py", "echo", REMOTES[family], PORT)
    command = (sys.executable, PROGRAMS / "odd.py", "eth0", REMOTES[family], PORT)
    with lab.guest(*NO_PORTS) as guest:
        wire, tap = (json.loads(space.run(*command, caps=True).stdout) for space in (lab.host, guest))
    server.result()
    assert tap == wire
    assert wire["answered"] == ["SYN"] and {"no tag", "options behind the data", "a priority tag"} <= set(wire["datagrams"])
