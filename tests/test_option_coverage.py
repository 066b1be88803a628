"""Every option of the command line has a test that fails if the option does nothing.

That there is one is shown here, from the marks (claims.py). That it fails is shown by `make options-off`, which runs the
marked tests once for each option, on a copy of the program that reads that option and forgets it.
"""

import pytest
from claims import collected

from pasta_py.control.commandline import option_table

NAMES = [f"--{option.long}" for option in option_table.TABLE]
PARSER = "tests/control/commandline/test_options.py"  # what is written there reads options, and shows no effect


@pytest.fixture(scope="module")
def claims(pytestconfig: pytest.Config) -> dict[str, list[str]]:
    return collected(pytestconfig)


def test_every_option_is_claimed_by_a_test_of_its_effect(claims: dict[str, list[str]]) -> None:
    effects = {name for name, tests in claims.items() if any(not test.startswith(f"{PARSER}::") for test in tests)}
    assert not set(NAMES) - effects


def test_every_claim_is_about_an_option(claims: dict[str, list[str]]) -> None:
    assert not set(claims) - set(NAMES)
