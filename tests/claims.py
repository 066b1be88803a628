"""Which tests say that they fail if an option does nothing: `python claims.py` in tests/ prints {option: [test]} as JSON.

A test says so with `@pytest.mark.option("--name")`, one case of it with `pytest.param(..., marks=pytest.mark.option(...))`.
Taken from pytest's own collection, so that a test that is not there, or is not collected, claims nothing.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


#: Where tests/conftest.py keeps them when pytest has collected all tests.
CLAIMS = pytest.StashKey[dict[str, list[str]]]()


def of(items: Iterable[pytest.Item]) -> dict[str, list[str]]:
    """{option: [test]} of these tests."""
    found: dict[str, list[str]] = {}
    for item in items:
        for marker in item.iter_markers("option"):
            for name in marker.args:
                found.setdefault(name, []).append(item.nodeid)
    return found


def collected(config: pytest.Config | None = None) -> dict[str, list[str]]:
    """What pytest has collected just now; where that is not all, from a process of its own."""
    if config and CLAIMS in config.stash:
        return config.stash[CLAIMS]
    done = subprocess.run([sys.executable, __file__], cwd=HERE.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


class _Collector:
    def __init__(self) -> None:
        self.claims: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.claims = of(session.items)


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
