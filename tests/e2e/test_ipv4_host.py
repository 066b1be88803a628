"""A host without a global IPv6 address: clients at ::1 reach the guest at its link-local address. Beside sid's pasta."""

import json
import sys
from collections.abc import Iterator

import pytest
import sid
from lab import GATEWAY4, HOST4, NO_PORTS, PROGRAMS, REMOTE4, Guest, Lab, wait_until, wire

PORT, WEB_PORT = 7610, 7611
PORTS = ("-t", f"{PORT},{WEB_PORT}", "-u", PORT, *NO_PORTS[4:])
ROUTER = "fe80::1"  # the guest's, where the host has none
PAGE = "from the guest"


def ipv4(lab: Lab) -> None:
    """Its link still has the link-local address that the kernel gives it."""
    wire(lab)
    lab.remote.setup(f"addr add {GATEWAY4}/24 dev eth0\naddr add {REMOTE4}/24 dev eth0")
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(ipv4) as made:
        yield made


def link_locals(guest: Guest, *kind: str) -> list[str]:
    """Those of the tap, perhaps only of one kind."""
    links = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "scope", "link", *kind).stdout)
    return [a["local"] for link in links for a in link.get("addr_info", [])]


def seen(lab: Lab, address: str, wait_s: float = 20) -> list[str | None]:
    """At which address a server in the guest has seen a client on the host, over TCP and UDP."""
    questions = [[kind, address, address] for kind in ("tcp", "udp")]
    done = lab.host.run(sys.executable, PROGRAMS / "clients.py", PORT, wait_s, input=json.dumps(questions))
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("options", [(), ("--no-splice",), ("--no-map-gw",), ("--no-map-gw", "--no-splice")], ids=" ".join)
def test_clients_at_ipv6_loopback_are_answered(lab: Lab, options: tuple[str, ...]) -> None:
    """From the first moment, where sid's pasta has to hear from the guest before; over splicing both ends are its own address."""
    for peer in (None, sid.program("passt", "pasta")):
        with lab.guest(*PORTS, *options, peer=peer) as guest:
            server = guest.start("answer.py", "name", "::", PORT, "guest")
            if peer:
                guest.run("ping", "-c1", "-W1", f"{ROUTER}%{guest.interface()}", check=False)  # no machine answers
            found = seen(lab, "::1")
            (own,) = link_locals(guest)
            assert found == [ROUTER if "--no-splice" in options else own] * 2, peer
            server.result()


def test_a_browser_asked_for_localhost_finds_the_guests_service(lab: Lab) -> None:
    """It tries ::1 first, and does not try 127.0.0.1 once that has accepted."""
    pages = lab.directory / "pages"
    pages.mkdir(mode=0o755)
    (pages / "index.html").write_text(PAGE)
    with lab.guest(*PORTS) as guest:
        guest.serve(sys.executable, "-m", "http.server", "--bind", "::", "--directory", pages, WEB_PORT, port=WEB_PORT)
        for words in ((), ("-4",), ("-6",)):
            done = lab.host.run("curl", "-sS", "--max-time", "20", *words, f"http://localhost:{WEB_PORT}/")
            assert done.stdout == PAGE, words


def test_the_link_local_address_that_the_guest_gives_itself_is_the_one(lab: Lab) -> None:
    """Another than that of its MAC address, as with stable-privacy addresses (RFC 7217); it is learnt from what it sends."""
    with lab.guest(*PORTS, config=False) as guest:
        tap = guest.interface()
        guest.run("sh", "-c", f"echo 3 > /proc/sys/net/ipv6/conf/{tap}/addr_gen_mode")
        guest.setup(f"link set {tap} up")
        wait_until(lambda: link_locals(guest, "-tentative"), 5, "the address is no longer tentative")
        (own,) = link_locals(guest)
        assert "ff:fe" not in own
        server = guest.start("answer.py", "name", "::", PORT, "guest")

        wait_until(lambda: seen(lab, "::1", 1) == [own] * 2, 5, "clients at ::1 are answered")
        server.result()
