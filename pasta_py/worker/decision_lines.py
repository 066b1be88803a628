"""How much of the decision log is told: each decision about a destination once a second, and _LINES_PER_S lines in all.

What was not told is counted: in the next line for that destination, or in a line `summary`.

Invariants: at most _KEPT decisions are remembered. Each one that is told is in exactly one line's count.
"""

import time

from pasta_py.worker import json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker.json_lines import Value

    Members = dict[str, Value]
    #: takes a line, and whether it is about something denied
    Sink = Callable[[bytes, bool], None]

VERSION = 1
DENIED = "denied"
REPEAT_S = 1.0
LINES_PER_S = 100
_KEPT = 4096
_NEVER = float("inf")
#: What makes two decisions the same.
_SAME = ("event", "verdict", "reason", "rule", "name", "named", "address", "port", "protocol", "guest")
_HEAD = ("time", "sequence", "guest", "event", "verdict", "reason", "rule", "where", "rules", "name", "via", "named")
_TAIL = ("address", "port", "protocol", "type", "count", "hint", "note")


class _Told:
    """A decision that was told a moment ago, or is held back; `count`: how often it was made since, `members`: of the last one."""

    __slots__ = ("until", "members", "count")

    def __init__(self, until: float, members: "Members") -> None:
        self.until, self.members, self.count = until, members, 0


class Lines:
    """Gives lines to its sinks."""

    def __init__(self, arm: "Callable[[], None]", clock: "Callable[[], float]" = time.monotonic) -> None:
        """`arm`: is called when `due` has become earlier."""
        self._arm, self._clock = arm, clock
        self._sinks: list[Sink] = []
        self._told: dict[tuple[Value, ...], _Told] = {}  # the oldest first
        self._held: dict[str, _Told] = {}  # by the name without its search domain; the oldest first
        self._queries: dict[Value, _Told] = {}  # those of both, by their names
        self._second, self._written, self._left_out, self._sequence = clock(), 0, 0, 0
        self.due = _NEVER  # when on_tick() wants to be called

    def add(self, sink: "Sink") -> None:
        self._sinks.append(sink)

    def remove(self, sink: "Sink") -> None:
        if sink in self._sinks:
            self._sinks.remove(sink)

    def tell(self, members: "Members", count: int = 1) -> None:
        """A decision was made, `count` times. `members`: those that are not known are left out."""
        now, key = self._clock(), tuple(members.get(name) for name in _SAME)
        told = self._told.pop(key, None)
        if told and now < told.until:
            told.members, told.count = members, told.count + count
            self._told[key] = told  # until it ends, a place among the newer ones does no harm
            self._wait(now)
            return
        if len(self._told) >= _KEPT:
            self._forget(self._told.pop(next(iter(self._told))), now)
        self._told[key] = self._remember(members, now)
        self._write(members, count + (told.count if told else 0), now)

    def _remember(self, members: "Members", now: float) -> _Told:
        told = _Told(now + REPEAT_S, members)
        if members.get("event") == "query":
            self._queries[members.get("name")] = told
        return told

    def _forget(self, told: _Told, now: float) -> None:
        name = told.members.get("name")
        if self._queries.get(name) is told:
            del self._queries[name]
        self._write(told.members, told.count, now)

    def hold(self, members: "Members", bare: "list[str]") -> None:
        """A denied name with search domains behind it: `bare` are the names without these, which the resolver may ask for too."""
        now = self._clock()
        asked = (self._queries.get(name) for name in bare)
        told = next((each for each in asked if each and now < each.until), None) or self._held.get(bare[0])
        if not told and len(self._held) >= _KEPT:
            self.left_out(1)
            return
        if not told:
            told = self._held[bare[0]] = self._remember(members, now)
        told.count += 1
        self._wait(now)

    def folded(self, name: str) -> int:
        """The name itself is asked for: how many of the held ones count as this."""
        held = self._held.pop(name, None)
        return held.count if held else 0

    def left_out(self, count: int) -> None:
        """Decisions were made that no line can tell."""
        self._left_out += count
        self._wait(self._clock())

    def _wait(self, now: float) -> None:
        if self.due == _NEVER:
            self.due = now + REPEAT_S
            self._arm()

    def _write(self, members: "Members", count: int, now: float) -> None:
        if not count:
            return
        if now - self._second >= 1:
            self._begin_second(now)
        if self._written >= LINES_PER_S:
            self.left_out(count)
            return
        self._written += 1
        self._put({**members, "count": count})

    def _begin_second(self, now: float) -> None:
        """The last one ends with what it left out."""
        self._second, self._written = now, 0
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self._put({"time": moment(time.time_ns() // 10**6), "event": "summary", "count": left_out})

    def _put(self, members: "Members") -> None:
        self._sequence += 1
        ordered = {**members, "sequence": self._sequence}
        line = json_lines.text({"v": VERSION, **{name: ordered[name] for name in _HEAD + _TAIL if name in ordered}})
        for sink in tuple(self._sinks):
            sink(line.encode() + b"\n", members.get("verdict", DENIED) == DENIED)

    def on_tick(self, *, end: bool = False) -> None:
        """Tell what was counted meanwhile; `end`: all that is left."""
        now = self._clock()
        if now < self.due and not end:
            return
        for bare in [bare for bare, held in self._held.items() if end or held.until <= now]:
            held = self._held.pop(bare)
            self.tell(held.members, held.count)
        for key in [key for key, told in self._told.items() if end or told.until <= now]:
            told = self._told.pop(key)
            self._forget(told, now)
            if told.count and not end:
                self._told[key] = self._remember(told.members, now)
        if end or now - self._second >= 1:
            self._begin_second(now)
        waits = self._left_out or self._held or any(told.count for told in self._told.values())
        self.due = now + REPEAT_S if waits else _NEVER


def moment(real_ms: int) -> str:
    """A time of day as in RFC 3339, 5.6, in UTC."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(real_ms // 1000))}.{real_ms % 1000:03}Z"
