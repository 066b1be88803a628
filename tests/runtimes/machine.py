"""A Debian machine of our own: the root that root.sh builds, entered with namespaces of its own, and a user in it.

It is the host of the containers: 192.0.2.1 and 2001:db8::1 on eth0, with the namespace "remote" (.2, ::2) at the other end.
Everything in it ends with the Machine, also when the tests are killed: its first process goes with us.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS, PASST = "/opt/pasta-py/bin/pasta", "/usr/bin/pasta"
HOST = {4: "192.0.2.1", 6: "2001:db8::1"}
REMOTE = {4: "192.0.2.2", 6: "2001:db8::2"}
PATIENCE_S = 60.0  # for what has to come
# nsenter forks to join a PID namespace: what it starts must end with it.
_AS_ROOT = ["setpriv", "--pdeathsig", "KILL"]
_AS_USER = [*_AS_ROOT, "--reuid", "1000", "--regid", "1000", "--clear-groups", "env", "-i", "-C", "/home/user"]
_AS_USER += ["HOME=/home/user", "XDG_RUNTIME_DIR=/run/user/1000", "PATH=/run/helpers:/usr/sbin:/usr/bin:/sbin:/bin"]
_AS_USER += ["PODMAN_IGNORE_CGROUPSV1_WARNING=1", "LC_ALL=C.UTF-8"]


def as_user(*command: object) -> "list[str]":
    """The command line with which root starts a command of the user's."""
    return [*_AS_USER, *map(str, command)]


def build(directory: Path) -> None:
    """Debian, its packages and our program in `directory`; takes a minute or two where nothing is there yet."""
    done = subprocess.run(["sh", HERE / "root.sh", directory], stdout=sys.stderr, check=False)
    assert done.returncode == 0, f"the Debian root could not be built: see above, and {directory}.log"


class Machine:
    """A running machine. Context manager. `layers` of an overlay are mounted on the root; then no program of ours is there yet."""

    def __init__(self, root: Path, layers: str = "") -> None:
        self._helper = "" if layers else OURS
        self._init = subprocess.Popen(
            ["unshare", "-mnpui", "-f", "--kill-child", "sh", HERE / "enter.sh", root, "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PASTA_LAYERS": layers},
            text=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == "ready\n", "the machine does not start"
        (child,) = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._enter = ["nsenter", "-t", child, "-m", "-n", "-p", "-u", "-i"]
        self.root = Path(f"/proc/{child}/root")

    def __enter__(self) -> "Machine":
        try:
            if self._helper:
                self.helper(self._helper)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._init.kill()
        self._init.communicate()

    def helper(self, program: str, name: str = "pasta") -> None:
        """Which program of that name podman and rootlesskit find."""
        self.root_run("ln", "-sfn", program, f"/run/helpers/{name}")

    def popen(self, *command: object, root: bool = False, **options: object) -> "subprocess.Popen[str]":
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        argv = [*self._enter, *(_AS_ROOT if root else _AS_USER), *map(str, command)]
        return subprocess.Popen(argv, **settings)  # type: ignore[call-overload,no-any-return]

    def run(
        self, *command: object, check: bool = True, timeout: float = 60, root: bool = False, input: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end as the user; a nonzero exit fails the test unless check=False."""
        process = self.popen(*command, root=root, stdin=subprocess.PIPE)
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"no end within {timeout} s: {command}\n{out}\n{err}") from None
        if check and process.returncode:
            raise AssertionError(f"exit status {process.returncode}: {command}\n{out}\n{err}")
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def root_run(self, *command: object, **options: object) -> "subprocess.CompletedProcess[str]":
        return self.run(*command, root=True, **options)  # type: ignore[arg-type]

    def podman(self, *words: object, **options: object) -> str:
        """Standard output of podman."""
        return self.run("podman", *words, **options).stdout.strip()  # type: ignore[arg-type]

    def remote(self, *command: object, **options: object) -> str:
        """Standard output of a command on the remote machine."""
        return self.root_run("ip", "netns", "exec", "remote", *command, **options).stdout

    @contextlib.contextmanager
    def serving(self, *command: object, remote: bool = False) -> "Iterator[None]":
        """With a server on the host, or on the remote machine; it listens when the body runs."""
        prefix = ["ip", "netns", "exec", "remote"] if remote else []

        def listening() -> set[str]:
            return set(self.root_run(*prefix, "ss", "-tulnH").stdout.splitlines())

        before = listening()
        process = self.popen(*prefix, *command, root=remote, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: process.poll() is not None or listening() - before, 5, f"{command} listens")
            assert process.poll() is None, f"does not serve: {command}"
            yield
        finally:
            end(process)

    def processes(self, *names: str) -> list[str]:
        """Command lines of the processes inside that run one of the programs named."""
        found = []
        for line in self.root_run("ps", "-e", "-ww", "-o", "args").stdout.splitlines()[1:]:
            if any(name in line for name in names) and "ps -e" not in line:
                found.append(line)
        return found


def end(process: "subprocess.Popen[str]") -> None:
    """End what popen() started: nsenter goes with its child, not the other way round where that has changed its credentials."""
    if process.poll() is None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # it ends by itself
                os.kill(int(child), signal.SIGTERM)
    process.communicate(timeout=30)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Within so many seconds, or as long as that may take where the machine is busy."""
    deadline = time.monotonic() + max(seconds, PATIENCE_S)
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def root_directory() -> Path:
    """Where the root is kept: PASTA_DEBIAN_ROOT, or under build/ of the checkout."""
    return Path(os.environ.get("PASTA_DEBIAN_ROOT", HERE.parents[1] / "build" / "debian" / os.environ.get("SUITE", "trixie")))
