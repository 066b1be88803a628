"""What one kind of connection may take of the descriptors, so that the others go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import HOST4, NO_PORTS, PROGRAMS, REMOTE4, Lab, Space, wait_until

PORT, ECHO, SILENT, FORWARDED = 7700, 7701, 7702, 7703
LIMIT = 256


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A dual-stack host with a server of TCP and one of UDP on the remote."""
    with Lab() as made:
        made.remote.start("exchange.py", "serve", REMOTE4, PORT)
        made.remote.start("answer.py", "echo", REMOTE4, ECHO)
        yield made


@contextmanager
def silent(lab: Lab) -> Iterator[None]:
    """Connects to one port of the remote have no answer."""
    rules = f"table inet silent {{ chain input {{ type filter hook input priority 0; tcp dport {SILENT} drop; }}; }}"
    lab.remote.run("nft", "-f", "-", input=rules, caps=True)
    yield
    lab.remote.run("nft", "delete", "table", "inet", "silent", caps=True)


def works(space: Space) -> None:
    """Ten connections at once, and datagrams, which programs ask for names with."""
    assert space.script("exchange.py", "connect", REMOTE4, PORT, 10, 1000)["errors"] == []
    assert space.script("probe.py", "echo", REMOTE4, ECHO, 100, 5)["returned"] == 5


def test_connects_that_the_guest_has_given_up_keep_nobody_from_connecting(lab: Lab) -> None:
    with silent(lab), lab.guest(limit=f"-n {LIMIT}") as guest:
        works(guest)
        translator = lab.translator()
        before = translator.descriptors()  # some stay a little: UDP, ends that wait for others
        guest.run(sys.executable, PROGRAMS / "giveups.py", REMOTE4, SILENT, 2 * LIMIT)
        works(guest)
        wait_until(lambda: translator.descriptors() < before + 8, 6, "what was given up is gone")


@pytest.mark.parametrize("clients", ["remote", "local"])
def test_clients_of_a_forwarded_port_keep_the_guest_from_nothing_and_are_served_when_others_leave(lab: Lab, clients: str) -> None:
    """Idle ones, more than there are descriptors: over the tap, and from the host's loopback past it."""
    with lab.guest("-t", FORWARDED, *NO_PORTS[2:], limit=f"-n {LIMIT}") as guest:
        guest.start("crowd.py", "0.0.0.0", FORWARDED)
        space, address = (lab.remote, HOST4) if clients == "remote" else (lab.host, "127.0.0.1")
        idlers = space.start("idlers.py", address, FORWARDED, 2 * LIMIT, 10)
        translator = lab.translator()
        wait_until(lambda: translator.descriptors() > LIMIT // 4 * 3 - 10, 5, "the share of clients is taken")
        works(guest)
        assert idlers.result()["served"] == 2 * LIMIT
