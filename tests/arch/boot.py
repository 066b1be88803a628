"""`boot.py DIRECTORY prepare`, `boot.py DIRECTORY check WHEEL COMMAND`: a Linux for arm64 under QEMU, without acceleration.

DIRECTORY is root.sh's. "prepare" keeps what it changes. "check" installs the wheel, and runs a line for the shell in the project's
directory. The status is that of the line.
"""

import io
import lzma
import re
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path += [str(HERE.parent / "vm"), str(HERE.parent / "e2e")]

from qemu import entry  # noqa: E402

LIMIT_S = {"prepare": 1200, "check": 3600}
#: What Debian's kernel needs to find the disk; the rest is built in.
MODULE = "virtio_blk"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
insmod /module.ko
mount -t ext4 /dev/vda /root || exec sh
[ ! -b /dev/vdb ] || tar -xf /dev/vdb -C /root/work
for each in proc sys dev; do mount --move /$each /root/$each; done
exec switch_root /root /bin/sh /work/tests/arch/guest.sh
"""


def initramfs(root: Path) -> bytes:
    """What mounts the disk."""
    files = {"init": INIT.encode(), "bin/busybox": (root / "usr/bin/busybox").read_bytes()}
    (packed,) = (root / "usr/lib/modules").rglob(f"{MODULE}.ko.xz")
    files["module.ko"] = lzma.decompress(packed.read_bytes())
    folders = ("bin", "dev", "proc", "root", "sys")
    archive = b"".join(entry(name, b"", 0o040755) for name in folders)
    archive += b"".join(entry(name, data, 0o100755) for name, data in files.items())
    return archive + entry("TRAILER!!!", b"", 0)


def project(path: Path, wheel: str, command: str) -> None:
    """The sources as git has them, without what was built from them here."""
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True)
    with tarfile.open(path, "w") as archive:
        for name in names.stdout.decode().split("\0")[:-1]:
            archive.add(PROJECT / name, name)
        if wheel:
            archive.add(wheel, Path(wheel).name)
        task = tarfile.TarInfo("task.sh")
        task.size = len(command.encode())
        archive.addfile(task, io.BytesIO(command.encode()))


def boot(directory: Path, task: str, wheel: str = "", command: str = "") -> int:
    root, qemu = directory / "root", directory / "qemu"
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (directory / "initramfs").write_bytes(initramfs(root))
    project(directory / "project.tar", wheel, command)
    keep = "off" if task == "prepare" else "on"
    arguments = (
        qemu / "usr/bin/qemu-system-aarch64", "-L", qemu / "usr/share/qemu",
        "-M", "virt", "-accel", "tcg", "-cpu", "cortex-a76", "-smp", 2, "-m", 3072,
        "-nographic", "-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio",
        "-kernel", kernel, "-initrd", directory / "initramfs",
        "-append", f"console=ttyAMA0 quiet panic=-1 random.trust_cpu=on task={task}",
        "-drive", f"file={directory / 'image'},format=raw,if=none,id=a,snapshot={keep}", "-device", "virtio-blk-pci,drive=a",
        "-drive", f"file={directory / 'project.tar'},format=raw,if=none,id=b,readonly=on", "-device", "virtio-blk-pci,drive=b",
    )  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, arguments)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout
    status = 1
    timer = threading.Timer(LIMIT_S[task], process.kill)
    timer.start()
    try:
        for line in process.stdout:
            print(f"{time.monotonic() - started:6.0f} {line.decode(errors='replace').rstrip()}", flush=True)
            if found := re.match(rb"machine: status (\d+)", line):
                status = int(found[1])
    finally:
        timer.cancel()
        process.kill()
    return status


if __name__ == "__main__":
    sys.exit(boot(Path(sys.argv[1]).resolve(), *sys.argv[2:]))
