"""Shared by all tests: directories an ordinary user can enter, and a check that no process is left at the end.

Time limits are pytest-timeout's (pyproject.toml). Nothing here depends on the order of tests. With -n, pytest-xdist's workers share
the tests file by file.
"""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import claims
import pytest
import repeatable
import sid

import pasta_py

GRACE_S = 30.0
_NAMES = ("pasta", "pasta-py", "slirp4netns", "pasta-helper")


def leftovers() -> list[str]:
    """Workers of this copy of the program started since we were; they may have no parent of ours any more."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            started = int((directory / "stat").read_text().rpartition(")")[2].split()[19])
            if started >= _STARTED and (directory / "comm").read_text().strip() in _NAMES and _is_ours(directory):
                found.append(f"{directory.name}: {b' '.join(words).decode(errors='replace')[:200]}")
        except (OSError, ValueError):
            continue
    return found


def _is_ours(directory: Path) -> bool:
    """Whether the core of this copy is mapped there; root alone may see that, others look at whose process it is."""
    try:
        mapped = [line.split(maxsplit=5) for line in (directory / "maps").read_text().splitlines()]
    except PermissionError:
        status = dict(line.split(":\t", 1) for line in (directory / "status").read_text().splitlines() if ":\t" in line)
        return int(status["Uid"].split()[0]) == os.getuid()
    cores = {str(path.stat().st_ino) for path in Path(pasta_py.__file__).parent.glob("_plane*.so")}
    return any(fields[4] in cores for fields in mapped if "/_plane" in fields[-1])


def pytest_configure(config: pytest.Config) -> None:
    repeatable.configure(config)


def pytest_report_header() -> list[str]:
    return sid.changed()


#: Markers of all tests of a folder (pyproject.toml says what they mean).
FOLDER_MARKERS = {"e2e": ("as_built",), "runtimes": ("as_built", "unsanitized"), "csrc": ("sanitize_quick",)}


#: The longest first, so that workers end at about the same time.
LONGEST = (
    "runtimes", "test_machines.py", "test_follow.py", "test_follow_guests.py", "test_slirp_traffic.py", "test_calls.py",
    "test_bulk.py", "test_mirror_shapes.py", "test_connections.py", "test_faults.py", "test_build.py",
)  # fmt: skip
#: Folders whose tests share one machine: one worker runs all of them.
TOGETHER = ("runtimes",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.stash[claims.CLAIMS] = claims.of(items)
    for item in items:
        for name in FOLDER_MARKERS.get(item.path.parent.name, ()):
            item.add_marker(name)
    items.sort(key=lambda item: min(LONGEST.index(name) if name in LONGEST else len(LONGEST) for name in item.path.parts[-2:]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file, with its fixtures, belongs to one worker. The order is that of the collection."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            return file.parent.name if file.parent.name in TOGETHER else str(file)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_sessionstart() -> None:
    """A script's background jobs ignore SIGINT, as would all that tests start.

    As root the tests become ordinary users, who must be able to start this Python and to read the program.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.geteuid():
        return
    command = [sys.executable, "-I", "-S", "-c", "import sys; open(sys.argv[1])", pasta_py.__file__]
    try:
        done = subprocess.run(command, user=65534, group=65534, extra_groups=[], cwd="/", stderr=subprocess.PIPE, text=True)
        why = done.stderr.strip().rpartition("\n")[2]
    except OSError as error:
        why = str(error) if error.errno == errno.EACCES else ""  # root of a user namespace cannot become others: no such tests
    if why:
        pytest.exit(
            f"ordinary users cannot start {sys.executable} or read {pasta_py.__file__} ({why}): "
            "move the checkout to where they can, for example /var/tmp, and give `make` a Python that they can start (PYTHON=...)",
            returncode=3,
        )


def _own_start() -> int:
    """When this process started, in clock ticks since boot (proc(5), stat, field 22)."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


_STARTED = _own_start()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """At the end no worker that was started meanwhile is alive. Under make, which runs nothing else from this copy."""
    if not os.environ.get("PASTA_TESTS_ALONE") or hasattr(session.config, "workerinput"):
        return
    deadline = time.monotonic() + GRACE_S
    while left := leftovers():
        if time.monotonic() > deadline:
            place = ("tests/conftest.py", None, "leftovers")
            report = pytest.TestReport("workers are left behind", place, {}, "failed", "\n".join(left), "teardown")
            session.config.hook.pytest_runtest_logreport(report=report)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        time.sleep(0.05)


@pytest.fixture(scope="session", autouse=True)
def _enterable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the tests run as root, ordinary users may pass through pytest's temporary directories."""
    if os.geteuid() == 0:
        base = tmp_path_factory.getbasetemp()
        for each in (base, *base.parents[:2]):
            each.chmod(each.stat().st_mode | stat.S_IXOTH)
