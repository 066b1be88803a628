"""What many rules cost a start, and the worker: `python tests/measure/many_rules.py [RULES] [STARTS]`.

Starts `pasta -- true` by turns without a policy, with one rule, with 100 and with RULES (10,000), half names, half prefixes.
Prints medians of the wall clock and of CPU time, and the worker's PSS while a command waits. $PASTA_UNDER_TEST names the program.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("none", "one", "hundred", "many")


def file(directory: str, count: int) -> str:
    path = Path(directory) / f"{count}.rules"
    names = (f"allow n{i}.host{i % 97}.example.test:443  # service {i}\n" for i in range(count // 2))
    prefixes = (f"allow 10.{i >> 8 & 255}.{i & 255}.0/24:{1 + i % 9000}/tcp\n" for i in range(count - count // 2))
    path.write_text("".join(a + b for a, b in zip(names, prefixes, strict=True)))
    return str(path)


def start(program: str, options: list[str]) -> tuple[float, float]:
    """Seconds of wall clock, and of CPU of all its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([program, *options, "--", "true"], check=True, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def worker_kib(program: str, options: list[str]) -> int:
    """PSS of the worker: of the processes of this start, the one that has the rules."""
    process = subprocess.Popen(
        [program, "--config-net", *options, "--", "sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout and process.stdin
    process.stdout.readline()
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _above(int(entry.name), process.pid):
            text = _read(entry / "smaps_rollup")
            if "seccomp" in _mode(entry):
                found = max(found, *(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    process.stdin.close()
    process.wait()
    return found


def _mode(entry: Path) -> str:
    return "seccomp" if "Seccomp:\t2" in _read(entry / "status") else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _above(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        status = _read(Path(f"/proc/{pid}/status"))
        pid = int(status.partition("PPid:\t")[2].partition("\n")[0] or 0)
    return pid == ancestor


def main() -> None:
    count, starts = (int(word) for word in (*sys.argv[1:], *("10000", "21")[len(sys.argv) - 1 :]))
    program = os.environ.get("PASTA_UNDER_TEST") or str(Path(sys.executable).parent / "pasta")
    with tempfile.TemporaryDirectory() as directory:
        numbers = {"hundred": 100, "many": count}
        options = {kind: ["--egress-file", file(directory, n)] for kind, n in numbers.items()}
        options |= {"none": [], "one": ["--allow", "a.test:443"]}
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for _ in range(starts):
            for kind in KINDS:
                taken[kind].append(start(program, options[kind]))
        for kind in KINDS:
            wall, cpu = (1000 * statistics.median(column) for column in zip(*taken[kind], strict=True))
            memory = worker_kib(program, options[kind])
            rules = numbers.get(kind, int(kind == "one"))
            print(f"{rules:6} rules: {wall:6.1f} ms, CPU {cpu:6.1f} ms, worker {memory} KiB")


if __name__ == "__main__":
    main()
