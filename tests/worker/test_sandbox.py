"""What is left to a locked-in process, seen from outside and tried from inside, as an ordinary user."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "control"))

from process_helpers import PYTHON, PYTHONPATH, instrumentation, pasta, user_prefix

pytestmark = pytest.mark.sanitize_quick

# A neighbour, left outside, that can be reached and signalled beforehand; it ends with its standard input.
_REPORT = """
import _socket, os, sys, time
from pasta_py.worker import sandbox
def unix():
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
def connect():
    unix().connect(name)
listening = unix()
name = "\\0pasta-py-test-%d" % os.getpid()
listening.bind(name)
neighbour = os.fork()
if neighbour == 0:
    os.read(0, 1)
    os._exit(0)
connect()
os.kill(neighbour, 0)
pid, warnings = sandbox.enter(2, by_chroot=len(sys.argv) > 1)
def attempt(work):
    try:
        work()
    except OSError as error:
        return type(error).__name__
    return "done"
def listing(path):
    try:
        return os.listdir(path)
    except PermissionError:  # Landlock
        return "refused"
print("pid", pid, os.getpid())
print("warnings", warnings)
print("listing", listing("/"))
print("create", attempt(lambda: os.mkdir("/x")))
print("open", attempt(lambda: os.open("/etc/passwd", os.O_RDONLY)))
print("up", attempt(lambda: os.chdir("..")), listing("."))
print("kill", attempt(lambda: os.kill(neighbour, 0)))
print("abstract", attempt(connect))
from pasta_py.worker import confine
print("unshare", attempt(lambda: confine.unshare(confine.MOUNT)))
print("closed", sandbox.close([]))
sys.stdout.flush()
os.read(0, 1)
os._exit(0)
"""
_LINES = 10
_REFUSE = Path(__file__).parents[1] / "programs" / "refuse.py"
# asm/unistd_64.h of x86, asm-generic/unistd.h of all later architectures.
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "unshare": 272, "seccomp": 317, "landlock": 444},
    "aarch64": {"pivot_root": 41, "unshare": 97, "seccomp": 277, "landlock": 444},
}


def refusing(*calls: str) -> tuple[str, ...]:
    """Words that run a command for which these system calls fail."""
    numbers = _NUMBERS[platform.machine()]
    return (PYTHON, "-I", "-S", str(_REFUSE), ",".join(str(numbers[call]) for call in calls) or "-")


def landlock_version() -> int:
    """landlock_create_ruleset(2): of the kernel's rules; below 1 where it has none."""
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1))


class _Locked:
    def __init__(self, *prefix: str, by_chroot: bool = False) -> None:
        line = [*user_prefix(), *prefix, PYTHON, "-S", "-c", _REPORT, *(["chroot"] if by_chroot else [])]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, **instrumentation()}
        self.process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = dict(self.process.stdout.readline().rstrip("\n").split(" ", 1) for _ in range(_LINES))
        self.pid = int(self.said["pid"].split()[0])
        status = Path(f"/proc/{self.pid}/status").read_text() if Path(f"/proc/{self.pid}").exists() else ""
        self.status = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.mark.parametrize(
    "prefix",
    [(), ("unshare", "-Ur", "--"), ("unshare", "-Ur", "--") * 2, refusing()],
    ids=["user", "mapped-root", "nested-twice", "filtered-already"],
)
def test_nothing_is_left_to_a_locked_in_process(prefix: tuple[str, ...]) -> None:
    locked = _Locked(*prefix)
    try:
        assert locked.said["warnings"] == "[]"
        assert locked.said["pid"].split()[1] == "1"
        assert locked.said["listing"] in ("refused", "[]")
        assert locked.said["create"] in ("PermissionError", "OSError")  # EROFS
        assert locked.said["open"] in ("PermissionError", "FileNotFoundError")
        assert locked.said["up"] in ("done refused", "done []")
        if os.geteuid() == 0:
            assert os.listdir(f"/proc/{locked.pid}/root") == []
            assert os.statvfs(f"/proc/{locked.pid}/root").f_flag & os.ST_RDONLY
        assert locked.said["kill"] in ("ProcessLookupError", "PermissionError")
        assert locked.said["unshare"] == "PermissionError"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(locked.status[kind], 16) == 0, kind
        assert locked.status["NoNewPrivs"] == "1"
        assert locked.said["closed"] == "[]"
        assert locked.status["Seccomp"] == "2"
        assert locked.said["abstract"] == ("PermissionError" if landlock_version() >= 6 else "done")
        for kind in ("user", "mnt", "pid", "ipc", "uts"):
            if os.geteuid() == 0:  # not dumpable: the links are for root to read
                assert Path(f"/proc/{locked.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
        limits = Path(f"/proc/{locked.pid}/limits").read_text().splitlines()
        for kind in ("core file size", "file size", "processes"):
            limit = next(line for line in limits if line.startswith(f"Max {kind} "))
            assert limit.removeprefix(f"Max {kind}").split()[:2] == ["0", "0"], kind
    finally:
        locked.close()


@pytest.mark.parametrize("by_chroot", [False, True])
def test_where_pivot_root_is_refused_chroot_gives_the_empty_root_if_asked_for(by_chroot: bool) -> None:
    locked = _Locked(*refusing("pivot_root", "landlock"), by_chroot=by_chroot)
    try:
        said = locked.said["warnings"]
        assert ("no empty root" in said) is not by_chroot
        assert (locked.said["listing"] == "[]") is by_chroot
        assert (locked.said["up"] == "done []") is by_chroot
        assert locked.said["create"] in ("PermissionError", "OSError")
        assert (locked.said["open"] == "FileNotFoundError") is by_chroot
    finally:
        locked.close()


@pytest.mark.option("--chroot-fallback")
def test_the_option_for_that_saves_its_warning() -> None:
    for option, warned in (("--quiet", True), ("--chroot-fallback", False)):
        result = pasta(option, "--", "true", prefix=refusing("pivot_root"))
        assert result.returncode == 0, result.stderr
        assert ("sandbox: no empty root: the worker can see the file system" in result.stderr) is warned


@pytest.mark.parametrize(
    ("call", "named"),
    [("pivot_root", "no empty root"), ("landlock", "no Landlock"), ("seccomp", "no filter on system calls")],
)
def test_with_sandbox_a_missing_layer_ends_the_start(call: str, named: str) -> None:
    """As much for a guest that is joined: the layers are the worker's."""
    result = pasta("--sandbox", "--sandbox-keep", ".", "--", "echo", "started", prefix=refusing(call))
    assert result.returncode == 1 and result.stdout == ""
    assert f"--sandbox needs every layer of the sandbox, and one is missing: {named}" in result.stderr, result.stderr


def test_a_kernel_that_allows_no_user_namespace_costs_a_warning_and_not_the_start() -> None:
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -all --inh-caps -all -- "$@"'
    locked = _Locked("unshare", "-Ur", "--", "sh", "-c", forbid, "sh")
    try:
        assert "sandbox: no user namespace: " in locked.said["warnings"] or "no namespaces" in locked.said["warnings"]
        assert locked.said["warnings"].count("sandbox:") == 1
        assert int(locked.status["CapEff"], 16) == 0
        assert locked.status["NoNewPrivs"] == "1"
    finally:
        locked.close()


def test_without_a_user_namespace_root_of_one_still_gets_the_other_layers() -> None:
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    locked = _Locked("unshare", "-Ur", "--", "sh", "-c", forbid, "sh")
    try:
        assert "sandbox: no user namespace: No space left on device" in locked.said["warnings"]
        assert locked.said["listing"] in ("refused", "[]")
        assert locked.said["pid"].split()[1] == "1"
        assert int(locked.status["CapEff"], 16) == 0
    finally:
        locked.close()


def test_where_a_runtime_forbids_namespaces_landlock_takes_the_place_of_the_empty_root() -> None:
    assert landlock_version() >= 6, "this machine's kernel cannot show it"
    locked = _Locked(*refusing("unshare"))
    try:
        assert "sandbox: no namespaces: " in locked.said["warnings"] and "Operation not permitted" in locked.said["warnings"]
        assert locked.said["warnings"].count("sandbox:") == 1
        for what in ("create", "open", "kill", "abstract", "unshare"):
            assert locked.said[what] == "PermissionError", what
        assert locked.said["listing"] == "refused"
        assert locked.said["closed"] == "[]" and locked.status["Seccomp"] == "2"
    finally:
        locked.close()


def test_without_namespaces_a_missing_landlock_is_said_too() -> None:
    locked = _Locked(*refusing("unshare", "landlock"))
    try:
        assert locked.said["warnings"].count("sandbox:") == 2
        assert "sandbox: no Landlock: Operation not permitted" in locked.said["warnings"]
        assert locked.said["closed"] == "[]" and locked.status["Seccomp"] == "2"
    finally:
        locked.close()


def test_a_runtime_that_forbids_filters_costs_a_warning_and_not_the_start() -> None:
    locked = _Locked(*refusing("seccomp"))
    try:
        assert locked.said["warnings"] == "[]"
        assert locked.said["closed"] == "['sandbox: no filter on system calls: Operation not permitted']"
        assert locked.said["listing"] in ("refused", "[]")
    finally:
        locked.close()
