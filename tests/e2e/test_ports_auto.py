"""`auto`, and the ports of the guest's own loopback (-T, -U)."""

import statistics
import time
from collections.abc import Iterator

import pytest
from lab import PATIENCE_S, Guest, Lab, Space, wait_until
from ports import AGAIN_S, FAMILIES, LOOPBACK, PROTOS, SEEN, Cell, ask, faults, judge

SOON_S = 1.2  # within which a service that started is reachable; on a busy machine, as a rule
CLIENTS = ("loopback", "host", "remote")
OPEN, LEFT_OUT, ONLY4, ONLY6 = 7101, 7102, 7103, 7104
# Rule, specification, ports in the guest, ports in the guest that are refused.
INWARD = (
    ("single", "7201", (7201,), (7200, 7202)),
    ("range", "7210-7212", (7210, 7211, 7212), (7209, 7213)),
    ("mapped", "7220:8220", (7220,), (7219, 8220)),
    ("mapped range", "7230-7232:8230-8232", (7230, 7231, 7232), (7229, 7233, 8231)),
    ("excluded", "7260-7262,~7261", (7260, 7262), (7261, 7263)),
)


@pytest.fixture(scope="module", autouse=True)
def refusals_at_once(lab: Lab) -> None:
    """Refusals of UDP are ICMP errors, which the kernel rations."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)


def questions(client: str, port: int, answered: bool, families: tuple[int, ...] = FAMILIES) -> list[Cell]:
    return [Cell("auto", client, proto, family, port, answered) for proto in PROTOS for family in families]


def closed_for(lab: Lab, cells: list[Cell], what: str) -> None:
    wait_until(lambda: not faults(lab, cells, SEEN, wait=AGAIN_S), SOON_S, what)


def test_auto_follows_the_guest(lab: Lab) -> None:
    """10 MB and 200 KB from every kind of client, within SOON_S of the start; an excluded port stays closed."""
    spec = f"auto,~{LEFT_OUT}"
    with lab.guest("-t", spec, "-u", spec, "-T", "none", "-U", "none") as guest:
        assert not faults(lab, questions("remote", OPEN, answered=False), SEEN)
        server = guest.start("portserve.py", "any", OPEN, LEFT_OUT)
        for client in CLIENTS:
            assert not faults(lab, questions(client, OPEN, answered=True), SEEN, patience=PATIENCE_S)
        for client in CLIENTS:
            assert not faults(lab, questions(client, LEFT_OUT, answered=False), SEEN)
        server.result()
        for client in CLIENTS:
            closed_for(lab, questions(client, OPEN, answered=False), f"it goes with its service: {client}")


def test_auto_tells_families_apart(lab: Lab) -> None:
    """What listens on IPv4 only is refused over IPv6 at once, and the other way round."""
    with lab.guest("-t", "auto", "-u", "auto", "-T", "none", "-U", "none") as guest:
        four = guest.start("portserve.py", "0.0.0.0", ONLY4)
        six = guest.start("portserve.py", "::", ONLY6)
        time.sleep(SOON_S)
        for port, good, other in ((ONLY4, 4, 6), (ONLY6, 6, 4)):
            for client in CLIENTS:
                ours = questions(client, port, True, (good,)) + questions(client, port, False, (other,))
                assert not faults(lab, ours, SEEN, size=5000, patience=PATIENCE_S)
        four.result()
        six.result()


@pytest.mark.parametrize("option", ["--map-gw", "--host-lo-to-ns-lo"])
def test_what_listens_on_the_guests_loopback_only(lab: Lab, option: str) -> None:
    """Is forwarded just with --host-lo-to-ns-lo, and to clients on the host's loopback."""
    with lab.guest("-t", "auto", "-u", "none", "-T", "none", "-U", "none", option) as guest:
        server = guest.start("portserve.py", "loopback", "tcp", OPEN)
        time.sleep(SOON_S)
        ours = [Cell("auto", "loopback", "tcp", family, OPEN, option == "--host-lo-to-ns-lo") for family in FAMILIES]
        assert not faults(lab, ours, {"loopback": LOOPBACK}, size=5000, patience=PATIENCE_S)
        server.result()


@pytest.mark.quiet
def test_a_service_that_starts_and_stops_twenty_times(lab: Lab) -> None:
    """Reachable each time, and within SOON_S as a rule; when it has gone, its port is refused."""
    with lab.guest("-t", "auto", "-u", "none", "-T", "none", "-U", "none") as guest:
        wrong, after = [], []
        for turn in range(20):
            family = FAMILIES[turn % 2]
            cell = Cell("auto", "remote", "tcp", family, OPEN + 10 + turn % 3, answered=True)
            server = guest.start("portserve.py", "any", "tcp", cell.port)
            (result,) = ask(lab.remote, [cell], size=1000, patience=PATIENCE_S)
            wrong += [f"turn {turn}: {what} {result}" for what in judge(cell, result, SEEN["remote"])]
            after.append(float(str(result["after"])))
            server.result()
            if turn % 10 == 9:
                closed = [
                    Cell("auto", "remote", "tcp", 4, port, answered=False) for port in range(OPEN + 10, OPEN + 13)
                ]
                closed_for(lab, closed, f"nothing is stale after turn {turn}")
        assert not wrong
        assert statistics.median(after) < SOON_S, after


# The other direction


@pytest.fixture
def inward(lab: Lab) -> Iterator[Guest]:
    """-T and -U with every kind of rule, and servers on the host's loopback on every port behind one."""
    words = [word for _, spec, _, _ in INWARD for word in ("-T", spec, "-U", spec)]
    ports = sorted({port for _, _, yes, no in INWARD for port in yes + no} | {8230, 8232})
    with lab.guest("-t", "none", "-u", "none", *words) as made:
        server = lab.host.start("portserve.py", "loopback", *ports)
        yield made
        server.result()


def from_guest(guest: Space, cells: list[Cell], size: int | None = None, **options: float) -> list[str]:
    results = ask(guest, cells, size, **options)
    return [f"{c}: {w}" for c, r in zip(cells, results, strict=True) for w in judge(c, r, LOOPBACK)]


@pytest.mark.option("--tcp-ns", "--udp-ns")
@pytest.mark.parametrize("proto", PROTOS)
def test_ports_of_the_guests_loopback(inward: Guest, proto: str) -> None:
    """10 MB and 200 KB through each; the host's service sees its own loopback; neighbours are refused."""
    cells = [
        Cell(rule, "loopback", proto, family, port, port in yes)
        for rule, _, yes, no in INWARD
        for family in FAMILIES
        for port in yes + no
    ]
    assert not from_guest(inward, cells)


@pytest.mark.parametrize("proto", PROTOS)
def test_auto_follows_the_host(lab: Lab, proto: str) -> None:
    """-T auto and -U auto: what listens on the host's loopback is on the guest's, within SOON_S, and goes with it."""
    spec = f"auto,~{LEFT_OUT}"
    with lab.guest("-t", "none", "-u", "none", "-T", spec, "-U", spec) as guest:
        server = lab.host.start("portserve.py", "loopback", OPEN, LEFT_OUT)
        found = [Cell("auto", "loopback", proto, family, OPEN, answered=True) for family in FAMILIES]
        assert not from_guest(guest, found, patience=PATIENCE_S)
        closed = [Cell("auto", "loopback", proto, family, LEFT_OUT, answered=False) for family in FAMILIES]
        assert not from_guest(guest, closed)
        server.result()
        closed = [Cell("auto", "loopback", proto, family, OPEN, answered=False) for family in FAMILIES]
        wait_until(lambda: not from_guest(guest, closed, wait=AGAIN_S), SOON_S, "it goes with its service")


def test_auto_both_ways_makes_no_loop(lab: Lab) -> None:
    """The defaults: a service of the guest is on the host, one of the host in the guest, and neither comes back when it ends."""
    with lab.guest() as guest:
        theirs = guest.start("portserve.py", "any", "tcp", OPEN)
        ours = lab.host.start("portserve.py", "loopback", "tcp", OPEN + 1)
        outward = [Cell("auto", "loopback", "tcp", family, OPEN, answered=True) for family in FAMILIES]
        inward = [Cell("auto", "loopback", "tcp", family, OPEN + 1, answered=True) for family in FAMILIES]
        assert not faults(lab, outward, SEEN, size=5000, patience=PATIENCE_S)
        assert not from_guest(guest, inward, size=5000, patience=PATIENCE_S)
        theirs.result()
        ours.result()
        time.sleep(2 * SOON_S)

        def listening() -> list[str]:
            lines = [line for space in (lab.host, guest) for line in space.run("ss", "-tulnH").stdout.splitlines()]
            return [line for line in lines if f":{OPEN} " in line or f":{OPEN + 1} " in line]

        wait_until(lambda: not listening(), 0, "neither comes back")
