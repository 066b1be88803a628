"""What is measured, and of whom: the records that travel between the two halves of a run."""

from dataclasses import asdict, dataclass, field
from typing import Any

DIRECT = "direct"
OURS = "pasta-py"
PEER = "passt"
LARGE_MTU = 65520
DNS_PORT = 53

#: Ways of a connection: from the guest to the remote machine; from there to a port of the host that leads into the
#: guest; from the host's loopback into the guest's; and from the guest's loopback out to the host's.
OUT, FORWARD, LOCAL_IN, LOCAL_OUT = "out", "forward", "local-in", "local-out"


@dataclass(frozen=True)
class Subject:
    """A translator to measure, or DIRECT.

    `kind` is "pasta" (takes pasta's command line), "slirp4netns", "direct", or one of machines.py; `path` is empty for "direct".
    `options`: further ones of a passt.
    """

    name: str
    kind: str
    path: str
    version: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """One measurement: what the endpoints do. Several cells can show figures of the same one.

    `role` is the endpoints' role (see endpoint.c) with its numbers `a`, `b` and `c`, or one that inside.py knows: "start"
    with `a` forwarded ports, "idle" with `a` connections. `way` is who connects to whom; `greedy` has a bulk stream
    beside it. `kinds` are the subjects that can do it. A `fresh` one gets a translator of its own.
    """

    role: str
    mtu: int = LARGE_MTU
    family: int = 4
    a: int = 0
    b: int = 0
    c: int = 0
    way: str = OUT
    greedy: bool = False
    fresh: bool = False
    kinds: tuple[str, ...] = (DIRECT, "pasta", "slirp4netns")


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    `metric` is the field of a Sample that it shows, in `unit`, divided by that of `base` in the same round where there is
    one; `more` says whether more of it is better; `quick`, whether a quick run has it; `targets` are in the words of
    figures.Target.
    """

    key: str
    name: str
    work: Work
    metric: str
    unit: str
    more: bool = True
    quick: bool = False
    base: Work | None = None
    targets: tuple[str, ...] = ()


@dataclass
class Sample:
    """One measurement of one subject in one round; `error` says why there is none."""

    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass
class Order:
    """What the outer half asks the inner half to do."""

    subjects: list[Subject]
    works: list[Work]
    rounds: int
    seconds: float
    warm: float
    congestion: str
    endpoint: str
    directory: str
    uml: str = ""  # where Debian's user-mode Linux is

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Order":
        subjects = [Subject(**{**each, "options": tuple(each["options"])}) for each in data.pop("subjects")]
        works = [Work(**{**each, "kinds": tuple(each["kinds"])}) for each in data.pop("works")]
        return cls(subjects=subjects, works=works, **data)
