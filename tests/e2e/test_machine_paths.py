"""passt: every way that data takes between a machine, the host, and a guest of pasta in which passt itself runs.

The ways, and the sizes, are those of the test scripts of passt: TCP with much and with little, datagrams of 5,000 bytes.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from lab import GATEWAYS, HOSTS, REMOTES, Guest, Lab, Space, program, wait_until
from machines import is_socket, machine, passt

LARGE, SMALL, DATAGRAM = 10_000_000, 2_000, 5_000
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
#: Ports that lead to the machine: from the host, by way of pasta's guest; and ports of that guest that lead to the host.
STRAIGHT, NESTED, BACK = (range(7200, 7300), range(7300, 7400), range(7400, 7500))
FREE = range(7500, 7600)
_used = itertools.count()


def forwarded(tcp: str, udp: str, ports: range) -> tuple[str, ...]:
    words = f"{ports.start}-{ports.stop - 1}"
    return (tcp, words, udp, words)


class Ends(NamedTuple):
    """Where a way begins, where it leads to, the addresses of that as the beginning sees it, and ports."""

    source: Space
    target: Space
    addresses: dict[int, str]
    ports: range


def carries(way: Ends, family: int) -> None:
    """What arrives is what was sent."""
    to = way.addresses[family] if family == 4 else f"[{way.addresses[family]}]"
    for kind, size in (("TCP", LARGE), ("TCP", SMALL), ("UDP", DATAGRAM)):
        port = way.ports[next(_used) % len(way.ports)]
        data = way.source.lab.directory / "sent"
        data.write_bytes(os.urandom(size))
        listens, option = ("LISTEN", "-tlnH") if kind == "TCP" else ("RECVFROM", "-ulnH")
        receive = f"socat -b 65536 -u {kind}{family}-{listens}:{port} - | sha256sum"
        receiver = way.target.popen("sh", "-c", receive)
        wait_until(lambda port=port, option=option: way.target.run("ss", option, f"sport = :{port}").stdout, 5, receive)  # type: ignore[misc]
        way.source.run("socat", "-b", "65536", "-u", f"OPEN:{data}", f"{kind}{family}:{to}:{port}")
        expected = way.source.run("sha256sum", data).stdout.split()[0]
        assert receiver.communicate(timeout=30)[0].split()[0] == expected, (kind, size, family)


@pytest.fixture(scope="module")
def straight(lab: Lab) -> Iterator[dict[str, Ends]]:
    """passt on the host."""
    with passt(lab, *forwarded("-t", "-u", STRAIGHT)) as made, machine(lab, made.socket) as guest:
        yield {
            "host's loopback to machine": Ends(lab.host, guest, LOOPBACK, STRAIGHT),
            "host's address to machine": Ends(lab.host, guest, HOSTS, STRAIGHT),
            "network to machine": Ends(lab.remote, guest, HOSTS, STRAIGHT),
            "machine to host": Ends(guest, lab.host, GATEWAYS, FREE),
            "machine to network": Ends(guest, lab.remote, REMOTES, FREE),
        }


@contextlib.contextmanager
def passt_within(lab: Lab, namespace: Guest) -> Iterator[Guest]:
    """A machine of a passt that runs in a guest of pasta."""
    path = lab.directory / "within.sock"
    process = namespace.popen(program("passt"), "-f", "-s", path, *forwarded("-t", "-u", NESTED))
    wait_until(lambda: process.poll() is not None or is_socket(path), 10, "its socket")
    assert process.poll() is None, process.communicate()
    try:
        with machine(lab, path) as guest:
            yield guest
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def nested(lab: Lab) -> Iterator[dict[str, Ends]]:
    """passt in a guest of pasta, which forwards the same ports, inwards and outwards."""
    with (
        lab.guest(*forwarded("-t", "-u", NESTED), *forwarded("-T", "-U", BACK)) as namespace,
        passt_within(lab, namespace) as guest,
    ):
        yield {
            "namespace to machine": Ends(namespace, guest, LOOPBACK, NESTED),
            "network to machine": Ends(lab.remote, guest, HOSTS, NESTED),
            "machine to host": Ends(guest, lab.host, GATEWAYS, BACK),
            "machine to namespace": Ends(guest, namespace, GATEWAYS, FREE),
            "machine to network": Ends(guest, lab.remote, REMOTES, FREE),
        }


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "way",
    [
        "host's loopback to machine",
        "host's address to machine",
        "network to machine",
        "machine to host",
        "machine to network",
    ],
)
def test_each_way(straight: dict[str, Ends], way: str, family: int) -> None:
    carries(straight[way], family)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "way",
    ["namespace to machine", "network to machine", "machine to namespace", "machine to host", "machine to network"],
)
def test_each_way_where_passt_is_in_a_guest_of_pasta(nested: dict[str, Ends], way: str, family: int) -> None:
    carries(nested[way], family)
