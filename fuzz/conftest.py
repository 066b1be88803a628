"""The models' examples are those of all tests (tests/repeatable.py)."""

import pytest
import repeatable


def pytest_configure(config: pytest.Config) -> None:
    repeatable.configure(config)
