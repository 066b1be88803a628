"""--splice-only: a guest with nothing but its loopback, and local connections to and from it."""

import json
from dataclasses import replace

import pytest
from lab import PATIENCE_S, Lab, program
from ports import FAMILIES, IN_GUEST, LOOPBACK, PROTOS, RULES, Cell, cells, faults, options

SEEN = dict.fromkeys(("loopback", "host", "remote"), LOOPBACK)
FREE = [rule for rule in RULES if "%" not in rule[1][0] and "/" not in rule[1][0]]  # no address, so: loopback


@pytest.fixture(scope="module", autouse=True)
def refusals_at_once(lab: Lab) -> None:
    """Refusals of UDP are ICMP errors, which the kernel rations."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)


@pytest.mark.option("--splice-only")
def test_the_guest_has_no_interface_but_its_loopback(lab: Lab) -> None:
    with lab.guest("--splice-only") as guest:
        (link,) = json.loads(guest.run("ip", "-j", "address").stdout)
        assert link["ifname"] == "lo" and "UP" in link["flags"]
        assert {a["local"] for a in link["addr_info"]} == {*LOOPBACK.values()}


@pytest.mark.parametrize("proto", PROTOS)
def test_only_the_hosts_loopback_is_forwarded(lab: Lab, proto: str) -> None:
    """Every rule without an address, from loopback to loopback; at the host's other addresses nothing listens."""
    rules = (*FREE, *(rule for rule in RULES if rule[0] in ("bound to loopback", "bound to lo")))
    names = {rule[0] for rule in rules}
    with lab.guest("--splice-only", *options(rules)) as guest:
        server = guest.start("portserve.py", "any", *IN_GUEST)
        for client in ("loopback", "host", "remote"):
            ours = [cell for cell in cells(client, proto) if cell.rule in names]
            if client != "loopback":  # of what is forwarded at all: the kernel gives 50 refusals of UDP at once
                local = {cell.port for cell in cells("loopback", proto) if cell.answered}
                ours = [replace(cell, answered=False) for cell in ours if cell.port in local]
            assert not faults(lab, ours, SEEN)
        server.result()


def test_auto_and_the_way_out(lab: Lab) -> None:
    with lab.guest("--splice-only", "-t", "auto", "-u", "auto", "-T", "7410", "-U", "7410") as guest:
        inside = guest.start("portserve.py", "loopback", 7401)
        ours = [Cell("auto", "loopback", proto, family, 7401, True) for proto in PROTOS for family in FAMILIES]
        assert not faults(lab, ours, SEEN, patience=PATIENCE_S)
        inside.result()
        outside = lab.host.start("portserve.py", "loopback", 7410)
        for family in FAMILIES:
            reply = guest.script("probe.py", "ask", LOOPBACK[family], 7410)
            assert json.loads(str(reply["answer"]))["peer"][0] == LOOPBACK[family]
        outside.result()


@pytest.mark.parametrize(
    ("words", "quoted"),
    [
        (("-t", "192.0.2.1/8080"), "'192.0.2.1'"),
        (("-u", "%eth0/8080"), "'%eth0'"),
        (("--pcap", "/dev/null"), "--pcap"),
        (("--fd", "3"), "--fd"),
    ],
)
def test_what_makes_no_sense_without_a_tap_is_refused(lab: Lab, words: tuple[str, ...], quoted: str) -> None:
    done = lab.host.run(program(), "--splice-only", *words, "--", "true", check=False)
    assert done.returncode == 1
    line = done.stderr.splitlines()[0]  # the usage follows
    assert "--splice-only" in line and quoted in line
