"""What a start through the Python API costs, beside the command line in the same run."""

import json
import statistics
from pathlib import Path

import pytest
from lab import PROGRAMS, Lab, program

ROUNDS = 15
SLACK = 1.15  # two runs of one program differ by up to a tenth on a busy machine


@pytest.mark.quiet
@pytest.mark.unsanitized
def test_a_start_through_the_api_costs_no_more_than_one_of_the_command_line(lab: Lab) -> None:
    """In processor time, which others on the machine change little, round by round.

    `pasta` is shown as well: it gives the command no resolv.conf of its own, and starts without `site`.
    """
    paths = {name: program(name) for name in ("pasta-py", "pasta")}
    home = Path(paths["pasta"]).parent
    (packages,) = home.parent.glob("lib/python3*/site-packages")
    script = ("env", f"PYTHONPATH={packages}", home / "python3", PROGRAMS / "api_starts.py", ROUNDS, *paths.values())
    took = json.loads(lab.host.run(*script, timeout=300).stdout)["took"]
    ratio = {name: statistics.median(a / b for a, b in zip(took["api"], took[path], strict=True)) for name, path in paths.items()}
    print({name: round(statistics.median(each), 1) for name, each in took.items()}, ratio)
    assert ratio["pasta-py"] <= SLACK
