"""Forwarded ports: every kind of rule, of both protocols and families, from every kind of client (ports.py)."""

from collections.abc import Iterator

import pytest
from lab import HOSTS, NO_PORTS, Guest, Lab
from ports import CLIENTS, IN_GUEST, PROTOS, RULES, SEEN, cells, faults, options

pytestmark = pytest.mark.sanitize_quick


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


def test_any_address_of_each_family_leads_elsewhere() -> None:
    """One port, two rules: what comes by IPv6 goes to one place, what comes by IPv4 to another."""
    targets = {4: 8085, 6: 8086}
    rules = ("-t", f"::/7080:{targets[6]}", "-t", f"0.0.0.0/7080:{targets[4]}")
    with Lab() as lab, lab.guest(*rules, *NO_PORTS[2:]) as guest:
        for family, port in targets.items():
            guest.serve("socat", f"TCP6-LISTEN:{port},fork", f"SYSTEM:echo {family}", port=port)
        for family, address in HOSTS.items():
            host = f"[{address}]" if family == 6 else address
            assert lab.remote.run("socat", "-u", f"TCP{family}:{host}:7080", "-").stdout == f"{family}\n"
