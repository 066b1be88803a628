"""A network namespace of its own, for several commands: `Network`."""

import os
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from types import TracebackType
from typing import Any, Self

from pasta_py.control.api.arguments import Port, Value
from pasta_py.control.api.command import Popen, Words, find, finish
from pasta_py.control.api.connection import addresses_of
from pasta_py.control.api.program import START, command_words
from pasta_py.errors import HostError, UsageError

_CREDENTIALS = struct.Struct("3i")  # struct ucred: PID, UID, GID
_ERRNO_BYTES = 16
# It says that it is there, and waits until the other end of its standard streams closes.
_HOLDER = ["/bin/sh", "-c", "echo up; read -r line"]


class Network:
    """A network namespace until `close`. Context manager, asynchronous too.

    network, ports and options as of `run`. pid: of a process in the namespace. ports: the published ports.
    """

    def __init__(self, *, network: str = "pasta", ports: Sequence[str] = (), **options: Value) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # What `run` starts here are processes of the caller's PID namespace.
        keywords: dict[str, Any] = {"no_pidns": True, **options}
        try:
            with theirs:
                self._translator = Popen(_HOLDER, network=network, ports=ports, stdin=theirs, stdout=theirs, **keywords)
            self.ports: tuple[Port, ...] = self._translator.ports
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not ancillary:
                self._translator.wait()
                raise HostError("the namespace ended as soon as it was made: is /bin/sh missing?")
            self.pid: int = _CREDENTIALS.unpack(ancillary[0][2])[0]
        except BaseException:
            ours.close()
            raise
        self._holder = ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"<Network {'closed' if self.closed else f'of process {self.pid}'}>"

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The namespace's addresses, read now, but for loopback and link-local ones. HostError when it is gone."""
        return addresses_of([str(self.pid)])

    @property
    def closed(self) -> bool:
        """Whether the namespace has ended."""
        return self._translator.poll() is not None

    def port(self, target: int) -> int:
        """The host's port that leads to this port of the guest; UsageError if none does."""
        for each in self.ports:
            if each.target == target:
                return each.port
        raise UsageError(f"port {target} of the guest is not published: name it in `ports`")

    def command(self, args: Words) -> list[str]:
        """The words of a command that runs `args` in the namespace: for asyncio.create_subprocess_exec and the like."""
        return [*START, "pasta-enter", "", str(self.pid), *command_words(args)]

    def popen(self, args: Words, *, env: Mapping[str, str] | None = None, **keywords: Any) -> "subprocess.Popen[Any]":
        """A process in the namespace; keyword arguments as of subprocess.Popen. What it raises is what subprocess.Popen raises."""
        words = command_words(args)
        find(words[0], env)
        read, write = os.pipe()
        try:
            passed = (*keywords.pop("pass_fds", ()), write)
            line = [*START, "pasta-enter", str(write), str(self.pid), *words]
            process: subprocess.Popen[Any] = subprocess.Popen(line, env=env, pass_fds=passed, **keywords)
            os.close(write)
            write = -1
            told = os.read(read, _ERRNO_BYTES)
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
        if told:
            process.communicate()
            raise OSError(int(told), os.strerror(int(told)), words[0])
        return process

    def run(
        self,
        args: Words,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a command in the namespace, and wait for it: as subprocess.run."""
        return finish(self.popen, args, input, capture_output, timeout, check, keywords)

    def close(self) -> None:
        """End the namespace's translator. Processes that still run in the namespace have no network any more."""
        self._holder.close()
        self._translator.wait()
