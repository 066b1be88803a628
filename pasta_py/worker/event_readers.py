"""Who reads events of flows: the flow log, clients that follow, the decision log. The core keeps events only while there is one.

Invariant: a reader gets whole JSON lines, in the order of the events of each thread of the core. A reader never waits.
"""

import time

from pasta_py.worker import plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker import dns_names

    #: takes lines of JSON, each with its newline
    Reader = Callable[[bytes], None]
    #: the name of an address of 16 bytes, as plain text, or None
    Lookup = Callable[[bytes], str | None]


def clock_ms() -> int:
    """What to add to CLOCK_MONOTONIC for CLOCK_REALTIME, in milliseconds."""
    return (time.time_ns() - time.monotonic_ns()) // 10**6


class Readers:
    """The readers of one core."""

    def __init__(self, core: "plane.Plane", lookup: "Lookup | None" = None) -> None:
        """`lookup`: where names of destinations are known; without one, out of the answers that pass."""
        self._core, self._lookup = core, lookup
        self._copied: dns_names.Copied | None = None
        self._readers: list[Reader] = []
        self._takers: list[Callable[[bytes], None]] = []
        self._lost = 0

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
            if not self._readers:
                self._want_names(stays=False)
            if not self._readers and not self._takers:
                self._core.want_events(False)

    def lines(self, records: bytes, *, ended: bool = False) -> bytes:
        """Records of events as JSON objects, one a line, with the names of destinations. `ended`: as for plane.events_json."""
        lines = plane.events_json(records, clock_ms(), b"\n", ended=ended)
        if not self._readers:
            self._want_names(stays=False)  # a list, and there may be more of them
        if self._copied:
            self._copied.refresh()
        lookup = self._lookup or (self._copied.lookup if self._copied and self._copied.any else None)
        return with_names(lines, plane.event_addresses(records), lookup) if lookup else lines

    def _want_names(self, *, stays: bool) -> None:
        """A reader wants names. `stays`: until it is removed."""
        if self._lookup:
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


def with_names(lines: bytes, addresses: "list[bytes]", lookup: "Lookup") -> bytes:
    """JSON objects, one a line, with the member "name" in those whose address has one."""
    found = []
    for line, address in zip(lines.splitlines(keepends=True), addresses):
        name = lookup(address)
        if name:
            escaped = name.replace("\\", "\\\\").encode("ascii")  # plain text otherwise
            line = line.rstrip()[:-1] + b',"name":"%s"}\n' % escaped
        found.append(line)
    return b"".join(found)


def lost_line(count: int) -> bytes:
    """The line that stands for `count` lost ones."""
    return b'{"v":1,"event":"lost","count":%d}\n' % count
