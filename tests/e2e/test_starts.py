"""Starts where something is missing or foreign: memory, a writable installation, the caller's Python; and a hundred that idle."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import NO_PORTS, Lab, cmdline, comm, program, wait_until

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

ECHO = ("--config-net", *NO_PORTS, "--", "echo", "up")
OTHER_UID = 4242
MIB = 1024  # in KiB, ulimit's unit
IDLE = 100
REST_S = 3.0  # longer than what is done at intervals: automatic ports, once a second


@pytest.fixture(scope="module")
def prefix() -> Iterator[Path]:
    """A copy of the installed programs that none may write, without bytecode, and of another user if the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="pasta-prefix-") as directory:
        root, installed = Path(directory), Path(program()).parent
        (packages,) = installed.parent.glob("lib/python3*/site-packages")
        copy = root / packages.relative_to(installed.parent)
        copy.mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "bin" / "python3").symlink_to((installed / "python3").resolve())
        shutil.copy(installed / "pasta", root / "bin")
        (backend,) = packages.glob("_cffi_backend*.so")
        shutil.copy(backend, copy)
        shutil.copytree(packages / "pasta_py", copy / "pasta_py", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o555)
            if os.geteuid() == 0:
                os.chown(path, OTHER_UID, OTHER_UID, follow_symlinks=False)
        yield root / "bin" / "pasta"
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


def test_an_unwritable_installation_of_another_user_starts(lab: Lab, prefix: Path) -> None:
    done = lab.host.run(prefix, *ECHO)
    assert (done.stdout, done.stderr) == ("up\n", "")
    assert not list(prefix.parent.parent.rglob("__pycache__"))


def test_the_callers_python_makes_no_difference_to_a_start(lab: Lab, tmp_path: Path) -> None:
    """Modules of the names that control, the worker and what follows the host load stand where a careless start finds them."""
    tmp_path.chmod(0o755)
    for name in ("os", "socket", "struct", "ipaddress", "_cffi_backend", "pasta_py", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    paths = ("PYTHONHOME=/nonexistent", f"PYTHONPATH={tmp_path}", "PYTHONSTARTUP=/nonexistent")
    flags = ("PYTHONINSPECT=1", "PYTHONWARNINGS=error", "PYTHONOPTIMIZE=2", "PYTHONMALLOC=debug")
    done = lab.host.run("sh", "-c", 'cd "$0" && exec "$@"', tmp_path, "env", *paths, *flags, program(), *ECHO)
    assert (done.stdout, done.stderr) == ("up\n", "")


def test_a_start_that_lacks_memory_says_so(lab: Lab) -> None:
    """From where the first of our modules loads, with a MiB to spare: never a traceback. Control and the worker may each say it."""
    python, packages = Path(program()).parent / "python3", next(Path(program()).parents[1].glob("lib/python3*/site-packages"))
    first = f"import sys; sys.path.append({str(packages)!r}); import pasta_py.control.start.dispatch; bytearray(1 << 20)"
    worked: list[bool] = []
    for kib in range(12 * MIB, 64 * MIB, MIB // 2):
        limited = ("sh", "-c", f'ulimit -v {kib} && exec "$@"', "sh")
        bare = lab.host.run(*limited, python, "-I", "-S", "-c", first, check=False)
        done = lab.host.run(*limited, program(), *ECHO, check=False)
        worked.append(done.returncode == 0)
        if worked[-1]:
            assert (done.stdout, done.stderr) == ("up\n", ""), kib
        elif bare.returncode == 0:
            lines = done.stderr.splitlines()
            assert done.stdout == "" and 1 <= len(lines) <= 2, (kib, done.stderr)
            for line in lines:
                assert line.startswith("pasta: ") and ("(ulimit -v)" in line or "failed to map segment" in line), (kib, line)
        if worked[-3:] == [True] * 3:
            break
    assert worked[-1] and not worked[0]


def wake_ups(pids: list[int]) -> list[int]:
    """How often each has gone to sleep."""
    found = []
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        found.append(int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]))
    return found


def test_where_no_inotify_is_left_a_start_works_and_ends_with_its_namespace() -> None:
    """A user has 128 instances, and each container takes one."""
    with Lab() as lab:
        lab.host.run("sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances && ip netns add few", caps=True)
        lab.host.run(program(), "--config-net", *NO_PORTS, "--quiet", "--netns", "/run/netns/few", caps=True)

        def left() -> list[int]:
            return [pid for pid in lab.descendants() if comm(pid).startswith("pasta") or "/run/netns/few" in cmdline(pid)]

        time.sleep(REST_S)  # it has looked more than once
        lab.translator()
        lab.host.run("ip", "netns", "del", "few", caps=True)
        wait_until(lambda: not left(), 10, "all have ended")


def test_a_hundred_idle_instances_do_not_wake_up() -> None:
    """With what is on by default. At first each has frames from its guest's kernel, which reports its multicast groups.

    That kernel would also ask for a router again and again (RFC 7559), so it is told not to.

    The user's instances of inotify (128) are for other tests too: here some have none, and do not follow resolv.conf.
    """
    with Lab() as lab:
        lab.host.run("sh", "-c", "echo 20 >/proc/sys/user/max_inotify_instances", caps=True)
        silent = "echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitations"
        make = f"ip netns add idle$i && ip netns exec idle$i sh -c '{silent}' || exit"
        lab.host.run("sh", "-c", f"for i in $(seq {IDLE}); do {make}; done", caps=True)
        start = f"{program()} --config-net {' '.join(NO_PORTS)} --quiet --no-netns-quit --netns /run/netns/idle{{}}"
        lab.host.run("sh", "-c", f"seq {IDLE} | xargs -P 4 -I {{}} {start}", caps=True, timeout=240)
        ours = [pid for pid in lab.descendants() if comm(pid).startswith("pasta")]
        assert len(ours) >= IDLE
        before = [wake_ups(ours)]

        def at_rest() -> bool:
            time.sleep(REST_S)
            now = wake_ups(ours)
            same, before[0] = now == before[0], now
            return same

        wait_until(at_rest, 60, f"no process of {IDLE} instances wakes up in a while")
