"""One Debian machine for all tests of the runtimes. Needs root: a file system, mounts and namespaces are made for it."""

import os
from collections.abc import Iterator

import pytest
from machine import Machine, build, root_directory

#: Only sid has a passt with pesto.
collect_ignore = [] if os.environ.get("SUITE") == "sid" else ["test_pesto.py"]


@pytest.fixture(scope="session")
def machine() -> "Iterator[Machine]":
    if os.geteuid():
        pytest.skip("the machine that podman runs on is built by root")
    directory = root_directory()
    build(directory)
    with Machine(directory) as machine:
        machine.podman("import", "-q", "/image.tar", "base", timeout=120)
        yield machine
        machine.run("podman", "system", "reset", "-f", check=False)


@pytest.fixture(autouse=True)
def nothing_left(machine: Machine) -> "Iterator[None]":
    """Each test begins without containers."""
    yield
    machine.run("podman", "rm", "-fa", "-t", "0", check=False)
    machine.run("podman", "pod", "rm", "-fa", "-t", "0", check=False)
