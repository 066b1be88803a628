"""What is measured, and of whom: the table of cells, and the records that travel between the two halves of a run."""

from dataclasses import asdict, dataclass, field
from typing import Any

DIRECT = "direct"
OURS = "pasta-py"


@dataclass(frozen=True)
class Subject:
    """A translator to measure, or DIRECT.

    `kind` is "pasta" (takes pasta's command line), "slirp4netns" or "direct"; `path` is empty for the last.
    """

    name: str
    kind: str
    path: str
    version: str


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    `role` is the endpoints' role (see endpoint.c), or "start" or "memory"; `a` and `b` are its two numbers. `metric` is
    the field of a Sample that the table shows, in `unit`; `more` says whether more of it is better; `quick`, whether a
    quick run has it.
    """

    name: str
    role: str
    metric: str
    unit: str
    more: bool = True
    mtu: int = 65520
    family: int = 4
    a: int = 0
    b: int = 0
    quick: bool = True


@dataclass
class Sample:
    """One measurement of one subject in one round; `error` says why there is none."""

    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass
class Order:
    """What the outer half asks the inner half to do."""

    subjects: list[Subject]
    cells: list[Cell]
    rounds: int
    seconds: float
    warm: float
    congestion: str
    endpoint: str
    directory: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Order":
        subjects = [Subject(**each) for each in data.pop("subjects")]
        cells = [Cell(**each) for each in data.pop("cells")]
        return cls(subjects=subjects, cells=cells, **data)


def bulk(families: tuple[int, ...]) -> list[Cell]:
    """TCP throughput: one stream at each MTU and family; eight streams; both directions at once."""
    cells = []
    for family in families:
        for mtu in (1500, 9000, 65520):
            for name, down, up in (("guest-bound", 1, 0), ("host-bound", 0, 1)):
                label = f"TCP {name}, MTU {mtu}" + (", IPv6" if family == 6 else "")
                quick = mtu != 9000 and family == 4
                cells.append(Cell(label, "tcp", "gbit", "Gb/s", mtu=mtu, family=family, a=down, b=up, quick=quick))
    for mtu in (1500, 65520):
        for name, down, up in (
            ("guest-bound, 8 streams", 8, 0),
            ("host-bound, 8 streams", 0, 8),
            ("both directions at once", 1, 1),
        ):
            label, quick = f"TCP {name}, MTU {mtu}", mtu == 65520
            cells.append(Cell(label, "tcp", "gbit", "Gb/s", mtu=mtu, a=down, b=up, quick=quick))
    return cells


def all_cells(families: tuple[int, ...]) -> list[Cell]:
    """Every cell of a full run, in the order of the table."""
    half = 500_000_000
    return [
        *bulk(families),
        Cell("TCP request/response, p50", "rr", "p50_us", "µs", more=False),
        Cell("TCP request/response, p99", "rr", "p99_us", "µs", more=False),
        Cell("TCP connect/request/response", "crr", "per_s", "1/s"),
        Cell("UDP 1400 B flood out, received", "udp", "gbit", "Gb/s", a=0),
        Cell("UDP 1400 B flood in, received", "udp", "gbit", "Gb/s", a=1),
        Cell("UDP 0.5 Gb/s out, lost", "udp", "loss_percent", "%", more=False, a=0, b=half, quick=False),
        Cell("UDP 0.5 Gb/s in, lost", "udp", "loss_percent", "%", more=False, a=1, b=half, quick=False),
        Cell("UDP request/response, p50", "urr", "p50_us", "µs", more=False),
        Cell("UDP request/response, p99", "urr", "p99_us", "µs", more=False),
        Cell("start to ready", "start", "start_ms", "ms", more=False),
        Cell("memory when idle (RSS)", "memory", "rss_mb", "MB", more=False),
    ]
