"""Who holds a port, if the caller may see that: for error lines only, so it may be slow.

A worker shows its descriptors to root alone. So running instances are asked, by their control sockets (docs/control.md).
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

from pasta_py.control.start import control_socket

_PATIENCE_S = 2.0  # with all instances together
_TCP_LISTEN = "0A"
_TABLES = {"TCP": ("tcp", "tcp6"), "UDP": ("udp", "udp6")}


def of_port(proto: str, port: int) -> str:
    """`nginx (PID 123)`, several with commas between; "" if no process is visible. proto is "TCP" or "UDP".

    An instance of this program: `pasta-py (PID 123, serves curl -s example.org)`, as `pasta-py ps` shows it.
    """
    instance = _instance(proto, port)
    if instance:
        return instance
    inodes = {inode for table in _TABLES[proto] for inode in _inodes(table, port)}
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) if inodes else ():
        if any(inode in inodes for inode in _sockets(pid)):
            found.append(f"{_name(pid)} (PID {pid})")
    return ", ".join(found[:3])


def _inodes(table: str, port: int) -> Iterator[str]:
    """Inodes of the sockets that listen at a port, for UDP of those bound to it, from a table of /proc/net (proc(5))."""
    try:
        with open(f"/proc/self/net/{table}", encoding="utf-8") as file:
            for line in file:
                words = line.split()
                if len(words) > 9 and words[1].endswith(f":{port:04X}") and (table.startswith("udp") or words[3] == _TCP_LISTEN):
                    yield words[9]
    except OSError:
        return


def _sockets(pid: int) -> Iterator[str]:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            if found:
                yield found[1]
    except OSError:  # it has ended, or belongs to another user
        return


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"


def _instance(proto: str, port: int) -> str:
    """The instance that listens there; "" if it is none that this user may ask."""
    deadline = time.monotonic() + _PATIENCE_S
    for directory in control_socket.directories():
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            pid = name.removesuffix(".sock")
            if not pid.isdigit():
                continue
            try:
                listens, status = _ask(f"{directory}/{name}", proto, port, deadline - time.monotonic())
                if listens["listens"] is True:
                    serves = f"{status['serves']}"
                    shown = "".join(c if c.isprintable() else "?" for c in serves[:80])
                    return f"{status['program']} (PID {pid}, serves {shown})"
            except (OSError, ValueError, KeyError, TypeError):  # it ends, it is stopped, or it is of another version
                continue
    return ""


def _ask(path: str, proto: str, port: int, patience_s: float) -> "tuple[Any, Any]":
    """What an instance says of the port, and of itself. OSError, ValueError: it does not."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(max(patience_s, 0.01))
        sock.connect(path)
        asked = {"v": 1, "command": "port", "protocol": proto.lower(), "port": port}
        sock.sendall(f'{json.dumps(asked)}\n{{"v":1,"command":"status"}}\n'.encode())
        with sock.makefile(encoding="utf-8", errors="replace") as stream:
            return json.loads(stream.readline()), json.loads(stream.readline())
