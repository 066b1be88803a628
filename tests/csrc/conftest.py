"""What most tests of the core begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clocked import CountedClock
from guest import Guest


@pytest.fixture
def counted_clock(monkeypatch: pytest.MonkeyPatch) -> CountedClock:
    """For guests that take each segment as a new one: nothing is sent again because the machine is slow."""
    return CountedClock(monkeypatch)


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["v4", "v6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
