"""Hypothesis as all tests have it: the same examples in each run, however slow the machine is; new ones with `make fuzz`."""

from typing import Any


def configure(config: Any) -> None:
    """For a conftest.py. With --hypothesis-seed the examples are that seed's."""
    from hypothesis import HealthCheck, settings

    seeded = config.getoption("--hypothesis-seed", None) is not None
    settings.register_profile(
        "repeatable", deadline=None, derandomize=not seeded, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("repeatable")
