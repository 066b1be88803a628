"""The name of a destination, and the rule that decided, in the lines of flows."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pasta_py.worker import dns_wire, event_readers, plane

ADDRESSES = [bytes(15) + bytes((number,)) for number in range(3)]
ENDS = [(address, plane.NO_RULE) for address in ADDRESSES]


def no_rule(_index: int) -> str:
    return ""


def test_a_destination_has_its_name_and_one_without_has_none() -> None:
    lines = b"".join(b'{"v":1,"dest_port":%d}\n' % number for number in range(3))
    found = event_readers.with_texts(lines, ENDS, {ADDRESSES[1]: "api.test"}.get, no_rule)
    assert [json.loads(line).get("name") for line in found.splitlines()] == [None, "api.test", None]
    assert found.endswith(b"}\n")


def test_a_rule_is_told_as_it_was_written() -> None:
    """The first too; one that is gone is not."""
    ends = [(ADDRESSES[0], 0), (ADDRESSES[0], 1), (ADDRESSES[0], 7), (ADDRESSES[0], plane.NO_RULE)]
    rules = {0: 'deny "x".test', 1: "allow @lan"}
    found = event_readers.with_texts(b'{"v":1}\n' * 4, ends, {}.get, lambda index: rules.get(index, ""))
    assert [json.loads(line).get("rule") for line in found.splitlines()] == [rules[0], rules[1], None, None]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=3))
def test_any_name_is_valid_json_and_comes_back(labels: list[bytes]) -> None:
    shown = dns_wire.text(b"".join(bytes((len(label),)) + label for label in labels) + b"\0")
    (line,) = event_readers.with_texts(b'{"v":1}\n', ENDS[:1], lambda _address: shown, no_rule).splitlines()
    assert json.loads(line) == {"v": 1, "name": shown}
