"""pasta-py top: the flows of an instance, live.

Nothing is said by colour alone, so that it reads the same without colours.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from pasta_py.control.subcommands import command, containers, instances
from pasta_py.control.subcommands.flows import INSTANCE, end
from pasta_py.control.subcommands.instances import Instance, plain, size, span
from pasta_py.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

SUMMARY = "Watch the flows of an instance. Keys: q quits, / filters, r s d a t n sort, p pauses."
_KEYS = "q quit  / filter  p pause  sort: r rate s sent d received a age t RTT n name"
_HEAD_LINES = 4  # above the flows, the table's own head included
_ESCAPE, _ENTER, _ERASE = "\x1b", ("\r", "\n"), ("\x7f", "\b")


@dataclass(frozen=True)
class Column:
    """A column of the table: shown where the terminal is at least `width` wide."""

    title: str
    cell: "Callable[[dict[str, Any]], str]"
    width: int = 0
    right: bool = True
    member: str = ""  # without a flow that has it the column is not there


def _rate(value: float) -> str:
    return f"{size(value)}/s" if value else ""


COLUMNS = (
    Column("PROTO", lambda f: plain(f["protocol"]), right=False),
    Column("GUEST", lambda f: end(f, "guest"), 110, right=False),
    Column("DESTINATION", lambda f: ("<- " if f["from"] == "host" else "-> ") + (named(f) or end(f, "dest")), right=False),
    Column("HOST PEER", lambda f: end(f, "peer"), 160, right=False),
    Column("STATE", lambda f: plain(f["state"]), 100, right=False),
    Column("AGE", lambda f: span(f["duration_s"])),
    Column("SENT", lambda f: size(f["sent_bytes"])),
    Column("RECEIVED", lambda f: size(f["received_bytes"])),
    Column("SENT/s", lambda f: _rate(f["sent_rate"])),
    Column("RECV/s", lambda f: _rate(f["received_rate"])),
    Column("RULE", lambda f: plain(f.get("rule", "")), 130, right=False, member="rule"),
    Column("RTT", lambda f: f"{f['rtt_us'] / 1000:.1f}ms" if "rtt_us" in f else "", 100),
    Column("RESENT", lambda f: str(f.get("retransmits", "")), 130),
    Column("WINDOW", lambda f: size(f["peer_window"]) if "peer_window" in f else "", 130),
    Column("WAITING", lambda f: size(f["backlog_bytes"] + f["unacked_bytes"]) if "backlog_bytes" in f else "", 130),
)

#: Key: what it sorts by, greatest first, and its name.
SORTS: "dict[str, tuple[str, Callable[[dict[str, Any]], Any]]]" = {
    "r": ("rate", lambda f: f["sent_rate"] + f["received_rate"]),
    "s": ("sent", lambda f: f["sent_bytes"]),
    "d": ("received", lambda f: f["received_bytes"]),
    "a": ("age", lambda f: f["duration_s"]),
    "t": ("round trip", lambda f: f.get("rtt_us", -1)),
    "n": ("name", lambda f: tuple(-ord(c) for c in named(f) or end(f, "dest"))),
}


def named(flow: "dict[str, Any]") -> str:
    """The destination by its name, if one is known. A ping has no port."""
    port = f":{flow['dest_port']}" if "dest_port" in flow else ""
    return plain(f"{flow['name']}{port}") if flow.get("name") else ""


@dataclass
class View:
    """What is shown, and how. Pure: `update` takes lists of flows, `key` keys, `picture` gives the screen."""

    title: str
    flows: "list[dict[str, Any]]" = field(default_factory=list)
    sort: str = "r"
    wanted: str = ""  # the filter: words that must all be in a row
    typing: bool = False  # the filter
    paused: bool = False
    _at: float = 0.0
    _before: "dict[str, tuple[int, int]]" = field(default_factory=dict)

    def update(self, flows: "list[dict[str, Any]]", now: float) -> None:
        """New numbers, from which rates are made: bytes a second since the last ones."""
        passed = now - self._at
        for flow in flows:
            counted = flow["sent_bytes"], flow["received_bytes"]
            before = self._before.get(flow["flow"], (0, 0) if self._at else counted)
            time_s = min(passed, flow["duration_s"]) if self._at else 1.0
            flow["sent_rate"], flow["received_rate"] = (
                (a - b) / time_s if time_s > 0 else 0.0 for a, b in zip(counted, before)
            )  # fmt: skip
        self._before = {flow["flow"]: (flow["sent_bytes"], flow["received_bytes"]) for flow in flows}
        self._at = now
        self.flows = flows

    def key(self, key: str) -> bool:
        """What a key means; False: quit."""
        if self.typing:
            if key in _ENTER or key == _ESCAPE:
                self.typing = False
                self.wanted = "" if key == _ESCAPE else self.wanted
            elif key in _ERASE:
                self.wanted = self.wanted[:-1]
            elif key.isprintable():
                self.wanted += key
            return True
        if key in SORTS:
            self.sort = key
        elif key == "/":
            self.typing = True
        elif key == "p":
            self.paused = not self.paused
        return key not in ("q", "\x03")

    def rows(self, columns: "Sequence[Column]") -> "list[list[str]]":
        """The flows that the filter lets through, sorted, as cells."""
        ordered = sorted(self.flows, key=SORTS[self.sort][1], reverse=True)
        words = self.wanted.lower().split()
        found = []
        for flow in ordered:
            text = " ".join(column.cell(flow) for column in COLUMNS).lower()
            if all(word in text for word in words):
                found.append([column.cell(flow) for column in columns])
        return found

    def picture(self, width: int, height: int) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        had = {member for flow in self.flows for member in flow}
        columns = [each for each in COLUMNS if width >= each.width and (not each.member or each.member in had)]
        rows = self.rows(columns)
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="bold reverse")
        for column in columns:
            long = column.title in ("DESTINATION", "HOST PEER", "GUEST")
            table.add_column(
                column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis",
                ratio=1 if long else None,
            )  # fmt: skip
        room = max(0, height - _HEAD_LINES)
        for row in rows[:room]:
            table.add_row(*(Text(cell) for cell in row))
        sent, received = (sum(f[name] for f in self.flows) for name in ("sent_rate", "received_rate"))
        total = f"{len(self.flows)} flows, sent {_rate(sent) or '0/s'}, received {_rate(received) or '0/s'}"
        shown = f", {len(rows)} shown" if len(rows) < len(self.flows) else ""
        below = f", {len(rows) - room} more below" if len(rows) > room else ""
        state = f"sorted by {SORTS[self.sort][0]}{', paused' if self.paused else ''}"
        prompt = f"filter: {self.wanted}{'_' if self.typing else ''}" if self.typing or self.wanted else _KEYS
        lines = (f"{self.title}", f"{total}{shown}{below}, {state}", prompt)
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines), table)


def main(argv: "Sequence[str]") -> int:
    return command.run("top", argv, top, summary=SUMMARY)


def top(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="How long between two looks.")
    ] = 1.0,
) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError("top is for a terminal: use 'pasta-py flows', or 'flows --json' for a program")
    chosen = instances.find(instance)
    serves = plain(containers.served(str(chosen.ask("status")["serves"])))
    view = View(f"pasta-py {chosen.pid or ''} {serves}".replace("  ", " "))
    watch(chosen, view, interval)
    return 0


def watch(instance: Instance, view: View, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        next_look = 0.0
        going = True
        while going:
            now = time.monotonic()
            if now >= next_look and not view.paused:
                view.update(instance.flows(), now)
                next_look = time.monotonic() + interval
            live.update(view.picture(console.width, console.height), refresh=True)
            wait = interval if view.paused else max(0.05, next_look - time.monotonic())
            ready, _, _ = select.select([sys.stdin], [], [], wait)
            if ready:
                for key in os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace") or "q":
                    going = going and view.key(key)


@contextlib.contextmanager
def _keys() -> "Iterator[None]":
    """Keys come one by one and are not shown meanwhile."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
