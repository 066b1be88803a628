"""A stream that goes on while something happens to it (bulk.py), and the switch between short and long forms of tests."""

import bisect
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable

from lab import PATIENCE_S, PROGRAMS, Guest, Lab, Script, Space, wait_until

Window = tuple[float, float]
LONG = bool(os.environ.get("PASTA_LONG"))  # make soak: what takes too long for every run of the tests


class Bulk:
    """Bytes both ways between the guest and the remote, as fast as they go unless `rate` (bytes a second) says otherwise.

    They flow when this has been made.
    """

    ports = itertools.count(7700)

    def __init__(self, lab: Lab, guest: Space, address: str, rate: float = 0, patience: float = 120) -> None:
        self.port = port = next(self.ports)
        self.remote = lab.remote.start("bulk.py", address, port, "listen", rate, patience)
        self.guest = guest.popen(sys.executable, PROGRAMS / "bulk.py", address, port, "connect", rate, patience)
        assert self.guest.stdout and self.guest.stderr
        if self.guest.stdout.readline() != "flows\n":
            raise AssertionError(f"nothing flows: {self.guest.communicate(timeout=PATIENCE_S)[1]}")

    def finish(self, timeout: float = 120) -> "Bulk":
        """End it; fails unless each side has received exactly what the other sent."""
        self.stop(timeout)
        assert self.ours["errors"] == self.theirs["errors"] == []
        assert self.ours["received"] == self.theirs["sent"] and self.ours["sent"] == self.theirs["received"]
        return self

    def stop(self, timeout: float = 120) -> None:
        """End it, whatever has arrived."""
        assert self.guest.stdin and self.remote.process.stdin
        self.guest.stdin.close()
        self.remote.process.stdin.close()
        self.guest.stdin = self.remote.process.stdin = None
        self.ours = Script.finished(self.guest, timeout)
        self.theirs = Script.finished(self.remote.process, timeout)

    def abandon(self, timeout: float = 60) -> dict[str, object]:
        """End it where the connection is gone: what the remote has to say."""
        assert self.guest.stdin and self.remote.process.stdin
        self.guest.kill()
        self.guest.wait(timeout)
        self.remote.process.stdin.close()
        self.remote.process.stdin = None
        return Script.finished(self.remote.process, timeout)

    def rate(self, windows: Iterable[Window]) -> float:
        """Bytes a second that both sides received within the windows (CLOCK_MONOTONIC)."""
        spans = list(windows)
        total = sum(received_by(side["marks"], end) - received_by(side["marks"], start)  # type: ignore[arg-type]
                    for side in (self.ours, self.theirs) for start, end in spans)  # fmt: skip
        return total / sum(end - start for start, end in spans)


def received_by(marks: list[list[float]], moment: float) -> float:
    """How much had been received then, interpolated."""
    at = bisect.bisect(marks, [moment, 0])
    if at in (0, len(marks)):
        return marks[-1][1] if at else 0
    (t0, n0), (t1, n1) = marks[at - 1], marks[at]
    return n0 + (n1 - n0) * (moment - t0) / (t1 - t0)


def hear(guest: Guest, pattern: str) -> None:
    """Wait until the translator has said this, in however many pieces."""
    heard: list[str] = []

    def found() -> bool:
        heard.append(said(guest))
        return bool(re.search(pattern, "".join(heard)))

    wait_until(found, 5, f"it says {pattern!r}")


def said(guest: Guest) -> str:
    """What the translator has said since the last call."""
    assert guest.process.stderr
    os.set_blocking(guest.process.stderr.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        return os.read(guest.process.stderr.fileno(), 1 << 20).decode()
    return ""
