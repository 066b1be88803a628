"""Every loopback address, not only 127.0.0.1: -T and -U, and the other way round with --host-lo-to-ns-lo or --splice-only."""

import contextlib
from collections.abc import Iterator

import pytest
from lab import HOST4, HOST6, NO_PORTS, PATIENCE_S, Lab, Script, Space, program, wait_until

ALONE = ("127.0.0.1", "127.0.0.2", "127.0.0.53", "127.0.1.1", "127.255.255.254", "::1")  # a server at each of these alone
LACKING = ("127.0.0.3", "127.0.0.54")  # with none
PORT, WIDE, OWN = 7160, 7161, 7162
HOWS = ("ask", "ask-udp")
SPECIFICATIONS = pytest.mark.parametrize("spec", ["auto", f"{PORT}-{OWN}"], ids=["auto", "given"])


@contextlib.contextmanager
def servers(space: Space, addresses: tuple[str, ...], port: int = PORT) -> Iterator[None]:
    """One at each address, which says where it is."""
    started = [space.start("answer.py", "name", address, port, f"at-{address}") for address in addresses]
    yield
    for each in started:
        each.result()


def answer(space: Space, how: str, address: str, port: int = PORT) -> str:
    """Who answers, from the address that was asked: the client's socket is connected."""
    return str(space.script("probe.py", how, address, port)["answer"]).split()[0]


def refusal(space: Space, address: str, port: int = PORT) -> object:
    """How a connection of TCP ends on which nothing is said."""
    return space.script("probe.py", "hangup", address, port)["error"]


def listens(space: Space, where: str, port: int) -> bool:
    return f"{where}:{port} " in space.run("ss", "-tlnH").stdout


@pytest.mark.option("--tcp-ns", "--udp-ns")
@SPECIFICATIONS
def test_the_guest_reaches_the_same_address_of_the_host(lab: Lab, spec: str) -> None:
    """And answers come from there; where nothing listens on the host, the guest is refused."""
    with servers(lab.host, ALONE), lab.guest("-t", "none", "-u", "none", "-T", spec, "-U", spec) as guest:
        for how in HOWS:
            assert {address: answer(guest, how, address) for address in ALONE} == {a: f"at-{a}" for a in ALONE}
        for address in LACKING:
            assert refusal(guest, address) == ("ECONNREFUSED" if spec == "auto" else "ECONNRESET")


@SPECIFICATIONS
def test_a_service_at_any_address_is_reached_at_every_loopback_address_and_no_other(lab: Lab, spec: str) -> None:
    """Not at the guest's own address, nor at another address of its lo."""
    both = [lab.host.start("answer.py", "name", address, WIDE, "any") for address in ("0.0.0.0", "::")]
    with lab.guest("-t", "none", "-u", "none", "-T", spec, "-U", spec) as guest:
        guest.setup("addr add 203.0.113.5/32 dev lo")
        for address in ("127.0.0.1", "127.0.0.53", "127.9.8.7", "::1"):
            assert answer(guest, "ask", address, WIDE) == "any"
        for address in (HOST4, HOST6):
            assert refusal(guest, address, WIDE) == "ECONNREFUSED"
        assert refusal(guest, "203.0.113.5", WIDE) == "ECONNRESET"
        assert guest.script("probe.py", "udp", "203.0.113.5", WIDE, 1)["error"] == "silence"
        assert answer(guest, "ask-udp", "127.0.0.1", WIDE) == "any"
        assert answer(guest, "ask-udp", "::1", WIDE) == "any"
    for server in both:
        server.result()


@pytest.mark.option("--host-lo-to-ns-lo", "--splice-only")
@pytest.mark.parametrize("option", ["--host-lo-to-ns-lo", "--splice-only"])
@SPECIFICATIONS
def test_the_host_reaches_the_same_address_of_the_guest(lab: Lab, spec: str, option: str) -> None:
    with lab.guest("-t", spec, "-u", spec, "-T", "none", "-U", "none", option) as guest, servers(guest, ALONE):
        wait_until(lambda: f":{PORT} " in lab.host.run("ss", "-tlnH").stdout, PATIENCE_S, "the port is forwarded")
        for how in HOWS:
            assert {address: answer(lab.host, how, address) for address in ALONE} == {a: f"at-{a}" for a in ALONE}
        assert refusal(lab.host, LACKING[0]) == "ECONNRESET"


def test_auto_offers_what_listens_at_the_guests_own_address_also_where_loopback_leads_to_loopback(lab: Lab) -> None:
    """To clients on other machines, who arrive there."""
    with lab.guest("-t", "auto", "-u", "auto", "-T", "none", "-U", "none", "--host-lo-to-ns-lo") as guest, servers(guest, (HOST4,)):
        wait_until(lambda: listens(lab.host, "0.0.0.0", PORT), PATIENCE_S, "the port is forwarded")
        for how in HOWS:
            assert answer(lab.remote, how, HOST4) == f"at-{HOST4}"


def test_splice_only_forwards_what_the_guest_asks_at_every_loopback_address(lab: Lab) -> None:
    ways = ("-t", "none", "-u", "none", "-T", PORT, "-U", PORT)
    with servers(lab.host, ALONE), lab.guest("--splice-only", *ways) as guest:
        for how in HOWS:
            assert {address: answer(guest, how, address) for address in ALONE} == {a: f"at-{a}" for a in ALONE}


def test_auto_leaves_the_guest_the_addresses_that_no_service_of_the_host_has(lab: Lab) -> None:
    """A resolver of the host at 127.0.0.53 does not keep one of the guest from 127.0.0.1."""
    with servers(lab.host, ("127.0.0.53",)), lab.guest("-t", "none", "-u", "none") as guest:
        assert answer(guest, "ask", "127.0.0.53") == "at-127.0.0.53"
        with servers(guest, ("127.0.0.1", HOST4)):
            for how in HOWS:
                assert answer(guest, how, "127.0.0.1") == "at-127.0.0.1"
                assert answer(guest, how, "127.0.0.53") == "at-127.0.0.53"


def test_a_rule_that_takes_the_place_of_auto_has_every_address(lab: Lab) -> None:
    """Not only what the automatic ports have left."""
    with servers(lab.host, ALONE), lab.guest("-t", "none", "-u", "none", "-c", "conf.sock") as guest:
        assert listens(guest, "127.0.0.53", PORT)
        lab.host.run(program("pesto"), "-T", PORT, "-U", PORT, "conf.sock")
        wait_until(lambda: listens(guest, "0.0.0.0%lo", PORT), 5, "the rule is in force")
        for how in HOWS:
            assert {address: answer(guest, how, address) for address in ALONE} == {a: f"at-{a}" for a in ALONE}


def test_a_service_of_the_guest_at_another_address_leaves_127_0_0_1_to_the_host(lab: Lab) -> None:
    """The guest has the port at its own address before the host has it at any."""
    with lab.guest("-t", "none", "-u", "none") as guest, servers(guest, (HOST4,), OWN):
        server: Script = lab.host.start("answer.py", "name", "0.0.0.0", OWN, "any")
        wait_until(lambda: listens(guest, "127.0.0.1", OWN), PATIENCE_S, "the port is forwarded")
        for how in HOWS:
            assert answer(guest, how, "127.0.0.1", OWN) == "any"
            assert answer(guest, how, HOST4, OWN) == f"at-{HOST4}"
        server.result()


def test_a_program_of_the_guest_that_shares_its_port_of_udp_may_have_a_forwarded_one(lab: Lab) -> None:
    """As name servers do (SO_REUSEADDR): at the address that it names it is the one that answers."""
    server = lab.host.start("answer.py", "name", "127.0.0.1", PORT, "host")
    with lab.guest(*NO_PORTS[:-2], "-U", PORT) as guest:
        assert answer(guest, "ask-udp", "127.0.0.1") == "host"
        with servers(guest, ("127.0.0.1",)):
            assert answer(guest, "ask-udp", "127.0.0.1") == "at-127.0.0.1"
        assert answer(guest, "ask-udp", "127.0.0.1") == "host"
    server.result()


def test_what_listens_on_one_interface_only_is_not_offered_at_loopback(lab: Lab) -> None:
    """Any address of eth0 (as a DHCP server has it) is none of the host's loopback."""
    lab.host.serve("socat", f"TCP-LISTEN:{OWN},reuseaddr,so-bindtodevice=eth0,fork", "SYSTEM:true", port=OWN)
    with servers(lab.host, ("127.0.0.1",)), lab.guest("-t", "none", "-u", "none") as guest:
        assert answer(guest, "ask", "127.0.0.1") == "at-127.0.0.1"  # so the scan has been
        assert refusal(guest, "127.0.0.1", OWN) == "ECONNREFUSED"
