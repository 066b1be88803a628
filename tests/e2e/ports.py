"""Cells of the port-forwarding matrix: who asks where, and what must come of it."""

import json
import sys
from dataclasses import dataclass

from lab import GATEWAYS, HOSTS, PROGRAMS, REMOTES, Lab, Space

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SIZES = {"tcp": 10_000_000, "udp": 200_000}
PROTOS = ("tcp", "udp")
FAMILIES = (4, 6)
Rule = tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...], tuple[str, ...]]
CLIENTS = ("loopback", "host", "remote")
# Name of the rule, its specifications, host ports that must be answered, those that must not, and by whom it is reached.
RULES: tuple[Rule, ...] = (
    ("single", ("7001",), (7001,), (7000, 7002), CLIENTS),
    ("range", ("7010-7012",), (7010, 7011, 7012), (7009, 7013), CLIENTS),
    ("mapped", ("7020:8020",), (7020,), (7019, 7021, 8020), CLIENTS),
    ("mapped range", ("7030-7032:8030-8032",), (7030, 7031, 7032), (7029, 7033, 8031), CLIENTS),
    ("address-bound", tuple(f"{a}/7040" for a in HOSTS.values()), (7040,), (7039, 7041), ("host", "remote")),
    ("bound to loopback", tuple(f"{a}/7045" for a in LOOPBACK.values()), (7045,), (7044, 7046), ("loopback",)),
    ("device-bound", ("%eth0/7050",), (7050,), (7049, 7051), ("host", "remote")),  # to the kernel, the address's device
    ("bound to lo", ("%lo/7055",), (7055,), (7054, 7056), ("loopback",)),
    ("excluded", ("7060-7062,~7061",), (7060, 7062), (7061, 7063), CLIENTS),
    ("any IPv4", ("0.0.0.0/7070",), (7070,), (7069, 7071), CLIENTS),
    ("any IPv6", ("::/7075",), (7075,), (7074, 7076), CLIENTS),
)
ONE_FAMILY = {"any IPv4": 4, "any IPv6": 6}  # the other one is refused
IN_GUEST = sorted(
    {port for _, _, yes, no, _ in RULES for port in yes + no} | {8030, 8032}
)  # also where nothing is forwarded, so that a refusal is ours
SEEN = {"remote": REMOTES, "host": GATEWAYS, "loopback": HOSTS}


@dataclass(frozen=True)
class Cell:
    """One question: of which kind of client, to which port, and whether it must be answered."""

    rule: str
    client: str  # "loopback", "host" or "remote"
    proto: str
    family: int
    port: int
    answered: bool

    def __str__(self) -> str:
        wanted = "answered" if self.answered else "refused"
        return f"{self.rule}: {self.proto} IPv{self.family} from {self.client} to {self.port}, to be {wanted}"

    def address(self) -> str:
        return LOOPBACK[self.family] if self.client == "loopback" else HOSTS[self.family]


AGAIN_S = 1.5  # for a refusal that may not come yet, where the caller asks again


def ask(
    space: Space, cells: list[Cell], size: int | None = None, patience: float = 0, **wait: float
) -> list[dict[str, object]]:
    """The result of each cell (portask.py), asked one after another in `space`. wait: seconds for an answer or a refusal."""
    questions = [
        {
            "proto": cell.proto,
            "address": cell.address(),
            "from": REMOTES[cell.family] if cell.client == "remote" else "",
            "port": cell.port,
            "size": SIZES[cell.proto] if size is None else size,
            "patience": patience if cell.answered else 0,
            **wait,
        }
        for cell in cells
    ]
    done = space.run(sys.executable, PROGRAMS / "portask.py", input=json.dumps(questions), timeout=100)
    results: list[dict[str, object]] = json.loads(done.stdout)["results"]
    assert len(results) == len(cells)
    return results


def faults(lab: Lab, cells: list[Cell], sources: dict[str, dict[int, str]], **options: float) -> list[str]:
    """What is wrong with the cells, a line each. sources: the peer that the guest must see, by client and family."""
    found = []
    for client in dict.fromkeys(cell.client for cell in cells):
        space = lab.remote if client == "remote" else lab.host
        ours = [cell for cell in cells if cell.client == client]
        for cell, result in zip(ours, ask(space, ours, **options), strict=True):  # type: ignore[arg-type]
            found += [f"{cell}: {what}" for what in judge(cell, result, sources[client])]
    return found


def judge(cell: Cell, result: dict[str, object], source: dict[int, str]) -> list[str]:
    """What is wrong with one result."""
    if not cell.answered:
        return [] if result["error"] == "ECONNREFUSED" else [f"{result['error'] or 'answered'}"]
    if result["error"] is not None:
        return [str(result["error"])]
    peer, me = result["peer"], result["me"]
    assert isinstance(peer, list) and isinstance(me, list)
    wrong = [] if result["equal"] else ["other bytes came back"]
    if peer[0] != source[cell.family]:
        wrong.append(f"seen as {peer[0]}, not {source[cell.family]}")
    if cell.client == "remote" and peer != me:
        wrong.append(f"seen as {peer}, not {me}")
    return wrong


def options(rules: tuple[Rule, ...]) -> list[str]:
    specs = [spec for rule in rules for spec in rule[1]]
    words = [word for spec in specs for word in ("-t", spec, "-u", spec)]
    return [*words, "-T", "none", "-U", "none"]


def cells(client: str, proto: str) -> list[Cell]:
    found = []
    for name, _, yes, no, reached in RULES:
        for family in FAMILIES:
            answered = client in reached and ONE_FAMILY.get(name, family) == family
            found += [Cell(name, client, proto, family, port, answered) for port in yes]
            found += [Cell(name, client, proto, family, port, False) for port in no]
    return found
