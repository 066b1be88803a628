"""Fixtures of the tests with real virtual machines."""

import os
from collections.abc import Iterator

import pytest
from lab import Lab

#: What takes minutes runs with `make test-vm` only.
LONG = bool(os.environ.get("PASTA_LONG"))
_LONG_FILES = ("test_qemu_long.py", "test_qemu_clients.py", "test_qemu_vhost.py", "test_libvirt.py", "test_uml.py", "test_dpdk.py")
collect_ignore = [] if LONG else list(_LONG_FILES)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made
