"""What a guest cannot reach: with --no-map-gw nothing on the host's loopback, by any address or trick, TCP, UDP and ping.

The witness is a packet socket on the host's loopback interface: whatever arrives there, for whichever program, is seen.
"""

import json
import sys
from collections.abc import Iterator

import pytest
from lab import GATEWAYS, HOSTS, NO_PORTS, PROGRAMS, REMOTES, Guest, Lab, Script
from packets import ip
from reached import PORT, ether, frames, payloads, questions

CLOSED = ("--no-map-gw", *NO_PORTS)
FORWARDER = "169.254.1.1"


@pytest.fixture(scope="module", autouse=True)
def services(lab: Lab) -> "Iterator[None]":
    """Something answers on both loopback addresses."""
    started = [lab.host.start("answer.py", "name", address, PORT, "host-lo") for address in ("127.0.0.1", "::1")]
    yield
    for server in started:
        server.result()


def watch(lab: Lab) -> Script:
    return Script(lab.host.popen(sys.executable, PROGRAMS / "reach.py", "watch", "lo", caps=True))


def send(guest: Guest, these: "Iterator[bytes]") -> int:
    text = "\n".join(frame.hex() for frame in these)
    done = guest.run(sys.executable, PROGRAMS / "reach.py", "send", guest.interface(), input=text, timeout=240)
    guest.run("ping", "-c1", "-W20", REMOTES[4])  # its frame comes after those, which have been judged when it is answered
    return int(json.loads(done.stdout)["sent"])


def ask(guest: Guest, these: list[tuple[str, str, int]], least: int = 0) -> list[list[object]]:
    """Those that are answered after a while, or when `least` were."""
    text = json.dumps(these).replace("{interface}", guest.interface())
    done = guest.run(sys.executable, PROGRAMS / "reach.py", "ask", least, input=text)
    return list(json.loads(done.stdout)["answered"])


def no_routes_of_its_own(guest: Guest) -> None:
    """What is meant for itself leaves the guest too, as far as the kernel can be talked into it."""
    name = guest.interface()
    guest.run("sh", "-c", f"""
        echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
        echo 1 >/proc/sys/net/ipv4/conf/{name}/route_localnet
        ip route del local 127.0.0.0/8 dev lo table local
        ip route del local 127.0.0.1 dev lo table local
        ip route add 127.0.0.0/8 via {GATEWAYS[4]}
        ip -6 route del local ::1 dev lo table local
        ip -6 route add ::1 via {GATEWAYS[6]}
        ip link set lo down""")  # fmt: skip


def to_gateways() -> "Iterator[bytes]":
    for family in (4, 6):
        for proto, body in payloads(HOSTS[family], GATEWAYS[family], 30000):
            yield ether(ip(HOSTS[family], GATEWAYS[family], proto, body))


def test_the_witness_sees_what_a_rule_allows(lab: Lab) -> None:
    """TCP and UDP to the gateway, which is the host's loopback by default: the tests below can fail."""
    with lab.guest(*NO_PORTS) as guest:
        seen = watch(lab)
        assert send(guest, to_gateways()) == 6
        assert int(str(seen.result()["packets"])) >= 6
        seen = watch(lab)
        for kind in ("udp", "tcp"):
            assert len(ask(guest, [(kind, GATEWAYS[family], PORT) for family in (4, 6)], least=2)) == 2
        assert int(str(seen.result()["packets"])) >= 8


def test_no_frame_reaches_the_hosts_loopback(lab: Lab) -> None:
    with lab.guest(*CLOSED) as guest:
        seen = watch(lab)
        assert send(guest, frames()) > 1000
        assert seen.result() == {"packets": 0, "first": []}
        for family in (4, 6):
            guest.run("ping", "-c1", "-W20", REMOTES[family])


def test_a_nameserver_on_the_hosts_loopback_is_not_reached_either(lab: Lab) -> None:
    """Unless --dns-forward asks for it."""
    lab.resolv("nameserver 127.0.0.53\nnameserver ::1\n")
    try:
        for port in (53, 853):
            with lab.guest(*CLOSED) as guest:
                seen = watch(lab)
                assert send(guest, frames(port)) > 1000
                assert seen.result() == {"packets": 0, "first": []}
    finally:
        lab.resolv("")


def to_our_nameserver(port: int) -> "Iterator[bytes]":
    for proto, body in payloads(HOSTS[4], FORWARDER, 32000, port):
        yield ether(ip(HOSTS[4], FORWARDER, proto, body))


def test_pasta_py_opens_port_53_of_its_own_nameserver_and_no_more(lab: Lab) -> None:
    """UDP and TCP; and nothing with --dns none."""
    lab.resolv("nameserver 127.0.0.53\n")
    try:
        with lab.guest(*CLOSED, entry="pasta-py", config=False) as guest:
            seen = watch(lab)
            assert send(guest, frames(53)) > 1000
            for port in (1, 52, 54, 80, 853, 5353, PORT):
                assert send(guest, to_our_nameserver(port)) == 3
            assert seen.result() == {"packets": 0, "first": []}
            seen = watch(lab)
            assert send(guest, to_our_nameserver(53)) == 3
            assert int(str(seen.result()["packets"])) >= 2
        with lab.guest(*CLOSED, "--dns", "none", entry="pasta-py", config=False) as guest:
            seen = watch(lab)
            assert send(guest, to_our_nameserver(53)) == 3
            assert seen.result() == {"packets": 0, "first": []}
    finally:
        lab.resolv("")


@pytest.mark.parametrize("more", [(), ("--map-host-loopback", "none"), ("--map-guest-addr", "none")])
def test_no_socket_of_the_guest_reaches_it(lab: Lab, more: tuple[str, ...]) -> None:
    with lab.guest(*CLOSED, *more) as guest:
        guest.run("sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range", check=False)
        no_routes_of_its_own(guest)
        seen = watch(lab)
        left = Script(guest.popen(sys.executable, PROGRAMS / "reach.py", "leave", guest.interface()))
        reached = [question for question in ask(guest, questions()) if question[1] not in GATEWAYS.values()]
        assert seen.result() == {"packets": 0, "first": []}
        assert not [question for question in reached if question[0] != "ping"], reached
        assert int(str(left.result()["packets"])) >= 8


def test_its_own_address_is_no_way_to_what_listens_on_loopback(lab: Lab) -> None:
    """The host's addresses are reached as any neighbour reaches them: what is bound to loopback is not."""
    with lab.guest(*CLOSED) as guest:
        seen = watch(lab)
        for family in (4, 6):
            these = [ether(ip(REMOTES[family], HOSTS[family], proto, body))
                     for proto, body in payloads(REMOTES[family], HOSTS[family], 31000)]  # fmt: skip
            send(guest, iter(these))
        assert int(str(seen.result()["packets"])) > 0
