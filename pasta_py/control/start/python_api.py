"""The Python API: `pasta_py.connect` for runtimes written in Python.

Each connection is the program itself, started as a runtime would start it. So a process with threads, an event loop or
descriptors of its own is safe: this module forks only to exec. What the command line refuses, this refuses
with the same words. Safe to call from several threads.

    with pasta_py.connect(pid, network="pasta:--map-gw", ports=["8080:80", "127.0.0.1:5353:53/udp"]) as connection:
        print(connection.pid, connection.addresses)
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self

from pasta_py.control.commandline import options, port_spec
from pasta_py.errors import HostError, PastaError, UsageError, WorkerError

_START = [sys.executable, "-IS", str(Path(__file__).with_name("script.py"))]
_END_S = 10


class Connection:
    """A namespace that is connected until `close`, or until it goes. Context manager.

    pid: of the translator. warnings: lines that it printed at its start, about what it does without.
    """

    def __init__(self, pid: int, where: Sequence[str], warnings: Sequence[str]) -> None:
        self.pid = pid
        self.warnings = tuple(warnings)
        self._where = tuple(where)
        self._lock = threading.Lock()
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise WorkerError("the translator ended as soon as it was ready: is the namespace gone?") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The namespace's addresses, read now, but for loopback and link-local ones. HostError when it is gone."""
        done = subprocess.run([*_START, "pasta-addresses", *self._where], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError(_without_name(done.stderr.strip()))
        return tuple(ip_interface(line) for line in done.stdout.split())

    @property
    def closed(self) -> bool:
        """Whether the translator has ended: by `close`, or with its namespace."""
        with self._lock:
            return self._pidfd < 0 or self._ended(0)

    def _ended(self, seconds: float) -> bool:
        poller = select.poll()  # select() refuses descriptors from 1024 on
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def close(self) -> None:
        """End the translator, and wait until it has gone. No effect on one that has ended."""
        with self._lock:
            if self._pidfd < 0:
                return
            try:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(self._pidfd, number)
                    if self._ended(_END_S):
                        break
            except ProcessLookupError:
                pass  # it has ended
            finally:
                os.close(self._pidfd)
                self._pidfd = -1


def connect(
    netns: str | os.PathLike[str] | int,
    *,
    userns: str | os.PathLike[str] | None = None,
    network: str = "pasta",
    ports: Sequence[str] = (),
) -> Connection:
    """Connect a network namespace to the host's network; returns when its interface has addresses and its ports are bound.

    netns    PID of a process in it, its path, or its name under /run/netns. A user namespace to join first, if it is
             given by path, in `userns`.
    network  options as in podman's --network: "pasta:--map-gw,--mtu,1500".
    ports    published ports as podman's -p takes them: [ADDRESS:]PORT[-PORT][:PORT[-PORT]][/tcp|/udp]. No others are
             forwarded, either way, unless `network` says so.

    UsageError for arguments, HostError for what the host refuses, WorkerError when the translator dies.
    """
    if isinstance(netns, int):
        where = [str(netns)]
    else:
        where = ["--netns", os.fspath(netns)]
        if userns is not None:
            where = ["--userns", os.fspath(userns), *where]
    words = ["--config-net", "--quiet", f"--network={network}"]
    parsed = options.parse([*words, *where], "pasta")
    published = [port_spec.published(port) for port in ports]
    for flag, asked in (("-t", parsed.tcp_ports), ("-u", parsed.udp_ports), ("-T", parsed.tcp_ns), ("-U", parsed.udp_ns)):
        specs = [spec for option, spec in published if option == flag]
        for spec in specs or ([] if asked else ["none"]):
            words += [flag, spec]
    options.parse([*words, *where], "pasta")
    return _start(words, where)


def _start(words: Sequence[str], where: Sequence[str]) -> Connection:
    with tempfile.TemporaryDirectory(prefix="pasta-") as directory:
        pid_file = Path(directory, "pid")
        command = [*_START, "pasta-api", *words, "--pid", str(pid_file), *where]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        lines = [_without_name(line) for line in done.stdout.splitlines()]
        if done.returncode:
            raise _refusal(lines, done.returncode)
        return Connection(int(pid_file.read_text()), where, lines)


def _refusal(lines: Sequence[str], status: int) -> PastaError:
    """The error that the command printed: its class, ": ", its text."""
    if not lines:
        return HostError(f"the translator ended with status {status}, and said nothing")
    kind, _, text = lines[-1].partition(": ")
    known = {each.__name__: each for each in (PastaError, UsageError, HostError, WorkerError)}
    return known[kind](text) if kind in known else HostError(lines[-1])


def _without_name(line: str) -> str:
    return line.removeprefix("pasta: ").removeprefix("warning: ")
