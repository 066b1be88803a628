"""io/small_fork.c: a fork out of an interpreter has the memory that C needs and no other; the interpreter keeps all of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unsanitized  # there it is an ordinary fork

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pasta_py.worker import helper
kept = list(range(100_000))  # memory on the heap and elsewhere
null = os.open("/dev/null", os.O_RDWR)
ours = os.dup(null)
helper.start(null, ours)
again = os.dup(null)
helper.start(null, again)
fds, names, maps = [], [], []
def status(pid, name):
    return next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith(name))
for pid in map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split()):
    while status(pid, "Name") != "pasta-helper" or status(pid, "State") != "S":
        os.sched_yield()
    names.append(status(pid, "Name"))
    fds.append(sorted(map(int, os.listdir(f"/proc/{pid}/fd"))))
    maps.append(open(f"/proc/{pid}/maps").read())
os.close(ours)
os.close(again)
ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]
child = os.fork()
if child == 0:
    os._exit(sum(kept) != 4_999_950_000)
flags = [line.split()[1:] for line in open("/proc/self/smaps") if line.startswith("VmFlags")]
print(json.dumps({
    "names": names, "fds": fds, "maps": maps, "ends": ends, "whole": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
    "left_out": sum("dc" in each and "io" not in each for each in flags),
}))
"""


def run(**environment: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, ROOT],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_child_has_what_c_needs_and_the_interpreter_keeps_all() -> None:
    """Two of them, one after the other, and then a fork of all."""
    found = run()
    assert found["names"] == ["pasta-helper", "pasta-helper"]
    assert found["fds"] == [[0, 1, 2, 3]] * 2
    assert found["ends"] == [0, 0]
    assert found["whole"] == 0
    assert found["left_out"] == 0
    for maps in found["maps"]:
        assert "_plane" in maps
        assert not [word for word in ("[heap]", "/bin/python", "libpython", "_cffi_backend") if word in maps]


def test_beside_a_library_that_is_loaded_ahead_it_has_all() -> None:
    """Such a library may have put functions of its own in the place of the C library's."""
    found = run(LD_PRELOAD="libc.so.6")
    assert found["fds"] == [[0, 1, 2, 3]] * 2
    assert found["ends"] == [0, 0]
    assert all("[heap]" in maps for maps in found["maps"])
