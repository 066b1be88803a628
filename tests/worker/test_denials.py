"""What is told of denials at the end of a command: how often, and what would allow it."""

from types import SimpleNamespace

import pytest

from pasta_py.worker.denials import Denials, address_hint
from pasta_py.worker.dns_decide import DENIED, Judgement


@pytest.mark.parametrize(
    ("rule", "address", "hint"),
    [
        ("allow a.test:443", "10.1.2.3", "a.test=10.1.2.3:443"),
        ("allow *.test:8000-8010/tcp", "fd00::1", "a.test=[fd00::1]:8000-8010/tcp"),
        ("allow a.test", "10.1.2.3", "a.test=10.1.2.3"),
        ("allow a.test=10.0.0.0/16:443", "10.1.2.3", "a.test=10.1.2.3:443"),
        ("allow a.test=10.0.0.0/16", "10.1.2.3", "a.test=10.1.2.3"),
        ("allow a.test=[fd00::/8]:443/tcp", "10.1.2.3", "a.test=10.1.2.3:443/tcp"),
        ("allow a.test=[fd00::/8]", "fe80::1", "a.test=[fe80::1]"),
        ("", "10.1.2.3", "a.test=10.1.2.3"),
    ],
)
def test_the_rule_for_an_address_of_a_name(rule: str, address: str, hint: str) -> None:
    assert address_hint(("--allow", rule, "") if rule else None, "a.test", address) == f"--allow {hint}"


def test_queries_for_a_name_count_once_a_second() -> None:
    """A resolver asks for two types at once. What a name led to counts in the same way."""
    now, lines = [10.0], list[str]()
    rules = SimpleNamespace(hint="--allow {}".format, rule=lambda _index: None)
    counted = Denials(None, rules, (), lambda: now[0])  # type: ignore[arg-type]
    judgement = Judgement(DENIED, "new.test", "default")
    for later_s in (0.0, 0.0, 0.9, 0.2, 3.0):
        now[0] += later_s
        counted.on_query(judgement, "new.test", 1, b"")
        counted.on_withheld(judgement, ["10.0.0.1"], b"")
    counted.tell(SimpleNamespace(write=lambda _level, line, asked: lines.append(line)))  # type: ignore[arg-type]
    assert [line.partition(": --")[0] for line in lines] == [
        "egress: denied 3 times: the name new.test", "egress: denied 3 times: the address 10.0.0.1 of new.test",
    ]  # fmt: skip
