"""Clients on the host's loopback: splicing, and what its options change."""

import re

import pytest
from capture import fields
from lab import BIG, GATEWAYS, HOSTS, REMOTES, Lab
from ports import FAMILIES, IN_GUEST, LOOPBACK, PROTOS, RULES, SEEN, Cell, ask, cells, faults, options

# Of a connection that the kernel accepted before anyone could be asked: met when sending, shutting down or reading.
REFUSED = ("ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOTCONN")


@pytest.fixture(scope="module", autouse=True)
def refusals_at_once(lab: Lab) -> None:
    """Refusals of UDP are ICMP errors, which the kernel rations."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)


@pytest.mark.parametrize(
    ("option", "seen"),
    [
        ("--host-lo-to-ns-lo", LOOPBACK),
        pytest.param("--no-splice", GATEWAYS, marks=pytest.mark.option("--no-splice")),
    ],
    ids=lambda value: str(value)[:20],
)
def test_clients_on_loopback_with(lab: Lab, option: str, seen: dict[int, str]) -> None:
    with lab.guest(*options(RULES[:4]), option) as guest:
        server = guest.start("portserve.py", "any", *IN_GUEST)
        ours = [cell for proto in PROTOS for cell in cells("loopback", proto) if cell.port < 7034]
        assert not faults(lab, ours, {"loopback": seen})
        server.result()


@pytest.mark.option("--host-lo-to-ns-lo")
def test_host_lo_to_ns_lo_reaches_what_listens_on_the_guests_loopback_only(lab: Lab) -> None:
    """And the connection arrives at loopback, from loopback; without the option it is refused there."""
    for option, answered in (("--host-lo-to-ns-lo", True), ("--quiet", False)):
        with lab.guest(*options(RULES[:1]), option) as guest:
            server = guest.start("portserve.py", "loopback", 7001)
            asked = [Cell("single", "loopback", "tcp", family, 7001, answered) for family in FAMILIES]
            for cell, result in zip(asked, ask(lab.host, asked, size=1000), strict=True):
                if answered:
                    assert result["at"] == [LOOPBACK[cell.family], 7001] and result["equal"]
                else:
                    assert str(result["error"]).removeprefix("late ") in REFUSED, result
            server.result()


def test_the_bypass_leaves_the_capture_empty(lab: Lab) -> None:
    """The same questions from the remote are in it."""
    path = f"{BIG}/splice.pcap"
    with lab.guest(*options(RULES[:4]), "-p", path) as guest:
        server = guest.start("portserve.py", "any", *IN_GUEST)
        for client, size in (("loopback", None), ("remote", 5000)):
            ours = [cell for proto in PROTOS for cell in cells(client, proto) if cell.port in (7001, 7020)]
            assert not faults(lab, ours, SEEN, **({} if size is None else {"size": size}))
        server.result()
    names = ("ip.src", "ipv6.src", "ip.dst", "ipv6.dst")
    found = fields(lab.host, path, names, "(tcp or udp) and not icmp and not icmpv6")
    peers = {frame[name] for frame in found for name in names} - {"", *HOSTS.values()}
    assert {*REMOTES.values()} <= peers
    assert not peers & {*GATEWAYS.values(), *LOOPBACK.values()}
    assert not [
        frame for frame in found if (frame["ip.src"] or frame["ipv6.src"]) == (frame["ip.dst"] or frame["ipv6.dst"])
    ]


def test_ports_of_the_namespace_that_descriptors_do_not_suffice_for_are_named(lab: Lab) -> None:
    """And the others are forwarded, with descriptors left for their connections."""
    server = lab.host.start("answer.py", "name", LOOPBACK[4], 1200, "host")
    with lab.guest("-t", "none", "-u", "none", "-T", "all", "-U", "none", limit="-n 4096") as guest:
        listening = {int(line.split()[3].rpartition(":")[2]) for line in guest.run("ss", "-tlnH").stdout.splitlines()}
        assert str(guest.script("probe.py", "ask", LOOPBACK[4], 1200)["answer"]).startswith("host ")
        low, high = map(int, guest.run("cat", "/proc/sys/net/ipv4/ip_local_port_range").stdout.split())
        guest.process.terminate()
        assert guest.process.stderr is not None
        said = guest.process.stderr.read()
    server.result()
    missing = re.findall(r"TCP ports (\d+)-(\d+) of the namespace are not forwarded: raise the limit of open files", said)
    left_out = {port for first, last in missing for port in range(int(first), int(last) + 1)}
    assert 1000 < len(listening) < 2048, said
    assert listening | left_out == set(range(1, 65536)) - set(range(low, high + 1)) and not listening & left_out
