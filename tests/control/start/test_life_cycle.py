"""The whole program's life cycle, as scripts see it: statuses, signals, pidfile, release of the streams, the end."""

import contextlib
import errno
import os
import pty
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest
from process_helpers import (
    MAPPED_ROOT,
    PYTHON,
    UID,
    WAIT_S,
    alive,
    children,
    command_line,
    descendants,
    ended_at_exit,
    environment,
    eventually,
    guest,
    pasta,
    running,
    user_prefix,
    worker_of,
)

from pasta_py.control.requirements import tun


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory the ordinary user can write to."""
    if os.geteuid() == 0:
        os.chown(tmp_path, UID, UID)
    return tmp_path


# ---- a command ----


@pytest.mark.parametrize("prefix", [(), MAPPED_ROOT], ids=["user", "mapped-root"])
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -INT $$", 130)],
)
def test_the_commands_status_is_passed_on(script: str, status: int, prefix: tuple[str, ...]) -> None:
    result = pasta("--", "sh", "-c", script, prefix=prefix)
    assert (result.returncode, result.stdout) == (status, "")


def test_ps_shows_the_programs_name(folder: Path) -> None:
    pid_file = folder / "pid"
    with ended_at_exit(pid_file), guest() as target:
        assert pasta("-P", str(pid_file), str(target)).returncode == 0
        assert Path(f"/proc/{pid_file.read_text().strip()}/comm").read_text() == "pasta\n"


def test_a_command_that_cannot_start_is_told() -> None:
    result = pasta("--", "/nonexistent/program")
    assert result.returncode == 1
    assert "Failed to start command or shell: /nonexistent/program: No such file or directory" in result.stderr


def test_a_command_has_its_own_streams_and_environment() -> None:
    result = pasta("--", "sh", "-c", 'cat; echo "$GREETING" >&2', env={"GREETING": "hello"}, text="line\n")
    assert (result.returncode, result.stdout) == (0, "line\n")
    assert result.stderr.endswith("hello\n")


def test_a_command_inherits_no_other_descriptor() -> None:
    reader, writer = os.pipe()
    try:
        line = [*user_prefix(), *command_line("pasta", "--", "sh", "-c", "echo /proc/self/fd/*")]
        result = subprocess.run(
            line, env=environment(), capture_output=True, text=True, timeout=60, check=True, pass_fds=[writer]
        )
    finally:
        os.close(reader)
        os.close(writer)
    # The shell has opened the directory itself while it expands the pattern.
    assert f"/proc/self/fd/{writer}" not in result.stdout.split()[4:]
    assert len(result.stdout.split()) <= 4


def test_closed_standard_streams_do_no_harm() -> None:
    line = [
        *user_prefix(),
        "sh",
        "-c",
        'exec "$@" <&- >&- 2>&-',
        "sh",
        *command_line("pasta", "--", "sh", "-c", "exit 8"),
    ]
    assert subprocess.run(line, env=environment(), timeout=60, check=False).returncode == 8


def test_a_command_is_root_of_new_namespaces() -> None:
    kinds = ("user", "net", "ipc", "pid", "uts", "mnt")
    script = (
        f"for n in {' '.join(kinds)}; do readlink /proc/self/ns/$n; done; id -u; id -g; cat /proc/self/setgroups;"
        "cat /proc/self/uid_map; hostname; cat /proc/sys/net/ipv4/ping_group_range; ls /proc | grep -c '^[0-9]'"
    )
    lines = pasta("--", "sh", "-c", script).stdout.splitlines()
    uid = UID if os.geteuid() == 0 else os.geteuid()
    assert not {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds} & set(lines[:6])
    assert lines[6:9] == ["0", "0", "deny"]
    assert lines[9].split() == ["0", str(uid), "1"]
    assert lines[10] == f"pasta-{socket.gethostname()}"
    assert lines[11].split() == ["0", "0"]
    assert int(lines[12]) <= 5  # init, the shell, ls and grep


@pytest.mark.option("--hostname")
def test_the_hostname_can_be_chosen() -> None:
    assert pasta("-H", "inside", "--", "hostname").stdout == "inside\n"


def test_a_container_whose_sysctls_are_read_only_will_do() -> None:
    read_only = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    result = pasta("--config-net", "--", "echo", "up", prefix=("unshare", "-Urm", "--", "sh", "-c", read_only, "sh"))
    assert (result.returncode, result.stdout) == (0, "up\n")
    assert "warning: the command gets no ping sockets: /proc/sys/net/ipv4/ping_group_range: Read-only" in result.stderr


def test_names_that_are_no_text_are_taken_as_they_are() -> None:
    """The kernel takes nearly any 15 bytes for an interface, and any 64 for a host."""
    odd = "\udcff" * 15
    make = f"""if True:
        import fcntl, os, socket, struct, subprocess, sys
        subprocess.run(["ip", "link", "add", "odd0", "type", "veth", "peer", "name", "far0"], check=True)
        names = struct.pack("16s16s", b"odd0", os.fsencode({odd!r}))
        fcntl.ioctl(socket.socket(), 0x8923, names)  # SIOCSIFNAME
        subprocess.run(["ip", "addr", "add", "192.0.2.2/24", "dev", {odd!r}], check=True)
        socket.sethostname({odd!r})
        os.execvp(sys.argv[1], sys.argv[1:])
    """
    prefix = ("unshare", "-Urnu", "--", PYTHON, "-c", make)
    asked = ("-4", "--config-net", "-i", odd, "--outbound-if4", odd, "-t", f"%{odd}/8088")
    result = pasta(*asked, "--", "sh", "-c", "hostname; ip -o link | od -An -v -tx1 | tr -d ' \\n'", prefix=prefix)
    assert (result.returncode, result.stderr) == (0, "")
    hostname, _, links = result.stdout.partition("\n")
    assert hostname == "pasta-"
    assert "ff" * 15 in links


def test_without_a_command_the_shell_is_a_login_shell(folder: Path) -> None:
    script = folder / "myshell"
    script.symlink_to("/bin/sh")
    result = pasta(env={"SHELL": str(script)}, text='echo "$0"; exit 9\n')
    assert (result.returncode, result.stdout) == (9, "-myshell\n")


@pytest.mark.option("--no-pidns")
def test_no_pidns_keeps_the_pid_namespace() -> None:
    result = pasta("--no-pidns", "--", "readlink", "/proc/self/ns/pid")
    assert result.stdout.strip() == str(Path("/proc/self/ns/pid").readlink())


def test_orphans_of_the_command_end_with_it() -> None:
    seconds = _a_sleep()
    with running("--", "sh", "-c", f"sleep {seconds} & echo up; read line") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.wait(WAIT_S) == 1  # read: end of /dev/null
        eventually(lambda: not _sleepers(seconds), "the sleeping orphan is gone")


_numbers = iter(range(100, 1000))


def _a_sleep() -> str:
    """An argument of sleep(1) that no other process on this machine has, not even one of another run of these tests."""
    return f"300.{os.getpid()}{next(_numbers)}"


def _sleepers(seconds: str) -> list[str]:
    """The PIDs of the processes that sleep for so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == f"sleep\0{seconds}\0".encode():
                found.append(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_the_capture_is_complete_when_the_program_ends(folder: Path) -> None:
    capture = folder / "out.pcap"
    connect = "import socket; socket.socket().connect_ex(('169.254.2.2', 9))"  # which is refused, so the answers have come
    result = pasta("--pcap", str(capture), "--", PYTHON, "-c", connect, name="pasta-py")
    assert result.returncode == 0, result.stderr
    data = capture.read_bytes()
    assert len(data) > 24 + 16
    assert b"\x08\x06" in data  # the ARP request for the gateway


# ---- signals ----


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGQUIT, 0), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_ends_the_program_and_its_command(signum: int, status: int) -> None:
    seconds = _a_sleep()
    with running("--", "sh", "-c", f"echo up; exec sleep {seconds}") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signum)
        assert process.wait(WAIT_S) == status
        eventually(lambda: not _sleepers(seconds), "the command is gone")


@pytest.mark.option("--as-pid-1")
def test_a_command_can_be_process_1_and_has_its_own_status() -> None:
    assert pasta("--", "sh", "-c", "echo $$").stdout != "1\n"
    result = pasta("--as-pid-1", "--", "sh", "-c", "echo $$; readlink /proc/1/exe; exit 7")
    number, first = result.stdout.splitlines()
    assert (number, first.rpartition("/")[2], result.returncode) == ("1", Path("/bin/sh").resolve().name, 7)
    assert pasta("--as-pid-1", "--", "/nonexistent", name="pasta-py").returncode == 127


@pytest.mark.parametrize("extra", [(), ("--no-pidns",), ("--as-pid-1",)], ids=["pidns", "no-pidns", "as-pid-1"])
def test_a_killed_program_leaves_nothing_behind(extra: tuple[str, ...]) -> None:
    with running(*extra, "--", "sh", "-c", "echo up; exec sleep 297") as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = descendants(process.pid)
        assert len(left) >= 3 - (extra == ("--as-pid-1",))  # the worker, init, the command
        process.kill()
        eventually(lambda: not any(map(alive, left)), "worker and command are gone")


def test_a_program_killed_while_it_starts_leaves_nothing_behind() -> None:
    for delay_ms in range(0, 120, 15):
        seconds = _a_sleep()
        with running("--", "sleep", seconds) as process:
            time.sleep(delay_ms / 1000)
            try:
                left = descendants(process.pid)
            except (FileNotFoundError, ProcessLookupError):
                left = []
            process.kill()
            eventually(lambda: not any(map(alive, left)), f"all is gone after a kill at {delay_ms} ms")  # noqa: B023
            eventually(lambda: not _sleepers(seconds), "the command is gone")  # noqa: B023


def test_a_worker_that_dies_is_told_and_the_command_goes_on() -> None:
    with running("--", "sh", "-c", "echo up; cat; exit 6", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        os.kill(worker_of(process.pid), signal.SIGKILL)
        assert any("the worker process ended by signal 9" in line for line in process.stderr)
        process.stdin.close()
        process.stdin = None  # or communicate() would write to it
        assert process.wait(WAIT_S) == 6


# ---- a terminal ----


class _Terminal:
    def __init__(self, line: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(line[0], line, environment({"PS1": "# "}))
        self.seen = ""

    def until(self, pattern: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not re.search(pattern, self.seen):
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the terminal was closed: {self.seen}") from None
        self.seen = self.seen[re.search(pattern, self.seen).end() :]  # type: ignore[union-attr]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        os.waitpid(self.pid, 0)


def test_control_c_goes_to_the_command_which_may_do_as_it_likes() -> None:
    script = "trap 'echo caught; exit 5' INT; echo up; while :; do sleep 0.05; done"
    terminal = _Terminal([*user_prefix(), *command_line("pasta", "--", "sh", "-c", script)])
    try:
        terminal.until("up")
        terminal.type("\x03")
        terminal.until("caught")
        _pid, raw = os.waitpid(terminal.pid, 0)
        assert os.waitstatus_to_exitcode(raw) == 5
    finally:
        os.close(terminal.fd)


def test_a_job_can_be_stopped_continued_and_interrupted() -> None:
    terminal, seconds = _Terminal([*user_prefix(), "bash", "--norc", "-i"]), _a_sleep()
    try:
        terminal.until("# ")
        line = command_line("pasta", "--", "sh", "-c", f"echo u''p; exec sleep {seconds}")
        terminal.type(" ".join(map(_quoted, line)) + "\n")
        terminal.until("\nup")
        terminal.type("\x1a")
        terminal.until("Stopped")
        terminal.type("fg\n")
        terminal.until(f"sleep {seconds}")
        eventually(lambda: os.tcgetpgrp(terminal.fd) != terminal.pid, "the shell has given the terminal to its job")
        terminal.type("\x03")
        terminal.until("# ")
        terminal.type("echo status=$?\n")
        terminal.until("status=130")
    finally:
        terminal.close()
    eventually(lambda: not _sleepers(seconds), "the command is gone")


def test_a_shell_has_job_control() -> None:
    terminal = _Terminal([*user_prefix(), *command_line("pasta", "--", "bash", "--norc", "-i")])
    try:
        terminal.until("# ")
        assert "no job control" not in terminal.seen
        seconds = _a_sleep()
        terminal.type(f"sleep {seconds}\n")
        eventually(lambda: str(os.tcgetpgrp(terminal.fd)) in _sleepers(seconds), "it is in the foreground")
        terminal.type("\x1a")
        terminal.until("Stopped")
        terminal.type("kill %1; exit 3\n")
        terminal.until("exit")
        terminal.type("exit 3\n")
        deadline = time.monotonic() + WAIT_S
        while (ended := os.waitpid(terminal.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 3
    finally:
        os.close(terminal.fd)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


# ---- attaching ----


def _in_guest(pid: int, *command: str) -> str:
    line = ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials", *command]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=30).stdout


def test_in_the_background_it_is_ready_on_return_and_lets_go_of_the_streams(folder: Path) -> None:
    pid_file = folder / "pid"
    with guest() as target, ended_at_exit(pid_file):
        # Reads standard output and error to their end: returns only when no process holds them any more.
        result = pasta("--config-net", "-I", "tap0", "-a", "192.0.2.9/24", "-P", str(pid_file), str(target))
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        assert stat.S_IMODE(pid_file.stat().st_mode) == 0o600
        text = pid_file.read_text()
        assert re.fullmatch(r"\d+\n", text)
        worker = int(text)
        os.kill(worker, 0)
        addresses = _in_guest(target, "ip", "addr", "show", "dev", "tap0")
        assert "192.0.2.9/24" in addresses
        assert "tentative" not in addresses
        for signum in (signal.SIGINT, signal.SIGHUP):
            os.kill(worker, signum)
        time.sleep(0.2)
        assert alive(worker)
        os.kill(worker, signal.SIGTERM)
        eventually(lambda: not alive(worker), "SIGTERM ends the worker")


def test_it_quits_with_the_process_it_is_attached_to(folder: Path) -> None:
    pid_file = folder / "pid"
    with ended_at_exit(pid_file):
        with guest() as target:
            assert pasta("-P", str(pid_file), str(target)).returncode == 0
            worker = int(pid_file.read_text())
            assert alive(worker)
        eventually(lambda: not alive(worker), "the worker follows its process")


def test_a_second_attach_says_that_the_interface_is_busy_and_leaves_the_capture_alone(folder: Path) -> None:
    pid_file, capture = folder / "pid", folder / "capture.pcap"
    capture.write_bytes(bytes(1000))
    capture.chmod(0o666)
    options = ("--pcap", str(capture))
    with guest() as target, ended_at_exit(pid_file):
        assert pasta("-P", str(pid_file), *options, str(target)).returncode == 0
        before = capture.read_bytes()
        assert before[:4] == struct.pack("I", 0xA1B23C4D) and len(before) < 1000  # what was there is gone
        for more in ((), ("-f",)):
            result = pasta(*options, *more, str(target))
            assert result.returncode == 1
            assert "TUNSETIFF: Device or resource busy" in result.stderr
            assert capture.read_bytes().startswith(before)


@pytest.mark.option("--userns")
def test_attach_by_user_and_network_namespace_paths(folder: Path) -> None:
    pid_file = folder / "pid"
    with guest() as target, ended_at_exit(pid_file):
        proc = f"/proc/{target}/ns"
        result = pasta(f"--userns={proc}/user", f"--netns={proc}/net", "-I", "tap0", "-P", str(pid_file))
        assert result.returncode == 0, result.stderr
        assert "tap0" in _in_guest(target, "ip", "-br", "link")


def test_a_network_namespace_without_its_user_namespace_is_refused_with_a_hint() -> None:
    with guest() as target:
        result = pasta("--netns", f"/proc/{target}/ns/net")
        assert result.returncode == 1
        assert "Couldn't join the network namespace: Operation not permitted" in result.stderr
        assert "--userns" in result.stderr


@pytest.mark.option("--netns-only")
def test_the_user_namespace_of_a_process_is_left_alone_if_asked_for(folder: Path) -> None:
    """Where that takes the right to join, which root of the outer user namespace has and an ordinary user has not."""
    pid_file = folder / "pid"
    with guest() as target:
        assert "Couldn't join the network namespace: Operation not permitted" in pasta("--netns-only", str(target)).stderr
        with ended_at_exit(pid_file):
            assert pasta("-P", str(pid_file), str(target)).returncode == 0


def test_a_signal_while_the_pidfile_is_written_is_taken_like_any_later_one(folder: Path) -> None:
    pid_file = folder / "pid"
    os.mkfifo(pid_file, 0o666)
    pid_file.chmod(0o666)
    fifo = os.open(pid_file, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fifo, bytes(512))  # until it is full: whoever writes a PID has to wait
    try:
        with guest() as target, running("-f", "-P", str(pid_file), str(target)) as process:
            where = Path(f"/proc/{process.pid}/wchan")
            eventually(lambda: "pipe_write" in where.read_text(), "it waits to write its PID")
            process.terminate()
            with contextlib.suppress(BlockingIOError):
                while os.read(fifo, 1 << 16):
                    pass
            assert process.wait(WAIT_S) == 0
    finally:
        os.close(fifo)


@pytest.mark.option("--foreground", "--pid")
def test_in_the_foreground_it_stays_writes_its_own_pid_and_quits_on_sigterm(folder: Path) -> None:
    pid_file = folder / "pid"
    with guest() as target, running("-f", "-P", str(pid_file), str(target)) as process:
        eventually(lambda: pid_file.exists() and pid_file.read_text(), "the pidfile is written")
        assert int(pid_file.read_text()) == process.pid
        worker = worker_of(process.pid)
        process.terminate()
        assert process.wait(WAIT_S) == 0
        assert not alive(worker)


_BY_PATH = """
set -e
cd "$1"; shift
touch ns
unshare -n -- mount --bind /proc/self/ns/net ns
echo "$PWD/ns"
"$@" --netns "$PWD/ns" -P "$PWD/pid"
%s
worker=$(cat pid)
kill -0 $worker
echo attached
%s
for i in $(seq 600); do
    state=$(sed 's/.*) //;s/ .*//' /proc/$worker/stat 2>/dev/null || echo gone)
    case $state in Z|X|gone) echo quit; exit 0;; esac
    sleep 0.05
done
kill -9 $worker
exit 1
"""


@pytest.mark.parametrize(
    "end",
    ["umount -l ns; rm ns", "umount -l ns; mv ns elsewhere", "umount -l ns; touch new; mv new ns"],
    ids=["unlinked", "renamed", "replaced"],
)
def test_it_quits_when_the_path_of_its_namespace_is_gone(folder: Path, end: str) -> None:
    # What podman does: in a user namespace as root there, the namespace a bind mount on a file.
    script = _BY_PATH % ("", end)
    line = [*user_prefix(), "unshare", "-Urm", "--", "sh", "-c", script, "sh", str(folder), *command_line("pasta")]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == ["attached", "quit"]


def test_real_root_can_attach_to_a_namespace_by_path(tmp_path: Path) -> None:
    script = _BY_PATH % ("", "umount -l ns; rm ns")
    line = ["unshare", "-nm", "--", "sh", "-c", script, "sh", str(tmp_path), *command_line("pasta", "--config-net")]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == ["attached", "quit"]


def test_a_lazy_unmount_alone_or_another_files_end_does_not_end_it(folder: Path) -> None:
    script = _BY_PATH % ("touch other; umount -l ns; rm other; sleep 0.3", "rm ns")
    line = [*user_prefix(), "unshare", "-Urm", "--", "sh", "-c", script, "sh", str(folder), *command_line("pasta")]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == ["attached", "quit"]


@pytest.mark.option("--log-file")
def test_the_log_file_tells_the_end_and_the_terminal_is_left_alone(folder: Path) -> None:
    pid_file, log_file = folder / "pid", folder / "log"
    with ended_at_exit(pid_file):
        with guest() as target:
            assert pasta("-l", str(log_file), "-P", str(pid_file), str(target)).returncode == 0
        said = "the process of the network namespace has ended"
        eventually(lambda: said in log_file.read_text(), "the end is logged")


# ---- refusals ----


def _refused(result: "subprocess.CompletedProcess[str]", text: str) -> None:
    assert (result.returncode, result.stdout) == (1, "")
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_a_missing_namespace_is_named() -> None:
    where = "/run/netns/pasta-test-none"
    _refused(pasta("--netns", "pasta-test-none"), f"Couldn't open network namespace {where}: No such file or directory")


def test_a_file_that_is_no_namespace_is_refused() -> None:
    _refused(pasta("--netns", "/etc/passwd"), "Couldn't open network namespace /etc/passwd: it is no network namespace")


def test_an_unwritable_pidfile_fails_before_anything_else() -> None:
    result = pasta("-P", "/nonexistent/pid", "--netns", "/nonexistent/ns")
    _refused(result, "Couldn't open pidfile '/nonexistent/pid': No such file or directory")


def test_a_missing_tun_device_is_named() -> None:
    hide = ("unshare", "-Urm", "--", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    result = pasta("--", "true", prefix=hide)
    cause = tun.cause(errno.ENOENT)  # the machine that runs the tests has the driver, and may be a container
    _refused_among_notices(result, f"Couldn't open /dev/net/tun: No such file or directory: {cause}")


def _refused_among_notices(result: "subprocess.CompletedProcess[str]", text: str) -> None:
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if ": warning: " not in line]
    assert len(errors) == 1 and text in errors[0], result.stderr


def test_no_permission_for_user_namespaces_names_the_setting() -> None:
    forbid = ("unshare", "-Ur", "--", "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh")
    result = pasta("--", "true", prefix=forbid)
    _refused(result, "Couldn't create user namespace: No space left on device: user.max_user_namespaces is 0")


def test_a_taken_port_is_named_and_nothing_is_left() -> None:
    take = "import socket as s, subprocess as p, sys; t = s.create_server(('127.0.0.1', 8099)); "
    prefix = (PYTHON, "-c", take + "sys.exit(p.call(sys.argv[1:]))")
    seconds = _a_sleep()
    result = pasta("-t", "127.0.0.1/8099", "--", "sleep", seconds, prefix=prefix)
    _refused_among_notices(result, "Couldn't listen on host TCP port 8099, address 127.0.0.1: Address already in use")
    eventually(lambda: not _sleepers(seconds), "the command was not started")


def test_a_privileged_port_names_the_setting() -> None:
    result = pasta("-t", "80", "--", "true")
    _refused_among_notices(result, "net.ipv4.ip_unprivileged_port_start")


# ---- a descriptor instead of a tap ----


@pytest.mark.option("--fd")
def test_a_frame_descriptor_serves_instead_of_a_tap() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mac, us = bytes.fromhex("020000000001"), bytes.fromhex("9a559a559a55")
    asked = bytes([169, 254, 2, 2])
    head = b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001")
    request = head + mac + bytes([169, 254, 2, 1]) + bytes(6) + asked
    with ours, theirs, running("-f", "-F", str(theirs.fileno()), pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.settimeout(WAIT_S)
        ours.send(request)
        answer = ours.recv(2048)
        while answer[12:14] != b"\x08\x06":
            answer = ours.recv(2048)
        assert (answer[6:12], answer[28:32]) == (us, asked)
        worker = children(process.pid)
        ours.close()
        assert process.wait(WAIT_S) == 0
        assert not any(map(alive, worker))


_INTERRUPTED = """
import os, runpy, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "pasta_py.control.commandline.option_table":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["start", "pasta", "--config-net", "true"]
runpy.run_module("pasta_py.control.start.dispatch", run_name="__main__")
"""


def test_an_interrupt_while_it_is_loaded_ends_it_without_a_word() -> None:
    done = subprocess.run([PYTHON, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
