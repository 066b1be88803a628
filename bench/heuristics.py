"""What each heuristic of csrc/core/scheduling.h gives: the build without it beside the normal one, in the cells that it names.

    python -m bench.heuristics [--quick] [--only NAME,NAME...] [--again] [--build-only] [--threads N]

The programs take turns in one hermetic run for each heuristic: the normal build, the build without the heuristic, and the normal
build once more, which shows how much two measurements of the same thing differ. A build is a copy of the sources below
build/heuristics, with one edit of that header (OFF). It fails where the edit does not fit. --build-only makes them ahead of time.
--threads N measures `--threads N` beside one thread instead. What is measured stays in build/heuristics.json: a run that was
interrupted, or that ended at --minutes, goes on with what is missing.
"""

import argparse
import fnmatch
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .__main__ import CHECKOUT, BenchError, compile_endpoint, congestion_control, run_inside, told
from .cells import all_cells
from .figures import Taken, good, middle
from .model import Cell, Order, Subject, Work
from .report import busy_share, figure, machine

BUILDS = CHECKOUT / "build" / "heuristics"
RESULTS = CHECKOUT / "build" / "heuristics.json"
SCHED = Path("csrc/core/scheduling.h")
COPIED = ("csrc", "pasta_py", "README.md", "LICENSE", "pyproject.toml", "setup.py", "tests/as_installed.sh")
NORMAL, CHANGED, AGAIN = "normal", "changed", "normal again"
THREADS_CELLS = ("tcp-in-*", "tcp-out-*", "tcp8-*", "cost64-*", "cost512-*", "splice*", "tcp-crr", "udp1400-out")

#: By heuristic: lines of scheduling.h, and what stands in their place in the build without it.
OFF = {
    "Batches": {"#define SCHED_TAP_FRAMES 32\n": "#define SCHED_TAP_FRAMES 1\n"},
    "Run queue": {  # a quantum is one turn
        "#define SCHED_QUANTUM_MAX 32\n": "#define SCHED_QUANTUM_MAX SCHED_TURN_FRAMES\n",
        "#define SCHED_QUANTUM_MIN 4\n": "#define SCHED_QUANTUM_MIN SCHED_TURN_FRAMES\n",
    },
    "Latency mode": {"#define SCHED_LATENCY_MODE_MS 20\n": "#define SCHED_LATENCY_MODE_MS 0\n"},
    "Late drops": {
        "#define SCHED_DROP_BYTES (8u << 20) ": "#define SCHED_DROP_BYTES 0 ",
        "#define SCHED_DROP_LATENCY_MODE_BYTES (64u << 10) ": "#define SCHED_DROP_LATENCY_MODE_BYTES 0 ",
    },
    "Delayed ACKs": {"#define SCHED_DELAYED_ACK_TURNS 8 ": "#define SCHED_DELAYED_ACK_TURNS 0 "},
    "Window sharing": {"#define SCHED_WINDOWS_BYTES (64u << 20) ": "#define SCHED_WINDOWS_BYTES UINT32_MAX "},
    "Adaptive polling": {"#define SCHED_POLL_ABOVE_PER_MS 32 ": "#define SCHED_POLL_ABOVE_PER_MS (UINT16_MAX + 1) "},
}

#: What is compared where it is measured, and whether more of it is better.
METRICS = {
    "gbit": ("Gb/s", True),
    "cpu_s_per_gb": ("CPU s/GB", False),
    "loss_percent": ("% lost", False),
    "per_s": ("1/s", True),
    "p50_us": ("p50 µs", False),
    "p99_us": ("p99 µs", False),
    "greedy_gbit": ("Gb/s of the stream beside it", True),
}


@dataclass(frozen=True)
class Row:
    """One metric of one cell. The ratio is that of the changed program to the normal one, the median over the rounds.

    `noise` is the median difference of the two normal ones in a round; `worse`, `better`: in how many rounds the changed one was so
    than both of them.
    """

    cell: str
    metric: str
    normal: float
    changed: float
    ratio: float
    noise: float
    worse: int
    better: int
    rounds: int

    def verdict(self) -> str:
        """By chance alone it is the worst of the three in all of five rounds, or in all but one, once in 22 times."""
        if abs(self.ratio - 1) <= self.noise:
            return ""
        most = self.rounds - (self.rounds >= 5)
        return "worse" if self.worse >= most else "better" if self.better >= most else ""


def named_cells(header: str) -> dict[str, tuple[str, ...]]:
    """The heuristics that the head of scheduling.h describes, with the patterns of their cells."""
    head = header.partition("*/")[0].partition("How:")[2].partition("Rejected:")[0]
    parts = re.split(r"^ \* ([A-Z][A-Za-z ]+)\. ", head, flags=re.MULTILINE)[1:]
    found = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        cells = re.search(r"Cells: ([^.]*)\.", text)
        if cells:
            found[name] = tuple(re.split(r",[\s*]+", cells[1]))
    return found


def edited(header: str, name: str) -> str:
    """scheduling.h without a heuristic; as it is for another name."""
    for before, after in OFF.get(name, {}).items():
        if header.count(before) != 1:
            raise BenchError(f"{SCHED}: '{before.strip()}' is there {header.count(before)} times: OFF['{name}'] needs a new edit")
        header = header.replace(before, after)
    return header


def cells_of(patterns: tuple[str, ...]) -> list[Cell]:
    """IPv4 says it all: the heuristics do not know which family it is."""
    every = [cell for cell in all_cells() if cell.work.family == 4]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.key, pattern) for cell in every):
            raise BenchError(f"{SCHED} names the cells '{pattern}': there are none (python -m bench --list)")
    return [cell for cell in every if any(fnmatch.fnmatchcase(cell.key, pattern) for pattern in patterns)]


def digest(header: str) -> str:
    """Of all that a build depends on."""
    found = hashlib.sha256(header.encode())
    for name in ("csrc", "pasta_py"):
        for path in sorted((CHECKOUT / name).rglob("*.[chp]*")):
            if path.suffix in (".c", ".h", ".py") and path != CHECKOUT / SCHED and path.stem not in ("_plane", "_calls"):
                found.update(path.read_bytes())
    return found.hexdigest()


def build(name: str) -> str:
    """The `pasta` of a build without the heuristic; made where it is not there for these sources."""
    header = edited((CHECKOUT / SCHED).read_text(), name)
    place, state = BUILDS / name.lower().replace(" ", "-"), digest(header)
    stamp, program = place / "built", place / "installed" / "bin" / "pasta"
    if stamp.exists() and stamp.read_text() == state:
        return str(program)
    shutil.rmtree(place, ignore_errors=True)
    for each in COPIED:
        (place / each).parent.mkdir(parents=True, exist_ok=True)
        if (CHECKOUT / each).is_dir():
            unwanted = shutil.ignore_patterns("*.so", "__pycache__", "_plane.c", "_calls.c")
            shutil.copytree(CHECKOUT / each, place / each, ignore=unwanted)
        else:
            shutil.copy2(CHECKOUT / each, place / each)
    (place / SCHED).write_text(header)
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=place, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise BenchError(f"the build without '{name}' fails: {made.stderr.strip()[-2000:]}")
    subprocess.run(["sh", "tests/as_installed.sh", sys.prefix, "installed"], cwd=place, check=True)
    stamp.write_text(state)
    return str(program)


def wrapped(directory: str, program: str, words: str) -> str:
    """`program` with options before those of the caller."""
    path = Path(directory) / "wrapped"
    path.write_text(f'#!/bin/sh\nexec {program} {words} "$@"\n')
    path.chmod(0o755)
    return str(path)


def compared(cell: str, metric: str, taken: Taken) -> Row | None:
    """From the rounds in which all three were measured; None where that never was."""
    rounds = []
    for three in zip(taken[NORMAL], taken[CHANGED], taken[AGAIN], strict=True):
        values = [good([sample], metric) for sample in three]
        if all(values):
            rounds.append([value[0] for value in values])
    if not rounds or not all(first + again for first, _changed, again in rounds):
        return None
    sign = 1 if METRICS[metric][1] else -1
    return Row(
        cell=cell,
        metric=metric,
        normal=statistics.median((first + again) / 2 for first, _changed, again in rounds),
        changed=statistics.median(changed for _first, changed, _again in rounds),
        ratio=statistics.median(2 * changed / (first + again) for first, changed, again in rounds),
        noise=statistics.median(2 * abs(first - again) / (first + again) for first, _changed, again in rounds),
        worse=sum(sign * changed < min(sign * first, sign * again) for first, changed, again in rounds),
        better=sum(sign * changed > max(sign * first, sign * again) for first, changed, again in rounds),
        rounds=len(rounds),
    )


def measured(normal: str, changed: str, cells: list[Cell], rounds: int, seconds: float, directory: str) -> list[Row]:
    """The rows of one comparison."""
    works: dict[Work, str] = {}
    for cell in cells:
        works.setdefault(cell.work, cell.key)
    subjects = [Subject(NORMAL, "pasta", normal, ""), Subject(CHANGED, "pasta", changed, ""), Subject(AGAIN, "pasta", normal, "")]
    order = Order(
        subjects, list(works), rounds, seconds, 0.2, congestion_control(""), compile_endpoint(directory), directory
    )  # fmt: skip
    found = run_inside(order, 1000, 60 + rounds * len(subjects) * len(works) * (seconds + 14))
    rows = []
    for key, taken in zip(works.values(), found, strict=True):
        for name, samples in taken.items():
            errors = [sample["error"] for sample in samples if sample["error"]]
            if errors:
                print(f"{key}: {name} failed {len(errors)} of {len(samples)}: {errors[0]}", file=sys.stderr)
        metrics = [metric for metric in METRICS if middle(good(taken[NORMAL], metric)) is not None]
        rows += [row for metric in metrics if (row := compared(key, metric, taken))]
    return rows


def table(results: dict[str, Any]) -> str:
    """Markdown: a line for each metric of each cell."""
    lines = [
        "| without | cell | | normal | without it | ratio | noise | worse, better than both normal | |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, result in results.items():
        for row in [Row(**values) for values in result["rows"]]:
            unit = METRICS[row.metric][0]
            figures = f"{figure(row.normal)} | {figure(row.changed)} | {row.ratio:.2f} | ± {row.noise:.2f}"
            won = f"{row.worse}, {row.better} of {row.rounds}"
            lines.append(f"| {name} | {row.cell} | {unit} | {figures} | {won} | {row.verdict()} |")
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.heuristics", description="What each heuristic of the core gives.")
    add = parser.add_argument
    add("--quick", action="store_true", help="2 rounds of 0.3 s: shows that it works, measures little")
    add("--rounds", type=int, default=0, help="measurements of each program in each cell (default 5; quick: 2)")
    add("--seconds", type=float, default=0, help="length of each (default 0.7; quick: 0.3)")
    add("--only", default="", metavar="NAME[,NAME...]", help="only these heuristics; patterns, see --list")
    add("--again", action="store_true", help="measure also what a run before this one has measured of the same sources")
    add("--minutes", type=float, default=15, help="begin with no other heuristic after this time (default 15)")
    add("--build-only", action="store_true", help="make the builds, and end")
    add("--threads", type=int, default=0, metavar="N", help="measure --threads N beside one thread instead of the heuristics")
    add("--list", action="store_true", help="show the heuristics and their cells, and end")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 0.7)
    return options


def chosen(options: argparse.Namespace) -> dict[str, list[Cell]]:
    """By name: what to measure, and in which cells."""
    if options.threads:
        return {f"--threads {options.threads}": cells_of(THREADS_CELLS)}
    found = {name: cells_of(patterns) for name, patterns in named_cells((CHECKOUT / SCHED).read_text()).items()}
    if found.keys() != OFF.keys():
        raise BenchError(f"{SCHED} has the heuristics {', '.join(found)}; OFF knows how to switch off {', '.join(OFF)}")
    patterns = [pattern.strip().lower() for pattern in options.only.split(",")] if options.only else ["*"]
    for pattern in patterns:
        if not fnmatch.filter(map(str.lower, found), pattern):
            raise BenchError(f"--only '{pattern}': there are {', '.join(found)}")
    return {name: cells for name, cells in found.items() if any(fnmatch.fnmatchcase(name.lower(), each) for each in patterns)}


def run(options: argparse.Namespace) -> int:
    names = chosen(options)
    if options.list:
        print("\n".join(f"{name}: {', '.join(cell.key for cell in cells)}" for name, cells in names.items()))
        return 0
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        builds = [NORMAL, *(name for name in names if name in OFF)]
        programs = dict(zip(builds, pool.map(build, builds), strict=True))
    print(f"{len(programs)} builds in {time.monotonic() - began:.0f} s", file=sys.stderr)
    if options.build_only:
        return 0
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    present, late = {}, []
    began = time.monotonic()
    for name, cells in names.items():
        state = [digest(edited((CHECKOUT / SCHED).read_text(), name)), options.rounds, options.seconds]
        if options.again or before.get(name, {}).get("state") != state:
            if time.monotonic() - began > options.minutes * 60:
                late.append(name)
                continue
            print(f"{name}: {', '.join(cell.key for cell in cells)}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="pasta-bench-") as directory:
                normal = programs[NORMAL]
                changed = programs[name] if name in OFF else wrapped(directory, normal, name)
                busy = busy_share()
                rows = measured(normal, changed, cells, options.rounds, options.seconds, directory)
            before[name] = {"state": state, "busy_before": round(busy, 3), "rows": [vars(row) for row in rows]}
            RESULTS.write_text(json.dumps(before, indent=1) + "\n")
        present[name] = before[name]
    busy = max((result["busy_before"] for result in present.values()), default=0)
    print(f"{machine()}; {options.rounds} rounds of {options.seconds:g} s, taking turns; at most {busy:.0%} of the processors")
    print("was in use by others before a comparison.\n")
    print(table(present))
    if late:
        print(f"\nNot measured within {options.minutes:g} minutes: {', '.join(late)}. The same command goes on with them.")
    return 0


if __name__ == "__main__":
    sys.exit(told(lambda: run(parse(sys.argv[1:]))))
