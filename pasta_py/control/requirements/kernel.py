"""What the kernel has of that which the program uses, and whether the host has a way out."""

import ctypes
import os
import socket

from pasta_py.control.requirements.finding import LIMITED, Finding, fine, wrong
from pasta_py.control.requirements.settings import Cause, exists, text_of

_OLDEST = (5, 11)
_SO_PEEK_OFF = 42  # asm-generic/socket.h; for TCP since Linux 6.9
_UDP_GRO = 104  # linux/udp.h
_LANDLOCK_CREATE_RULESET = 444  # the same number on every architecture
_LANDLOCK_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION


def check() -> list[Finding]:
    return [_version(), _sandbox(), _speed(), _way_out()]


def _version() -> Finding:
    release = os.uname().release
    numbers = tuple(int(word) for word in release.replace("-", ".").split(".")[:2] if word.isdecimal())
    if numbers < _OLDEST:
        return wrong("kernel", Cause(text=f"Linux {release} is older than 5.11", remedy="install a newer kernel"))
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        text = f"pidfd_open(2) is refused: {error.strerror}"
        return wrong("kernel", Cause(text=text, remedy="start the container with --security-opt seccomp=unconfined"))
    return fine("kernel", f"Linux {release}")


def _sandbox() -> Finding:
    """The layers that docs/security.md lists and a kernel may lack. Those of namespaces have a check of their own."""
    abi = int(ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    lost = []
    if abi < 1:
        lost.append("Landlock (lsm=landlock,... on the kernel's command line)")
    if not exists("/proc/sys/kernel/seccomp"):
        lost.append("filters on system calls (CONFIG_SECCOMP_FILTER)")
    if not lost:
        return fine("sandbox", f"Landlock (version {abi}) and filters on system calls")
    text = f"the kernel lacks {' and '.join(lost)}: the other layers still confine the worker"
    return wrong("sandbox", Cause(text=text, remedy="start a kernel that has it"), LIMITED)


def _speed() -> Finding:
    lost = []
    for kind, level, option, what in (
        (socket.SOCK_STREAM, socket.SOL_SOCKET, _SO_PEEK_OFF, "SO_PEEK_OFF for TCP (Linux 6.9)"),
        (socket.SOCK_DGRAM, socket.IPPROTO_UDP, _UDP_GRO, "UDP_GRO (Linux 5.0)"),
    ):
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.setsockopt(level, option, 0)
            except OSError:
                lost.append(what)
    if not lost:
        return fine("speed", "the kernel has all that the data path uses")
    text = f"the kernel lacks {' and '.join(lost)}: traffic takes more CPU time"
    return wrong("speed", Cause(text=text, remedy="start a newer kernel"), LIMITED)


def _way_out() -> Finding:
    """Default routes (proc_pid_net(5)): from them the guest gets its addresses."""
    versions = []
    for line in (text_of("/proc/net/route") or "").splitlines()[1:]:
        words = line.split()
        if words[1] == words[7] == "00000000":
            versions.append("IPv4")
    for line in (text_of("/proc/net/ipv6_route") or "").splitlines():
        words = line.split()
        if int(words[0], 16) == int(words[1], 16) == 0 and words[9] != "lo":
            versions.append("IPv6")
    if versions:
        return fine("routes", f"there are default routes ({', '.join(dict.fromkeys(versions))})")
    text = "there is no default route, so the guest reaches this host only"
    return wrong("routes", Cause(text=text, remedy="sudo ip route add default via ADDRESS"), LIMITED)
