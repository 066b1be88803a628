"""Point 7: the guest's addresses and routes are the host's, for every shape of host."""

import json
import signal
from collections.abc import Iterator

import pytest
from lab import GATEWAY4, REMOTE4, REMOTE6, Guest, Lab, Space
from shapes import MIRRORED, no_ipv6, only_loopback

#: Keys of `ip -j addr` that say where an address is, not what it is.
OWN = ("ifindex", "link_index", "link_netnsid", "valid_life_time", "preferred_life_time", "nodad", "noprefixroute")


def addresses(space: Space, family: int) -> list[dict[str, object]]:
    """The addresses of eth0 but link-local ones, without what cannot agree."""
    links = json.loads(space.run("ip", "-j", f"-{family}", "addr", "show", "dev", "eth0").stdout or "[]")
    found = [info for link in links for info in link.get("addr_info", []) if info["scope"] != "link"]
    return sorted(({k: v for k, v in info.items() if k not in OWN} for info in found), key=str)


def routes(space: Space, family: int) -> list[dict[str, object]]:
    """The routes through eth0, but those of link-local addresses."""
    found = json.loads(space.run("ip", "-j", f"-{family}", "route", check=False).stdout or "[]")
    through = [r for r in found if r.get("dev") == "eth0" or any(h.get("dev") == "eth0" for h in r.get("nexthops", []))]
    return sorted((r for r in through if not str(r["dst"]).startswith("fe80")), key=str)


@pytest.fixture(scope="module", params=MIRRORED)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Guest]]:
    with Lab(MIRRORED[request.param]) as lab, lab.guest() as guest:
        yield lab, guest


def test_the_guests_addresses_are_the_hosts(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family in (4, 6):
        assert addresses(guest, family) == addresses(lab.host, family)


def test_the_guests_routes_are_the_hosts(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family in (4, 6):
        assert routes(guest, family) == routes(lab.host, family)


def test_what_the_host_reaches_the_guest_reaches(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family, address in ((4, REMOTE4), (6, REMOTE6)):
        reached = lab.host.run("ping", f"-{family}", "-c1", "-W10", address, check=False).returncode == 0
        inside = guest.run("ping", f"-{family}", "-c1", "-W20" if reached else "-W1", address, check=False).returncode == 0
        assert inside == reached, f"{address}: reached from the host: {reached}, from the guest: {inside}"


def test_no_address_is_tentative(pair: tuple[Lab, Guest]) -> None:
    _, guest = pair
    flags = json.loads(guest.run("ip", "-j", "addr", "show", "dev", "eth0").stdout)[0]["addr_info"]
    assert not [info for info in flags if info.get("tentative")]


def output(lab: Lab) -> tuple[str, str]:
    """Interfaces in the guest, and what the program printed."""
    with lab.guest() as guest:
        links = guest.run("ip", "-br", "addr").stdout
    assert guest.process.stderr is not None
    return links, guest.process.stderr.read()


def test_a_missing_family_is_one_clear_line() -> None:
    with Lab(no_ipv6) as lab:
        _, said = output(lab)
    about = [line for line in said.splitlines() if "IPv6" in line]
    assert len(about) == 1, said
    assert not [line for line in said.splitlines() if "IPv4" in line], said


def test_local_mode_without_any_interface() -> None:
    with Lab(only_loopback) as lab:
        links, said = output(lab)
        assert len([line for line in said.splitlines() if "IPv4" in line]) == 1, said
        assert len([line for line in said.splitlines() if "IPv6" in line]) == 1, said
        assert "tap0" in links and "169.254.2.1/" in links
        server = lab.host.start("answer.py", "name", "127.0.0.1", 7301, "host")
        with lab.guest() as guest:
            found = json.loads(guest.run("ip", "-j", "-4", "route", "show", "default").stdout)
            assert [route["gateway"] for route in found] == ["169.254.2.2"]
            six = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout)
            assert [route["gateway"] for route in six] == ["fe80::1"]
            assert str(guest.script("probe.py", "ask", "169.254.2.2", 7301)["answer"]).startswith("host ")
        server.result()


def test_a_route_that_cannot_be_copied_is_not_fatal() -> None:
    """The gateway of the second route is reachable through another interface only."""

    def build(lab: Lab) -> None:
        MIRRORED["second_interface"](lab)
        lab.host.setup("route add 203.0.113.0/24 via 198.18.0.9 dev eth1")
        lab.host.setup("route add 203.0.112.0/24 encap ip id 1 dst 192.0.2.9 dev eth0")

    with Lab(build) as lab, lab.guest() as guest:
        assert guest.run("ping", "-c1", "-W20", REMOTE4)
        assert GATEWAY4 in guest.run("ip", "route", "show", "default").stdout
        guest.process.send_signal(signal.SIGTERM)
