"""The models draw their examples as all other tests do (tests/repeatable.py)."""

import pytest
import repeatable


def pytest_configure(config: pytest.Config) -> None:
    repeatable.configure(config)
