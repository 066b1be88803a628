"""How much of the decision log is told, by an injected clock; and that a line says what it was made of."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_py.worker import decision_lines, dns_wire
from pasta_py.worker.decision_lines import LINES_PER_S, Lines

NAMES = ("a.test", "b.test", "a.test.corp.example", "a.test.corp.example.corp.example")
DOMAIN = ".corp.example"


class Log:
    """Lines with a clock, read back."""

    def __init__(self) -> None:
        self.now, self.armed = 1000.0, 0
        self.lines = Lines(self.arm, lambda: self.now)
        self.found: list[dict[str, object]] = []
        self.lines.add(self.take)

    def arm(self) -> None:
        self.armed += 1
        assert self.lines.due <= self.now + decision_lines.REPEAT_S

    def take(self, line: bytes, denied: bool) -> None:
        assert line.endswith(b"\n") and line.count(b"\n") == 1 and line[:-1].isascii()
        self.found.append({**json.loads(line), "at": self.now, "denied": denied})

    def query(self, name: str) -> None:
        members = {"event": "query", "verdict": "denied", "reason": "default", "name": name}
        if name.endswith(DOMAIN):
            count = name.count(DOMAIN)
            self.lines.hold(members, [name.removesuffix(DOMAIN * n) for n in range(1, count + 1)])
        else:
            self.lines.tell(members, 1 + self.lines.folded(name))

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.lines.on_tick()

    def total(self) -> int:
        return sum(int(str(line["count"])) for line in self.found)


def connect(port: int, verdict: str = "denied") -> dict[str, object]:
    return {"event": "connect", "verdict": verdict, "reason": "default", "address": "192.0.2.1", "port": port, "protocol": "tcp"}


def test_the_same_decision_is_one_line_a_second_with_its_count() -> None:
    log = Log()
    for _ in range(50):
        log.lines.tell(connect(80))
        log.now += 0.1
        log.lines.on_tick()
    assert 5 <= len(log.found) <= 6
    log.pass_(1)
    assert log.total() == 50
    for _ in range(3):
        log.pass_(1)
    assert log.lines.due == float("inf")  # nothing waits: no tick is wanted


def test_in_all_there_are_so_many_lines_a_second_and_a_summary_of_the_rest() -> None:
    log = Log()
    for port in range(250):
        log.lines.tell(connect(port))
    assert len(log.found) == LINES_PER_S
    log.pass_(1.01)
    summary = log.found[-1]
    assert (summary["event"], summary["count"], summary["sequence"]) == ("summary", 150, LINES_PER_S + 1)
    assert log.total() == 250


def test_an_attempt_with_a_search_domain_counts_as_the_name_in_either_order() -> None:
    log = Log()
    for names in (NAMES[:1] + NAMES[2:], NAMES[2:] + NAMES[:1], NAMES[:2]):
        for name in names:
            log.query(name)
        log.pass_(3)
        log.pass_(3)
    assert Counter(str(line["name"]) for line in log.found for _ in range(int(str(line["count"])))) == {"a.test": 7, "b.test": 1}


def test_a_name_that_only_ends_in_a_search_domain_is_told_after_a_moment() -> None:
    log = Log()
    log.query("db.corp.example")
    assert not log.found and log.armed == 1
    log.pass_(1.01)
    assert [line["name"] for line in log.found] == ["db.corp.example"]


def test_what_is_allowed_is_no_denial() -> None:
    log = Log()
    log.lines.tell(connect(1, "allowed"))
    log.lines.tell(connect(2))
    assert [line["denied"] for line in log.found] == [False, True]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("flow"), st.integers(0, 400)), st.tuples(st.just("name"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from((0.01, 0.5, 1.0, 3.0))), st.tuples(st.just("burst"), st.integers(0, 300)),
    ),
    max_size=60,
)  # fmt: skip


@given(STEPS)
def test_every_decision_is_in_exactly_one_count_and_no_second_has_more_lines(steps: "list[tuple[str, object]]") -> None:
    log, made = Log(), 0
    for kind, value in steps:
        if kind == "flow":
            log.lines.tell(connect(int(str(value))))
        elif kind == "name":
            log.query(str(value))
        elif kind == "burst":
            for port in range(int(str(value))):
                log.lines.tell(connect(1000 + port))
        else:
            log.pass_(float(str(value)))
        made += int(str(value)) if kind == "burst" else kind != "wait"
    log.now += 10
    log.lines.on_tick()
    log.now += 10
    log.lines.on_tick(end=True)
    assert log.total() == made
    assert [line["sequence"] for line in log.found] == list(range(1, len(log.found) + 1))
    at = [float(str(line["at"])) for line in log.found if line["event"] != "summary"]
    for begin in set(at):
        assert sum(begin <= each < begin + 1 for each in at) <= 2 * LINES_PER_S  # of two seconds that touch it


TEXT = st.text(max_size=30)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(("guest", "rule", "where", "name", "via", "address", "hint", "note")), TEXT, min_size=1
    ), st.integers(0, 65535), st.integers(1, 10**9),
)  # fmt: skip
def test_whatever_is_in_a_decision_comes_back_from_its_line(members: dict[str, str], port: int, count: int) -> None:
    log = Log()
    log.lines.tell({"event": "connect", "verdict": "allowed", "port": port, **members}, count)
    (line,) = log.found
    told = {name: value for name, value in line.items() if name not in ("v", "sequence", "at", "denied")}
    assert told == {"event": "connect", "verdict": "allowed", "port": port, "count": count, **members}


def test_types_have_their_names_and_others_a_number() -> None:
    assert [dns_wire.kind_name(kind) for kind in (1, 28, 65, 257, 65280)] == ["A", "AAAA", "HTTPS", "CAA", "TYPE65280"]
