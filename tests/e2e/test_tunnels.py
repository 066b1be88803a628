"""A guest in an overlay network: Ethernet in UDP (VXLAN, RFC 7348), where its kernel leaves open the checksum inside."""

import contextlib
from collections.abc import Iterator

import pytest
import sid
from capture import assert_sound, fields, frames
from lab import BIG, HOSTS, REMOTES, Guest, Lab, Space
from test_adversity import stream

VXLAN = 4789  # RFC 7348, 5
PORTS = ("-t", "none", "-u", VXLAN, "-T", "none", "-U", "none")
PORT = 5900
BULK_BYTES = 8 << 20


@pytest.fixture(scope="module", autouse=True)
def card(lab: Lab) -> None:
    """What the remote sends is complete, as from a network card: else its kernel would leave the inner checksums open as well."""
    lab.remote.run(sid.program("ethtool", "ethtool"), "-K", "eth0", "tx", "off", caps=True)


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest(*PORTS) as made:
        yield made


def address(family: int, number: int, end: int) -> str:
    return f"172.20.{number}.{end}" if family == 4 else f"fd20:{number}::{end}"


@contextlib.contextmanager
def tunnel(lab: Lab, guest: Guest, number: int, remote: str, local: str, options: str = "") -> Iterator[None]:
    """The VXLAN `number` between the guest and the remote, which are .2 and .1 in it, and those addresses outside of it."""
    name, kind = f"vxlan{number}", f"type vxlan id {number} dstport {VXLAN} {options}"
    ends = ((guest, 2, remote, local), (lab.remote, 1, local, remote))
    for space, end, there, here in ends:
        space.setup(
            f"link add {name} mtu {1500 - 100 * number} {kind} remote {there} local {here}\n"
            f"addr add {address(4, number, end)}/24 dev {name}\n"
            f"addr add {address(6, number, end)}/64 dev {name} nodad\n"
            f"link set {name} up"
        )
    try:
        yield
    finally:
        for space, *_ in ends:
            space.setup(f"link del {name}")


def everything_works(lab: Lab, guest: Guest, number: int) -> None:
    """Echo, TCP and UDP begun from both ends, bursts, and a stream each way."""
    for family in (4, 6):
        servers: list[tuple[Space, Space, int]] = [(lab.remote, guest, 1), (guest, lab.remote, 2)]
        for server, client, end in servers:
            to = address(family, number, end)
            client.run("ping", "-c1", "-W20", to)
            running = server.start("answer.py", "echo", to, PORT)
            assert client.script("probe.py", "ask", to, PORT)["answer"]
            assert client.script("probe.py", "echo", to, PORT, 1000, 5) == {"returned": 5}
            assert client.script("probe.py", "burst", to, PORT, 1000, 20) == {"returned": 20}
            assert running.result()["largest"] == 1000
        for sender in ("guest", "remote"):
            stream(lab, guest, sender, address(family, number, 1), PORT + 1, BULK_BYTES)


@pytest.mark.parametrize(("outer", "options"), [(4, ""), (4, "noudpcsum"), (6, "")])
def test_a_tunnel_of_the_guest_carries_everything(lab: Lab, guest: Guest, outer: int, options: str) -> None:
    """Without "noudpcsum" the outer checksum covers an inner one that is not there yet."""
    with tunnel(lab, guest, 1, REMOTES[outer], HOSTS[outer], options):
        everything_works(lab, guest, 1)


def test_a_tunnel_in_a_tunnel_carries_everything(lab: Lab, guest: Guest) -> None:
    outer = (address(4, 1, 1), address(4, 1, 2))
    with tunnel(lab, guest, 1, REMOTES[4], HOSTS[4]), tunnel(lab, guest, 2, *outer):
        everything_works(lab, guest, 2)


def test_a_capture_shows_a_tunnel_datagram_by_datagram(lab: Lab) -> None:
    """Elsewhere many segments leave the guest as one frame, where its kernel offers that (Linux 6.17)."""
    path = f"{BIG}/tunnel.pcap"
    with lab.guest("--pcap", path, *PORTS) as guest, tunnel(lab, guest, 1, REMOTES[4], HOSTS[4]):
        stream(lab, guest, "guest", address(4, 1, 1), PORT + 1, 1 << 20)
    assert_sound(frames(lab.host, path))
    lengths = [int(each["udp.length"].split(",")[0]) for each in fields(lab.host, path, ("udp.length",), f"udp.dstport=={VXLAN}")]
    assert sum(lengths) > 1 << 20 and max(lengths) <= 1500
