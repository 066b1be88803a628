"""Address mapping and plain ports: which host address the guest reaches as what, and who the server in the guest sees."""

from collections.abc import Iterator

import pytest
from lab import GATEWAYS, HOSTS, REMOTE4, REMOTE6, REMOTES, Guest, Lab, Script, program
from servers import DNS4, DNS_NAME, dnsmasq

pytestmark = pytest.mark.sanitize_quick

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
UNUSED = {4: "198.51.100.9", 6: "2001:db8:9::9"}
FORWARD = {4: "198.51.100.53", 6: "2001:db8:53::53"}
PORT = 7100
ASK = ("ask", "ask-udp")


@pytest.fixture(scope="module")
def services(lab: Lab) -> Iterator[None]:
    """On the host's loopback and its global addresses, "host-lo" and "host-global" answer on the same port."""
    started: list[Script] = []
    for family in (4, 6):
        started.append(lab.host.start("answer.py", "name", LOOPBACK[family], PORT, "host-lo"))
        started.append(lab.host.start("answer.py", "name", HOSTS[family], PORT, "host-global"))
    yield
    for server in started:
        server.result()


def answer(guest: Guest, how: str, address: str, port: int = PORT) -> str:
    return str(guest.script("probe.py", how, address, port)["answer"])


def refused(guest: Guest, address: str) -> bool:
    return guest.script("probe.py", "tcp", address, PORT)["error"] == "ECONNREFUSED"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ASK)
def test_the_gateway_is_the_hosts_loopback(lab: Lab, services: None, how: str, family: int) -> None:
    with lab.guest() as guest:
        assert answer(guest, how, GATEWAYS[family]).startswith(f"host-lo {LOOPBACK[family]} ")


@pytest.mark.option("--no-map-gw")
@pytest.mark.parametrize("family", [4, 6])
def test_without_map_gw_the_gateway_is_the_gateway(lab: Lab, services: None, family: int) -> None:
    gateway = lab.remote.start("answer.py", "name", GATEWAYS[family], PORT, "gateway")
    with lab.guest("--no-map-gw") as guest:
        for how in ASK:
            assert answer(guest, how, GATEWAYS[family]).startswith(f"gateway {HOSTS[family]} ")
    gateway.result()
    with lab.guest("--no-map-gw") as guest:
        assert refused(guest, GATEWAYS[family])


@pytest.mark.option("--map-host-loopback")
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ASK)
def test_map_host_loopback_takes_the_place_of_the_gateway(lab: Lab, services: None, how: str, family: int) -> None:
    options = [word for address in UNUSED.values() for word in ("--map-host-loopback", address)]
    with lab.guest(*options) as guest:
        assert answer(guest, how, UNUSED[family]).startswith("host-lo ")
        assert refused(guest, GATEWAYS[family])  # by the remote, where nothing listens on that port


@pytest.mark.option("--map-gw")
def test_map_gw_takes_no_map_gw_back(lab: Lab, services: None) -> None:
    with lab.guest("--no-map-gw", "--map-gw") as guest:
        assert answer(guest, "ask", GATEWAYS[4]).startswith("host-lo ")


@pytest.mark.parametrize("family", [4, 6])
def test_map_host_loopback_none_leaves_no_way_to_loopback(lab: Lab, services: None, family: int) -> None:
    with lab.guest("--map-host-loopback", "none") as guest:
        assert refused(guest, GATEWAYS[family])


@pytest.mark.option("--map-guest-addr")
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ASK)
def test_map_guest_addr_reaches_the_hosts_global_address(lab: Lab, services: None, how: str, family: int) -> None:
    options = [word for address in UNUSED.values() for word in ("--map-guest-addr", address)]
    with lab.guest(*options) as guest:
        assert answer(guest, how, UNUSED[family]).startswith(f"host-global {HOSTS[family]} ")


@pytest.mark.parametrize("family", [4, 6])
def test_the_guest_talks_to_the_world_as_the_host(lab: Lab, family: int) -> None:
    server = lab.remote.start("answer.py", "name", REMOTES[family], PORT + 1, "remote")
    with lab.guest() as guest:
        for how in ASK:
            assert answer(guest, how, REMOTES[family], PORT + 1).startswith(f"remote {HOSTS[family]} ")
    server.result()


@pytest.mark.option("--dns-forward", "--dns-host")
def test_dns_forward_asks_the_named_resolver(lab: Lab) -> None:
    dnsmasq(lab)
    lab.resolv("nameserver 127.0.0.53\n")
    options = ["--dns-forward", FORWARD[4], "--dns-forward", FORWARD[6], "--dns-host", REMOTE4, "--dns-host", REMOTE6]
    with lab.guest(*options) as guest:
        for family in (4, 6):
            for protocol in ("+notcp", "+tcp"):
                dig = ("dig", f"@{FORWARD[family]}", "+short", "+tries=1", "+time=20", protocol, DNS_NAME, "A")
                assert guest.run(*dig).stdout.split() == [DNS4]
    lab.resolv(f"nameserver {REMOTE4}\n")  # without --dns-host it is the first of /etc/resolv.conf
    with lab.guest("--dns-forward", FORWARD[4]) as guest:
        dig = ("dig", f"@{FORWARD[4]}", "+short", "+tries=1", "+time=20", DNS_NAME, "A")
        assert guest.run(*dig).stdout.split() == [DNS4]


@pytest.mark.option("--dns-host")
def test_each_family_has_a_nameserver_of_its_own(lab: Lab) -> None:
    """Asked at port 853, which is forwarded too; what the nameserver says is its own affair."""
    servers = [lab.remote.start("answer.py", "name", address, 853, f"server{family}") for family, address in REMOTES.items()]
    options = [word for family in (4, 6) for word in ("--dns-forward", FORWARD[family], "--dns-host", REMOTES[family])]
    with lab.guest(*options) as guest:
        for family in (4, 6):
            for how in ASK:
                assert answer(guest, how, FORWARD[family], 853).startswith(f"server{family} ")
    for server in servers:
        server.result()


# Plain ports


@pytest.fixture(scope="module")
def open_guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest("-t", PORT + 2, "-u", PORT + 2) as guest:
        yield guest


@pytest.mark.option("--tcp-ports", "--udp-ports")
@pytest.mark.parametrize("family", [4, 6])
def test_a_server_in_the_guest_sees_its_clients_own_address(lab: Lab, open_guest: Guest, family: int) -> None:
    server = open_guest.start("answer.py", "name", HOSTS[family], PORT + 2, "guest")
    for how in ASK:
        reply = lab.remote.script("probe.py", how, HOSTS[family], PORT + 2)
        assert reply["answer"] == "guest {} {}".format(*reply["me"])  # type: ignore[misc]
    server.result()


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_nobody_serves_in_the_guest_refuses(lab: Lab, open_guest: Guest, family: int) -> None:
    """The host's kernel has accepted already, so the refusal arrives as a reset."""
    done = lab.remote.script("probe.py", "hangup", HOSTS[family], PORT + 2)
    assert done["error"] in ("ECONNREFUSED", "ECONNRESET")


def test_bulk_data_into_the_guest(lab: Lab, open_guest: Guest) -> None:
    server = open_guest.start("stream.py", "read", HOSTS[4], PORT + 2, 100_000_000, 0, "listen")
    sent = lab.remote.script("stream.py", "send", HOSTS[4], PORT + 2, 100_000_000, 0, "connect")
    assert server.result()["sha256"] == sent["sha256"]


def test_nothing_but_the_named_ports_is_open_on_the_host(lab: Lab, open_guest: Guest) -> None:
    def listening(flag: str) -> set[str]:
        lines = lab.host.run("ss", flag).stdout.splitlines()
        return {line.split()[3].rsplit(":", 1)[1] for line in lines}

    assert str(PORT + 2) in listening("-tlnH") and str(PORT + 2) in listening("-ulnH")
    others = (listening("-tlnH") | listening("-ulnH")) - {str(PORT), str(PORT + 2)}
    assert not others


def test_a_taken_port_is_named(lab: Lab) -> None:
    server = lab.host.start("answer.py", "name", "0.0.0.0", PORT + 5, "first")
    done = lab.host.run(program(), "-t", PORT + 5, "--", "true", check=False)
    server.result()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(PORT + 5) in line and "TCP" in line.upper() and "in use" in line
