"""Finds running instances by their control sockets, and asks them (docs/control.md).

Text from an instance may come from a guest or a caller. `plain` takes from it whatever a terminal would obey.
"""

import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pasta_py import defaults
from pasta_py.control.start import control_socket
from pasta_py.control.subcommands import containers
from pasta_py.errors import ControlError, UsageError

VERSION = 1
_RECEIVE_BYTES = 256 << 10
_GIVE = "give the socket of --control, a PID, or a name from 'pasta-py ps'"


def plain(text: object) -> str:
    """As shown in a terminal: escapes, other control characters and what is not Unicode become question marks."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "?" for c in shown)


@dataclass
class Instance:
    """A running instance. `pid`: of its pidfile and of ps; 0 if it was found by a socket's path alone."""

    path: str
    pid: int

    def lines(self, command: str, **members: object) -> "Iterator[dict[str, Any]]":
        """What the instance answers, object by object, until it closes. ControlError: it refuses, or cannot be asked."""
        for lines in self.batches(command, **members):
            yield from map(self.parsed, lines)

    def parsed(self, line: bytes) -> "dict[str, Any]":
        """The object in a line. ControlError: it is a refusal, or none."""
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            why = plain(line[:60].decode("utf-8", "replace"))
            raise ControlError(f"instance {self.pid} does not speak this protocol: {why!r}") from None
        if "error" in answer and "event" not in answer:  # a flow has such a member too
            raise ControlError(f"instance {self.pid}: {plain(answer['error'])}")
        return answer

    def batches(self, command: str, **members: object) -> "Iterator[list[bytes]]":
        """The lines that the instance answers, without their newlines, as many at a time as have come."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(defaults.CONTROL_ANSWER_S)
            try:
                sock.connect(self.path)
                sock.sendall(json.dumps({"v": VERSION, "command": command, **members}).encode() + b"\n")
                if members.get("follow"):
                    sock.settimeout(None)
                rest = b""
                while data := sock.recv(_RECEIVE_BYTES):
                    *lines, rest = (rest + data).split(b"\n")
                    yield lines
            except TimeoutError:
                waited = f"{defaults.CONTROL_ANSWER_S:.0f} s"
                raise ControlError(f"instance {self.pid} does not answer for {waited}: is it stopped?") from None
            except OSError as error:
                raise ControlError(f"instance {self.pid} cannot be asked: {self.path}: {error.strerror}") from None

    def ask(self, command: str, **members: object) -> "dict[str, Any]":
        """The first line of the answer."""
        for answer in self.lines(command, **members):
            return answer
        raise ControlError(f"instance {self.pid} has ended, or is not yours")

    def flows(self) -> "list[dict[str, Any]]":
        """All open flows."""
        found: list[dict[str, Any]] = []
        for answer in self.lines("flows"):
            found += answer["flows"]
            if not answer["more"]:
                break
        return found


def running() -> list[Instance]:
    """All instances of this user, by PID. Sockets that no process serves any more are removed."""
    found = []
    for directory in control_socket.directories():
        for path in sorted(Path(directory).glob("*.sock")) if os.path.isdir(directory) else ():
            if path.stem.isdigit() and not control_socket.remove_if_dead(directory, path.name):
                found.append(Instance(str(path), int(path.stem)))
    return sorted(found, key=lambda instance: instance.pid)


def find(target: str) -> Instance:
    """The instance that a PID, a name from ps, or the path of a control socket names; "": the only one."""
    if "/" in target:
        try:
            if stat.S_ISSOCK(os.stat(target).st_mode):
                return Instance(target, 0)
        except OSError as error:
            raise ControlError(f"{target!r}: {error.strerror}: {_GIVE}") from None
        raise ControlError(f"{target!r} is no socket: {_GIVE}")
    instances = running()
    if target.isdigit():
        chosen = [instance for instance in instances if instance.pid == int(target)]
    elif target:
        names = {instance.pid: name(instance) for instance in instances}
        exact = [each for each in instances if names[each.pid] in (target, f"container {target}", f"pod {target}")]
        chosen = exact or [each for each in instances if target in names[each.pid]]
    else:
        chosen = instances
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        none = f"no running instance is called {target!r}" if target else "no instance is running"
        raise ControlError(f"{none}: see 'pasta-py ps' (those of another user, or with --no-control, are not shown)")
    which = f"{len(chosen)} instances are called {target!r}" if target else f"{len(chosen)} instances are running"
    raise UsageError(f"{which}: name one by its PID: {', '.join(str(each.pid) for each in chosen)}")


def name(instance: Instance) -> str:
    """What it serves, as ps shows it; "" if it does not answer."""
    try:
        return containers.served(str(instance.ask("status").get("serves", "")))
    except ControlError:
        return ""


def size(count: float) -> str:
    """A number of bytes as people read it: 1.5M is 1.5 times 2^20."""
    for unit in ("", "K", "M", "G", "T"):
        if count < 1000 or unit == "T":
            return f"{count:.0f}{unit}" if not unit or count >= 100 else f"{count:.1f}{unit}"
        count /= 1024
    return ""


def span(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 100:
        return f"{seconds:.0f}s"
    if seconds < 6000:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h" if seconds < 360_000 else f"{seconds / 86400:.0f}d"


def table(rows: "list[list[str]]", right: "frozenset[int]" = frozenset()) -> str:
    """Columns as wide as they must be, the last one as wide as it is; `right`: columns of numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
