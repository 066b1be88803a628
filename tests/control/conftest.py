"""What tests of running instances begin with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_helpers import UID


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory like /run/user/UID, with a short path, of the user whom the tests run instances as."""
    path = Path(tempfile.mkdtemp(prefix="run", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path)
