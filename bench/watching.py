"""What it costs to watch: a flow log, a client that follows flows, and lists of 15,000 flows.

    python -m bench.watching [--rounds N] [--seconds S] [--flows N] [--only rates|lists|parts] [--also NAME=PATH]

In one hermetic run, taking turns; prints Markdown tables of medians. The rate is that of connections with one request each; a ratio
is the median of the rounds' ratios to `plain` in the same round. `--also` adds another build, as of python -m bench. `parts` are
the steps of a line of the flow log, the shortest of many times, so it says something on a busy machine too.
"""

import argparse
import socket
import statistics
import sys
import tempfile
import timeit
from pathlib import Path

from .__main__ import compile_endpoint, congestion_control, ours, run_inside, told
from .cells import IDLE_FLOWS
from .model import Order, Subject, Work

Samples = dict[str, list[dict[str, dict[str, float]]]]

BATCH = 128  # events that Python takes at a time
SO_PEERNAME = 28  # asm-generic/socket.h
PLAIN = "plain"
#: What each subject adds. $last is the path of the guest's namespace; the inner half looks for the control socket there.
WAYS = {
    PLAIN: 'exec {program} --control "$last.sock" "$@"',
    "flow log": 'exec {program} --control "$last.sock" --flow-log "$last.jsonl" "$@"',
    "flows --follow": '{program} --control "$last.sock" "$@" || exit\n'
    '{beside}/pasta-py flows --json --follow "$last.sock" </dev/null >/dev/null 2>&1 &',
}
FIGURES = {
    "list_ms": "list, nothing else going on (ms)",
    "list_cpu_ms": "of it processor time of the translator (ms)",
    "beside_ms": "list beside requests and responses (ms)",
    "list_bytes": "bytes of a list",
    "alone_p50_us": "request/response, no lists: p50 (us)",
    "lists_p50_us": "request/response beside lists: p50 (us)",
    "alone_p99_us": "no lists: p99 (us)",
    "lists_p99_us": "beside lists: p99 (us)",
    "alone_max_us": "no lists: longest (us)",
    "lists_max_us": "beside lists: longest (us)",
}


def subject(directory: str, name: str, way: str, program: Path) -> Subject:
    path = Path(directory) / name.replace(" ", "-")
    line = WAYS[way].format(program=program, beside=program.parent)
    path.write_text(f'#!/bin/sh\nfor last; do :; done\n{line}\n')
    path.chmod(0o755)
    return Subject(name, "pasta", str(path), "")


def rates(samples: Samples) -> list[str]:
    """A row for each subject: its rate, the ratio to that of PLAIN, and its processor time for a connection."""
    rows = []
    for name, taken in samples.items():
        pairs = [(mine["values"], plain["values"]) for mine, plain in zip(taken, samples[PLAIN], strict=True)]
        if not all(mine and plain for mine, plain in pairs):
            rows.append(f"| {name} | failed | | |")
            continue
        rate = statistics.median(mine["per_s"] for mine, _ in pairs)
        ratio = statistics.median(mine["per_s"] / plain["per_s"] for mine, plain in pairs)
        cost_us = statistics.median(mine["cpu_share"] / mine["per_s"] for mine, _ in pairs) * 1e6
        rows.append(f"| {name} | {rate:,.0f} | {ratio:.3f} | {cost_us:.1f} |")
    return rows


def parts() -> list[str]:
    """A row for each step of a line; `peer`: what asking the kernel for a mapped peer adds, once for each line."""
    from pasta_py.worker import event_readers, plane, rotating

    events = plane.ffi.new("struct flow_event[]", BATCH)
    for number, event in enumerate(events):
        event.kind, event.rule, event.index, event.generation = 1 + 2 * (number & 1), 65535, number, 20_000
        event.at_ms, event.opened_ms, event.reason = 10_000_005, 10_000_000, 2 * (number & 1)
        event.guest_port, event.dest_port, event.peer_port = 40_000 + number, 443, 443
        for end in (event.guest, event.dest, event.peer):
            plane.ffi.memmove(end, bytes(10) + b"\xff\xff" + bytes((203, 0, 113, 77)), 16)
    records, clock_ms = bytes(plane.ffi.buffer(events)), event_readers.clock_ms()
    lines = plane.events_json(records, clock_ms, b"\n")
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second, socket.create_server(("127.0.0.1", 0)) as server:
        files = rotating.Rotating([first.fileno(), second.fileno()], 32 << 20)
        with socket.create_connection(server.getsockname()) as sock:
            steps = {
                "JSON": lambda: plane.events_json(records, clock_ms, b"\n"),
                "write": lambda: files.write(lines),
                "peer": lambda: [sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, 16) for _ in range(BATCH)],
            }
            best = {name: min(timeit.repeat(step, number=1, repeat=500)) for name, step in steps.items()}
    return [f"| {name} | {seconds / BATCH * 1e9:.0f} |" for name, seconds in best.items()]


def measured(options: argparse.Namespace, work: Work, builds: dict[str, Path], ways: list[str]) -> Samples:
    """By the name of the subject, its samples, one of each round."""
    with tempfile.TemporaryDirectory(prefix="pasta-bench-") as directory:
        subjects = [subject(directory, f"{way}{build}", way, program) for build, program in builds.items() for way in ways]
        order = Order(
            subjects, [work], options.rounds, options.seconds, 0.2, congestion_control(""), compile_endpoint(directory), directory
        )  # fmt: skip
        limit_s = 60 + options.rounds * len(subjects) * (options.seconds + 30)
        (found,) = run_inside(order, 1000, limit_s)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.watching")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--flows", type=int, default=IDLE_FLOWS)
    parser.add_argument("--only", choices=("rates", "lists", "parts"))
    parser.add_argument("--also", default="", metavar="NAME=PATH", help="another build, as of python -m bench")
    options = parser.parse_args()
    builds = {"": ours()}
    other, _, path = options.also.partition("=")
    if other:
        builds[f", {other}"] = Path(path).absolute()
    if options.only in (None, "parts"):
        print("| step of the flow log | ns for an event |\n|---|---:|\n" + "\n".join(parts()), end="\n\n")
    if options.only in (None, "rates"):
        found = measured(options, Work("crr", kinds=("pasta",)), builds, list(WAYS))
        print("| | connections a second | : plain | processor time of one, us |\n|---|---:|---:|---:|")
        print("\n".join(rates(found)), end="\n\n")
    if options.only in (None, "lists"):
        found = measured(options, Work("list", a=options.flows, fresh=True, kinds=("pasta",)), builds, [PLAIN])
        print(f"| {options.flows:,} flows | " + " | ".join(found) + " |\n|---|" + "---:|" * len(found))
        for name, words in FIGURES.items():
            medians = [statistics.median(sample["values"].get(name, 0.0) for sample in taken) for taken in found.values()]
            print(f"| {words} | " + " | ".join(f"{median:,.1f}" for median in medians) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
