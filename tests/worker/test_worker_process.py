"""The worker as a process of its own: what it is handed, says and does, over its socket and signals alone."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lone_worker import pair, ready, worker
from sample_plan import sample_plan

from pasta_py import model, worker_protocol
from pasta_py.worker import watch

sys.path.append(str(Path(__file__).resolve().parents[1] / "control"))

from process_helpers import PYTHON, PYTHONPATH, alive, eventually, user_prefix

pytestmark = pytest.mark.sanitize_quick

def test_the_end_of_control_ends_it() -> None:
    guest, tap = pair()
    with guest, tap, worker() as control:
        pid = ready(control, tap)
        assert alive(pid)
        control.close()
        eventually(lambda: not alive(pid), "it quits")


def test_its_error_is_heard_although_it_ended_before_it_read_the_plan() -> None:
    """With a user that it cannot become it ends so, at times: the plan may be sent by then or not."""
    ours, theirs = pair()
    with theirs:
        worker_protocol.send_plan(ours, sample_plan(), [])
        worker_protocol.send_line(theirs, "error there is no such user")
    with ours:
        assert worker_protocol.recv_line(ours) == ("error", "there is no such user")
        assert worker_protocol.recv_line(ours) == ("", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_once_let_go_it_outlives_control_until_a_signal(signum: int) -> None:
    guest, tap = pair()
    with guest, tap, worker() as control:
        pid = ready(control, tap)
        control.send(b"detach")
        control.close()
        os.kill(pid, signal.SIGHUP)
        guest.recv(4096)  # the router advertisement of the start
        assert alive(pid)
        os.kill(pid, signum)
        eventually(lambda: not alive(pid), "it quits")


def test_the_end_of_the_watched_process_ends_it() -> None:
    guest, tap = pair()
    with subprocess.Popen(["sleep", "60"]) as watched, guest, tap, worker() as control:
        pidfd = os.pidfd_open(watched.pid)
        pid = ready(control, tap, (model.FD_NETNS_PIDFD, pidfd))
        os.close(pidfd)
        watched.kill()
        eventually(lambda: not alive(pid), "it quits")


def test_the_slow_path_answers_while_it_serves() -> None:
    guest, tap = pair()
    mac = bytes.fromhex("020000000002")
    head = b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001")
    with guest, tap, worker() as control:
        ready(control, tap)
        guest.send(head + mac + bytes([192, 0, 2, 15]) + bytes(6) + bytes([192, 0, 2, 1]))
        frame = guest.recv(4096)
        while frame[12:14] != b"\x08\x06":
            frame = guest.recv(4096)
        assert frame[:6] == mac
        assert frame[28:32] == bytes([192, 0, 2, 1])


def test_a_plan_that_does_not_decode_is_told() -> None:
    with worker() as control:
        control.send(b"nonsense")
        assert control.recv(4096).startswith(b"error not a plan")


def test_a_plan_without_a_tap_is_told() -> None:
    with worker() as control:
        worker_protocol.send_plan(control, sample_plan(), [])
        assert control.recv(4096) == b"error the plan lacks the tap, or has more of its queues than there can be threads\n"


def test_a_plan_without_the_sockets_of_its_listeners_is_told() -> None:
    listener = model.Listener(proto=model.IPPROTO_TCP, port=80, target=b"", target_port=80, count=2)
    with worker() as control:
        worker_protocol.send_plan(control, sample_plan(listeners=(listener,)), [control.fileno()])
        assert control.recv(4096) == b"error the plan and its descriptors do not belong together\n"


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 12)))
def test_descriptors_come_out_as_they_came_in(fds: list[int], parts: list[int]) -> None:
    kept = worker_protocol.Descriptors()
    for fd in fds:
        kept.append(fd)
    for part in parts:
        assert (len(kept), list(kept)) == (len(fds), fds)
        assert kept.take(part) == fds[:part]
        fds = fds[part:]
    assert (len(kept), list(kept)) == (len(fds), fds)


def _event(mask: int, name: bytes, watch: int = 1) -> bytes:
    padded = name + bytes(16 - len(name)) if name else b""
    return struct.pack("iIII", watch, mask, 0, len(padded)) + padded


@pytest.mark.parametrize(
    ("events", "gone"),
    [
        (_event(0x200, b"ns"), True),  # IN_DELETE
        (_event(0x40, b"ns"), True),  # IN_MOVED_FROM
        (_event(0x80, b"ns"), True),  # IN_MOVED_TO: another file takes its place
        (_event(0x200, b"ns2"), False),
        (_event(0x200, b"other") + _event(0x200, b"ns"), True),
        (_event(0x400, b""), True),  # IN_DELETE_SELF
        (_event(0x2000, b""), True),  # IN_UNMOUNT
        (_event(0x4000, b"", -1), False),  # IN_Q_OVERFLOW
        (_event(0x200, b"ns", 2) + _event(0x400, b"", 2), False),  # of another directory
        (_event(0x200, b"ns")[:10], False),
        (b"", False),
    ],
)
def test_only_the_end_of_the_name_or_its_directory_counts(events: bytes, gone: bool) -> None:
    assert watch.namespace_gone(events, b"ns", 1) is gone


_FORK = """
import sys; sys.path += sys.argv[2].split(":")
import os
if os.fork() == 0:
    from pasta_py.worker import __main__ as worker
    worker.forked(int(sys.argv[1]), ["/bin/pasta", "--pid", "a file"])
os.wait()
"""
_SECRET = "hunter2-in-the-environment"
_SHADOW_BYTES = 1 << 30  # more than that are the notes of a sanitizer on all addresses there can be


def _memory_of(pid: int) -> tuple[bytes, bool]:
    """All that it can write to; our own namespace's root may read it. True: a sanitizer's notes are in there, too."""
    found, noted = [], False
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                first, last = (int(end, 16) for end in span.split("-"))
                if last - first > _SHADOW_BYTES:
                    noted = True
                    continue
                memory.seek(first)
                found.append(memory.read(last - first))
    return b"".join(found), noted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of a process that is not dumpable")
def test_a_fork_serves_and_remembers_nothing_of_its_parent() -> None:
    ours, theirs = pair()
    guest, tap = pair()
    other, inherited = os.pipe()
    fd = theirs.fileno()
    line = [*user_prefix(), PYTHON, "-I", "-S", "-c", _FORK, str(fd), PYTHONPATH]
    environment = {**os.environ, "LD_KEPT": _SECRET[::-1], **{f"TOKEN{count}": _SECRET * count for count in range(1, 40)}}
    process = subprocess.Popen(line, pass_fds=[fd, inherited], stdin=subprocess.DEVNULL, env=environment)
    theirs.close()
    os.close(inherited)
    with ours, guest, tap:
        ours.send(b"0")
        pid = ready(ours, tap)
        memory, noted = _memory_of(pid)
        assert _SECRET[::-1].encode() in memory  # what is kept is found: so would be the other
        assert noted or _SECRET.encode() not in memory  # AddressSanitizer has copies of the environment of its own
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        assert words == [b"/bin/pasta", b"--pid", b"a file"]
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert f"pipe:[{os.fstat(other).st_ino}]" not in links  # its other descriptors are what the tests of `main` see
    process.wait(30)
    os.close(other)


def test_a_fork_that_has_nothing_to_do_ends() -> None:
    ours, theirs = pair()
    fd = theirs.fileno()
    process = subprocess.Popen([PYTHON, "-I", "-S", "-c", _FORK, str(fd), PYTHONPATH], pass_fds=[fd])
    theirs.close()
    ours.close()
    assert process.wait(30) == 0


_UNTOLD = """
import sys; sys.path += sys.argv[1].split(":")
from pasta_py.worker import confine
path, confine.open = sys.argv[2], lambda _path, mode: open(path, mode)
confine.set_command_line(["other"])
"""


def test_a_kernel_that_does_not_tell_where_its_command_line_is_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "stat").write_bytes(b"1 (python3) S" + b" 0" * 50)  # gVisor's
    line = [PYTHON, "-I", "-S", "-c", _UNTOLD, PYTHONPATH, str(tmp_path / "stat")]
    subprocess.run(line, check=True, timeout=60)
