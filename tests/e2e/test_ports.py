"""Forwarded ports: every kind of rule, of both protocols and families, from every kind of client (ports.py)."""

from collections.abc import Iterator

import pytest
from lab import Guest, Lab
from ports import CLIENTS, IN_GUEST, PROTOS, RULES, SEEN, cells, faults, options


@pytest.fixture(scope="module", autouse=True)
def refusals_at_once(lab: Lab) -> None:
    """Refusals of UDP are ICMP errors, which the kernel rations."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    """All rules in one start, and servers in the guest on every port that they name."""
    with lab.guest(*options(RULES)) as made:
        server = made.start("portserve.py", "any", *IN_GUEST)
        yield made
        server.result()


@pytest.mark.parametrize("proto", PROTOS)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_rule(lab: Lab, guest: Guest, client: str, proto: str) -> None:
    """Bytes as they were sent, the source as specified, neighbours refused."""
    assert not faults(lab, cells(client, proto), SEEN)
