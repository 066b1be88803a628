"""What each layer of the worker's sandbox costs at the start: `python tests/measure/sandbox.py [RUNS]`, as any user."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TIMED = """
import time
from pasta_py.worker import confine, sandbox
spent = {}
def timed(name):
    work = getattr(confine, name)
    def run(*args, **kwargs):
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] = time.perf_counter() - start
    setattr(confine, name, run)
for name in ("unshare", "empty_root", "drop_privileges", "landlock", "limit_resources", "filter_calls"):
    timed(name)
start = time.perf_counter()
_, warnings = sandbox.enter(2)
spent["all until the plan comes"] = time.perf_counter() - start
start = time.perf_counter()
warnings += sandbox.close([])
spent["all before ready"] = time.perf_counter() - start
assert not warnings, warnings
print(*(f"{name}={seconds}" for name, seconds in spent.items()), sep="\\n", flush=True)
import os
os._exit(0)
"""


def main(runs: int) -> None:
    found: dict[str, list[float]] = {}
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])}
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-S", "-c", _TIMED], env=environment, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            name, _, seconds = line.rpartition("=")
            found.setdefault(name, []).append(float(seconds) * 1000)
    for name, values in found.items():
        print(f"{name:26} median {statistics.median(values):6.2f} ms, {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
