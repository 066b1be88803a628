"""The results of a run as text, Markdown and JSON."""

import os
import platform
import textwrap
import time
from datetime import date
from pathlib import Path
from typing import Any

from . import figures
from .model import DIRECT, OURS, PEER, Cell, Order

BEGIN, END = "<!-- table: written by `make bench` -->", "<!-- end of the table -->"
PAGE_COLUMNS = 100
MARKS = {True: "met", False: "**missed**", None: "not measured"}
#: The rows of docs/performance.md: what users ask first.
FIRST = (
    "tcp-in-1500", "tcp-in-65520", "tcp-out-1500", "tcp-out-65520", "splice-t-in", "udp1400-out", "quic-out", "tcp-rr-p50", "start",
    "memory",
)  # fmt: skip
#: passt stalls where its window meets this kernel's send buffer: it then carries less than this share of what the kernel can.
STALLED = 0.01


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


def collect(order: Order, cells: list[Cell], samples: list[figures.Taken], busy: float, duration_s: float) -> dict[str, Any]:
    """Everything that is known about a run, ready for JSON."""
    names = [subject.name for subject in order.subjects]
    works = dict(zip(order.works, samples, strict=True))
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": order.rounds,
        "seconds": order.seconds,
        "congestion": order.congestion,
        "busy_before": round(busy, 3),
        "duration_s": round(duration_s, 1),
        "subjects": {subject.name: subject.version for subject in order.subjects},
        "cells": [without_stall(figures.cell_figures(cell, works, names)) for cell in cells],
    }


def without_stall(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell without what compares us with a peer that stalls: such a ratio says nothing about us."""
    peer, direct = cell["median"].get(PEER), cell["median"].get(DIRECT)
    if cell["metric"] != "gbit" or peer is None or not direct or peer >= STALLED * direct:
        return cell
    targets = [{**each, "value": None, "met": None} if each["of"] == PEER else each for each in cell["targets"]]
    costs = {name: value for name, value in cell["cpu_s_per_gb"].items() if name != PEER}
    return {**cell, "ratio": {**cell["ratio"], PEER: None}, "cpu_ratio": None, "cpu_s_per_gb": costs, "targets": targets}


def figure(value: float | None) -> str:
    """Three digits that mean something, without exponents."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def target_text(target: dict[str, Any]) -> str:
    value = "" if target["value"] is None else f"{figure(target['value'])} "
    return f"{target['text']}: {value}{MARKS[target['met']]}"


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table, its head first."""
    names = list(results["subjects"])
    compared = [name for name in names if name in (DIRECT, PEER)]
    translators = [name for name in names if name != DIRECT]
    table = [["", "unit", *names, *(f": {n}" for n in compared), *(f"s/GB {n}" for n in translators), "targets"]]
    for cell in results["cells"]:
        values = [figure(cell["median"].get(name)) for name in names]
        ratios = [figure(cell["ratio"].get(name)) for name in compared]
        costs = [figure(cell["cpu_s_per_gb"].get(name)) for name in translators]
        targets = "; ".join(target_text(target) for target in cell["targets"])
        table.append([cell["name"], cell["unit"], *values, *ratios, *costs, targets])
    return table


def summary(results: dict[str, Any]) -> str:
    """What stands above the table: where, how, who, and how many targets are met."""
    translators = {name: version for name, version in results["subjects"].items() if name != DIRECT}
    versions = ", ".join(f"{name} ({version})" for name, version in translators.items()) or "No translator"
    met, missed, unknown = figures.counts(results["cells"])
    return (
        f"{results['machine']}; {results['date']}; TCP congestion control {results['congestion']}; medians of "
        f"{results['rounds']} rounds of {results['seconds']:g} s, taking turns; ratios pair by pair. {versions}. "
        f"{results['busy_before']:.0%} of the processors was in use by others before the start. "
        f"Targets: {met} met, {missed} missed" + (f", {unknown} not measured." if unknown else ".")
    )


def failed_lines(results: dict[str, Any]) -> list[str]:
    return [f"{cell['name']}: {name} failed {why}" for cell in results["cells"] for name, why in cell["failed"].items()]


def text(results: dict[str, Any]) -> str:
    """For the terminal."""
    table = [[word.replace("**", "") for word in row] for row in rows(results)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        padded = [word.ljust(width) for word, width in zip(row[:2], widths, strict=False)]
        padded += [word.rjust(width) for word, width in zip(row[2:-1], widths[2:], strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return "\n".join([summary(results), "", *lines, "", *failed_lines(results), f"took {results['duration_s']:.0f} s"])


def markdown(results: dict[str, Any]) -> str:
    """For docs/dev/performance.md."""
    head, *body = rows(results)
    rule = ["---", "---", *("---:" for _ in head[2:-1]), "---"]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]
    failed = [filled(f"- {line}", "  ") for line in failed_lines(results)]
    return "\n".join([filled(summary(results)), "", *lines, *(["", *failed] if failed else [])])


def first_rows(results: dict[str, Any]) -> str:
    """For docs/performance.md: a few cells, without processor time and targets."""
    names = list(results["subjects"])
    shown = {DIRECT: "no translator"}
    head = ["", "unit", *(shown.get(name, name) for name in names), *(f"pasta-py : {shown.get(n, n)}" for n in (DIRECT, PEER))]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---", "---", *("---:" for _ in head[2:])]) + " |"]
    cells = {cell["key"]: cell for cell in results["cells"]}
    for cell in [cells[key] for key in FIRST if key in cells]:
        figures_of = [figure(cell["median"].get(name)) for name in names] + [figure(cell["ratio"].get(n)) for n in (DIRECT, PEER)]
        lines.append("| " + " | ".join([cell["name"], cell["unit"], *figures_of]) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in results["subjects"].items() if name != DIRECT)
    above = f"{results['machine']}, {results['date']}; {versions}."
    return "\n".join([filled(above), "", *lines])


def filled(paragraph: str, indent: str = "") -> str:
    return textwrap.fill(paragraph, PAGE_COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def split_document(path: Path, marks: tuple[str, str] = (BEGIN, END)) -> tuple[str, str]:
    """What stands before and after the document's table. ValueError where its two marks are missing."""
    before, begin, rest = path.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"{path}: no lines '{marks[0]}' and '{marks[1]}' for the table to stand between")
    return before, after


def into_document(path: Path, table: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    before, after = split_document(path, marks)
    path.write_text(f"{before}{marks[0]}\n\n{table}\n\n{marks[1]}{after}")


def ours_failed(results: dict[str, Any]) -> bool:
    return any(OURS in cell["failed"] for cell in results["cells"])
