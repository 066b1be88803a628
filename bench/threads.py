"""What --threads gives on this machine: 1, 2 and 4 threads, and no translator, with 1, 2, 8 and 64 streams each way.

    python -m bench.threads [--rounds N] [--seconds S] [--threads N,N...] [--streams N,N...]      default: 5 of 0.7 s

In one hermetic run, taking turns; prints a Markdown table of medians: Gb/s, and the translator's processor time per gigabyte.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from .__main__ import BenchError, compile_endpoint, congestion_control, ours, run_inside, told
from .model import DIRECT, LARGE_MTU, LOCAL_IN, Order, Subject, Work

PASTA = (DIRECT, "pasta")


def works(streams: list[int]) -> dict[str, Work]:
    """By what the table calls them. In splice the host's side connects, so its streams go the other way."""
    found = {}
    for mtu in (LARGE_MTU, 1500):
        for count in streams:
            found[f"to the guest, MTU {mtu}, {count}"] = Work("tcp", mtu, a=count, kinds=PASTA)
            found[f"from the guest, MTU {mtu}, {count}"] = Work("tcp", mtu, b=count, kinds=PASTA)
    for count in streams:
        found[f"splice, to the guest, {count}"] = Work("tcp", b=count, way=LOCAL_IN, kinds=PASTA)
    found["connections, requests and responses"] = Work("crr", kinds=PASTA)
    found["UDP 1400 B flood from the guest"] = Work("udp", a=0, c=1400, kinds=PASTA)
    return found


def wrapped(directory: str, threads: int) -> str:
    path = Path(directory) / f"threads-{threads}"
    path.write_text(f'#!/bin/sh\nexec {ours()} --threads {threads} "$@"\n')
    path.chmod(0o755)
    return str(path)


def cell(samples: list[dict[str, object]]) -> str:
    """Median of the rounds: the rate, and what it cost."""
    values = [sample["values"] for sample in samples if not sample["error"]]
    if len(values) < len(samples):
        return "failed"
    rates = statistics.median(value.get("gbit", value.get("per_s", 0)) for value in values)  # type: ignore[attr-defined]
    text = f"{rates:.1f}" if rates < 1000 else f"{rates:,.0f} per s"
    costs = [value["cpu_s_per_gb"] for value in values if value.get("cpu_s_per_gb")]  # type: ignore[attr-defined]
    return f"{text} ({statistics.median(costs):.2f})" if costs else text


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--threads", type=numbers, default="1,2,4")
    parser.add_argument("--streams", type=numbers, default="1,2,8,64")
    parser.add_argument("--only", default="", help="a part of a row's name")
    options = parser.parse_args()
    threads = options.threads
    chosen = {name: work for name, work in works(options.streams).items() if options.only in name}
    if not chosen:
        raise BenchError(f"--only '{options.only}': no row has this in its name: {'; '.join(works(options.streams))}")
    with tempfile.TemporaryDirectory(prefix="pasta-bench-") as directory:
        subjects = [Subject(DIRECT, DIRECT, "", "")]
        subjects += [Subject(str(count), "pasta", wrapped(directory, count), "") for count in threads]
        order = Order(
            subjects, list(chosen.values()), options.rounds, options.seconds, 0.2, congestion_control(""),
            compile_endpoint(directory), directory,
        )  # fmt: skip
        limit_s = 60 + options.rounds * len(subjects) * len(chosen) * (options.seconds + 14)
        found = run_inside(order, 1000, limit_s)
    print(f"{os.cpu_count()} processors; medians of {options.rounds} rounds of {options.seconds} s; Gb/s (CPU s/GB)\n")
    print("| | no translator | " + " | ".join(f"{count} thread{'s' * (count > 1)}" for count in threads) + " |")
    print("|---|" + "---:|" * len(subjects))
    for name, samples in zip(chosen, found, strict=True):
        print(f"| {name} | " + " | ".join(cell(samples[subject.name]) for subject in subjects) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
