"""Virtual machines, each behind a passt of its own: the subjects of bench.vm, inside the namespaces of a run.

A machine is user-mode Linux, or a front end of ours (tests/programs), which gives a namespace the interface of a machine.
"""

import contextlib
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from .model import Order, Subject
from .translators import START_LIMIT_S, Running, StartError

#: Kinds of subjects: the link, and what is at its far end.
UML, VHOST, PAIRS, STREAM = "uml", "vhost", "pairs", "stream"
MACHINES = (UML, VHOST, PAIRS, STREAM)
FRONT_ENDS = {VHOST: "vhost_tap", PAIRS: "vhost_tap", STREAM: "stream_tap"}
#: A passt with threads has a pair of queues for each.
THREADS = ("--threads", "2")
ALL_FEATURES = "0xffffffffffffffff"
GUEST = """
addr add 192.0.2.2/24 dev eth0
route add default via 192.0.2.1
"""
MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
COMMAND_LIMIT_S = 40.0
#: What runs in the guest: each line of the console is a command; it says when that has ended.
READY, ENDED = "@@ready", "@@ended"
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
{busybox} mount -t proc proc /proc
{insert}
ip link set lo up; ip link set eth0 up mtu {mtu}
ip addr add 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1
stty -echo
echo {ready}
while read -r line; do
    sh -c "$line"
    echo {ended}
done
"""


class Console:
    """Of user-mode Linux: what is typed there and printed there."""

    def __init__(self, command: Sequence[object], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, start_new_session=True,
        )  # fmt: skip
        self.rest = b""

    def line(self, limit_s: float) -> str:
        """The next line. StartError where there is none in time, or the guest has ended."""
        deadline = time.monotonic() + limit_s
        assert self.process.stdout
        while b"\n" not in self.rest:
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            read = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not read:
                raise StartError("user-mode Linux says nothing more")
            self.rest += read
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def type(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """It has several processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class GuestCommand:
    """A command in the guest, with as much of a Popen as the bench uses."""

    def __init__(self, console: Console, command: Sequence[str]) -> None:
        self.console, self.ended = console, False
        self.stdout = self.stderr = self
        console.type(shlex.join(command))

    def readline(self, limit_s: float = COMMAND_LIMIT_S) -> str:
        """As of a file: "" at the end."""
        if self.ended:
            return ""
        line = self.console.line(limit_s)
        self.ended = line == ENDED
        return "" if self.ended else line + "\n"

    def wait(self, limit_s: float = COMMAND_LIMIT_S) -> int:
        """0, as its exit status is not known. TimeoutExpired."""
        try:
            while self.readline(limit_s):
                pass
        except StartError:
            raise subprocess.TimeoutExpired("in the guest", limit_s) from None
        return 0

    def kill(self) -> None:
        """A command that has not ended ends with its guest."""
        if not self.ended:
            self.console.end()

    def communicate(self) -> None:
        """There is nothing to reap."""


class Machine(Running):
    """A passt and its machine."""

    def __init__(self, subject: Subject, mtu: int, order: Order, *_ports: str) -> None:
        self.order = order
        self.front_end: subprocess.Popen[str] | None = None
        super().__init__(subject, mtu, order)

    def start(self, mtu: int) -> None:
        kind, base = self.subject.kind, f"{self.netns}.vm"
        socket = f"{base}.sock"
        options = ["-s", socket, "-P", f"{base}.pid", "-m", str(mtu), "-q", *self.subject.options]
        options += [] if kind == STREAM else ["--vhost-user"]
        begin = time.perf_counter()
        done = subprocess.run(
            [self.subject.path, *options], capture_output=True, text=True, timeout=START_LIMIT_S, check=False
        )
        self.start_ms = (time.perf_counter() - begin) * 1000
        if done.returncode:
            raise StartError((done.stderr or done.stdout).strip().replace("\n", "; ") or f"exit status {done.returncode}")
        self.pid = int(Path(f"{base}.pid").read_text())
        if kind == UML:
            self.boot(mtu, socket)
        else:
            self.connect(mtu, socket)

    def connect(self, mtu: int, socket: str) -> None:
        """A front end of ours at its socket."""
        assert self.guest
        self.guest.run("ip", "link", "set", "lo", "up")
        program = f"{self.order.directory}/{FRONT_ENDS[self.subject.kind]}"
        command = [self.order.endpoint, "in", self.netns, program, "eth0", socket]
        if self.subject.options == THREADS:
            command += [ALL_FEATURES, THREADS[1]]
        self.front_end = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.front_end.stdout
        if self.front_end.stdout.readline() != "ready\n":
            raise StartError("the front end did not start")
        self.guest.run("ip", "link", "set", "eth0", "up", "mtu", str(mtu), "txqueuelen", "10000")
        for line in GUEST.strip().splitlines():
            self.guest.run("ip", *line.split())

    def boot(self, mtu: int, socket: str) -> None:
        root = Path(self.order.uml)
        (modules,) = (root / "usr/lib/uml/modules").iterdir()
        busybox = root / "usr/bin/busybox"  # mount of the host's is of another user in here
        insert = "\n".join(f"{busybox} insmod {modules}/kernel/{name}.ko" for name in MODULES)
        init = Path(f"{self.netns}.init")
        init.write_text(INIT.format(busybox=busybox, insert=insert, mtu=mtu, ready=READY, ended=ENDED))
        init.chmod(0o755)
        command = [
            root / "usr/bin/linux.uml", "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
            f"virtio_uml.device={socket}:1", f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet",
        ]  # fmt: skip
        self.console = Console(command, {**os.environ, "TMPDIR": "/dev/shm"})
        while self.console.line(START_LIMIT_S) != READY:
            pass

    def lives(self) -> bool:
        ends = [self.front_end, self.console.process if self.console else None]
        return super().lives() and all(each is None or each.poll() is None for each in ends)

    def close(self) -> None:
        if self.console:
            self.console.end()
        if self.front_end:
            self.front_end.kill()
            self.front_end.communicate()
        super().close()
