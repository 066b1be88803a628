"""From samples to a table: medians, ratios pair by pair, and the same as text, Markdown and JSON."""

import os
import platform
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from .model import DIRECT, OURS, Order

BEGIN, END = "<!-- table: written by `make bench` -->", "<!-- end of the table -->"


def machine() -> str:
    """The machine by kind, for example "2-core x86-64 virtual machine, Linux 6.18"."""
    virtual = " hypervisor" in Path("/proc/cpuinfo").read_text() or Path("/sys/hypervisor").exists()
    kind = "virtual machine" if virtual else "machine"
    release = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} {kind}, Linux {release}"


def busy_share(seconds: float = 0.5) -> float:
    """The share of all processors' time that is in use at the moment, or stolen by the hypervisor: 0 to 1."""

    def idle_and_all() -> tuple[int, int]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    idle, total = idle_and_all()
    time.sleep(seconds)
    idle_later, total_later = idle_and_all()
    return 1 - (idle_later - idle) / max(1, total_later - total)


def good(samples: list[dict[str, Any]], metric: str) -> list[float]:
    return [sample["values"][metric] for sample in samples if not sample["error"] and metric in sample["values"]]


def middle(values: list[float]) -> float | None:
    return median(values) if values else None


def ratio(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], metric: str) -> float | None:
    """The median over the rounds of mine/theirs, each from the same round."""
    pairs = [(good([a], metric), good([b], metric)) for a, b in zip(mine, theirs, strict=True)]
    return middle([a[0] / b[0] for a, b in pairs if a and b and b[0]])


def failures(samples: list[dict[str, Any]]) -> str:
    errors = [sample["error"] for sample in samples if sample["error"]]
    return f"{len(errors)} of {len(samples)}: {max(set(errors), key=errors.count)}" if errors else ""


def collect(order: Order, samples: dict[str, Any], busy: float, duration_s: float) -> dict[str, Any]:
    """Everything that is known about a run, ready for JSON; ratios of ours (or the first translator) to each other."""
    names = [subject.name for subject in order.subjects]
    translators = [name for name in names if name != DIRECT]
    reference = OURS if OURS in names else next(iter(translators), DIRECT)
    cells = []
    for cell, taken in zip(order.cells, samples["cells"], strict=True):
        shown = [name for name in names if not (name == DIRECT and cell.role in ("start", "memory"))]
        cells.append(
            {
                "name": cell.name,
                "unit": cell.unit,
                "more_is_better": cell.more,
                "metric": cell.metric,
                "median": {name: middle(good(taken[name], cell.metric)) for name in shown},
                "ratio": {n: ratio(taken[reference], taken[n], cell.metric) for n in shown if n != reference},
                "cpu_s_per_gb": {name: middle(good(taken[name], "cpu_s_per_gb")) for name in translators}
                if cell.role in ("tcp", "udp")
                else {},
                "failed": {name: text for name in shown if (text := failures(taken[name]))},
                "samples": {name: taken[name] for name in shown},
            }
        )
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": order.rounds,
        "seconds": order.seconds,
        "congestion": order.congestion,
        "busy_before": round(busy, 3),
        "duration_s": round(duration_s, 1),
        "reference": reference,
        "subjects": {subject.name: subject.version for subject in order.subjects},
        "cells": cells,
    }


def figure(value: float | None) -> str:
    """Three digits that mean something, without exponents."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table, its head first."""
    names = list(results["subjects"])
    reference = results["reference"]
    others = [name for name in names if name != reference]
    translators = [name for name in names if name != DIRECT]
    head = ["", "unit", *names, *(f"{reference} : {n}" for n in others), *(f"s/GB {n}" for n in translators)]
    table = [head]
    for cell in results["cells"]:
        values = [figure(cell["median"].get(name)) for name in names]
        ratios = [figure(cell["ratio"].get(name)) for name in others]
        costs = [figure(cell["cpu_s_per_gb"].get(name)) for name in translators]
        table.append([cell["name"], cell["unit"], *values, *ratios, *costs])
    return table


def summary(results: dict[str, Any]) -> str:
    """What stands above the table: where, how, who."""
    versions = ", ".join(f"{name} ({version})" for name, version in results["subjects"].items() if name != DIRECT)
    return (
        f"{results['machine']}; {results['date']}; TCP congestion control {results['congestion']}; medians of "
        f"{results['rounds']} rounds of {results['seconds']:g} s, taking turns; ratios pair by pair. {versions}. "
        f"{results['busy_before']:.0%} of the processors was in use by others before the start."
    )


def failed_lines(results: dict[str, Any]) -> list[str]:
    return [f"{cell['name']}: {name} failed {why}" for cell in results["cells"] for name, why in cell["failed"].items()]


def text(results: dict[str, Any]) -> str:
    """For the terminal."""
    table = rows(results)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        padded = [word.ljust(width) for word, width in zip(row[:2], widths, strict=False)]
        padded += [word.rjust(width) for word, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(padded))
    return "\n".join([summary(results), "", *lines, "", *failed_lines(results), f"took {results['duration_s']:.0f} s"])


def markdown(results: dict[str, Any]) -> str:
    """For docs/performance.md."""
    head, *body = rows(results)
    rule = ["---", "---", *("---:" for _ in head[2:])]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]
    failed = [f"- {line}" for line in failed_lines(results)]
    return "\n".join([summary(results), "", *lines, *(["", *failed] if failed else [])])


def into_document(path: Path, table: str) -> None:
    """Replace what stands between the two markers of the document. ValueError where they are missing."""
    old = path.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no lines '{BEGIN}' and '{END}' for the table to stand between")
    path.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")
