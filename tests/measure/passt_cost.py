"""What passt costs a virtual machine, beside Debian sid's: until it is ready, while it is idle, and after use.

    PASTA_UNDER_TEST=build/as-installed/bin/pasta python tests/measure/passt_cost.py [ROUNDS [INSTANCES]]

In one hermetic host each round (default 11) starts both programs in turn, over a stream and over vhost-user. A start has
ended when the parent has exited; its CPU time is that of all processes until they are idle. Memory is PSS, of one of
INSTANCES (default 20) idle ones, and of one whose machine has received and sent BULK bytes. Says whether the ratios are
within their limits; the exit status is 1 where one is not. The time of a start is worth something on a quiet machine only.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
import sid
from following import cpu_ms, pss_kib
from lab import BIG, REMOTE4, Lab, program
from machines import Background, machine
from servers import make_file, nginx

BULK = 50_000_000
KINDS = {"stream": (), "vhost-user": ("--vhost-user",)}
VERSION_1 = 1 << 32  # the one virtio feature that both machines take
MOST_START, MOST_MEMORY = 1.5, 1.0


class Instance(Background):
    """One passt, from its start until it is idle."""

    def __init__(self, lab: Lab, command: str, words: tuple[str, ...], number: int) -> None:
        started = time.monotonic()
        super().__init__(lab, command, *words, name=f"cost-{number}")
        self.ready_ms = (time.monotonic() - started) * 1000
        seen = -1.0
        while seen != (seen := sum(map(cpu_ms, self.pids()))):
            time.sleep(0.1)
        self.cpu_ms = seen + self.start_ms

    def pss_kib(self) -> int:
        return sum(map(pss_kib, self.pids()))


def used_pss_kib(lab: Lab, command: str, kind: str) -> int:
    """After a machine has sent and received a file."""
    one = Instance(lab, command, KINDS[kind], 0)
    url = f"http://{REMOTE4}"
    with machine(lab, one.socket, mtu=1500, vhost_user=VERSION_1 if kind == "vhost-user" else None) as guest:
        guest.run("sh", "-ec", f"curl -sSf {url}/file | curl -sSf -T - {url}/up", timeout=120)
        memory = one.pss_kib()
    lab.remote.run("rm", f"{BIG}/www/up")
    one.end()
    return memory


def main() -> int:
    rounds, instances = (*map(int, sys.argv[1:]), *(11, 20)[len(sys.argv) - 1 :])
    programs = {"pasta-py": program("passt"), "passt": str(sid.program("passt", "passt"))}
    missed = 0
    with Lab() as lab:
        nginx(lab)
        make_file(lab, "www/file", BULK)
        for kind, words in KINDS.items():
            starts: dict[str, list[tuple[float, float]]] = {each: [] for each in programs}
            for _ in range(rounds + 1):
                for each, command in programs.items():
                    one = Instance(lab, command, words, 0)
                    starts[each].append((one.ready_ms, one.cpu_ms))
                    one.end()
            figures = {
                each: [statistics.median(sample[at] for sample in samples[1:]) for at in (0, 1)]  # the first fills the page cache
                for each, samples in starts.items()
            }
            for each, command in programs.items():
                many = [Instance(lab, command, words, number) for number in range(instances)]
                figures[each].append(sum(one.pss_kib() for one in many) / instances)
                for one in many:
                    one.end()
                figures[each].append(used_pss_kib(lab, command, kind))
            what = ("until ready, ms", "CPU time, ms", f"PSS of one of {instances} idle, KiB", "PSS after use, KiB")
            for title, ours, theirs, most in zip(
                what, *figures.values(), (MOST_START, None, MOST_MEMORY, MOST_MEMORY), strict=True
            ):
                verdict = "" if most is None else f" (≤ {most}: {'met' if ours / theirs <= most else 'missed'})"
                missed += "missed" in verdict
                print(f"{kind:10} {title:32} {ours:9.1f} {theirs:9.1f}   {ours / theirs:.2f}{verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
