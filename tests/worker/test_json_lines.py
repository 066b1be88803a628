"""The JSON of the control socket, compared with the json module."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.errors import ControlError
from pasta_py.worker import json_lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_the_json_module_writes_is_read(value: dict[str, object]) -> None:
    for ascii_only in (True, False):
        line = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        try:
            assert json_lines.parse(line) == value
        except ControlError as error:
            assert "too deeply" in str(error) or "not UTF-8" in str(error)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_the_json_module_reads_and_a_terminal_can_show(value: dict[str, object]) -> None:
    text = json_lines.text(value)  # type: ignore[arg-type]
    assert json.loads(text) == value
    assert text.isascii() and text.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(line: bytes) -> None:
    try:
        found = json_lines.parse(line)
    except ControlError as error:
        assert str(error).isprintable()
        return
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,}', b'{"a" 1}', b"[1]", b"{} {}", b'{"a":nul}', b'{"a":01x}', b'{"a":"\\x"}',
     b'{"a":"\\u12"}', b'{"a":"\n"}', b"\xff", b'{"a":' + b"[" * 9 + b"]" * 9 + b"}", b'{"a":' + b"9" * 40 + b"}", b'{"a":-}'],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_a_reason(line: bytes) -> None:
    with pytest.raises(ControlError, match="^not "):
        json_lines.parse(line)
