"""What most tests of the core begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest import Guest


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["v4", "v6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
