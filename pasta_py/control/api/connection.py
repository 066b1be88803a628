"""Connecting a namespace that exists: `connect` for runtimes and sandboxes written in Python.

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
import tempfile
import threading
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self

from pasta_py.control.api.arguments import Port, Published, Value, network_words, option_words
from pasta_py.control.api.command import default_ports
from pasta_py.control.api.program import START, Start, pid_text
from pasta_py.control.commandline import options as command_line
from pasta_py.errors import HostError, WorkerError

_END_S = 10


class Connection:
    """A namespace that is connected until `close`, or until it goes. Context manager.

    pid: of the translator. ports: the published ports. warnings: lines that it printed at its start, about what it does without.
    """

    def __init__(self, pid: int, where: Sequence[str], ports: tuple[Port, ...], warnings: Sequence[str]) -> None:
        self.pid = pid
        self.ports = ports
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

    def __repr__(self) -> str:
        return f"<Connection of {' '.join(self._where)}{', closed' if self.closed else f' by process {self.pid}'}>"

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The namespace's addresses, read now, but for loopback and link-local ones. HostError when it is gone."""
        return addresses_of(self._where)

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
    **options: Value,
) -> Connection:
    """Connect a network namespace to the host's network; returns when its interface has addresses and its ports are bound.

    netns    PID of a process in it, its path, or its name under /run/netns. A user namespace to join first, if it is
             given by path, in `userns`.
    network, ports and options: as of `run`.

    UsageError for arguments, HostError for what the host refuses, WorkerError when the translator dies.
    """
    if isinstance(netns, int):
        where = [pid_text(netns)]
    else:
        where = ["--netns", os.fspath(netns)]
        if userns is not None:
            where = ["--userns", os.fspath(userns), *where]
    words = ["--config-net", "--quiet", *network_words(network), *option_words(options)]
    asked = command_line.parse([*words, *where], "pasta")
    given = {name: getattr(asked, name) or None for name in ("tcp_ports", "udp_ports", "tcp_ns", "udp_ns")}
    published = Published(ports)
    try:
        words += default_ports(published, given)
        command_line.parse([*words, *where], "pasta")
        return _start(words, where, published)
    finally:
        published.close()


def addresses_of(where: Sequence[str]) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses in a namespace, given as on the command line, but for loopback and link-local ones."""
    done = subprocess.run([*START, "pasta-addresses", *where], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(_without_name(done.stderr.strip()))
    return tuple(ip_interface(line) for line in done.stdout.split())


def _start(words: Sequence[str], where: Sequence[str], published: Published) -> Connection:
    with tempfile.TemporaryDirectory(prefix="pasta-") as directory, Start(published) as start:
        pid_file = Path(directory, "pid")
        command = [*start.command("pasta"), *words, "--pid", str(pid_file), *where]
        done = subprocess.run(
            command, pass_fds=start.descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        start.wait()
        lines = [_without_name(line) for line in done.stdout.splitlines()]
        if done.returncode:
            raise HostError(lines[-1] if lines else f"the translator ended with status {done.returncode}, and said nothing")
        return Connection(int(pid_file.read_text()), where, published.ports, lines)


def _without_name(line: str) -> str:
    return line.removeprefix("pasta: ").removeprefix("warning: ")
