"""Fixtures of the tests with real virtual machines."""

import os
from collections.abc import Iterator

import pytest
from lab import Lab

#: What takes minutes runs with `make test-vm` only.
LONG = bool(os.environ.get("PASTA_LONG"))
collect_ignore = [] if LONG else ["test_qemu_long.py", "test_qemu_vhost.py", "test_libvirt.py", "test_uml.py"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made
