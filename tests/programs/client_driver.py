"""A guest and its slow path, without the core: run as `client_driver.py PLAN-CHANGES COMMAND` in namespaces of its own.

Makes tap0 with the guest's MAC address, runs the shell command as the guest and answers the frames on the tap with
slowpath.reply until the command ends. Writable directories that the clients want are fresh file systems in memory.
PLAN-CHANGES is a Python literal, the keyword arguments of sample_plan. Exit status: the command's, 124 for one that
took too long.
"""

import ast
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

from sample_plan import GUEST_MAC, sample_plan

from pasta_py.worker import slowpath

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 2, 0x1000
_TIME_LIMIT_S = 120


def open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def main(changes: str, command: str) -> int:
    for path in ("/run", "/tmp", "/var/lib/dhcp", "/var/lib/dhcpcd"):
        if Path(path).is_dir():
            subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    plan = sample_plan(**ast.literal_eval(changes))
    tap = open_tap("tap0")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "link", "set", "tap0", "address", GUEST_MAC], check=True)
    deadline = time.monotonic() + _TIME_LIMIT_S
    child = subprocess.Popen(["sh", "-ec", command])
    while child.poll() is None:
        if time.monotonic() > deadline:
            child.kill()
            return 124
        if not select.select([tap], [], [], 0.05)[0]:
            continue
        try:
            frame = os.read(tap, 65536)
        except (BlockingIOError, OSError):
            continue  # the interface is not up (yet)
        answer = slowpath.reply(plan, frame)
        if answer is not None:
            os.write(tap, answer)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
