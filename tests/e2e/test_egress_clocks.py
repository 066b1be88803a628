"""Names of an egress policy over hours, by a worker's clocks that the test moves: a machine that sleeps, addresses that rotate."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import test_egress_scenarios as scenarios
from lab import FAR4, FAR6, PROGRAMS, Guest, Lab
from test_egress_scenarios import allow, asked, dig, fetched, refused, seen

pytestmark = pytest.mark.unsanitized  # a sanitizer's library has to come before the one that moves the clocks
lab = scenarios.lab
HOUR_NS = 3600 * 10**9

ROTATING = """
import mmap, random, socket, struct, sys
with open(sys.argv[1], "r+b") as file:
    clock = mmap.mmap(file.fileno(), 16)
told = []
def connect(address):
    socket.create_connection((address, 80), 20).close()
for turn in range(360):
    ahead = 10 * 10**9 * turn
    clock[:] = struct.pack("=qq", ahead, ahead)
    found = [each[4][0] for each in socket.getaddrinfo("turning.test", 80, socket.AF_INET, socket.SOCK_STREAM)]
    assert len(found) == 8, found
    told += found
    connect(found[turn % 8])
    connect(told[len(told) // 2])
for address in sorted(set(told))[::40]:
    connect(address)
print(len(set(told)))
"""


class Clocks:
    """Those of a worker: `path` is what shifted_clock.c reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ahead(0, 0)

    def ahead(self, boottime_ns: int, monotonic_ns: int) -> None:
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("=qq", boottime_ns, monotonic_ns))


@pytest.fixture(scope="module")
def library(lab: Lab) -> Path:
    path = lab.directory / "shifted_clock.so"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run(["cc", *flags, path, PROGRAMS / "shifted_clock.c"], check=True)
    return path


@contextmanager
def moved(lab: Lab, library: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> Iterator[tuple[Guest, Clocks]]:
    clocks = Clocks(lab.directory / "clocks")
    clocks.path.chmod(0o666)
    there = {**lab.environment(), "LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(clocks.path)}
    with monkeypatch.context() as patched:
        patched.setattr(lab, "environment", lambda: there)
        started = lab.guest(*options)
        guest = started.__enter__()
    try:
        yield guest, clocks
    finally:
        started.__exit__(None, None, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_after_the_machine_has_slept_a_name_is_asked_again_and_counts_as_it_is_now(
    lab: Lab, library: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """CLOCK_BOOTTIME goes on while a machine sleeps, the other clocks do not. One name is where it was, one has moved."""
    log = lab.directory / "slept.json"
    options = (*allow("api.test:80", "*.fresh.test:80"), "--decision-log", log, "--threads", threads)
    with moved(lab, library, monkeypatch, *options) as (guest, clocks):
        (moving,) = dig(guest, "moves.fresh.test")
        assert fetched(guest, "http://api.test/", "-4") == fetched(guest, "http://api.test/", "-6") == "it works"
        assert fetched(guest, f"http://{moving}/") == "it works"
        clocks.ahead(8 * HOUR_NS, 0)
        seen(lab)
        assert fetched(guest, f"http://{FAR4}/") == fetched(guest, f"http://[{FAR6}]/") == "it works"
        assert set(asked(lab)) == {"api.test. in a", "api.test. in aaaa"}
        assert "Couldn't connect" in refused(guest, f"http://{moving}/")
        assert set(asked(lab)) == {"moves.fresh.test. in a"}
        assert fetched(guest, f"http://{FAR4}/") == "it works" and asked(lab) == []
        (new,) = dig(guest, "moves.fresh.test")
        assert new != moving and fetched(guest, f"http://{new}/") == "it works"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    denied = [(line["address"], line["reason"], line["name"]) for line in lines if line["verdict"] == "denied"]
    assert denied == [(moving, "name_ended", "moves.fresh.test")]


def test_a_name_whose_addresses_rotate_for_an_hour(lab: Lab, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 others each time: each is reached at once, and some half an hour later. At the end one of forty of all is."""
    with moved(lab, library, monkeypatch, *allow("turning.test:80")) as (guest, clocks):
        done = guest.run(sys.executable, "-c", ROTATING, clocks.path, timeout=240)
        assert done.stdout == "2880\n", done.stderr
