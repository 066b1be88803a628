"""Live changes of the rules, the text that people see and what the core decides, against a list of rules."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from guest import mapped, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from test_egress_verdicts import policy, rules_of

from pasta_py.worker import plane, rule_set

TCP = 6
ADDRESSES = ("203.0.113.1", "203.0.113.2", "198.51.100.9", "10.1.2.3")
RULES = tuple(
    f"{verdict} {dest}{port}" for verdict in ("allow", "deny") for dest in (*ADDRESSES[:3], "203.0.113.0/24", "10.0.0.0/8", "*")
    for port in ("", ":80/tcp", ":443")
)  # fmt: skip


class Log:
    """Takes lines of the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, _level: int, line: str, **_options: object) -> None:
        self.lines.append(line)


@contextlib.contextmanager
def ruled(*lines: str, default: str = "none") -> Iterator[tuple[plane.Plane, rule_set.RuleSet]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        core = plane.Plane(plan(), theirs.fileno())
        try:
            compiled = policy(*lines, allow_others=default == "open")
            core.set_egress(compiled)
            whole = plan().replace(egress=compiled, egress_rules=texts(*lines), egress_default=default)
            yield core, rule_set.RuleSet(core, whole)
        finally:
            core.close()


def texts(*lines: str) -> tuple[str, ...]:
    return rules_of(*lines).texts


def code(*lines: str) -> bytes:
    return rules_of(*lines).encoded


def matches(line: str, address: str, port: int) -> bool:
    dest, _, ports = line.partition(" ")[2].partition(":")
    if ports and int(ports.partition("/")[0]) != port:
        return False
    return dest == "*" or ip_address(address) in ip_network(dest)


def expected(lines: list[str], default: str, address: str, port: int) -> tuple[bool, int]:
    """By the first rule that matches; a rule for everything does not open what is in a group that only its own rule opens."""
    for index, line in enumerate(lines):
        if matches(line, address, port):
            return line.startswith("allow"), index
    return default == "open", plane.NO_RULE


def agree(core: plane.Plane, rules: rule_set.RuleSet, lines: list[str], default: str) -> None:
    assert [text.split("\t")[1] for text in rules.texts] == lines
    for address in ADDRESSES:
        for port in (80, 443, 22):
            allow, _reason, index = core.flow_verdict(TCP, mapped(address), port)
            assert (allow, index) == expected(lines, default, address, port), (address, port, lines)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("replace"), st.lists(st.sampled_from(RULES), max_size=6), st.sampled_from(("open", "none"))),
        st.tuples(st.just("add"), st.sampled_from(RULES), st.booleans()),
        st.tuples(st.just("end"), st.just(""), st.just("")),
        st.tuples(st.just("adopt"), st.just(""), st.just("")),
        st.tuples(st.just("bad"), st.just(""), st.just("")),
    ),
    max_size=8,
)  # fmt: skip


@settings(deadline=None)
@given(CHANGES)
def test_text_and_verdicts_are_those_of_a_list_of_rules(changes: list[tuple[str, object, object]]) -> None:
    with ruled("allow 203.0.113.1:80/tcp") as (core, rules):
        base, default, added, log = ["allow 203.0.113.1:80/tcp"], "none", [], Log()
        for kind, what, more in changes:
            number = rules.number
            if kind == "replace":
                assert isinstance(what, list)
                base, default, added = what, str(more), []
                changed = rules.replace(rule_set.Base(texts(*base), code(*base), default))
                assert rules.number == number + changed
            elif kind == "add":
                ends = bool(more)
                rules.add(rule_set.Added(texts(str(what))[0], code(str(what)), 0.0 if ends else float("inf")))
                added.insert(0, (str(what), ends))
            elif kind == "end":
                rules.on_tick(log)  # type: ignore[arg-type]
                added = [each for each in added if not each[1]]
            elif kind == "adopt":
                rules.adopt(policy("deny *"))  # its rules do not count, its groups do
            else:
                with pytest.raises(OSError, match="Invalid argument"):
                    rules.replace(rule_set.Base(texts("allow *"), b"\xff" * 8, default))
                assert rules.number == number
            agree(core, rules, [line for line, _ends in added] + base, default)


def test_the_same_set_is_no_change_and_the_names_follow_the_default() -> None:
    lines = ("allow 203.0.113.1", "deny *")
    with ruled(*lines) as (_core, rules):
        assert not rules.replace(rule_set.Base(texts(*lines), code(*lines), "none"))
        assert (rules.number, rules.names, rules.default) == (1, "rules", "none")
        assert rules.replace(rule_set.Base(texts(*lines), code(*lines), "open"))
        assert (rules.number, rules.names, rules.default) == (2, "all", "open")
        assert rules.rule(1) == ("", "deny *", "") and rules.rule(2) is None and rules.rule(plane.NO_RULE) is None
