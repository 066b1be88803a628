"""From the lines of a flow log (docs/control.md) to flows, and what they add up to.

Invariants: any bytes are read without an error. A line that is no record of a flow is counted and left out. All text that a Flow
holds came from outside; page.py makes it harmless.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pasta_py.record import Record

MAX_LINE_BYTES = 16 << 10
_MAX_NUMBER = 1 << 63
#: RFC 3339, 5.6, as the core writes it.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)

#: Why a flow ended: a sentence for the reader of the page. The names are FLOW_REASONS of csrc/core/event.h.
ENDED = {
    "": "no end is in the log",
    "none": "",
    "finished": "both ends closed it",
    "guest_reset": "the command reset it",
    "idle": "nothing passed for a while",
    "port_removed": "the forwarded port was removed",
    "end": "the translator ended",
}
FAILED = {
    "peer_reset": "the other end reset it",
    "timed_out": "there was no answer in time",
    "refused": "nothing listens there",
    "unreachable": "there is no way to it",
    "address_gone": "the host's own address was gone",
    "error": "the host's socket failed",
}
DENIED = {
    "not_permitted": "this machine does not allow it",
    "no_room": "a limit of connections was reached",
    "rate_limit": "too many new connections in a second",
    "address": "this address is out of bounds for the command",
    "rule": "a rule forbids it",
    "name_ended": "its name leads there no more",
    "other_name": "it named a name that no rule allows",
    "without_name": "a rule wants a name, and it named none",
    "not_verified": "a rule wants a name in TLS or HTTP",
    "name_late": "a rule wants a name, and none came in time",
    "proxy": "the proxy refuses it",
}


class Flow(Record):
    """One connection, or exchange of datagrams. Times are seconds since 1970."""

    protocol: str
    inbound: bool  # opened by the other end
    address: str  # of the other end, as the command sees it
    port: int  # 0: has none
    name: str  # that led to the address, or ""
    started: float
    ended: float  # the last moment that is known
    sent: int  # bytes
    received: int
    outcome: str  # "ok", "open", "failed" or "denied"
    why: str  # a sentence about the end

    @property
    def destination(self) -> tuple[str, str, int, str]:
        """Flows that share it are a row of the table of destinations."""
        return self.name, self.address, self.port, self.protocol


class Log(Record):
    """All that a flow log says."""

    flows: tuple[Flow, ...]  # by their beginning
    lost: int  # records that the log itself says are missing
    unreadable: int  # lines that are no records


def read(lines: Iterable[bytes]) -> Log:
    """The flows of a log. `lines`: as a file that is open for reading bytes has them."""
    flows: list[Flow] = []
    opened: dict[str, dict[str, Any]] = {}
    ended: dict[str, float] = {}  # the files of a log may come in any order
    last, lost, unreadable = 0.0, 0, 0
    for line in lines:
        record = _record(line)
        if record is None:
            unreadable += bool(line.strip())
            continue
        event, when = record["event"], _time(record.get("time"))
        if event == "lost":
            lost += _number(record.get("count"))
        if when is None:
            continue
        last = max(last, when)
        flow = str(record.get("flow", ""))
        if event == "opened":
            opened[flow] = record
        elif event == "refused":
            flows.append(_refused(record, when))
        elif event == "closed":
            ended[flow] = max(when, ended.get(flow, when))
            flows.append(_closed(record, when))
    flows += [_still_open(record, last) for flow, record in opened.items() if _began(record) > ended.get(flow, -1.0)]
    return Log(flows=tuple(sorted(flows, key=lambda flow: flow.started)), lost=lost, unreadable=unreadable)


def _record(line: bytes) -> dict[str, Any] | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("event"), str) else None


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER else 0


def _seconds(value: object) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER
    return float(value) if good else 0.0  # type: ignore[arg-type]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> float | None:
    text = _text(value)
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _flow(record: dict[str, Any], started: float, ended: float, outcome: str, why: str) -> Flow:
    return Flow(
        protocol=_text(record.get("protocol")),
        inbound=record.get("from") == "host",
        address=_text(record.get("dest")),
        port=_number(record.get("dest_port")),
        name=_text(record.get("name")),
        started=started,
        ended=ended,
        sent=_number(record.get("sent_bytes")),
        received=_number(record.get("received_bytes")),
        outcome=outcome,
        why=why,
    )


def _reason(record: dict[str, Any]) -> tuple[str, str]:
    """The outcome and a sentence. What the kernel said comes behind it."""
    reason, error = _text(record.get("reason")), _text(record.get("error"))
    behind = f" ({error})" if error else ""
    if reason == "rule" and _text(record.get("rule")):
        behind = f" ({record['rule']})"
    for outcome, sentences in (("denied", DENIED), ("failed", FAILED), ("ok", ENDED)):
        if reason in sentences:
            return outcome, sentences[reason] + behind
    return "failed", reason + behind


def _refused(record: dict[str, Any], when: float) -> Flow:
    outcome, why = _reason(record)
    return _flow(record, when, when, "failed" if outcome == "ok" else outcome, why)


def _closed(record: dict[str, Any], when: float) -> Flow:
    outcome, why = _reason(record)
    return _flow(record, when - min(_seconds(record.get("duration_s")), when), when, outcome, why)


def _began(record: dict[str, Any]) -> float:
    return _time(record.get("time")) or 0.0


def _still_open(record: dict[str, Any], last: float) -> Flow:
    started = _began(record) or last
    return _flow(record, started, max(last, started), "open", "it was open when the log ended")
