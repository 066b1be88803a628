"""Why a flow was decided as it was, in the decision log's words."""

from types import SimpleNamespace

import pytest

from pasta_py._plane import ffi, lib
from pasta_py.worker import decisions, plane
from pasta_py.worker.dns_decide import Found

ADDRESS = bytes(10) + b"\xff\xff\xcb\0\x71\x07"  # 203.0.113.7
RULE = ("rules.txt:3", "allow api.test:443", "the interface")


def reason(name: str) -> int:
    """The number of an outcome in csrc/core/event.h."""
    return next(n for n in range(64) if ffi.string(lib.flow_reason_name(n)) == name.encode())


def told(outcome: str, rule: int = 0) -> dict[str, object]:
    """The line about a flow that was refused, to an address that api.test had led to."""
    lines: list[dict[str, object]] = []
    core = SimpleNamespace(lost_events=lambda: 0, pinned=lambda _address: [b"api.test"])
    rules = SimpleNamespace(number=1, rule=lambda index: None if index == plane.NO_RULE else RULE)
    made = decisions.Decisions(core, rules, (), lambda _address, _at: Found("api.test", "", 0), SimpleNamespace(tell=lines.append))  # type: ignore[arg-type]
    event = ffi.new("struct flow_event *", {"kind": lib.FLOW_REFUSED, "protocol": 6, "dest_port": 443, "rule": rule})
    event.reason = reason(outcome)
    event.dest = event.guest = tuple(ADDRESS)
    made.on_records(ffi.buffer(event)[:])
    (line,) = lines
    return line


@pytest.mark.parametrize(
    ("outcome", "verdict", "why"),
    [
        ("rule", "denied", "rule"),
        ("name_ended", "denied", "name_ended"),
        ("unreachable", "allowed", "no_route"),
        ("refused", "allowed", "rule"),
    ],
)
def test_the_reason_of_a_flow_that_did_not_come_about(outcome: str, verdict: str, why: str) -> None:
    line = told(outcome)
    assert (line["event"], line["verdict"], line["reason"]) == ("connect", verdict, why)
    assert (line["name"], line["address"], line["port"], line["protocol"]) == ("api.test", "203.0.113.7", 443, "tcp")
    assert (line["where"], line["rule"], line["note"]) == RULE


def test_a_name_that_has_ended_by_no_rule_says_what_would_allow_it() -> None:
    line = told("name_ended", rule=plane.NO_RULE)
    assert line["reason"] == "name_ended" and line["hint"] == "--allow api.test:443/tcp"
