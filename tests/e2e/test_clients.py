"""Which address a server in the guest sees its clients at: their own, unless the guest could not answer it. Beside sid's pasta."""

import json
import sys
from collections.abc import Iterator

import pytest
import sid
from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, PROGRAMS, REMOTE4, REMOTE6, Guest, Lab, Space, dual, wire
from packets import ip
from reached import ether, payloads

PORT = 7600
SECOND4, SECOND6 = "192.0.2.20", "2001:db8::20"  # of the host, on the guest's interface
OTHER4, OTHER6 = "198.18.0.2", "2001:db8:18::2"  # and on another one
FLOATING = "192.0.2.30"
PORTS = ("-t", PORT, "-u", PORT, "-T", "none", "-U", "none")
PODMAN = ("--no-map-gw", "--map-guest-addr", "169.254.1.2")
ROOTLESSKIT = ("--address=10.0.2.100", "--netmask=24", "--gateway=10.0.2.2", "--no-map-gw")
OWN = ("-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2", "-a", "fd00::100", "-g", "fd00::2")
# Clients that the guest can answer: source, destination.
THEIR_OWN = ((OTHER4, HOST4), (OTHER4, OTHER4), (OTHER6, OTHER6))
SHARED = ((HOST4, HOST4), (SECOND4, HOST4), (SECOND4, SECOND4), (HOST6, HOST6), (SECOND6, HOST6), (SECOND6, SECOND6))
SHARED4 = SHARED[:3]


def two_interfaces(lab: Lab) -> None:
    dual(lab)
    lab.host.setup(f"addr add {SECOND4}/24 dev eth0\naddr add {SECOND6}/64 dev eth0 nodad")
    wire(lab, name="eth1", peer="eth1")
    lab.host.setup(f"addr add {OTHER4}/24 dev eth1\naddr add {OTHER6}/64 dev eth1 nodad")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(two_interfaces) as made:
        yield made


def link_local(space: Space) -> str:
    links = json.loads(space.run("ip", "-j", "-6", "addr", "show", "dev", "eth0").stdout)
    (found,) = [a["local"] for link in links for a in link.get("addr_info", []) if a["scope"] == "link"]
    return str(found)


def seen(lab: Lab, guest: Guest, space: Space, pairs: "tuple[tuple[str, str], ...]") -> list[str | None]:
    """How a server in the guest has seen each client, first over TCP and then over UDP."""
    servers = [guest.start("answer.py", "name", any_, PORT, "guest") for any_ in ("0.0.0.0", "::")]
    questions = [[kind, *pair] for kind in ("tcp", "udp") for pair in pairs]
    done = space.run(sys.executable, PROGRAMS / "clients.py", PORT, 20, input=json.dumps(questions))
    for server in servers:
        server.result()
    return list(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("options", "pairs"),
    [(PODMAN, THEIR_OWN), (ROOTLESSKIT, THEIR_OWN + SHARED4), (OWN, THEIR_OWN + SHARED)],
    ids=["podman", "rootlesskit", "own addresses"],
)
def test_clients_that_the_guest_can_answer_keep_their_addresses(
    lab: Lab, options: tuple[str, ...], pairs: "tuple[tuple[str, str], ...]"
) -> None:
    own = link_local(lab.host)
    pairs = (*pairs, (f"{own}%eth0", HOST6), (f"{own}%eth0", f"{own}%eth0"))
    for peer in (None, sid.program("passt", "pasta")):
        with lab.guest(*PORTS, *options, peer=peer) as guest:
            assert seen(lab, guest, lab.host, pairs) == [pair[0].split("%")[0] for pair in pairs] * 2, peer
            remote = ((REMOTE4, HOST4), (REMOTE6, HOST6))
            assert seen(lab, guest, lab.remote, remote) == [REMOTE4, REMOTE6] * 2, peer


@pytest.mark.option("--map-guest-addr")
def test_clients_at_an_address_of_the_guest_are_shown_as_the_host(lab: Lab) -> None:
    """At any of them; sid's pasta loses those at the second address of IPv4, and some of IPv6."""
    with lab.guest(*PORTS, *PODMAN, "--map-guest-addr", "fd00::77") as guest:
        assert seen(lab, guest, lab.host, SHARED) == (["169.254.1.2"] * 3 + ["fd00::77"] * 3) * 2
    with lab.guest(*PORTS) as guest:
        assert seen(lab, guest, lab.host, SHARED) == ([GATEWAY4] * 3 + [GATEWAY6] * 3) * 2
    with lab.guest(*PORTS, "--map-host-loopback", "169.254.9.9", "--map-host-loopback", "fd00::99") as guest:
        assert seen(lab, guest, lab.host, SHARED) == (["169.254.9.9"] * 3 + ["fd00::99"] * 3) * 2



def test_a_client_shown_at_a_link_local_address_is_answered(lab: Lab) -> None:
    """The guest's kernel answers it from its own link-local address; so that is where it has to arrive."""
    pairs = (("::1", "::1"), (HOST6, HOST6))
    with lab.guest(*PORTS, "--no-splice", "-g", "fe80::5") as guest:
        assert seen(lab, guest, lab.host, pairs) == ["fe80::5"] * 4


def test_the_guest_is_not_taken_to_have_an_address_that_nobody_can_have(lab: Lab) -> None:
    """Broadcast, reserved, or ours: whatever the guest sends from it, its clients still find it at its own."""
    sources = {4: ("255.255.255.255", "240.0.0.1", "192.0.2.255", GATEWAY4, "169.254.9.9"), 6: (GATEWAY6, "fd00::99")}
    options = ("-a", HOST4, "-a", HOST6, "--map-host-loopback", "169.254.9.9", "--map-host-loopback", "fd00::99")
    with lab.guest(*PORTS, *options) as guest:
        for family, remote in ((4, REMOTE4), (6, REMOTE6)):
            for source in sources[family]:
                frames = [ether(ip(source, remote, proto, body)) for proto, body in payloads(source, remote, 5000)]
                guest.run(sys.executable, PROGRAMS / "reach.py", "send", guest.interface(), input="\n".join(map(bytes.hex, frames)))
        assert seen(lab, guest, lab.remote, ((REMOTE4, HOST4), (REMOTE6, HOST6))) == [REMOTE4, REMOTE6] * 2


def test_an_address_that_has_moved_to_another_machine_is_that_machines(lab: Lab) -> None:
    for peer in (None, sid.program("passt", "pasta")):
        lab.host.setup(f"addr add {FLOATING}/24 dev eth0")
        with lab.guest(*PORTS, *OWN, peer=peer) as guest:
            lab.host.setup(f"addr del {FLOATING}/24 dev eth0")
            lab.remote.setup(f"addr add {FLOATING}/24 dev eth0")
            try:
                assert seen(lab, guest, lab.remote, ((FLOATING, HOST4),)) == [FLOATING] * 2, peer
            finally:
                lab.remote.setup(f"addr del {FLOATING}/24 dev eth0")
