"""A Linux guest under QEMU: Debian sid's cloud kernel, an initramfs of busybox and three modules, a shell on the serial line.

There is no acceleration, so that it runs wherever the tests run. packages.txt says what of Debian sid it is made of.
"""

import contextlib
import functools
import json
import lzma
import os
import re
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab import PATIENCE_S, Lab, wait_until

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PASTA_VM_ROOT") or HERE.parents[1] / "build" / "vm")
MODULES = ("failover", "net_failover", "virtio_net")
BOOT_S = 240
MAC = "52:54:00:12:34:56"
#: The kernel's own lines would stand among those of the shell; a slow machine makes it warn of its clocks.
COMMAND_LINE = "console=ttyS0 quiet loglevel=1 panic=-1"

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for m in failover net_failover virtio_net; do insmod /$m.ko; done
ip link set lo up
ip link set eth0 up
stty -F /dev/ttyS0 -echo raw
exec setsid sh -c 'exec /shell </dev/ttyS0 >/dev/ttyS0 2>&1'
"""
SHELL = r"""#!/bin/sh
echo "@@ready"
while IFS= read -r line; do eval "$line"; echo "@@$?"; done
"""
#: udhcpc's: sets what it was told, and keeps it in /lease.
DHCP = r"""#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface; ip route add default via $router; ip link set $interface mtu ${mtu:-1500}
: >/etc/resolv.conf; for d in $dns; do echo nameserver $d >>/etc/resolv.conf; done
echo "$ip/$mask $router $mtu $dns" >/lease
"""


@functools.cache
def fetch(named: str = "packages.txt", where: Path = ROOT) -> Path:
    """Where the packages are that a file names; they are fetched where they are not."""
    wanted = [line.replace(" ", "=") for line in (HERE / named).read_text().splitlines() if not line.startswith("#")]
    subprocess.run(["sh", HERE.parent / "sid.sh", where, *wanted], stdout=subprocess.DEVNULL, check=True)
    return where


@functools.cache
def modules() -> Path:
    (found,) = (fetch() / "usr/lib/modules").glob("*-cloud-amd64")
    return found


def entry(name: str, data: bytes, mode: int) -> bytes:
    """One file of a cpio archive (newc)."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def with_libraries(*programs: Path) -> dict[str, bytes]:
    """Files for initramfs(): programs of this machine, and the libraries that they load at their start, where they are here."""
    files = {}
    for program in programs:
        traced = subprocess.run(
            [program], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=True
        )
        for path in (str(program), *re.findall(r"(/\S+) \(0x", traced.stdout)):
            files[path.lstrip("/")] = Path(path).read_bytes()
    return files


def initramfs(path: Path, more: "Mapping[str, bytes] | None" = None) -> Path:
    """Write it. `more`: files by their paths in it."""
    files = {"init": INIT.encode(), "shell": SHELL.encode(), "dhcp": DHCP.encode(), **(more or {})}
    files["bin/busybox"] = (fetch() / "usr/bin/busybox").read_bytes()
    for name in MODULES:
        (packed,) = modules().rglob(f"{name}.ko.xz")
        files[f"{name}.ko"] = lzma.decompress(packed.read_bytes())
    folders = {"bin", "dev", "etc", "proc", "sys", "tmp"}
    folders |= {str(above) for name in files for above in Path(name).parents[:-1]}
    archive = b"".join(entry(name, b"", 0o040755) for name in sorted(folders))
    archive += b"".join(entry(name, data, 0o100755) for name, data in files.items())
    path.write_bytes(archive + entry("TRAILER!!!", b"", 0))
    return path


class Shell:
    """The shell of a machine at the far end of its serial line."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.data = reader, writer, b""
        os.set_blocking(reader, False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(reader, selectors.EVENT_READ)
        self.booted()

    def booted(self) -> None:
        """Wait until the guest is up."""
        self.data = b""
        self._read(rb"@@ready\r?\n", BOOT_S)

    def _read(self, pattern: bytes, seconds: float) -> "re.Match[bytes]":
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.data)):
            if not self.selector.select(max(0, deadline - time.monotonic())):
                raise AssertionError(f"no {pattern!r} within {seconds} s: {self.data[-3000:]!r}")
            piece = os.read(self.reader, 1 << 16)
            assert piece, f"QEMU has ended: {self.data[-3000:]!r}"
            self.data += piece
        self.data = self.data[found.end() :]
        return found

    def start(self, command: str) -> None:
        """Type a command; result() waits for its end."""
        assert "\n" not in command
        os.write(self.writer, command.encode() + b"\n")

    def result(self, timeout: float = 60) -> tuple[int, str]:
        found = self._read(rb"(?s)(.*?)@@(\d+)\r?\n", timeout)
        return int(found[2]), found[1].decode("utf-8", "replace").replace("\r", "")

    def run(self, command: str, timeout: float = 60, check: bool = True) -> str:
        self.start(command)
        status, out = self.result(timeout)
        assert not check or status == 0, f"{command}: status {status}: {out}"
        return out

    def configure(self) -> str:
        """By DHCP; what it was told."""
        return self.run("udhcpc -i eth0 -n -q -f -t 20 -O mtu -s /dhcp >/dev/null 2>&1 && cat /lease")

    def close(self) -> None:
        self.selector.close()


class Vm(Shell):
    """A running machine: its shell, and its monitor (QMP)."""

    def __init__(self, process: "subprocess.Popen[bytes]", monitor: Path) -> None:
        assert process.stdin and process.stdout
        super().__init__(process.stdout.fileno(), process.stdin.fileno())
        self.monitor = socket.socket(socket.AF_UNIX)
        self.monitor.settimeout(PATIENCE_S)
        self.monitor.connect(str(monitor))
        self.replies = self.monitor.makefile("r")
        json.loads(self.replies.readline())
        self.qmp("qmp_capabilities")

    def qmp(self, command: str, **arguments: object) -> object:
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.monitor.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = json.loads(self.replies.readline())
            if "event" not in reply:
                assert "return" in reply, reply
                return reply["return"]

    def close(self) -> None:
        self.replies.close()
        self.monitor.close()
        super().close()


def apart(lab: Lab) -> Path:
    """A library for a QEMU that starts passt itself: it says why."""
    library = lab.directory / "socketpair_apart.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "socketpair_apart.c"], check=True)
    return library


@contextlib.contextmanager
def qemu(
    lab: Lab,
    netdev: Sequence[str],
    *,
    more: Sequence[str] = (),
    device: str = "",
    memory: int | str = 768,
    files: "Mapping[str, bytes] | None" = None,
) -> Iterator[Vm]:
    """Boot it in the lab. `netdev`: the value of -netdev, with id=n, by its parts. `files`: as for initramfs()."""
    environment = lab.environment()
    if netdev[0] == "passt":
        environment["LD_PRELOAD"] = str(apart(lab))
    root = fetch()
    monitor = lab.directory / "qmp.sock"
    monitor.unlink(missing_ok=True)
    image = initramfs(lab.directory / "initramfs", files)
    command = (
        root / "usr/bin/qemu-system-x86_64", "-L", root / "usr/share/qemu", "-L", root / "usr/share/seabios",
        "-accel", "tcg", "-cpu", "max", "-m", memory, "-nographic", "-nodefaults", "-no-user-config", "-serial", "stdio",
        "-qmp", f"unix:{monitor},server=on,wait=off",
        "-kernel", modules() / "vmlinuz", "-initrd", image, "-append", f"{COMMAND_LINE} random.trust_cpu=on",
        "-netdev", ",".join(netdev), "-device", f"virtio-net-pci,netdev=n,romfile=,mac={MAC}{device}", *more,
    )  # fmt: skip
    process = lab.host.popen(*command, text=False, stderr=subprocess.STDOUT, env=environment)
    vm = None
    try:
        wait_until(lambda: process.poll() is not None or monitor.exists(), 20, "QEMU")
        vm = Vm(process, monitor)  # type: ignore[arg-type]
        yield vm
    finally:
        process.kill()
        process.wait()
        if vm:
            vm.close()
