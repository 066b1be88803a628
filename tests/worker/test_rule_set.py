"""What the rules in force say of a name of which only a query is known: the port is the one that they have, or any."""

from types import SimpleNamespace

import pytest
from sample_plan import sample_plan

from pasta_py.worker.rule_set import Added, Base, RuleSet, port_of_names


@pytest.mark.parametrize(
    ("rules", "port"),
    [
        (["allow api.test:8443"], "8443"),
        (["allow api.test:8443/tcp", "allow *.cdn.test:8443"], "8443"),
        (["allow api.test=192.0.2.0/24:8443"], "8443"),
        (["allow api.test=192.0.2.0/24"], "443"),
        (["allow api.test=192.0.2.7"], "443"),
        (["allow host1"], "443"),
        (["allow [2001:db8::a]"], "443"),
        (["allow api.test:80", "allow api.test:8443"], "443"),
        (["allow @lan:22", "deny other.test:22"], "443"),
    ],
)
def test_the_port_of_the_names_of_rules(rules: list[str], port: str) -> None:
    texts = tuple(f"--allow\t{rule}\t" for rule in rules)
    assert port_of_names(texts) == port


class Counted(str):
    """The text of a rule that counts how often it is read."""

    reads = 0

    def split(self, *words: object) -> "list[str]":  # type: ignore[override]
        Counted.reads += 1
        return str(self).split(*words)  # type: ignore[arg-type]


def test_a_hint_reads_the_rules_once_and_again_when_they_change() -> None:
    """Of ten thousand rules one reading takes 10 ms, and each denied query has a hint."""
    texts = tuple(Counted(f"f:{n}\tallow n{n}.test:8443\t") for n in range(5))
    plan = sample_plan().replace(egress=bytes((1, 0, 1)) + bytes(9), egress_rules=texts, egress_default="none")
    rules = RuleSet(SimpleNamespace(set_egress=lambda _policy: True), plan)  # type: ignore[arg-type]
    assert {rules.hint("new.test") for _ in range(10)} == {"--allow new.test:8443"} and Counted.reads == 5
    closed = RuleSet(SimpleNamespace(), plan.replace(egress=bytes(12)))  # type: ignore[arg-type]
    assert closed.hint("new.test") == "--egress-dns rules --allow new.test:8443"
    rules.add(Added("added\tallow other.test:22\t", b"", float("inf")))
    assert rules.hint("new.test") == "--allow new.test:443"
    rules.replace(Base(("f:1\tallow other.test:22\t",), b"", "none"))
    assert rules.hint("new.test") == "--allow new.test:22"
