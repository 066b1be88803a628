"""Shared by all tests: directories an ordinary user can enter, and a check that no process is left at the end.

Time limits are pytest-timeout's (pyproject.toml). Nothing here depends on the order of tests.
"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pasta_py

GRACE_S = 5.0


def leftovers() -> list[str]:
    """Workers of this copy of the program started since we were; they may have no parent of ours any more."""
    root, found = os.fsencode(Path(pasta_py.__file__).parents[1]), []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            started = int((directory / "stat").read_text().rpartition(")")[2].split()[19])
        except (OSError, ValueError):
            continue
        if root in words and any(b"pasta_py.worker.__main__" in word for word in words) and started >= _STARTED:
            found.append(f"{directory.name}: {b' '.join(words).decode(errors='replace')[:200]}")
    return found


def _own_start() -> int:
    """When this process started, in clock ticks since boot (proc(5), stat, field 22)."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


_STARTED = _own_start()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """At the end no worker that was started meanwhile is alive. Under make, which runs nothing else from this copy."""
    yield
    if not os.environ.get("PASTA_TESTS_ALONE"):
        return
    deadline = time.monotonic() + GRACE_S
    while left := leftovers():
        if time.monotonic() > deadline:
            pytest.fail("workers are left behind:\n" + "\n".join(left), pytrace=False)
        time.sleep(0.05)


@pytest.fixture(scope="session", autouse=True)
def _enterable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the tests run as root, ordinary users may pass through pytest's temporary directories."""
    if os.geteuid() == 0:
        base = tmp_path_factory.getbasetemp()
        for each in (base, base.parent):
            each.chmod(each.stat().st_mode | stat.S_IXOTH)
