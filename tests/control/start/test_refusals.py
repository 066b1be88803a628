"""What a user reads when the program cannot do what was asked for: one line with what failed, why, and what to do.

podman shows it after "pasta failed with exit code 1:". Refused values are in test_options.py, ports in test_ports.py.
"""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import NO_PID, PYTHON, WAIT_S, environment, eventually, guest, pasta, running

from pasta_py.control.commandline.options import Options
from pasta_py.control.start import launch
from pasta_py.errors import UsageError, last_resort, reason

TRUE = ("--", "true")


def lines(result: "subprocess.CompletedProcess[str]") -> list[str]:
    """What was said, without warnings."""
    return [line for line in result.stderr.splitlines() if ": warning: " not in line]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--netns", "pasta-none"), "/run/netns/pasta-none: No such file or directory: `ip netns list` shows those there are"),
        (("--netns", "/none/ns"), "No such file or directory: give the path of one that exists, if it has not just ended"),
        (("--netns", "/etc/passwd"), "it is no network namespace: give a path such as /proc/PID/ns/net"),
        (("--userns", "/etc/passwd", "--netns", "/proc/self/ns/net"), "give a path such as /proc/PID/ns/user"),
        (("1",), "/proc/1/ns/net: Permission denied: only its owner and root can open it"),
        ((str(NO_PID),), f"/proc/{NO_PID}/ns/net: No such file or directory: give the PID of a process that runs"),
        (("-i", "none9", *TRUE), "the host has no interface 'none9': name one of its own (lo)"),
        (("-6", "-t", "127.0.0.1/8080", *TRUE), "port 8080, address 127.0.0.1: IPv4 is switched off: leave this port out"),
        (("-t", "8080-8090,8085", *TRUE), "port specification '8080-8090,8085' names 8085 twice: once is enough"),
        (("-t", "fe80::1/8080", *TRUE), "Invalid argument: a link-local address needs its interface, as in fe80::1%eth0/8080"),
        (("--metrics", "unix:/none/x", *TRUE), "--metrics '/none/x': No such file or directory: choose a path that can be written"),
        (("-P", "/dev/full", *TRUE), "pidfile '/dev/full': No space left on device: choose another place"),
        (("-p", "/dev/full", *TRUE), "Couldn't write to the capture file: No space left on device: choose another for --pcap"),
        (("-l", "/none/log", *TRUE), "log file '/none/log': No such file or directory: choose a path that can be written"),
        (("-I", "lo", *TRUE), "the tap 'lo' in the namespace: TUNSETIFF: Invalid argument: it cannot be called that: choose"),
        (("--fd", "3", "--threads", "2"), "--fd and --threads are both given: a descriptor is one queue, for one thread: leave"),
        (("--fd", "3"), "--fd 3: Bad file descriptor: open it for this process first"),
        (("--fd", "9"), "--fd 9: Bad file descriptor: open it for this process first"),
        (("--", "/none"), "start command or shell: /none: No such file or directory: give the path of a program, or the name"),
        (("--", "/etc/passwd"), "/etc/passwd: Permission denied: is it a program that this user may execute?"),
        (("--netns-only", *TRUE), "Operation not permitted: only root can with --netns-only: leave it out"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_one_line_says_what_why_and_what_to_do(words: tuple[str, ...], said: str) -> None:
    result = pasta(*words)
    assert result.returncode == 1
    (line,) = lines(result)
    assert said in line


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("nosuchprogram",), "No such file or directory: give the path of a program, or the name of one in $PATH", 127),
        (("/etc/passwd",), "Permission denied: is it a program that this user may execute?", 126),
        (("echo -n one word",), "give the program and its arguments as words of their own, as in: echo -n one word", 127),
        (("dcotor",), "No such file or directory: did you mean the subcommand, pasta-py doctor?", 127),
        (("help",), "No such file or directory: did you mean pasta-py --help?", 127),
        (("run", "true"), "No such file or directory: a command needs no word before it, as in: pasta-py -- true", 127),
        (("12", "34"), "No such file or directory: a PID stands alone, behind all options", 127),
        (("{script}",), "the interpreter in its first line, /nonexistent/sh, is missing: install it, or name another", 127),
    ],
    ids=lambda value: value[0].replace("/", " ") if isinstance(value, tuple) else "",
)
def test_a_command_that_cannot_be_executed(words: tuple[str, ...], said: str, status: int, tmp_path: Path) -> None:
    """pasta-py ends as a shell would; pasta with 1, as its callers know it."""
    tmp_path.chmod(0o755)
    script = tmp_path / "script"
    script.write_text("#!/nonexistent/sh\n")
    script.chmod(0o755)
    command = [word.format(script=script) for word in words]
    for name, expected in (("pasta-py", status), ("pasta", 1)):
        result = pasta("--", *command, name=name)
        (line,) = lines(result)
        assert result.returncode == expected
        if "pasta-py" in said and name == "pasta":
            said = "give the path of a program, or the name of one in $PATH"
        assert line.startswith(f"{name}: Failed to start command or shell: {command[0]}: ") and said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-tcp", "-t", "8079"), "-t 8079 has no effect beside --no-tcp: leave out one of them"),
        (("--no-udp", "-U", "8079"), "-U 8079 has no effect beside --no-udp: leave out one of them"),
        (("-4", "-a", "2001:db8::5"), "-a 2001:db8::5 has no effect beside -4: leave out one of them"),
        (("-6", "-g", "192.0.2.1"), "-g 192.0.2.1 has no effect beside -6: leave out one of them"),
        (("-4", "-D", "2001:db8::1"), "-D 2001:db8::1 has no effect beside -4: leave out one of them"),
        (("-l", "/dev/full"), "the log file takes no lines (is the disk full?): choose another with --log-file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_has_no_effect_is_told(words: tuple[str, ...], said: str) -> None:
    result = pasta(*words, *TRUE)
    assert result.returncode == 0
    assert f"pasta: warning: {said}" in result.stderr.splitlines()


@pytest.mark.parametrize("before", ["rm /etc/resolv.conf", ": >/etc/resolv.conf"], ids=["missing", "empty"])
def test_a_host_without_nameservers_is_told(before: str, tmp_path: Path) -> None:
    etc = f"mount -t tmpfs none /etc && touch /etc/resolv.conf && {before}"
    hidden = ("unshare", "-Urm", "--", "sh", "-c", f'{etc} && exec "$@"', "sh")
    said = "pasta-py: warning: the host's /etc/resolv.conf names no nameserver, or is missing: give one with --dns"
    assert said in pasta(*TRUE, name="pasta-py", prefix=hidden).stderr.splitlines()
    assert said not in pasta("-D", "192.0.2.53", *TRUE, name="pasta-py", prefix=hidden).stderr.splitlines()


def test_a_namespace_of_the_host_is_told_as_that() -> None:
    """Its user namespace could not be joined, so none is asked for."""
    (line,) = lines(pasta("--netns", "/proc/self/ns/net", prefix=("unshare", "-r")))
    assert line.endswith("Operation not permitted: it belongs to the host, which only root can join")


def test_a_port_that_the_guest_listens_at_is_told_as_the_guests() -> None:
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 8077)); print('up', flush=True); sys.stdin.read()"
    with guest(first="ip link set lo up") as target:
        inside = ["nsenter", "-t", str(target), "-U", "-n", "--preserve-credentials", sys.executable, "-c", listen]
        with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdout.readline() == "up\n"
            (line,) = lines(pasta("-T", "8077", str(target)))
            server.communicate(timeout=WAIT_S)
    assert "Couldn't listen on namespace TCP port 8077, address 127.0.0.1: Address already in use: a program listens there" in line


@pytest.mark.parametrize("limit", range(7, 16))
def test_whatever_the_limit_of_descriptors_is_one_line_names_it(limit: int) -> None:
    """At each step of the start: never a traceback, nor a wrong reason."""
    prefix = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    result = pasta("--config-net", "-t", "8076", *TRUE, prefix=prefix)
    said = lines(result)
    assert result.returncode == (1 if said else 0)
    assert not said or (len(said) == 1 and "raise the limit of open files (ulimit -n)" in said[0]), result.stderr


def test_a_start_without_a_tap_leaves_no_control_socket_behind(tmp_path: Path) -> None:
    """Whether control makes the tap itself, in the background, or lets a child do it; what another instance serves stays."""
    tmp_path.chmod(0o777)  # for the ordinary user
    path = tmp_path / "pasta.sock"
    with guest() as target:
        for words in (("-I", "lo", str(target)), ("-I", "lo", *TRUE)):
            result = pasta("-c", str(path), "-P", str(tmp_path / "pid"), *words)
            (line,) = lines(result)
            assert result.returncode == 1 and "the tap 'lo'" in line
            assert not path.exists()
    with running("-f", "-c", str(path), "--", "sleep", "60"):
        eventually(path.exists, "the socket is there")
        (line,) = lines(pasta("-c", str(path), "-I", "lo", *TRUE))
        assert "another program listens there" in line and path.exists()


@pytest.mark.parametrize("limit", range(1, 9))
def test_whatever_the_limit_of_processes_is_one_line_names_it(limit: int) -> None:
    """Counted in a user namespace of its own, so that no others count."""
    result = pasta("--config-net", *TRUE, prefix=("unshare", "-Ur", "--", "prlimit", f"--nproc={limit}"))
    said = lines(result)
    assert result.returncode == (1 if said else 0)
    assert not said or (len(said) == 1 and "raise the limit of processes (ulimit -u)" in said[0]), result.stderr


@pytest.mark.unsanitized  # sanitizers need /proc too, and say so
@pytest.mark.parametrize("words", [TRUE, ("--netns", "/proc/1/ns/net"), ("1",)], ids=["command", "path", "pid"])
def test_without_proc_one_line_asks_for_it(words: tuple[str, ...]) -> None:
    hidden = ("unshare", "-Urm", "--", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh")
    (line,) = lines(pasta(*words, prefix=hidden))
    assert line.endswith("No such file or directory: there is no /proc: mount -t proc proc /proc")


@pytest.mark.parametrize("call", ["slirp.run(['1', 'tap0'])", "pesto.run(['/none'])"])
def test_the_other_commands_end_with_one_line_where_nothing_was_foreseen(call: str) -> None:
    limit = "import getopt, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    imports = "from pasta_py.control.pesto import main as pesto; from pasta_py.control.slirp4netns import main as slirp"
    code = f"import sys; {imports}; {limit}; sys.exit({call})"
    done = subprocess.run([PYTHON, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "cannot go on: Too many open files: raise the limit of open files (ulimit -n)" in line


def test_shortages_are_explained_wherever_they_are_met() -> None:
    full = OSError(errno.EMFILE, "Too many open files")
    assert reason(full, "no hint") == "Too many open files: raise the limit of open files (ulimit -n)"
    assert reason(OSError(errno.ENOSYS, "None")) == "None: Linux 5.11 or newer is needed, and no filter on this call"
    assert reason(BlockingIOError(errno.EAGAIN, "Try")) == "Try: raise the limit of processes (ulimit -u)"
    assert reason(OSError(errno.EPERM, "Operation not permitted"), "ask") == "Operation not permitted: ask"
    assert reason(OSError(errno.EPERM, "Operation not permitted")) == "Operation not permitted"
    assert last_resort(MemoryError()) == "out of memory: free some, or raise the limit (ulimit -v)"
    assert last_resort(OSError(errno.EIO, "Input/output error", "/x")) == "Input/output error (/x)"


def test_a_closed_descriptor_is_told_as_closed_though_a_socket_of_ours_has_its_number() -> None:
    with pytest.raises(UsageError, match=r"--fd 5: Bad file descriptor: open it"):
        launch._refuse_closed(Options(program="pasta", fd=5), {}, [5])
    with pytest.raises(UsageError, match=r"inherited socket 5: Bad file descriptor: LISTEN_FDS counts"):
        launch._refuse_closed(Options(program="pasta"), {4: "", 5: ""}, [5])
