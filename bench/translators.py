"""Starting, watching and stopping the translators, each with a guest namespace of its own; inside those of the run."""

import contextlib
import ctypes
import itertools
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from .model import DIRECT, Order, Subject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import machines

START_LIMIT_S = 10.0
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"


class StartError(Exception):
    """A translator that did not start; one line."""


def cpu_seconds(pids: list[int]) -> float:
    """Processor time, user and system, that these processes and their threads have used so far.

    From schedstat (nanoseconds) where the kernel has it, else from utime + stime (10 ms).
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            threads = [task / "schedstat" for task in Path(f"/proc/{pid}/task").iterdir()]
            if all(path.exists() for path in threads):
                total += sum(int(path.read_text().split()[0]) for path in threads) / 1e9
            else:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_mb(pids: list[int]) -> float:
    """Resident memory of these processes in MB (10^6 bytes): from smaps_rollup, which is exact, or VmRSS."""
    return summed_mb(pids, ("smaps_rollup", "Rss:"), ("status", "VmRSS:"))


def proportional_mb(pids: list[int]) -> float:
    """The same, where what several processes share counts once among them."""
    return summed_mb(pids, ("smaps_rollup", "Pss:"))


def summed_mb(pids: list[int], *sources: tuple[str, str]) -> float:
    """`sources`: files of /proc/PID with the name of a line; the first that can be read counts."""
    total = 0
    for pid in pids:
        for name, key in sources:
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
                break
    return total / 1e6


def family_of(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and is ours to reap is reaped."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
    return Path(f"/proc/{pid}").exists()


class Namespace:
    """A network namespace kept by a process and bound to a path, as container runtimes do."""

    _numbers = itertools.count()

    def __init__(self, endpoint: str, directory: str, congestion: str) -> None:
        self.endpoint = endpoint
        self.path = f"{directory}/netns-{next(self._numbers)}"
        self.holder = subprocess.Popen([endpoint, "hold"], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout
        if self.holder.stdout.readline() != "ready\n":
            raise StartError("cannot make a network namespace")
        Path(self.path).touch()
        mount(f"/proc/{self.holder.pid}/ns/net", self.path)
        self.run("sh", "-c", f"echo {congestion} > {CONGESTION}")

    def run(self, *command: str) -> str:
        """Run a command inside; its output. CalledProcessError where it fails."""
        done = subprocess.run(
            [self.endpoint, "in", self.path, *command], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def close(self) -> None:
        unmount(self.path)
        Path(self.path).unlink()
        self.holder.kill()
        self.holder.wait()


MS_BIND, MNT_DETACH = 4096, 2
_libc = ctypes.CDLL(None, use_errno=True)


def mount(what: str, where: str) -> None:
    if _libc.mount(what.encode(), where.encode(), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), f"cannot bind {what} to {where}")


def unmount(where: str) -> None:
    if _libc.umount2(where.encode(), MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"cannot unmount {where}")


class Running:
    """A translator at work: `netns` is the path of its guest's namespace, `start_ms` what starting it took.

    `inbound`, `outbound` and `datagrams` are what -t, -T and -u get, where it has these. StartError where it does not get ready.
    """

    def __init__(
        self, subject: Subject, mtu: int, order: Order, inbound: str = "none", outbound: str = "none", datagrams: str = "none"
    ) -> None:  # fmt: skip
        self.inbound, self.outbound, self.datagrams = inbound, outbound, datagrams
        self.subject, self.start_ms, self.pid = subject, 0.0, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.guest: Namespace | None = None
        self.console: machines.Console | None = None  # where the guest has a kernel of its own
        self.netns = "/proc/self/ns/net"
        if subject.kind == DIRECT:
            return
        self.guest = Namespace(order.endpoint, order.directory, order.congestion)
        self.netns = self.guest.path
        try:
            self.start(mtu)
        except BaseException:
            self.close()
            raise

    def start(self, mtu: int) -> None:
        begin = time.perf_counter()
        if self.subject.kind == "pasta":
            self.start_pasta(mtu)
        else:
            self.start_slirp(mtu)
        self.start_ms = (time.perf_counter() - begin) * 1000
        if self.process:
            self.pid = self.process.pid
        else:
            self.pid = int(Path(f"{self.netns}.pid").read_text())

    def start_pasta(self, mtu: int) -> None:
        """As podman does it: ready when the parent has exited and nothing holds its output any more."""
        ports = ["-t", self.inbound, "-T", self.outbound, "-u", self.datagrams, "-U", "none"]
        command = [self.subject.path, "--config-net", *ports, "-m", str(mtu), "--pid", f"{self.netns}.pid"]
        command += ["--quiet", "--netns", self.netns]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise StartError(f"not ready within {START_LIMIT_S:.0f} s") from None
        if done.returncode:
            output = (done.stderr or done.stdout).strip().splitlines()
            raise StartError(output[-1] if output else f"exit status {done.returncode}")

    def start_slirp(self, mtu: int) -> None:
        """As rootlesskit and podman do it: ready when it writes to the descriptor given with -r."""
        ready, theirs = os.pipe()
        command = [self.subject.path, "-c", "-6", "-m", str(mtu), "-r", str(theirs)]
        command += ["--netns-type=path", self.netns, "tap0"]
        try:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        finally:
            os.close(theirs)
        with os.fdopen(ready, "rb", 0) as pipe:
            if not select.select([pipe], [], [], START_LIMIT_S)[0] or not pipe.read(1):
                raise StartError("ended, or not ready in time")

    def resent_segments(self) -> int:
        """TCP segments that the guest's own stack has sent again so far."""
        if not self.guest:
            return 0
        lines = Path(f"/proc/{self.guest.holder.pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])

    def pids(self) -> list[int]:
        return family_of(self.pid) if self.pid else []

    def lives(self) -> bool:
        return not self.pid or alive(self.pid)

    def wait_ipv6(self, address: str, limit_s: float = 4.0) -> None:
        """Return when the guest has a way to this address; some translators announce it some time after the start."""
        deadline = time.monotonic() + limit_s
        while self.guest and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.CalledProcessError):
                if "scope global" in self.guest.run("ip", "-6", "addr", "show", "scope", "global", "-tentative"):
                    self.guest.run("ip", "-6", "route", "get", address)
                    return
            time.sleep(0.05)

    def close(self) -> None:
        """Stop it and its guest; what does not end on SIGTERM within 2 s is killed."""
        for number, limit_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
            deadline = time.monotonic() + limit_s
            with contextlib.suppress(ProcessLookupError):
                if self.pid and alive(self.pid):
                    os.kill(self.pid, number)
            while self.pid and alive(self.pid) and time.monotonic() < deadline:
                time.sleep(0.005)
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.guest:
            self.guest.close()
            self.guest = None
