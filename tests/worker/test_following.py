"""What the watcher starts for a change of the host finds its modules, wherever these are."""

import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest

import pasta_py
from pasta_py.worker import following

PACKAGE = Path(pasta_py.__path__[0]).parent


@pytest.mark.parametrize("place", ["", "/.venv/lib/python3/site-packages", "-other"])
def test_the_place_of_cffi_is_told_unless_it_is_that_of_the_package(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an ordinary environment, in a checkout that has the environment inside, and with another one."""
    monkeypatch.setattr(_cffi_backend, "__file__", f"{PACKAGE}{place}/_cffi_backend.so")
    words = following._command()
    told = [str(PACKAGE), f"{PACKAGE}{place}"] if place else [str(PACKAGE)]
    assert words[words.index(b"-c") + 2 :] == [path.encode() for path in told]


def test_it_starts_where_these_tests_run() -> None:
    words = [word.decode() for word in following._command()]
    at = words.index("-c") + 1
    words[at] = words[at].replace("follow_change.main(sys.argv[-1])", "print(follow_change.__name__)")
    done = subprocess.run([*words, "-"], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "pasta_py.worker.follow_change\n", done.stderr
    assert sys.executable == words[0]
