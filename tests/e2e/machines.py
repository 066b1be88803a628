"""passt with a virtual machine that is none: a namespace whose tap is at the far end of passt's socket.

stream_tap.c and vhost_tap.c are that end.
"""

import contextlib
import dataclasses
import os
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, PATIENCE_S, Guest, Lab, cmdline, program, tool, wait_until

SOCKET = "vm.sock"


@dataclasses.dataclass
class Passt:
    """A running passt."""

    lab: Lab
    process: "subprocess.Popen[str]"
    socket: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def wait_said(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.said().count(text) >= count, 5, f"{text!r} in {self.said()!r}")

    def end(self, timeout: float = PATIENCE_S) -> int:
        return self.process.wait(timeout)


@contextlib.contextmanager
def passt(
    lab: Lab,
    *options: object,
    peer: Path | None = None,
    listens: bool = True,
    pass_fds: Sequence[int] = (),
    socket: str = SOCKET,
    fresh: bool = True,
) -> Iterator[Passt]:
    """passt in the foreground. `listens`: at `socket`; otherwise the options say what it serves. `peer`: another passt.

    `fresh`: no socket is there before.
    """
    path, log = lab.directory / socket, lab.directory / "passt.log"
    pidfile = lab.directory / "passt.pid"
    if fresh:
        path.unlink(missing_ok=True)
    pidfile.unlink(missing_ok=True)
    with log.open("w") as file:
        words = ("-s", path) if listens else ()
        command = (peer or program("passt"), "-f", "-P", pidfile, *words, *options)
        process = lab.host.popen(*command, stderr=file, stdout=file, pass_fds=pass_fds)
    made = Passt(lab, process, path, log)
    try:
        wait_until(lambda: process.poll() is not None or (pidfile.exists() and pidfile.read_text()), 10, "the pidfile")
        assert process.poll() is None, made.said()
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()


class Background:
    """passt in the background, and the processes that it has."""

    def __init__(self, lab: Lab, command: object, *words: object, name: str = "background") -> None:
        self.lab, self.socket, self.pidfile = lab, lab.directory / f"{name}.sock", lab.directory / f"{name}.pid"
        parent = lab.host.popen(command, "-q", *words, "-s", self.socket, "-P", self.pidfile)
        _pid, status, used = os.wait4(parent.pid, 0)
        assert status == 0, parent.communicate()
        self.start_ms = (used.ru_utime + used.ru_stime) * 1000  # CPU time of the parent

    def pids(self) -> list[int]:
        """Those that have its command line."""
        return [pid for pid in self.lab.descendants() if str(self.socket) in cmdline(pid)]

    def rss_kib(self) -> int:
        """Resident memory of all processes; what they share counts in each. Any user may read it."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") // 1024

    def end(self) -> None:
        self.lab.host.run("kill", self.pidfile.read_text().strip())
        wait_until(lambda: not self.pids(), 5, "its end")
        self.socket.unlink()


def is_socket(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.stat().st_mode)


def configure_guest(guest: Guest) -> None:
    """The addresses and routes that passt gives to a machine."""
    guest.setup(
        f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}\n"
        f"addr add {HOST6}/64 dev eth0 nodad\n-6 route add default via {GATEWAY6} metric 1"
    )


@contextlib.contextmanager
def machine(
    lab: Lab,
    socket: Path | int,
    *,
    mtu: int = 65520,
    configure: bool = True,
    vhost_user: int | None = None,
    pairs: int = 1,
    pass_fds: Sequence[int] = (),
) -> Iterator[Guest]:
    """A machine that connects to the socket, with the addresses that passt gives it, unless it is left alone.

    `vhost_user`: it does so by vhost-user, and takes these features of those that are offered, with `pairs` of queues.
    """
    words = ("stream_tap",) if vhost_user is None else ("vhost_tap", hex(vhost_user), pairs)
    with lab.stray() as guest:
        command = (tool(words[0]), "eth0", socket, *words[1:])
        guest.tap = guest.popen(*command, caps=True, pass_fds=pass_fds)  # type: ignore[attr-defined]
        line = guest.tap.stdout.readline()  # type: ignore[attr-defined]
        assert line == "ready\n", guest.tap.stderr.read()  # type: ignore[attr-defined]
        guest.sysctl(ipv6__conf__eth0__accept_dad=0)
        guest.setup(f"link set lo up\nlink set eth0 mtu {mtu} txqueuelen 10000\nlink set eth0 up")
        if configure:
            configure_guest(guest)
        try:
            yield guest
        finally:
            guest.tap.kill()  # type: ignore[attr-defined]
            guest.tap.wait()  # type: ignore[attr-defined]
