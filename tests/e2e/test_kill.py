"""Killed with SIGKILL at any moment, nothing is left, and the next instance serves the same namespace at once."""

import contextlib
import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from lab import REMOTE4, Guest, Lab, children, cmdline, program, tool, wait_until
from traffic import LONG

KILLS = 500 if LONG else 40
KILL_S = 7.5  # the limit of time for each, on a busy machine: from a start until nothing is left of it
SEED = 6
STARTED_S = 30  # what a start may take on a busy machine
GONE_S = 3


def instance(lab: Lab) -> list[int]:
    """PIDs of everything that the program runs, seen from here: whatever in the lab is not ours."""
    return [pid for pid in lab.descendants() if (words := cmdline(pid)) and words[0] not in (tool(), "sh", "ping")]


def gone(lab: Lab) -> bool:
    """Looked at twice: the kernel's lists of children may lack one while another ends (proc_pid_children(5))."""
    return not instance(lab) and not instance(lab)


def traces(lab: Lab, guest: Guest) -> tuple[str, ...]:
    """What an instance could leave: mounts, files, interfaces."""
    return (
        lab.host.run("cat", "/proc/self/mountinfo").stdout,
        lab.host.run("find", "/run", "/dev/shm", lab.directory).stdout,
        guest.run("ip", "-br", "link").stdout,
    )


def kill_one(lab: Lab, rng: random.Random, starting: "subprocess.Popen[str] | None" = None) -> None:
    """A random one of its processes; what serves nevertheless is killed too, but no process of another generation.

    Without its helper an instance goes on, and so it does if the process that was chosen had done its part. While it still
    starts, which a busy machine makes long, it has no tap to be known by: its start is waited for.
    """
    victims = instance(lab)
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(victims), signal.SIGKILL)
    deadline = time.monotonic() + 0.3
    while instance(lab) and time.monotonic() < deadline:
        time.sleep(0.01)
    if starting:
        starting.wait(STARTED_S)
    for pid in lab.translators():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(KILLS * KILL_S)
def test_killed_at_any_moment_nothing_is_left(lab: Lab) -> None:
    rng = random.Random(SEED)
    with lab.stray() as guest:
        command = [program(), "--config-net", "--ns-ifname", "tap0", "--pid", "/dev/null", lab.inner_pid(guest.pid)]
        guest.setup("link set lo up")
        before, hit, took_s = traces(lab, guest), 0, math.inf
        for number in range(KILLS):
            if number % 2:  # while it starts
                log = open(lab.directory / "kill.log", "w")  # noqa: SIM115 (closed below)
                starting = lab.host.popen(*command, stdout=log, stderr=log)
                while starting.poll() is None and not children(starting.pid):
                    pass  # a start is over in the time that a look now and then would sleep
                time.sleep(rng.uniform(0, took_s))
                hit += starting.poll() is None
                kill_one(lab, rng, starting)
                log.close()
                Path(log.name).unlink()
            else:  # while it serves, which also shows that the one before has left nothing in the way
                begun = time.monotonic()
                lab.host.run(*command)
                took_s = min(took_s, time.monotonic() - begun)  # the quickest: most kills hit a start on a busy machine too
                guest.run("ping", "-c1", "-W20", REMOTE4)
                busy = guest.popen("ping", "-i0.002", "-s1400", "-q", REMOTE4)
                time.sleep(rng.uniform(0, 0.05))
                kill_one(lab, rng)
                busy.kill()
            wait_until(lambda: gone(lab), GONE_S, f"its processes are gone after kill {number}")
            with contextlib.suppress(AssertionError):  # a tap goes when the kernel's own worker comes to it
                wait_until(lambda: traces(lab, guest) == before, GONE_S, "its traces are gone")
            assert traces(lab, guest) == before, f"kill {number}"
        assert hit >= KILLS // 10, f"{hit} starts were hit"
