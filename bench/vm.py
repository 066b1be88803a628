"""passt with virtual machines: ours and the peer's side by side, in one hermetic run.

    python -m bench.vm [--rounds N] [--seconds S] [--only TEXT] [--doc FILE] [--json FILE]      default: 5 rounds of 0.7 s

The machines are user-mode Linux of Debian sid over vhost-user, which is a real guest at native speed, and front ends of ours
(tests/programs/vhost_tap.c, stream_tap.c), whose guest's stack is that of a network namespace. Both programs take turns. Prints a
Markdown table of medians; ratios are the medians of those of each round. --only: rows with this in their name.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import report
from .__main__ import CHECKOUT, BenchError, compile_endpoint, congestion_control, ours, run_inside, told, version_of
from .figures import Samples, good, ratio
from .machines import FRONT_ENDS, PAIRS, STREAM, THREADS, UML, VHOST
from .model import LARGE_MTU, OURS, PEER, Order, Subject, Work

BEGIN, END = "<!-- machines: written by `make bench-vm` -->", "<!-- end of the machines -->"
PROGRAMS = CHECKOUT / "tests" / "programs"
UML_ROOT = CHECKOUT / "build" / "uml"
PEER_PASST = CHECKOUT / "build" / "peer" / "usr" / "bin" / "passt"
#: passt stalls where its window meets this kernel's send buffer: a ratio to what it carries then says nothing about us.
STALLED_GBIT = 0.1
NAMES = {
    UML: "user-mode Linux, vhost-user",
    VHOST: "our front end, vhost-user",
    PAIRS: "our front end, vhost-user, 4 connections, ours with two queue pairs and threads",
    STREAM: "our front end, stream",
}
#: What is asked of our figure, over the peer's: the rate by link and MTU, the processor time for a gigabyte.
RATE_TARGET = {(UML, 1500): 3.0, (UML, LARGE_MTU): 1.5, (VHOST, 1500): 3.0, (VHOST, LARGE_MTU): 1.5, (PAIRS, 1500): 3.0}
STREAM_TARGET, COST_TARGET, TIME_TARGET = 1.3, 0.3, 1.0
WAYS = {"to the guest": (1, 0), "from the guest": (0, 1)}


def works() -> dict[tuple[str, str, int], Work]:
    """By kind of machine, name and MTU."""
    found = {}
    for kind in (UML, VHOST, STREAM):
        for mtu in (1500, LARGE_MTU):
            for name, (to_guest, from_guest) in WAYS.items():
                found[kind, name, mtu] = Work("tcp", mtu, a=to_guest, b=from_guest, kinds=(kind,))
        found[kind, "request/response, p50", 1500] = Work("rr", 1500, kinds=(kind,))
    for name, (to_guest, from_guest) in WAYS.items():
        found[PAIRS, name, 1500] = Work("tcp", 1500, a=4 * to_guest, b=4 * from_guest, kinds=(PAIRS,))
    return found


def fetch() -> None:
    """Debian sid's passt and user-mode Linux, where they are not there yet."""
    packages = (CHECKOUT / "tests" / "vm" / "uml.txt").read_text().splitlines()
    wanted = [line.replace(" ", "=") for line in packages if not line.startswith("#")]
    for root, names in ((UML_ROOT, wanted), (PEER_PASST.parents[2], ["passt"])):
        if names != ["passt"] or not PEER_PASST.exists():
            subprocess.run(["sh", CHECKOUT / "tests" / "sid.sh", root, *names], stdout=subprocess.DEVNULL, check=True)


def subjects() -> list[Subject]:
    found = []
    for name, path in ((OURS, ours().with_name("passt")), (PEER, PEER_PASST)):
        if not path.exists():
            raise BenchError(f"no {path}: install the project beside this Python, or set PASTA_UNDER_TEST")
        version = version_of(str(path), "pasta")
        for kind in NAMES:
            options = THREADS if kind == PAIRS and name == OURS else ()
            found.append(Subject(f"{name} {kind}", kind, str(path), version, options))
    return found


def compile_front_ends(directory: str) -> None:
    for name in set(FRONT_ENDS.values()):
        flags = ["-std=c11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", f"{directory}/{name}", PROGRAMS / f"{name}.c"], check=True)


def verdict(value: float | None, limit: float, more: bool) -> str:
    if value is None:
        return "not measured"
    return f"{'≥' if more else '≤'} {limit:g}: {'met' if (value >= limit if more else value <= limit) else '**missed**'}"


def median(samples: Samples, metric: str) -> float | None:
    values = good(samples, metric)
    return statistics.median(values) if values else None


def stalls(samples: Samples) -> bool:
    rate = median(samples, "gbit")
    return rate is not None and rate < STALLED_GBIT


def row(key: tuple[str, str, int], mine: Samples, theirs: Samples) -> list[str]:
    """Of the table: rates, their ratio, what was asked of it, and the same for processor time. `key`: as of works()."""
    kind, name, mtu = key
    if stalls(theirs):
        theirs = []
    if name in WAYS:
        metric, cells = "gbit", [f"{NAMES[kind]}, {name}, MTU {mtu}", "Gb/s"]
        asked = verdict(ratio(mine, theirs, metric), RATE_TARGET.get((kind, mtu), STREAM_TARGET), True)
        cost = ratio(mine, theirs, "cpu_s_per_gb")
        last = [median(mine, "cpu_s_per_gb"), median(theirs, "cpu_s_per_gb"), cost]
        costs = [report.figure(value) for value in last] + [verdict(cost, COST_TARGET, False)]
    else:
        metric, cells = "p50_us", [f"{NAMES[kind]}, {name}", "us"]
        asked, costs = verdict(ratio(mine, theirs, metric), TIME_TARGET, False), ["", "", "", ""]
    values = [median(mine, metric), median(theirs, metric), ratio(mine, theirs, metric)]
    return [*cells, *map(report.figure, values), asked, *costs]


def table(found: list[dict[str, Any]]) -> str:
    head = ["", "unit", OURS, PEER, f"{OURS} : {PEER}", "target", f"s/GB {OURS}", f"s/GB {PEER}", f"{OURS} : {PEER}", "target"]
    lines = [head, ["---", "---", "---:", "---:", "---:", "---", "---:", "---:", "---:", "---"]]
    lines += [row(one["row"], one["samples"][OURS], one["samples"][PEER]) for one in found]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def above(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{results['machine']}, {results['date']}; {versions}; medians of {results['rounds']} rounds of "
        f"{results['seconds']:g} s; {results['busy']:.0%} of the processors was in use by others before the start."
    )


def marked(path: Path) -> None:
    """BenchError where it has no markers for the table, or cannot be read: told before the minutes of a run."""
    try:
        report.split_document(path, (BEGIN, END))
    except (OSError, ValueError) as error:
        raise BenchError(f"--doc '{path}': {error}") from None


def into(path: Path, text: str) -> None:
    """Between its markers, which are there (marked())."""
    report.into_document(path, text, (BEGIN, END))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {key: work for key, work in works().items() if options.only in f"{NAMES[key[0]]}, {key[1]}, MTU {key[2]}"}
    if not chosen:
        raise BenchError(f"--only '{options.only}': no row has this in its name")
    if options.doc:
        marked(Path(options.doc))
    fetch()
    compared, busy = subjects(), report.busy_share()
    with tempfile.TemporaryDirectory(prefix="pasta-bench-") as directory:
        endpoint = compile_endpoint(directory)
        compile_front_ends(directory)
        works_of = list(chosen.values())
        order = Order(
            compared, works_of, options.rounds, options.seconds, 0.2, congestion_control(""), endpoint, directory, str(UML_ROOT)
        )  # fmt: skip
        limit_s = 60 + options.rounds * len(compared) * len(works_of) * (options.seconds + 14)
        taken = run_inside(order, options.uid, limit_s)
    rows = []
    for (kind, name, mtu), samples in zip(chosen, taken, strict=True):
        rows.append({"row": (kind, name, mtu), "samples": {who: samples[f"{who} {kind}"] for who in (OURS, PEER)}})
    return {
        "machine": report.machine(), "date": time.strftime("%Y-%m-%d"), "busy": busy, "rounds": options.rounds,
        "seconds": options.seconds, "rows": rows,
        "versions": {who: next(each.version for each in compared if each.name.startswith(f"{who} ")) for who in (OURS, PEER)},
    }  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.vm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--only", default="", help="a part of a row's name")
    parser.add_argument("--uid", type=int, default=1000, help="user to run as when started as root (default 1000)")
    parser.add_argument("--doc", default="", metavar="FILE", help="Markdown file whose table of machines to replace")
    parser.add_argument("--json", default="", metavar="FILE", help="where to write all values")
    return parser.parse_args()


def main() -> int:
    options = parse()
    results = measure(options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    text = f"{report.filled(above(results))}\n\n{table(results['rows'])}"
    print(text)
    if options.doc:
        into(Path(options.doc), text)
    failed = [sample["error"] for one in results["rows"] for sample in one["samples"][OURS] if sample["error"]]
    print(*failed, sep="\n", file=sys.stderr, end="")
    return int(bool(failed))


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(told(main))
