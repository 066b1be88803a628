"""`pasta-py stats`, as a new user reads it."""

import re
from pathlib import Path

from pasta_py.control.subcommands import stats

COUNTERS = Path(__file__).resolve().parents[3] / "csrc" / "core" / "counters.h"


def test_every_counter_of_the_core_says_what_it_counts_within_80_columns() -> None:
    assert re.findall(r"^\tX\((\w+)\)", COUNTERS.read_text(), re.MULTILINE) == list(stats.MEANINGS)
    columns = max(map(len, stats.MEANINGS)) + len("  999999999999  ")
    assert [text for text in stats.MEANINGS.values() if columns + len(text) > 80] == []
