"""Fixtures of the end-to-end tests; see lab.py for what they are made of."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lab import Lab, missing_tools

TOOLS = (
    "cc",
    "curl",
    "dhclient",
    "dig",
    "dnsmasq",
    "ip",
    "haproxy",
    "microsocks",
    "nginx",
    "ping",
    "rdisc6",
    "sha256sum",
    "slirp4netns",
    "socat",
    "ss",
    "ssh",
    "sshd",
    "strace",
    "tinyproxy",
    "tshark",
)


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Without these programs the tests would show nothing, so they fail rather than being skipped."""
    missing = missing_tools(TOOLS)
    if missing:
        pytest.fail(f"missing programs: {' '.join(missing)}; run `make test` as root, or install them", pytrace=False)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A dual-stack host, one for each test module."""
    with Lab() as made:
        yield made
