"""A Linux guest in user-mode Linux: Debian sid's, whose root is the host's, read-only. It runs one script, then it ends.

uml.txt says what of Debian sid it is made of. Its kernel runs natively, so it shows what a link can carry.
"""

import functools
import os
import subprocess
from pathlib import Path

from lab import Lab

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PASTA_UML_ROOT") or HERE.parents[1] / "build" / "uml")
MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
BEGIN, END = "@@begin", "@@end"


@functools.cache
def fetch() -> Path:
    """Where the packages are; they are fetched where they are not."""
    wanted = [line.replace(" ", "=") for line in (HERE / "uml.txt").read_text().splitlines() if not line.startswith("#")]
    subprocess.run(["sh", HERE.parent / "sid.sh", ROOT, *wanted], stdout=subprocess.DEVNULL, check=True)
    return ROOT


def run(lab: Lab, socket: Path, script: str, *, memory_mb: int = 256, timeout: int = 180) -> str:
    """Boot a guest whose network is at a vhost-user socket, run a shell script in it; what that printed."""
    root = fetch()
    (modules,) = (root / "usr/lib/uml/modules").iterdir()
    insert = "".join(f"{root}/usr/bin/busybox insmod {modules}/kernel/{name}.ko\n" for name in MODULES)
    init = lab.directory / "uml-init"
    lab.host.run("sh", "-c", f"cat >{init}; chmod 755 {init}", input=f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
{insert}ip link set lo up; ip link set eth0 up
echo {BEGIN}
({script}) 2>&1
echo {END}$?
echo o >/proc/sysrq-trigger; sleep 9
""")  # fmt: skip
    command = (
        root / "usr/bin/linux.uml", f"mem={memory_mb}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
        f"virtio_uml.device={socket}:1", f"init={init}", "con=null", "con0=null,fd:1", "quiet",
    )  # fmt: skip
    said = lab.host.run(*command, timeout=timeout, check=False).stdout.replace("\r", "")
    assert f"{END}0\n" in said, said[-3000:]
    return said.partition(f"{BEGIN}\n")[2].partition(END)[0]
