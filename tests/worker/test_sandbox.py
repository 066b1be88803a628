"""What is left to a locked-in process, seen from outside and tried from inside, as an ordinary user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "control"))

from process_helpers import PYTHON, PYTHONPATH, user_prefix  # noqa: E402

_REPORT = """
import os, sys, time
from pasta_py.worker import sandbox
pid, warnings = sandbox.enter(2)
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
print("kill", attempt(lambda: os.kill(%d, 0)))
from pasta_py.worker import plane
print("unshare", attempt(lambda: plane.unshare(plane.MOUNT)))
sys.stdout.flush()
sys.stdin.read()
"""


class _Locked:
    def __init__(self, *prefix: str) -> None:
        line = [*user_prefix(), *prefix, PYTHON, "-S", "-c", _REPORT % os.getpid()]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH}
        self.process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = dict(self.process.stdout.readline().rstrip("\n").split(" ", 1) for _ in range(8))
        self.pid = int(self.said["pid"].split()[0])
        status = Path(f"/proc/{self.pid}/status").read_text() if Path(f"/proc/{self.pid}").exists() else ""
        self.status = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    def close(self) -> None:
        self.process.communicate(timeout=10)


@pytest.mark.parametrize("prefix", [(), ("unshare", "-Ur", "--")], ids=["user", "mapped-root"])
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
        for kind in ("user", "mnt", "pid", "ipc", "uts"):
            if os.geteuid() == 0:  # not dumpable: the links are for root to read
                assert Path(f"/proc/{locked.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
        limits = Path(f"/proc/{locked.pid}/limits").read_text().splitlines()
        assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    finally:
        locked.close()


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
