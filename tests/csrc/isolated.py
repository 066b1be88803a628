"""Tests that need a network of their own: loopback addresses, routes and sysctls without touching the machine's.

`isolated` runs a test in a child process with a new network namespace (and user namespace where we are not root), in which
lo is up and ping sockets are allowed unless it wants none. What the test raises there fails it here.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SECONDS = 240  # for a test, on a machine however busy; below pytest's own limit, which would not say where it hangs


def ip(commands: str) -> None:
    """`ip` commands, one a line, in the present namespace."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True, capture_output=True)


def sysctl(name: str, value: object) -> None:
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(str(value))


def narrow_link() -> None:
    """A link of 1400 bytes to neighbours that take everything and say nothing; its MTU stands for a path's."""
    ip("link add narrow mtu 1400 type veth peer name far mtu 1400\nlink set narrow up\nlink set far up\n"
       "addr add 192.0.2.2/24 dev narrow\naddr add 2001:db8::2/64 dev narrow nodad\n"
       "neigh add 192.0.2.10 lladdr 02:00:00:00:00:01 dev narrow\n"
       "neigh add 2001:db8::10 lladdr 02:00:00:00:00:01 dev narrow")  # fmt: skip


def refused_destinations() -> dict[str, tuple[int, int]]:
    """Destinations that the host's own routes refuse, and the type and code of the ICMP error that says so."""
    ip("addr add 192.0.2.2/24 dev lo\naddr add 2001:db8::2/64 dev lo nodad\nroute add prohibit 203.0.113.1\n"
       "route add unreachable 203.0.113.2\nroute add prohibit 2001:db8:2::1\nroute add unreachable 2001:db8:2::2")  # fmt: skip
    return {
        "198.51.100.1": (3, 0), "203.0.113.1": (3, 13), "203.0.113.2": (3, 1),
        "2001:db8:1::1": (1, 0), "2001:db8:2::1": (1, 1), "2001:db8:2::2": (1, 3),
    }  # fmt: skip


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _enter(ping_sockets: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET if uid == 0 else CLONE_NEWUSER | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    ip("link set lo up")
    if ping_sockets:  # a new namespace allows none
        sysctl("ipv4/ping_group_range", "0 0")


def isolated(test: Callable[..., None], *, ping_sockets: bool = True) -> Callable[..., None]:
    """The decorator; fixtures are made before, in the parent."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            os.close(reader)
            status = 1
            try:
                _enter(ping_sockets)
                test(*args, **kwargs)
                status = 0
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[-60000:])
            # The exit of C, not Python's: coverage of the core is written, and nothing of pytest runs twice.
            ctypes.CDLL(None).exit(status)
        os.close(writer)
        with open(reader, "rb") as pipe:
            failure = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        assert not failure, failure
        assert status == 0, f"the isolated test ended with status {status:#x}"

    return run
