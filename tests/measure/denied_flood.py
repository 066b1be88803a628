"""What a flood of denied queries and connections costs the worker, with tests, tests/e2e, tests/csrc, tests/worker and
tests/programs in PYTHONPATH:

    python tests/measure/denied_flood.py [SECONDS] [PASTA...]

20,000 queries for denied names and 10,000 denied SYNs a second (the flood `denied` of tests/e2e/test_floods.py) go to a guest of
each program in turn, for SECONDS after what is let through at once has passed. Prints the worker's CPU time for each frame and for
a second, so it can run on a busy machine. Without PASTA, $PASTA_UNDER_TEST is the program.
"""

import os
import sys
import time
from pathlib import Path

from lab import Lab
from test_floods import BURST_S, FLOODS, TAP, Flooder


def cpu_s(pid: int) -> tuple[float, float]:
    """In user space and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(fields[12]) / os.sysconf("SC_CLK_TCK")


def measure(lab: Lab, pasta: "Path | None", seconds: float) -> None:
    flood = FLOODS["denied"]
    with lab.guest("--stats", 1, *flood.options, peer=pasta) as guest:
        worker, running = lab.translator().pid, Flooder(guest, flood)
        running.turn(TAP)
        time.sleep(BURST_S)
        start, before = time.monotonic(), cpu_s(worker)
        time.sleep(seconds)
        own, kernel = (after - earlier for after, earlier in zip(cpu_s(worker), before, strict=True))
        took = time.monotonic() - start
        running.turn(b"-")
        sent = running.finish() * took / (took + BURST_S)
        us, percent = 1e6 * (own + kernel) / sent, 100 * (own + kernel) / took
        print(f"{pasta or 'this'}: {us:.1f} us a frame, {percent:.0f} % of a processor at {sent / took:.0f} a second, ", end="")
        print(f"{100 * kernel / (own + kernel):.0f} % of it in the kernel")


if __name__ == "__main__":
    with Lab() as lab:
        for _ in range(3):
            for name in sys.argv[2:] or [""]:
                measure(lab, Path(name) if name else None, float(sys.argv[1]) if len(sys.argv) > 1 else 5)
