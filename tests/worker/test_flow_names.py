"""The name of a destination in the lines of flows."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pasta_py.worker import dns_wire, event_readers

ADDRESSES = [bytes(15) + bytes((number,)) for number in range(3)]


def test_a_destination_has_its_name_and_one_without_has_none() -> None:
    lines = b"".join(b'{"v":1,"dest_port":%d}\n' % number for number in range(3))
    found = event_readers.with_names(lines, ADDRESSES, {ADDRESSES[1]: "api.test"}.get)
    assert [json.loads(line).get("name") for line in found.splitlines()] == [None, "api.test", None]
    assert found.endswith(b"}\n")


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=3))
def test_any_name_is_valid_json_and_comes_back(labels: list[bytes]) -> None:
    shown = dns_wire.text(b"".join(bytes((len(label),)) + label for label in labels) + b"\0")
    (line,) = event_readers.with_names(b'{"v":1}\n', ADDRESSES[:1], lambda _address: shown).splitlines()
    assert json.loads(line) == {"v": 1, "name": shown}
