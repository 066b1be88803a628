"""What the guest's programs and further namespaces in it find in the checksums of what comes: newer ones check them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import sid
import slirp
from lab import GATEWAYS, NO_PORTS, REMOTES, Guest, Lab, Space, routed, wait_until
from test_errors import REFUSED_BY_ROUTER

PORT = 5800
MTU = 1500


@pytest.fixture(scope="session")
def ping() -> Path:
    return sid.program("iputils-ping", "ping")


@pytest.fixture(scope="module")
def servers(lab: Lab) -> Iterator[None]:
    started = [lab.remote.start("answer.py", "echo", REMOTES[family], PORT) for family in (4, 6)]
    yield
    for server in started:
        server.result()


@contextlib.contextmanager
def guest_of(lab: Lab, entry: str) -> Iterator[Guest]:
    if entry == "pasta":
        with lab.guest("-m", MTU, *NO_PORTS) as guest:
            yield guest
    else:
        with slirp.connected(lab, "ours", "-c", "-6") as (guest, _):
            wait_until(lambda: "default" in guest.run("ip", "-6", "route").stdout, 10, "IPv6 is configured")
            yield guest


def ask_all(space: Space, ping: Path) -> None:
    """Echo, a refused port, UDP one by one and in bursts, and more bytes over TCP than fit into one segment."""
    for family in (4, 6):
        address = REMOTES[family]
        assert " 3 received" in space.run(ping, "-c3", "-i0.2", "-W20", address).stdout
        assert space.script("probe.py", "udp", address, PORT + 1)["error"] == "ECONNREFUSED"
        assert space.script("probe.py", "echo", address, PORT, 1000, 3) == {"returned": 3}
        assert space.script("probe.py", "burst", address, PORT, 1000, 8) == {"returned": 8}
        assert space.script("probe.py", "ask", address, PORT)["answer"]


@pytest.mark.parametrize("size", [0, 57, 3000])
@pytest.mark.parametrize("entry", ["pasta", "slirp4netns"])
def test_a_ping_that_checks_takes_every_reply(lab: Lab, ping: Path, entry: str, size: int) -> None:
    """Those of 3000 bytes come in fragments."""
    with guest_of(lab, entry) as guest:
        for family in (4, 6):
            said = guest.run(ping, "-c3", "-i0.2", "-W20", "-s", size, REMOTES[family]).stdout
            assert " 3 received" in said and "CHECKSUM" not in said


def test_a_ping_that_checks_takes_errors(ping: Path) -> None:
    with Lab(routed) as far_lab, far_lab.guest(*NO_PORTS) as guest:
        for family in (4, 6):
            said = guest.run(ping, "-c1", "-w20", REFUSED_BY_ROUTER[family], check=False).stdout
            assert "+1 errors" in said and "unreachable" in said.lower() and "CHECKSUM" not in said


@pytest.mark.parametrize("entry", ["pasta", "slirp4netns"])
def test_only_tcp_and_udp_are_left_to_their_readers(lab: Lab, servers: None, ping: Path, entry: str) -> None:
    """A packet socket is told of each checksum that is not there, and finds all others right: ARP, neighbour discovery, ICMP."""
    with guest_of(lab, entry) as guest:
        reader = guest.start("received.py", guest.interface())
        ask_all(guest, ping)
        found = reader.result()
    assert not found["wrong"]
    assert set(found["left"]) <= {"tcp", "udp"}  # type: ignore[call-overload]
    assert {"icmp", "other"} <= set(found["right"])  # type: ignore[call-overload]


class Inner(Space):
    """A further namespace in the guest, at the other end of a veth "inner" whose ends both want checksums complete."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest.lab, guest.pid)
        self.name = f"inner-{len(guest.lab.processes)}"  # the lab's guests share the directory of names
        guest.run("ip", "netns", "add", self.name, caps=True)
        guest.setup(f"link add inner up type veth peer name eth0 netns {self.name}")
        for space, link in ((guest, "inner"), (self, "eth0")):
            space.run(sid.program("ethtool", "ethtool"), "-K", link, "tx", "off", caps=True)
        self.setup("link set lo up\nlink set eth0 up")

    def argv(self, command: Sequence[object], caps: bool = False) -> list[str]:
        return super().argv(["ip", "netns", "exec", self.name, *command], caps=True)


def bridged(guest: Guest) -> Inner:
    """On the guest's own network, with addresses of its own."""
    inner = Inner(guest)
    guest.setup("link add bridge up type bridge\nlink set eth0 master bridge\nlink set inner master bridge")
    inner.setup(
        f"addr add 192.0.2.77/24 dev eth0\naddr add 2001:db8::77/64 dev eth0 nodad\n"
        f"route add default via {GATEWAYS[4]}\n-6 route add default via {GATEWAYS[6]}"
    )
    return inner


MASQUERADE = """
table inet nat {
    chain out {
        type nat hook postrouting priority srcnat; oifname eth0 masquerade
    }
}
"""


def masqueraded(guest: Guest) -> Inner:
    """Behind the guest, which translates its addresses."""
    inner = Inner(guest)
    guest.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    guest.run("nft", "-f", "-", input=MASQUERADE, caps=True)
    for space, link, host in ((guest, "inner", 1), (inner, "eth0", 2)):
        space.setup(f"addr add 10.7.0.{host}/24 dev {link}\naddr add fd07::{host}/64 dev {link} nodad")
    inner.setup("route add default via 10.7.0.1\n-6 route add default via fd07::1")
    return inner


@pytest.mark.parametrize("build", [bridged, masqueraded])
def test_a_namespace_in_the_guest_gets_checksums_complete(
    lab: Lab, servers: None, ping: Path, build: Callable[[Guest], Inner]
) -> None:
    with lab.guest("-m", MTU, *NO_PORTS) as guest:
        inner = build(guest)
        reader = inner.start("received.py", "eth0")
        ask_all(inner, ping)
        assert reader.result() == {"right": ["icmp", "other", "tcp", "udp"], "left": [], "wrong": []}
