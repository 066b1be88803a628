"""What one kind of connection may take of the descriptors, so that the others go on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lab import HERE, REMOTES, Lab, Space, wait_until

PORT, ECHO, SILENT = 7700, 7701, 7702
LIMIT = 256


@contextmanager
def silent(lab: Lab) -> Iterator[None]:
    """Connects to one port of the remote have no answer."""
    rules = f"table inet silent {{ chain input {{ type filter hook input priority 0; tcp dport {SILENT} drop; }}; }}"
    lab.remote.run("nft", "-f", "-", input=rules, caps=True)
    yield
    lab.remote.run("nft", "delete", "table", "inet", "silent", caps=True)


def works(space: Space, family: int) -> None:
    """Ten connections at once, and datagrams, which programs ask for names with."""
    assert space.script("exchange.py", "connect", REMOTES[family], PORT, 10, 1000)["errors"] == []
    assert space.script("probe.py", "echo", REMOTES[family], ECHO, 100, 5)["returned"] == 5


def test_connects_that_the_guest_has_given_up_keep_nobody_from_connecting(lab: Lab) -> None:
    servers = [lab.remote.start("exchange.py", "serve", REMOTES[4], PORT), lab.remote.start("answer.py", "echo", REMOTES[4], ECHO)]
    with silent(lab), lab.guest(limit=f"-n {LIMIT}") as guest:
        works(guest, 4)
        translator = lab.translator()
        before = translator.descriptors()  # some stay a little: UDP, ends that wait for others
        guest.run(sys.executable, HERE / "giveups.py", REMOTES[4], SILENT, 2 * LIMIT)
        works(guest, 4)
        wait_until(lambda: translator.descriptors() < before + 8, 6, "what was given up is gone")
    for server in servers:
        server.result()
