"""The texts about a machine, each in one place: a start that fails prints them, and `pasta-py doctor` does.

A Cause says what is wrong, in words that can follow what the kernel said, and gives one command that mends it.
"""

import posix as os  # lean imports: docs/architecture.md

from pasta_py.record import Record

PROC_SYS = "/proc/sys"


class Cause(Record):
    """Why something does not work on this machine, and a command against it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}"


def text_of(path: str) -> str | None:
    """What a file of one line says; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16).strip()
    except OSError:
        return None


def sysctl(name: str) -> int | None:
    """A setting of the kernel that is one number, by its name (`user.max_net_namespaces`); None if there is none."""
    try:
        return int(text_of(f"{PROC_SYS}/{name.replace('.', '/')}") or "")
    except ValueError:
        return None


def raised(name: str, value: object) -> str:
    """The command that sets a setting of the kernel."""
    return f"sudo sysctl -w {name}={value}"


def in_container() -> bool:
    """Whether this is a container of Docker or podman: their own marks."""
    return any(map(exists, ("/run/.containerenv", "/.dockerenv")))


def exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def low_port(first: int, wanted: int) -> Cause:
    """A port below `first`, the setting of net.ipv4.ip_unprivileged_port_start, cannot be bound; `wanted` is the one asked for."""
    setting = "net.ipv4.ip_unprivileged_port_start"
    return Cause(text=f"ports below {first} are privileged ({setting})", remedy=raised(setting, wanted))
