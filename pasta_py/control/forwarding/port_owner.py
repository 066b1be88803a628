"""Which process holds a port, if the caller may see that: for error lines only, so it may be slow."""

import os
import re
from collections.abc import Iterator

_TCP_LISTEN = "0A"
_TABLES = {"TCP": ("tcp", "tcp6"), "UDP": ("udp", "udp6")}


def of_port(proto: str, port: int) -> str:
    """`nginx (PID 123)`, several with commas between; "" if no process is visible. proto is "TCP" or "UDP"."""
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
