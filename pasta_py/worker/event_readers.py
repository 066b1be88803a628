"""Who reads events of flows: the flow log, clients that follow, the decision log. The core keeps events only while there is one.

Invariant: a reader gets whole JSON lines, in the order of the events of each thread of the core. A reader never waits.
"""

import time

from pasta_py.worker import json_lines, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from pasta_py.worker import dns_names

    #: takes lines of JSON, each with its newline
    Reader = Callable[[bytes], None]
    #: the name of an address of 16 bytes, as plain text, or None
    Lookup = Callable[[bytes], str | None]

    class Names(Protocol):
        """Where names of destinations are known; captures hear them from there (Plane.name_in_captures)."""

        def lookup(self, address: bytes) -> str | None:
            """The name of an address of 16 bytes, as plain text."""
        def known(self) -> "list[tuple[bytes, str]]":
            """All addresses with their names."""


def clock_ms() -> int:
    """What to add to CLOCK_MONOTONIC for CLOCK_REALTIME, in milliseconds."""
    return (time.time_ns() - time.monotonic_ns()) // 10**6


class Readers:
    """The readers of one core."""

    def __init__(self, core: "plane.Plane", names: "Names | None" = None, rule: "Callable[[int], str] | None" = None) -> None:
        """`names`: where names of destinations are known; without one, out of the answers that pass. `rule`: the text of a rule by
        its index, "" for none; None: there is no policy."""
        self._core, self._names, self._rule = core, names, rule
        self._copied: dns_names.Copied | None = None
        self._readers: list[Reader] = []
        self._takers: list[Callable[[bytes], None]] = []
        self._captures = self._lost = 0

    def add(self, reader: "Reader") -> None:
        """From now on `reader` gets events. MemoryError, OSError: the core has no memory for them."""
        self._begin()
        self._want_names(stays=True)
        self._readers.append(reader)

    def add_taker(self, taker: "Callable[[bytes], None]") -> None:
        """The same for one that takes the records themselves, as Plane.take_events() returns them, to the end."""
        self._begin()
        self._takers.append(taker)

    def _begin(self) -> None:
        if not self._readers and not self._takers:
            self._core.want_events(True)
            self._lost = self._core.lost_events()

    def remove(self, reader: "Reader") -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            self._want_names(stays=False)
            if not self._readers and not self._takers:
                self._core.want_events(False)

    def name_captures(self, wanted: bool) -> None:
        """One more capture has a place for names, or one less."""
        self._captures += 1 if wanted else -1
        self._want_names(stays=wanted)
        source = self._names or self._copied
        for address, name in source.known() if wanted and source else ():
            self._core.name_in_captures(address, name)

    def begin_list(self) -> None:
        """A list is asked for, and there may be more of them."""
        self._want_names(stays=False)

    def lines(self, records: bytes, *, ended: bool = False) -> bytes:
        """Records of events as JSON objects, one a line, with names and rules. `ended`: as for plane.events_json."""
        lines = plane.events_json(records, clock_ms(), b"\n", ended=ended)
        if self._copied:
            self._copied.refresh()
        source = self._names or (self._copied if self._copied and self._copied.any else None)
        if not source and not self._rule:
            return lines
        return with_texts(lines, plane.event_ends(records), source.lookup if source else _none, self._rule or _none)

    def _want_names(self, *, stays: bool) -> None:
        """A reader wants names. `stays`: until it is removed. Those who stay count on, whatever else comes or goes."""
        if self._names or (not stays and (self._readers or self._captures)):
            return
        if not self._copied:
            from pasta_py.worker import dns_names

            self._copied = dns_names.Copied(self._core)
        self._copied.want(stays=stays)

    def on_events(self) -> None:
        """Give the readers what waits. It may be that only answers do."""
        if self._copied:
            self._copied.refresh()
        while records := self._core.take_events():
            for taker in self._takers:
                taker(records)
            lines = self.lines(records) if self._readers else b""
            for reader in tuple(self._readers):
                reader(lines)
        lost = self._core.lost_events()
        if lost != self._lost:
            for reader in tuple(self._readers):
                reader(lost_line(lost - self._lost))
            self._lost = lost


def _none(_of: object) -> str:
    return ""


def with_texts(
    lines: bytes, ends: "Iterable[tuple[bytes, int]]", name: "Lookup", rule: "Callable[[int], str]"
) -> bytes:  # fmt: skip
    """JSON objects, one a line, with the members "name" and "rule" where there are such. `ends`: as of plane.event_ends()."""
    known: dict[tuple[bytes, int], bytes] = {}
    found = []
    for line, end in zip(lines.splitlines(keepends=True), ends):
        more = known.get(end)
        if more is None:
            texts = {"name": name(end[0]), "rule": rule(end[1]) if end[1] != plane.NO_RULE else ""}
            more = known[end] = "".join(f',"{key}":{json_lines.text(text)}' for key, text in texts.items() if text).encode()
        found.append(line.rstrip()[:-1] + more + b"}\n" if more else line)
    return b"".join(found)


def lost_line(count: int) -> bytes:
    """The line that stands for `count` lost ones."""
    return b'{"v":1,"event":"lost","count":%d}\n' % count
