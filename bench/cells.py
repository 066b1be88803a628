"""The table of cells, and what is asked of each; see figures.Target for the words of a target.

A direction is the data's: "in" is to the guest, "out" from it, whoever connected.
"""

import itertools

from .model import DIRECT, DNS_PORT, FORWARD, LARGE_MTU, LOCAL_IN, LOCAL_OUT, OUT, Cell, Work

PASTA = (DIRECT, "pasta")
WORDS = {"in": "guest-bound", "out": "host-bound"}
IDLE_FLOWS = 15_000
#: Of the peer's throughput and processor time, by MTU, for data to the guest.
TIMES_PEER = {1500: (12, 0.1), 9000: (3.5, 0.2), LARGE_MTU: (1.4, 0.65)}


def streams(way: str, count: int) -> dict[str, int]:
    """The endpoint's two numbers for streams in this direction, where the guest's end connects."""
    return {"a": count, "b": 0} if way == "in" else {"a": 0, "b": count}


def bulk_targets(way: str, mtu: int) -> tuple[str, ...]:
    if way == "in":
        speed, cost = TIMES_PEER[mtu]
        return "gbit >= 0.8 direct", f"gbit >= {speed} passt", f"cpu_s_per_gb <= {cost} passt"
    share = 0.8 if mtu == LARGE_MTU else 0.5
    return f"gbit >= {share} direct", "cpu_s_per_gb <= 0.4 passt", "gbit >= 0.5 steady", "resent <= 0 worst"


def bulk() -> list[Cell]:
    """One stream at each MTU, in each direction and family."""
    cells = []
    for family in (4, 6):
        for mtu in TIMES_PEER:
            for way, words in WORDS.items():
                tail, label = ("-v6", ", IPv6") if family == 6 else ("", "")
                work = Work("tcp", mtu, family, **streams(way, 1), kinds=PASTA if family == 6 else Work.kinds)
                quick = mtu != 9000 and family == 4
                name = f"TCP {words}, MTU {mtu}{label}"
                targets = bulk_targets(way, mtu)
                cells.append(Cell(f"tcp-{way}-{mtu}{tail}", name, work, "gbit", "Gb/s", True, quick, None, targets))
    return cells


def several() -> list[Cell]:
    """8, 64 and 512 streams, both directions at once, and what a gigabyte costs with so many."""
    cells = []
    for mtu in (1500, LARGE_MTU):
        for way, words in WORDS.items():
            work = Work("tcp", mtu, **streams(way, 8), kinds=PASTA)
            quick = mtu == LARGE_MTU
            name = f"TCP {words}, 8 streams, MTU {mtu}"
            cells.append(Cell(f"tcp8-{way}-{mtu}", name, work, "gbit", "Gb/s", True, quick, None, ("gbit >= 0.7 direct",)))
        both = Work("tcp", mtu, a=1, b=1, kinds=PASTA)
        name = f"TCP both directions at once, MTU {mtu}"
        cells.append(Cell(f"tcp-both-{mtu}", name, both, "gbit", "Gb/s", targets=("gbit >= 0.7 direct",)))
    for way, words in WORDS.items():
        one = Work("tcp", LARGE_MTU, **streams(way, 1))
        for count in (8, 64, 512):
            kinds = PASTA if count == 8 else ("pasta",)
            work = Work("tcp", LARGE_MTU, **streams(way, count), kinds=kinds)
            name = f"CPU s/GB, TCP {words}, {count} streams : 1"
            cells.append(
                Cell(f"cost{count}-{way}", name, work, "cpu_s_per_gb", "×", False, False, one, ("cpu_s_per_gb <= 1.3",))
            )
    return cells


def forwarded() -> list[Cell]:
    """A port of the host that leads into the guest: from the remote machine, and over loopback both ways (splice)."""
    cells = []
    for family, mtu, way in [*itertools.product((4, 6), TIMES_PEER, ("in",)), (4, 1500, "out"), (4, LARGE_MTU, "out")]:
        # The remote connects, so its streams go from client to server.
        work = Work("tcp", mtu, family, **streams("out" if way == "in" else "in", 1), way=FORWARD, kinds=PASTA)
        label, tail = (", IPv6", "-v6") if family == 6 else ("", "")
        name = f"TCP forwarded, {WORDS[way]}, MTU {mtu}{label}"
        cells.append(Cell(f"forward-{way}-{mtu}{tail}", name, work, "gbit", "Gb/s", targets=bulk_targets(way, mtu)))
    for path, option in ((LOCAL_IN, "-t"), (LOCAL_OUT, "-T")):
        for way in ("in", "out"):
            guest_connects = path == LOCAL_OUT
            numbers = streams(way if guest_connects else ("out" if way == "in" else "in"), 1)
            work = Work("tcp", **numbers, way=path, kinds=PASTA)
            name = f"splice, {option}, {WORDS[way]}"
            quick = path == LOCAL_IN
            targets = ("gbit >= 1.0 passt", "cpu_s_per_gb <= 1.0 passt")
            cells.append(Cell(f"splice{option}-{way}", name, work, "gbit", "Gb/s", True, quick, None, targets))
    return cells


def datagrams() -> list[Cell]:
    """Floods of each size, an offered rate, and a load like QUIC's."""
    cells = []
    for size, label in ((100, "100 B"), (1400, "1400 B"), (8192, "8 KiB")):
        for a, way in enumerate(("out", "in")):
            work = Work("udp", a=a, c=size, kinds=Work.kinds if size == 1400 else PASTA)
            times = 2.5 if way == "in" else 1.5
            targets = (f"gbit >= {times} passt", "cpu_s_per_gb <= 0.4 passt") if size == 1400 else ("gbit >= 1.0 passt",)
            name = f"UDP {label} flood {way}, received"
            cells.append(Cell(f"udp{size}-{way}", name, work, "gbit", "Gb/s", True, size == 1400, None, targets))
    for a, way in enumerate(("out", "in")):
        work = Work("udp", a=a, b=500_000_000, c=1400, kinds=PASTA)
        name = f"UDP 1400 B, 0.5 Gb/s offered {way}, lost"
        cells.append(Cell(f"udp-rate-{way}", name, work, "loss_percent", "%", False, targets=("loss_percent <= 0 worst",)))
    for a, way in enumerate(("out", "in")):
        work = Work("quic", a=a, b=32, kinds=PASTA)
        name = f"QUIC-like {way}, 32 flows"
        cells.append(Cell(f"quic-{way}", name, work, "gbit", "Gb/s", True, way == "out", None, ("gbit >= 5 passt",)))
    for way, words in ((OUT, "out"), (FORWARD, "in")):
        work = Work("peers", a=4000, b=2, way=way, kinds=PASTA)
        label = f"UDP {words}, 4,000 peers, 2 datagrams/s each"
        cheap = ("cpu_us_each <= 0.3 passt",)
        cells.append(Cell(f"peers-{words}", f"{label}: CPU each", work, "cpu_us_each", "µs", False, targets=cheap))
        none = ("loss_percent <= 0 worst",)
        cells.append(Cell(f"peers-{words}-loss", f"{label}: lost", work, "loss_percent", "%", False, targets=none))
    return cells


def latencies() -> list[Cell]:
    """Requests and responses, alone and beside a greedy flow; connections a second."""
    cells = []
    for role, label in (("rr", "TCP"), ("urr", "UDP")):
        for metric in ("p50_us", "p99_us"):
            name = f"{label} request/response, {metric[:3]}"
            key, targets = f"{label.lower()}-rr-{metric[:3]}", (f"{metric} <= 1.0 passt",)
            cells.append(Cell(key, name, Work(role), metric, "µs", False, True, None, targets))
    for role, label in (("rr", "TCP"), ("urr", "UDP")):
        greedy = Work(role, greedy=True, kinds=PASTA)
        name = f"{label} request/response beside a greedy stream, p99 : alone"
        key = f"greedy-{label.lower()}"
        cells.append(Cell(key, name, greedy, "p99_us", "×", False, False, Work(role), ("p99_us <= 2",)))
    crr = Cell("tcp-crr", "TCP connect/request/response", Work("crr"), "per_s", "1/s", True, True, None, ("per_s >= 1.2 passt",))
    asked = Work("ucrr", c=DNS_PORT, kinds=PASTA)
    questions = Cell("udp-crr", "UDP questions to port 53, each from its own port", asked, "per_s", "1/s", True)
    return [*cells, crr, questions]


def holding() -> list[Cell]:
    """What starting costs, with ports and without, and what connections cost that only exist."""
    cells = []
    start = Work("start", fresh=True, kinds=("pasta", "slirp4netns"))
    cells.append(Cell("start", "start to ready", start, "start_ms", "ms", False, True, None, ("start_ms <= 2 passt",)))
    cells.append(Cell("memory", "memory when idle (RSS)", start, "rss_mb", "MB", False, True, None, ("rss_mb <= 12",)))
    for count in (1, 1000, 10_000):
        work = Work("start", a=count, fresh=True, kinds=("pasta",))
        name = f"{count:,} forwarded port{'s' if count > 1 else ''}"
        growth = ("start_ms <= 2 passt",) if count == 1 else ()
        cells.append(Cell(f"ports{count}-start", f"{name}: start to ready", work, "start_ms", "ms", False, targets=growth))
        cells.append(Cell(f"ports{count}-memory", f"{name}: memory", work, "rss_mb", "MB", False))
    one = Work("start", a=1, fresh=True, kinds=("pasta",))
    for count in (1000, 10_000):
        many = Work("start", a=count, fresh=True, kinds=("pasta",))
        for metric, label in (("start_ms", "start to ready"), ("rss_mb", "memory")):
            key, name = f"ports{count}-growth-{metric.partition('_')[0]}", f"{count:,} forwarded ports : 1, {label}"
            cells.append(Cell(key, name, many, metric, "×", False, False, one, (f"{metric} <= 1.0 passt",)))
    idle = Work("idle", a=IDLE_FLOWS, fresh=True, kinds=("pasta",))
    label = f"{IDLE_FLOWS:,} idle TCP flows"
    alone = ("bytes_per_flow <= 600",)
    cells.append(Cell("idle-memory", f"{label}: memory of each", idle, "bytes_per_flow", "B", False, targets=alone))
    none = ("idle_cpu_percent <= 0 worst",)
    cells.append(Cell("idle-cpu", f"{label}: CPU", idle, "idle_cpu_percent", "%", False, targets=none))
    kept = ("rate_kept >= 0.9",)
    cells.append(Cell("idle-rate", "connect/request/response with them : without", idle, "rate_kept", "×", targets=kept))
    return cells


def all_cells() -> list[Cell]:
    """Every cell of a full run, in the order of the table."""
    return [*bulk(), *several(), *forwarded(), *datagrams(), *latencies(), *holding()]
