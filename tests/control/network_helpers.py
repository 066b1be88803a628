"""For the tests of host, plan and nsconf: code run in a fresh network namespace, as an ordinary user, and options."""

import ctypes
import json
import os
import pickle
import signal
import struct
import subprocess
import time
import traceback
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

from pasta_py.control.commandline.options import Options
from pasta_py.control.guest import interface
from pasta_py.control.netlink import pyroute2_messages
from pasta_py.control.netlink.messages import RTM_NEWROUTE
from pasta_py.control.planning import host
from pasta_py.control.planning.plan import LinkPlan

NOBODY = 65534
LIMIT_S = 60
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_DUMPABLE = 0x10000000, 0x40000000, 4
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def in_new_namespace(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns, run in a child in a user and network namespace of its own, which end with it.

    Where the tests run as root, the child becomes nobody first.
    """
    pyroute2_messages.message_class(RTM_NEWROUTE)  # imported while we may still read every file
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            signal.alarm(LIMIT_S)
            outcome = _child(libc, function, args)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(outcome, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
    finally:
        _, status = os.waitpid(child, 0)
    assert status == 0 and data, f"the child in the namespace ended with status {status}"
    done, value = pickle.loads(data)
    assert done, value
    return value


def _mapped(uid: int) -> bool:
    """Whether our user namespace has this user; that of a mapped root has none but root."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()]
    return any(int(first) <= uid < int(first) + int(count) for first, _, count in ranges)


def _child(libc: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        if os.geteuid() == 0 and _mapped(NOBODY):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # or the files below would be root's
        uid, gid = os.getuid(), os.getgid()
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text, encoding="utf-8")
        return True, function(*args)
    except Exception:
        return False, traceback.format_exc()


def ip(*words: str) -> Any:
    """The output of `ip -j WORDS`, decoded."""
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return json.loads(done.stdout) if done.stdout.strip() else []


def script(text: str) -> None:
    """Run lines of `ip` arguments, without the `ip`. "sysctl NAME VALUE" writes a sysctl; "await ARGUMENTS" is for what the
    kernel does a moment later, such as the route to the peer of an IPv6 address, and waits until `ip` shows something."""
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        if words[0] == "sysctl":
            Path(f"/proc/sys/{words[1]}").write_text(words[2], encoding="utf-8")
        elif words[0] == "await":
            deadline = time.monotonic() + LIMIT_S / 2
            while not ip(*words[1:]):
                assert time.monotonic() < deadline, line
                time.sleep(0.01)
        else:
            ip(*words)


def tables(name: str) -> dict[str, Any]:
    """Addresses and routes of one interface, in the form in which host and guest must agree.

    Left out: link-local IPv6, each interface's own; lifetimes, which the copy has none of; the carrier;
    names of nexthop objects, which the copy resolves.
    """
    shown = ip("addr", "show", "dev", name)
    addresses = [
        {key: value for key, value in address.items() if not key.endswith("_life_time") and key != "dynamic"}
        for link in shown
        for address in link.get("addr_info", ())
        if not (address["family"] == "inet6" and address["scope"] == "link")
    ]
    found: dict[str, Any] = {"addresses": addresses}
    for family in ("-4", "-6"):
        routes = [r for r in ip(family, "route", "show", "table", "main") if r.get("dst") != "fe80::/64"]
        found[family] = sorted((_normal(route, name) for route in routes if _uses(route, name)), key=repr)
    return found


def _uses(route: dict[str, Any], name: str) -> bool:
    return route.get("dev") == name or any(hop.get("dev") == name for hop in route.get("nexthops", ()))


def _normal(route: dict[str, Any], name: str) -> dict[str, Any]:
    if "nexthops" in route:
        route["nexthops"] = [hop for hop in route["nexthops"] if hop.get("dev") == name]
    for way in (route, *route.get("nexthops", ())):
        way["flags"] = [flag for flag in way.get("flags", ()) if flag != "linkdown"]
    return {key: value for key, value in route.items() if key not in ("expires", "nhid")}


def make_tap(name: str) -> int:
    """A tap in this namespace; the descriptor keeps it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def host_side(shape: str, name: str) -> tuple[host.HostSnapshot, dict[str, Any]]:
    """Make a host of this shape; its snapshot, and its tables as `ip` shows them."""
    script(shape)
    return host.snapshot(), tables(name) if name else {}


def guest_side(link: LinkPlan) -> tuple[interface.ConfigResult, dict[str, Any], list[Any]]:
    """Make a guest and configure it: the result, its tables, and the interfaces with all their addresses."""
    fd = make_tap(link.ifname)
    result = interface.configure(link)
    shown = tables(link.ifname), ip("addr", "show")
    os.close(fd)
    return result, *shown


def options(**changes: Any) -> Options:
    """Options with the defaults of `pasta-py -- CMD`, but for the changes."""
    return Options(**{"program": "pasta-py", "config_net": True, **changes})
