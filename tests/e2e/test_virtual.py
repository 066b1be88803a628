"""Addresses that only we have: nothing leaves the host for them, and they answer pings. The witness sits at the host's link."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sid
from lab import GATEWAY4, GATEWAY6, GATEWAYS, HOSTS, NO_PORTS, PROGRAMS, Guest, Lab, Script, Space, dual, wait_until
from shapes import no_default_route, only_loopback

PORT = 7650
MADE_OF_OUR_MAC = "fe80::9855:9aff:fe55:9a55"
OWN = ("-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2", "-a", "fd00::100", "-g", "fd00::2", "--no-map-gw")
FORWARD = ("--dns-forward", "169.254.1.1", "--dns-forward", "fd00::53")
MAPPED = ("--map-host-loopback", "169.254.1.3", "--map-host-loopback", "fd00::3", "--map-guest-addr", "169.254.1.2")


def dead_routers(lab: Lab) -> None:
    """No machine has the addresses of the gateways."""
    dual(lab)
    lab.remote.setup(f"addr del {GATEWAY4}/24 dev eth0\naddr del {GATEWAY6}/64 dev eth0")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The host allows no ping sockets: what answers is not the host's kernel."""
    with Lab(pings=False) as made:
        made.resolv(f"nameserver {GATEWAY4}\n")
        yield made


def witness(lab: Lab, *addresses: str) -> Script:
    return Script(lab.remote.popen(sys.executable, PROGRAMS / "reach.py", "named", "eth0", *addresses, caps=True))


def errors(guest: Guest, address: str) -> list[object]:
    return [guest.script("probe.py", how, address, PORT, 20)["error"] for how in ("tcp", "udp")]


def pinged(guest: Guest, address: str) -> bool:
    return guest.run("ping", "-c1", "-W20", address, check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "addresses"),
    [
        (OWN, ("10.0.2.2", "fd00::2")),
        (FORWARD, ("169.254.1.1", "fd00::53")),
        (("-a", "fd00::100", "-g", "fe80::5", "--no-map-gw"), ("fe80::5",)),
    ],
    ids=["a gateway of one's own", "--dns-forward", "a link-local gateway"],
)
@pytest.mark.option("--no-map-gw", "--dns-forward")
def test_nothing_leaves_for_an_address_of_ours(lab: Lab, options: tuple[str, ...], addresses: tuple[str, ...]) -> None:
    seen = witness(lab, *addresses)
    with lab.guest(*NO_PORTS, *options) as guest:
        for address in addresses:
            scoped = f"{address}%{guest.interface()}" if address.startswith("fe80") else address
            assert errors(guest, scoped) == ["ENETUNREACH"] * 2
            assert pinged(guest, scoped)
    assert seen.result() == {"named": []}


@pytest.mark.option("--map-host-loopback", "--map-guest-addr")
def test_mapped_addresses_answer_pings(lab: Lab) -> None:
    seen = witness(lab, "169.254.1.2", "169.254.1.3", "fd00::3")
    with lab.guest(*NO_PORTS, *MAPPED) as guest:
        for address in ("169.254.1.2", "169.254.1.3", "fd00::3"):
            assert errors(guest, address) == ["ECONNREFUSED"] * 2
            assert pinged(guest, address)
    assert seen.result() == {"named": []}


@pytest.mark.parametrize("build", [only_loopback, no_default_route], ids=["no interface", "no default route"])
def test_the_gateway_of_local_mode(build: object) -> None:
    with Lab(build) as lab, lab.guest(*NO_PORTS, "--no-map-gw") as guest:  # type: ignore[arg-type]
        reached = ["169.254.2.2"] if build is only_loopback else []  # else the guest has no route to it
        for address in (*reached, f"fe80::1%{guest.interface()}"):
            assert errors(guest, address) == ["ENETUNREACH"] * 2
            assert pinged(guest, address)


@pytest.mark.parametrize("family", [4, 6])
def test_a_router_of_the_hosts_network_is_that_router(lab: Lab, family: int) -> None:
    """The witness can see something; and it is the router itself that answers pings, or is dead."""
    seen = witness(lab, GATEWAYS[family])
    with lab.guest(*NO_PORTS, "--no-map-gw") as guest:
        assert errors(guest, GATEWAYS[family]) == ["ECONNREFUSED"] * 2
    assert seen.result() == {"named": [GATEWAYS[family]]}


def test_a_dead_router_answers_no_ping() -> None:
    with Lab(dead_routers) as lab, lab.guest(*NO_PORTS, "--no-map-gw") as guest:
        for address in GATEWAYS.values():
            assert not pinged(guest, address)


@pytest.mark.option("--map-guest-addr")
@pytest.mark.parametrize("how", ["ask", "ask-udp"])
def test_map_guest_addr_is_the_host_also_where_the_guest_has_an_address_of_its_own(lab: Lab, how: str) -> None:
    """There sid's pasta asks the network for the guest's address."""
    server = lab.host.start("answer.py", "name", HOSTS[4], PORT + 1, "host")
    seen = witness(lab, "10.0.2.100", "169.254.1.2")
    with lab.guest(*NO_PORTS, *OWN, "--map-guest-addr", "169.254.1.2") as guest:
        assert str(guest.script("probe.py", how, "169.254.1.2", PORT + 1)["answer"]).startswith(f"host {HOSTS[4]} ")
    assert seen.result() == {"named": []}
    server.result()


# Router advertisements


def link_local(space: Space) -> list[str]:
    links = json.loads(space.run("ip", "-j", "-6", "addr", "show", "dev", "eth0").stdout)
    return [str(a["local"]) for link in links for a in link.get("addr_info", []) if a["scope"] == "link"]


def advertised(guest: Guest) -> str:
    """The router that the guest's kernel has found."""
    guest.sysctl(ipv6__conf__eth0__accept_dad=0)
    guest.setup("link set lo up\nlink set eth0 up")
    routes: list[dict[str, str]] = []

    def found() -> bool:
        routes[:] = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout or "[]")
        return bool(routes)

    wait_until(found, 10, "a default route by advertisement")
    return routes[0]["gateway"]


@pytest.mark.parametrize("peer", [None, "sid"])
def test_where_the_gateway_is_global_the_host_itself_is_the_guests_router(lab: Lab, peer: str | None) -> None:
    server = lab.host.start("answer.py", "name", "::", PORT + 2, "host")
    other: Path | None = sid.program("passt", "pasta") if peer else None
    with lab.guest(*NO_PORTS, config=False, peer=other) as guest:
        router = advertised(guest)
        assert [router] == link_local(lab.host)
        for how in ("ask", "ask-udp"):
            assert str(guest.script("probe.py", how, f"{router}%eth0", PORT + 2)["answer"]).startswith("host ")
    server.result()


def test_a_host_without_a_link_local_address_is_not_asked_for_ours() -> None:
    def build(lab: Lab) -> None:
        lab.host.sysctl(ipv6__conf__default__addr_gen_mode=1)
        dual(lab)

    with Lab(build) as lab:
        seen = witness(lab, MADE_OF_OUR_MAC)
        with lab.guest(*NO_PORTS, config=False) as guest:
            assert advertised(guest) == MADE_OF_OUR_MAC and link_local(lab.host) == []
            assert errors(guest, f"{MADE_OF_OUR_MAC}%eth0") == ["ENETUNREACH"] * 2
            assert pinged(guest, f"{MADE_OF_OUR_MAC}%eth0")
        assert seen.result() == {"named": []}
