"""Records: what a frozen, keyword-only dataclass would do, on every version of Python."""

from collections.abc import Callable
from typing import Any

import pytest

from pasta_py.record import Record


class Port(Record):
    number: int
    host: str = "::"
    _note: str = "not a field"


class Range(Port):
    last: int = 0


class Renamed(Range):
    """Adds nothing."""


def test_fields_have_defaults_and_come_in_the_order_of_their_lines() -> None:
    port = Port(number=80)
    assert (port.number, port.host) == (80, "::")
    assert repr(Port(host="::1", number=80)) == "Port(number=80, host='::1')"


def test_a_subclass_has_the_fields_of_its_parents_once_and_its_own() -> None:
    assert repr(Range(number=1, last=2)) == "Range(number=1, host='::', last=2)"
    assert repr(Renamed(number=1)) == "Renamed(number=1, host='::', last=0)"
    assert Port._fields == ("number", "host")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Port(), "Port: field 'number' is missing"),
        (lambda: Port(number=1, numbre=2), "Port: unknown field 'numbre'"),
        (lambda: Port(number=1, _note="x"), "Port: unknown field '_note'"),
        (lambda: Port(number=1).replace(last=2), "Port: unknown field 'last'"),
    ],
)
def test_a_wrong_field_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_a_record_never_changes() -> None:
    port = Port(number=80)
    with pytest.raises(AttributeError, match="Port is frozen: cannot set 'number'"):
        port.number = 81  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Port is frozen: cannot delete 'number'"):
        del port.number
    assert port.replace(number=81) == Port(number=81)
    assert port == Port(number=80)


def test_records_are_equal_when_class_and_fields_are() -> None:
    assert Port(number=80) == Port(number=80, host="::")
    assert hash(Port(number=80)) == hash(Port(number=80, host="::"))
    assert Port(number=80) != Port(number=81)
    assert Port(number=80) != Range(number=80)
    assert len({Port(number=80), Port(number=80), Range(number=80)}) == 2


class Lazy(type):
    """What Python 3.14 does for every class: the annotations are not in the class, but are made when they are looked up."""

    @property
    def __annotations__(cls) -> dict[str, Any]:  # type: ignore[override]
        return cls.__dict__["__annotate__"]() if "__annotate__" in cls.__dict__ else {}


def test_annotations_that_are_evaluated_lazily_make_fields() -> None:
    base = Lazy("base", (Record,), {"__annotate__": lambda: {"number": int, "host": str, "_cache": int}, "host": "::"})
    assert "__annotations__" not in base.__dict__
    assert repr(base(number=80)) == "base(number=80, host='::')"
    derived = Lazy("derived", (base,), {})
    assert repr(derived(number=80)) == "derived(number=80, host='::')"
