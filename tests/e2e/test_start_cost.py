"""What a start costs beside a bare interpreter, which no start can be cheaper than. `make bench-start` has more, with the peers."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from lab import program

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.quiet]

ROOT = Path(__file__).resolve().parents[2]
# CPU time of a start, in starts of `python -I -S -c pass`: what `make bench-start` says with Python 3.11 and 3.14.
RECORDED = {"attached": 4.4, "slirp4netns": 3.3}


def installed(directory: Path) -> Path:
    """Where the programs are as pip lays them out: an editable installation starts 20 ms later."""
    if "PASTA_UNDER_TEST" in os.environ:
        return Path(program()).parent
    subprocess.run(["sh", ROOT / "tests" / "as_installed.sh", sys.prefix, directory], check=True, timeout=60)
    return directory / "bin"


def test_a_start_costs_no_more_interpreters_than_recorded(tmp_path: Path) -> None:
    """A quarter more fails. Pairs of one run are compared, so what else the machine does meets both."""
    ours, result = installed(tmp_path / "installed"), tmp_path / "starts.json"
    only = ["--only", ",".join(RECORDED), "--rounds", "11", "--json", str(result)]
    measure = [sys.executable, "-m", "bench.starts", "--ours", ours, "--python", ours / "python3", *only]
    subprocess.run(measure, cwd=ROOT, check=True, timeout=120)
    found = json.loads(result.read_text())["starts"]
    for what, recorded in RECORDED.items():
        pairs = zip(found[what]["pasta-py"], found[what]["bare python"], strict=True)
        assert statistics.median(start[1] / bare[1] for start, bare in pairs) <= 1.25 * recorded, what
