"""What following the host costs: memory (PSS), processor time of a start, and time until ready, with and without it.

    PASTA_UNDER_TEST=build/as-installed/bin/pasta python tests/measure/following.py [INSTANCES [ROUNDS]]

In one hermetic host INSTANCES run at once (default 20), half with --follow and half with --no-follow, each with a guest of its own.
Two that are started one after the other are a pair; which of the two comes first changes. PSS and CPU time are sums over the
processes of an instance. What counts is the median of the differences in the pairs of ROUNDS rounds (default 1), because the
machine's own speed changes more than following costs. Says whether it is within its limit, with the interval that holds the true
median at 95 %; the exit status is 1 where one is beyond. The time of a start is worth something on a quiet machine only.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from lab import NO_PORTS, Guest, Lab, program, wait_until

KINDS = ("--no-follow", "--follow")
_QUIET_S, _IDLE_S = 1, 5
_MOST_KIB, _MOST_CPU_MS, _MOST_START, _MOST_IDLE_MS = 614, 3.0, 1.02, 0.0


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def cpu_ms(pid: int) -> float:
    """Processor time of a process and of its children that have ended."""
    own = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return own + sum(map(int, ended)) * 1000 / os.sysconf("SC_CLK_TCK")


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Instance:
    def __init__(self, lab: Lab, guest: Guest, kind: str) -> None:
        before = set(lab.descendants())
        started = time.monotonic()
        done = lab.host.popen(program(), "--config-net", "-q", kind, *NO_PORTS, lab.inner_pid(guest.pid))
        _pid, status, used = os.wait4(done.pid, 0)  # its end says that it is ready
        self.ready_ms = (time.monotonic() - started) * 1000
        assert status == 0, done.communicate()
        self._start_ms = (used.ru_utime + used.ru_stime) * 1000
        wait_until(lambda: self._settled(lab, before, kind), 5, "its processes run")

    def _settled(self, lab: Lab, before: set[int], kind: str) -> bool:
        time.sleep(0.1)
        self.pids = [pid for pid in lab.descendants() if pid not in before and name(pid) != "labtool"]
        return kind == "--no-follow" or any(name(pid) == "pasta-apply" for pid in self.pids)

    def costs(self) -> tuple[int, float, float]:
        return sum(map(pss_kib, self.pids)), self._start_ms + sum(map(cpu_ms, self.pids)), self.ready_ms


def interval(values: list[float]) -> tuple[float, float]:
    """Where the median of what the values are a sample of lies, at 95 % (order statistics, normal approximation)."""
    ranked, half = sorted(values), 0.98 * len(values) ** 0.5
    middle = (len(values) - 1) / 2
    return ranked[max(0, int(middle - half))], ranked[min(len(values) - 1, round(middle + half))]


def main() -> int:
    instances, rounds = (*map(int, sys.argv[1:]), *(20, 1)[len(sys.argv) - 1 :])
    pairs: list[dict[str, tuple[int, float, float]]] = []
    each: dict[str, list[tuple[int, float]]] = {}
    for _ in range(rounds):
        with Lab() as lab, ExitStack() as stack:
            running = [
                (kind, Instance(lab, stack.enter_context(lab.stray()), kind))
                for number in range(instances // 2)
                for kind in KINDS[:: -1 if number % 2 else 1]
            ]
            time.sleep(_QUIET_S)
            pairs += [{kind: instance.costs() for kind, instance in pair} for pair in zip(running[::2], running[1::2], strict=True)]
            for kind, instance in running:
                for pid in instance.pids:
                    each.setdefault(f"{kind} {name(pid)}", []).append((pss_kib(pid), cpu_ms(pid)))
            waiting = [pid for _kind, instance in running for pid in instance.pids if name(pid) in ("pasta-watch", "pasta-apply")]
            before = {pid: cpu_ms(pid) for pid in waiting}
            time.sleep(_IDLE_S)
            idle = sum(cpu_ms(pid) - ms for pid, ms in before.items())
    for kind in KINDS:
        memory, cpu, ready = map(statistics.median, zip(*(pair[kind] for pair in pairs), strict=True))
        print(f"{kind:12} PSS {memory:.0f} KiB, CPU {cpu:.2f} ms, ready after {ready:.1f} ms")
    off, on = ([pair[kind] for pair in pairs] for kind in KINDS)
    both = list(zip(off, on, strict=True))
    differences = (
        ("PSS, KiB", [with_it[0] - without[0] for without, with_it in both], _MOST_KIB),
        ("CPU of a start, ms", [with_it[1] - without[1] for without, with_it in both], _MOST_CPU_MS),
        ("time of a start, ratio", [with_it[2] / without[2] for without, with_it in both], _MOST_START),
        (f"CPU of all that follow in {_IDLE_S} s while nothing changes, ms", [idle], _MOST_IDLE_MS),
    )
    beyond = False
    for what, values, most in differences:
        median, (low, high) = statistics.median(values), interval(values)
        beyond |= median > most
        print(f"{'within' if median <= most else 'BEYOND'} {what}: {median:.3f} ({low:.3f} to {high:.3f}), at most {most}")
    for what, values in sorted(each.items()):
        memory, cpu = map(statistics.median, zip(*values, strict=True))
        print(f"    {what}: PSS {memory:.0f} KiB, CPU {cpu:.2f} ms")
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())
