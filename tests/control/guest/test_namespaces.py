"""Finding and entering namespaces; the work of `call_inside` comes back, or its error does."""

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from process_helpers import NO_PID, PYTHON, PYTHONPATH, children, environment, guest, user_prefix

from pasta_py.control.guest import namespaces
from pasta_py.errors import HostError

# As an ordinary user, who owns the guest's user namespace. What forks from the work has every capability in there, as the
# guest's root has. 0x4206: PTRACE_SEIZE.
_TRACE = """
import ctypes, os
from process_helpers import guest
from pasta_py.control.guest import namespaces

def job():
    reader, writer = os.pipe()
    if os.fork() == 0:
        result = ctypes.CDLL(None, use_errno=True).ptrace(0x4206, os.getppid(), None, None)
        os.write(writer, str(ctypes.get_errno() if result else 0).encode())
        os._exit(0)
    return int(os.read(reader, 16)), []

with guest() as pid:
    print(namespaces.call_inside(namespaces.by_pid(pid), job)[0])
"""


@pytest.fixture
def target() -> Iterator[tuple[int, namespaces.Guest]]:
    with guest() as pid:
        found = namespaces.by_pid(pid)
        yield pid, found
        found.close()


def _open_fds() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def test_the_work_is_done_inside_and_we_stay_outside(target: tuple[int, namespaces.Guest]) -> None:
    pid, found = target
    before = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("user", "net")]

    def job():  # type: ignore[no-untyped-def]
        return tuple(str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("user", "net")), []

    value, fds = namespaces.call_inside(found, job)
    assert value == tuple(str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("user", "net"))
    assert fds == []
    assert before == [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("user", "net")]


def test_descriptors_come_back_close_on_exec(target: tuple[int, namespaces.Guest]) -> None:
    def job():  # type: ignore[no-untyped-def]
        reader, writer = os.pipe()
        os.write(writer, b"from inside")
        return b"", [reader]

    _value, (fd,) = namespaces.call_inside(target[1], job)
    assert os.read(fd, 64) == b"from inside"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_guests_root_cannot_trace_the_work() -> None:
    """Where guest and host share a PID namespace it sees the process, which still has the host's files."""
    command = [*user_prefix(), PYTHON, "-c", _TRACE]
    paths = os.pathsep.join([PYTHONPATH, str(Path(__file__).parents[1])])
    done = subprocess.run(command, env=environment({"PYTHONPATH": paths}), capture_output=True, text=True, timeout=30)
    assert done.stdout == f"{errno.EPERM}\n", done.stderr


def test_an_error_inside_is_raised_outside_with_its_text(target: tuple[int, namespaces.Guest]) -> None:
    def job():  # type: ignore[no-untyped-def]
        raise HostError("no such luck")

    with pytest.raises(HostError, match=r"^no such luck$"):
        namespaces.call_inside(target[1], job)


def test_a_death_inside_is_an_error(target: tuple[int, namespaces.Guest]) -> None:
    def job():  # type: ignore[no-untyped-def]
        os._exit(3)

    with pytest.raises(HostError, match="died"):
        namespaces.call_inside(target[1], job)


def test_work_that_takes_too_long_is_ended(target: tuple[int, namespaces.Guest]) -> None:
    """Also where it had not begun by then."""
    before = children(os.getpid())

    def job():  # type: ignore[no-untyped-def]
        time.sleep(300)
        return None, []

    with pytest.raises(HostError, match="no answer from inside within"):
        namespaces.call_inside(target[1], job, timeout_s=0.5)
    assert children(os.getpid()) == before


def test_whoever_is_stopped_where_it_stays_is_ended_all_the_same(
    target: tuple[int, namespaces.Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's root may send it SIGSTOP, and its caller waits."""
    monkeypatch.setattr(namespaces, "_STAY_S", 0.5)
    child = os.fork()
    if child == 0:
        try:
            namespaces.stay_inside(target[1], lambda: (os.kill(os.getpid(), signal.SIGSTOP), []))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_our_own_user_namespace_is_not_joined_again() -> None:
    assert namespaces.by_pid(os.getpid(), watch=False).userns == -1


def test_netns_only_opens_no_user_namespace() -> None:
    with guest() as pid:
        found = namespaces.by_pid(pid, netns_only=True)
        assert (found.userns, found.pidfd >= 0) == (-1, True)
        found.close()


def test_a_failure_leaves_no_descriptor_open() -> None:
    before = _open_fds()
    for attempt in (
        lambda: namespaces.by_pid(NO_PID),
        lambda: namespaces.by_path("/etc/passwd"),
        lambda: namespaces.by_path(f"/proc/{os.getpid()}/ns/net", userns="/etc/passwd"),
        lambda: namespaces.by_path(f"/proc/{os.getpid()}/ns/net", userns=f"/proc/{os.getpid()}/ns/net"),
    ):
        with pytest.raises(HostError, match="Couldn't open (network|user) namespace"):
            attempt()
    assert _open_fds() == before


def test_a_path_on_procfs_is_watched_by_process_a_path_behind_its_root_by_both() -> None:
    place = "mount -t tmpfs none /mnt && touch /mnt/net && mount --bind /proc/self/ns/net /mnt/net"
    with guest("-m", first=place) as pid:
        plain = namespaces.by_path(f"/proc/{pid}/ns/net", userns=f"/proc/{pid}/ns/user")
        assert (plain.pidfd >= 0, plain.inotify) == (True, -1)
        plain.close()
        behind = namespaces.by_path(f"/proc/{pid}/root/mnt/net")
        assert (behind.pidfd >= 0, behind.inotify >= 0, behind.name) == (True, True, "net")
        behind.close()


def test_numbers_of_descriptors_may_be_high(target: tuple[int, namespaces.Guest]) -> None:
    """As with a thousand sockets of systemd's."""
    pid, found = target
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (fd := os.open("/dev/null", os.O_RDONLY)) < 1100:
            stack.callback(os.close, fd)
        stack.callback(os.close, fd)
        again = namespaces.by_pid(pid)
        stack.callback(again.close)
        assert namespaces.call_inside(found, lambda: (1, [])) == (1, [])


_BY_PID = """
import os
from pasta_py.control.guest import namespaces
from pasta_py.errors import HostError
pid = os.fork()
if pid == 0:
    try:
        namespaces.by_pid(os.getpid())
        print("found")
    except HostError as error:
        print(error)
else:
    os.wait()
"""


@pytest.mark.parametrize("mounted", [True, False])
def test_a_proc_of_another_pid_namespace_leads_nowhere(*, mounted: bool) -> None:
    """Its numbers are those of other processes: the wrong namespace would be configured."""
    line = ["unshare", "-Urpf", *(["--mount-proc"] if mounted else []), PYTHON, "-c", _BY_PID]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment(), check=True)
    assert ("found" in done.stdout) == mounted
    assert ("/proc is another PID namespace's" in done.stdout) != mounted
