"""Which tests say that they fail if an option does nothing: `python claims.py` in tests/ prints {option: [test]} as JSON.

A test says so with `@pytest.mark.option("--name")`, one case of it with `pytest.param(..., marks=pytest.mark.option(...))`.
Taken from pytest's own collection, so that a test that is not there, or is not collected, claims nothing.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def collected() -> dict[str, list[str]]:
    """From a process of its own, since a test that asks is being run by pytest already."""
    done = subprocess.run([sys.executable, __file__], cwd=HERE.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


class _Collector:
    def __init__(self) -> None:
        self.claims: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("option"):
                for name in marker.args:
                    self.claims.setdefault(name, []).append(item.nodeid)


def main() -> int:
    collector = _Collector()
    sys.path.insert(0, str(HERE.parent))  # as make has it
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", str(HERE)], plugins=[collector])
    if status:
        print(said.getvalue()[-2000:], file=sys.stderr)
    print(json.dumps(collector.claims, indent=1))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
