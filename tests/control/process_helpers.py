"""Runs the whole program as an ordinary user in a network namespace of its own, whoever runs the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UID = 12345
WAIT_S = 30.0
NO_PID = 1 << 22  # no process has this number, not even later: proc_sys_kernel(5), pid_max
_RUN = "import sys; from pasta_py.control.start.main import run; sys.exit(run(sys.argv[1], sys.argv[2:]))"
_AS_USER = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--")
MAPPED_ROOT = ("unshare", "-Ur", "--")


def _python() -> tuple[str, str]:
    """An interpreter that an ordinary user can start, and the module path it needs."""
    own_packages = [path for path in sys.path if path.endswith("site-packages")]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}"):
        probe = [candidate, "-c", "import sys"]
        if os.geteuid() == 0:
            probe = [*_AS_USER, *probe]
        if subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode == 0:
            return candidate, os.pathsep.join([str(ROOT), *own_packages])
    raise RuntimeError(f"uid {UID} can start neither {sys.executable} nor python{version}: install one outside /root")


PYTHON, PYTHONPATH = _python()


def user_prefix() -> list[str]:
    """Words before a command that make it run as an ordinary user, in an own network namespace with lo up."""
    if os.geteuid() != 0:
        return []
    return ["unshare", "-n", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *_AS_USER]


def command_line(name: str, *arguments: str) -> list[str]:
    return [PYTHON, "-c", _RUN, name, *arguments]


def instrumentation() -> dict[str, str]:
    """What a process of an instrumented build needs to find its library, and how that is to report (`make sanitize`)."""
    return {name: value for name, value in os.environ.items() if name.startswith(("LD_", "ASAN_", "UBSAN_"))}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    fixed = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": PYTHONPATH, "LC_ALL": "C.UTF-8"}
    return {**fixed, **instrumentation(), **(extra or {})}


def pasta(
    *arguments: str,
    name: str = "pasta",
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    text: str = "",
) -> "subprocess.CompletedProcess[str]":
    """Run to the end, standard output and error read to their end."""
    return subprocess.run(
        [*user_prefix(), *prefix, *command_line(name, *arguments)],
        env=environment(env), input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextmanager
def running(
    *arguments: str, name: str = "pasta", prefix: Sequence[str] = (), **options: object
) -> "Iterator[subprocess.Popen[str]]":
    """The program in the foreground; killed at the end."""
    process = subprocess.Popen(
        [*user_prefix(), *prefix, *command_line(name, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **{"env": environment(), "stdin": subprocess.DEVNULL, **options},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


@contextmanager
def guest(*unshare_options: str, first: str = ":") -> Iterator[int]:
    """PID of a sleeping process in user and network namespaces of its own, which did `first` before."""
    process = subprocess.Popen(
        [*user_prefix(), "unshare", "-Urn", *unshare_options, "--", "sh", "-c", f"{first} && echo up; exec sleep 300"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


@contextmanager
def ended_at_exit(pid_file: Path) -> Iterator[None]:
    """Whatever happens, the process of the pidfile ends."""
    try:
        yield
    finally:
        if pid_file.exists() and (text := pid_file.read_text()):
            pid = int(text)
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], object], what: str) -> None:
    """Poll until the condition holds; fails after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in children(pid):
        found.append(child)
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += descendants(child)
    return found


def worker_of(pid: int) -> int:
    """The worker among the children of a control process in the foreground, once it is ready: by its name."""
    names = ("pasta\n", "pasta-py\n", "slirp4netns\n")
    found = []
    for child in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [child] if Path(f"/proc/{child}/comm").read_text() in names else []
    assert len(found) == 1, found
    return found[0]
