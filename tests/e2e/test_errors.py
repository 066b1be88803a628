"""Echo with the identifier kept, and the kernel's own errors inside the guest within a second."""

import json
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from capture import assert_sound, fields, frames
from lab import BIG, FAR4, FAR6, GATEWAYS, HOSTS, PROGRAMS, Guest, Lab, Space, routed
from quickest import least

pytestmark = pytest.mark.sanitize_quick

ERROR_S = 1
SYN_AGAIN_S = 1  # RFC 6298, 2.1
SILENCE_S = 2
FAR = {4: FAR4, 6: FAR6}
REFUSED_BY_ROUTER = {4: "203.0.113.1", 6: "2001:db8:2::1"}  # an "unreachable" route there
PROHIBITED = {4: "203.0.113.2", 6: "2001:db8:2::2"}
SILENT = {4: "203.0.113.3", 6: "2001:db8:2::3"}
NO_ROUTE_ON_HOST = {4: "203.0.113.11", 6: "2001:db8:2::11"}  # an "unreachable" route on the host itself
ECHO = {4: ("icmp.type", "icmp.ident"), 6: ("icmpv6.type", "icmpv6.echo.identifier")}
TYPES = {4: ("8", "0"), 6: ("128", "129")}


@pytest.fixture(scope="module")
def far_lab() -> Iterator[Lab]:
    with Lab(routed) as made:
        yield made


@pytest.fixture(scope="module")
def guest(far_lab: Lab) -> Iterator[Guest]:
    with far_lab.guest() as made:
        yield made


def lock_dropped(*spaces: Space) -> int:
    """How many ICMP errors the kernel has dropped because connect() still held the socket.

    Over a veth or a tap they come back so soon that it happens; it then learns from its second SYN, a second later.
    """
    total = 0
    for space in spaces:
        lines = space.run("cat", "/proc/net/netstat").stdout.splitlines()
        names, values = [line.split() for line in lines if line.startswith("TcpExt:")]
        total += int(values[names.index("LockDroppedIcmps")])
    return total


@pytest.mark.parametrize("family", [4, 6])
def test_echo_keeps_its_identifier(far_lab: Lab, family: int) -> None:
    capture = f"{BIG}/echo.pcap"
    with far_lab.guest("--pcap", capture) as guest:
        for identifier, size in ((4711, 56), (4712, 1300), (65535, 0)):
            command = ("ping", "-c3", "-i0.2", "-W20", "-e", identifier, "-s", size, FAR[family])
            assert " 3 received" in guest.run(*command).stdout
    kind, ident = ECHO[family]
    echoes = fields(far_lab.host, capture, (kind, ident), f"{kind}=={TYPES[family][0]} || {kind}=={TYPES[family][1]}")
    assert_sound(frames(far_lab.host, capture))
    found = Counter((e[kind], int(e[ident].split(",")[0], 0)) for e in echoes)
    assert found == {(t, ident): 3 for ident in (4711, 4712, 65535) for t in TYPES[family]}


@pytest.mark.parametrize("family", [4, 6])
def test_ping_reports_an_unreachable_host(guest: Guest, family: int) -> None:
    done = guest.run("ping", "-c1", "-w20", REFUSED_BY_ROUTER[family], check=False)
    assert done.returncode == 1
    assert "+1 errors" in done.stdout and "unreachable" in done.stdout.lower()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    "destinations",
    [
        pytest.param(FAR, id="refused"),
        pytest.param(REFUSED_BY_ROUTER, id="router-unreachable"),
        pytest.param(NO_ROUTE_ON_HOST, id="host-unreachable"),
        pytest.param(PROHIBITED, id="prohibited"),
    ],
)
def test_failures_look_as_without_us(
    far_lab: Lab, guest: Guest, destinations: dict[int, str], protocol: str, family: int
) -> None:
    """Within a second."""
    plain = far_lab.host.script("probe.py", protocol, destinations[family], 4998)
    assert plain["error"] not in (None, "silence")

    def seconds() -> float:
        before = lock_dropped(far_lab.host, guest)
        answer = guest.script("probe.py", protocol, destinations[family], 4998)
        assert answer["error"] == plain["error"]
        missed = lock_dropped(far_lab.host, guest) - before
        return float(str(answer["seconds"])) - SYN_AGAIN_S * missed

    least(seconds, below=ERROR_S)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_silence_stays_silence(guest: Guest, protocol: str, family: int) -> None:
    assert guest.script("probe.py", protocol, SILENT[family], 4998, SILENCE_S)["error"] == "silence"


@pytest.mark.parametrize("family", [4, 6])
def test_ping_reaches_the_gateway_as_host_loopback(guest: Guest, family: int) -> None:
    assert " 1 received" in guest.run("ping", "-c1", "-W20", GATEWAYS[family]).stdout


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_port_on_the_mapped_gateway(guest: Guest, family: int) -> None:
    answer = guest.script("probe.py", "tcp", GATEWAYS[family], 4997)
    assert answer["error"] == "ECONNREFUSED"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1, 2])
@pytest.mark.parametrize("destinations", [GATEWAYS, FAR], ids=["neighbour", "behind a router"])
def test_hops_count_as_without_us(
    far_lab: Lab, guest: Guest, destinations: dict[int, str], ttl: int, family: int
) -> None:
    """Also where there are none left: a neighbour takes such a datagram, a router does not pass it on."""

    def answer(space: Space) -> object:
        command = (sys.executable, PROGRAMS / "hops.py", HOSTS[family], destinations[family], ttl)
        return json.loads(space.run(*command, caps=space is far_lab.host).stdout)

    plain = answer(far_lab.host)
    assert isinstance(plain, dict) and plain["type"] is not None
    assert answer(guest) == plain
