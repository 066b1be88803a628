"""What passt costs a machine beside passt itself, in the same run. tests/measure/passt_cost.py has more, for a quiet machine."""

import pytest
import sid
from lab import Lab, program, wait_until
from machines import Background

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]


@pytest.mark.parametrize("words", [(), ("--vhost-user",)])
def test_it_is_smaller_than_passt(lab: Lab, words: tuple[str, ...]) -> None:
    """Once it is idle: the process that configured it has ended."""
    theirs = Background(lab, sid.program("passt", "passt"), *words, name="theirs")
    most = theirs.rss_kib()
    theirs.end()
    ours = Background(lab, program("passt"), *words, name="ours")
    wait_until(lambda: ours.rss_kib() < most, 5, f"{most} KiB are more than {ours.pids()} have")
    ours.end()
