"""`run.py SECONDS [NAME...]`: runs all fuzz targets, or those named, two at a time, for SECONDS in total.

C targets (build.py) look for memory errors, undefined behaviour, and failed checks of targets/check.c and targets/kernel.c.
Python targets (python_target.py) look for exceptions. A target begins with its inputs in fuzz/corpus. It keeps new useful inputs in
build/fuzz/corpus and begins with them too the next time. Inputs that fail are kept in build/fuzz/found; the report has the command
that repeats them. The target "session" must also reach every TCP state.

--rounds also runs the models of test_*.py and the properties among the unit tests, with a new seed each round. --seed runs only
these, with the seed of a round that failed. --coverage does not search: it reports what the corpora reach in csrc/.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import build  # noqa: E402

ROOT = HERE.parent
OUT = ROOT / "build" / "fuzz"
JOBS = 2
#: Arguments of pytest: the models, and the unit tests that use hypothesis.
WITH_EXAMPLES = (["fuzz"], ["tests/control", "tests/csrc", "tests/worker", "-m", "hypothesis"])
#: Share of the time, and the longest input in bytes. `session` has the largest share: it found nearly all faults so far.
C_TARGETS = {
    "session": (8, 400), "frame": (3, 2000), "filter": (1, 600), "ring": (1, 600), "rules": (1, 600), "vhost": (2, 600),
    "stream": (1, 4000), "client_hello": (1, 2500), "http_host": (1, 600), "handshake": (1, 600),
}  # fmt: skip
PYTHON_TARGETS = {
    "arp": (0.5, 100),
    "ndp": (1, 1500),
    "dhcp4": (1, 1500),
    "dhcp6": (1, 1500),
    "wire": (1, 4000),
    "update": (1, 1000),
    "shown": (1, 1000),
    "slirp_api": (1, 1000),
    "control": (1, 600),
    "control_egress": (1, 600),
    "dns": (1, 1500),
    "dns_service": (1, 1500),
    "portspec": (1, 200),
    "options": (1, 300),
}
MODELS = "models"
COVERAGE_FLAGS = "-fsanitize=fuzzer -fprofile-instr-generate -fcoverage-mapping"


@dataclass
class Job:
    name: str
    seconds: float
    arguments: list[str]
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        return OUT / "log" / f"{self.name}.txt"


def corpora(name: str) -> list[str]:
    grown = OUT / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    return [str(grown), str(HERE / "corpus" / name)]


def command(name: str, directory: Path = OUT) -> list[str]:
    return [str(directory / name)] if name in C_TARGETS else [sys.executable, str(HERE / "python_target.py"), name]


def target_job(name: str, seconds: float) -> Job:
    longest = {**C_TARGETS, **PYTHON_TARGETS}[name][1]
    arguments = [*command(name), f"-max_total_time={max(1, round(seconds))}", f"-max_len={longest}", "-timeout=25"]
    arguments += ["-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={OUT / 'found' / name}-"]
    if (dictionary := HERE / f"{name}.dict").exists():
        arguments.append(f"-dict={dictionary}")
    environment = {"PASTA_FUZZ_STATES": str(OUT / "states.txt")} if name == "session" else {}
    return Job(name, seconds, [*arguments, *corpora(name)], environment)


def run_job(job: Job) -> bool:
    with job.log.open("wb") as log:
        environment = {**os.environ, **job.environment}
        arguments = ["setpriv", "--pdeathsig", "KILL", *job.arguments]  # ends it when we end, also by a signal
        return subprocess.run(arguments, stdout=log, stderr=log, env=environment, check=False).returncode == 0


def run_examples(seed: int, log: TextIO | None = None) -> bool:
    """Run the models and all other tests with examples, with the examples of this seed."""
    for which in WITH_EXAMPLES:
        arguments = [sys.executable, "-m", "pytest", "-q", *which, f"--hypothesis-seed={seed}"]
        if subprocess.run(arguments, cwd=ROOT, stdout=log, stderr=log, check=False).returncode:
            return False
    return True


def run_models(seconds: float) -> bool:
    """Run new examples until the time is over. The log has the seed that repeats them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed = int.from_bytes(os.urandom(4), "big")
        with (OUT / "log" / f"{MODELS}.txt").open("w") as log:
            log.write(f"repeat with: make fuzz-seed SEED={seed}\n")
            log.flush()
            if not run_examples(seed, log):
                return False
    return True


def found(name: str) -> list[Path]:
    return sorted((OUT / "found").glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)


def explain(job: Job) -> None:
    text = job.log.read_text(errors="replace")
    telling = re.findall(r"^.*(?:must hold|ERROR: |runtime error|Uncaught|Error:|#\d+ .*/csrc/).*$", text, re.MULTILINE)
    print(f"\n{job.name} FAILED:", *(telling[:20] or text.splitlines()[-20:]), sep="\n  ")
    if artifacts := found(job.name):
        print(f"  repeat with: {' '.join(command(job.name))} {artifacts[-1]}")
    print(f"  all it said: {job.log}")


def summary(job: Job) -> str:
    text = job.log.read_text(errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", text)
    edges = re.findall(r"cov: (\d+)", text)
    return f"{job.name:10} {int(runs[1]) if runs else 0:>12,} executions {edges[-1] if edges else '?':>6} edges"


def states() -> dict[str, int]:
    lines = (OUT / "states.txt").read_text().split() if (OUT / "states.txt").exists() else []
    return {name: int(count) for name, count in zip(lines[::2], lines[1::2])}


def search(seconds: float, names: list[str], rounds: bool) -> int:
    (OUT / "states.txt").unlink(missing_ok=True)
    weights = {name: weight for name, (weight, _) in {**C_TARGETS, **PYTHON_TARGETS}.items() if not names or name in names}
    model_weight = 4.0 if rounds else 0.0
    # Targets run at the same time, so their shares add up to more than `seconds`; one target gets at most all of it.
    share = seconds * min(JOBS, len(weights)) / (sum(weights.values()) + model_weight)
    jobs = [target_job(name, min(seconds, share * weight)) for name, weight in weights.items()]
    jobs.sort(key=lambda job: -job.seconds)
    models = None
    with ThreadPoolExecutor(JOBS) as pool:
        results = [pool.submit(run_job, job) for job in jobs]
        if rounds:
            models = pool.submit(run_models, share * model_weight)
    failed = [job for job, result in zip(jobs, results) if not result.result()]
    for job in jobs:
        print(summary(job))
    for job in failed:
        explain(job)
    bad = bool(failed)
    if models and not models.result():
        print((OUT / "log" / f"{MODELS}.txt").read_text()[-6000:])
        bad = True
    if "session" in weights:
        print("states of TCP: " + ", ".join(f"{name} {count}" for name, count in states().items()))
        if not bad and (not states() or 0 in states().values()):
            print("a state was never reached: the scripts in fuzz/corpus/session no longer lead there")
            bad = True
    return 1 if bad else 0


def coverage() -> int:
    """Report the lines and branches of csrc/ that the corpora of the C targets execute. Needs the package llvm."""
    out = ROOT / "build" / "fuzz-coverage"
    os.environ["PASTA_FUZZ_FLAGS"] = COVERAGE_FLAGS
    build.build(out)
    for name in C_TARGETS:
        environment = {**os.environ, "LLVM_PROFILE_FILE": str(out / f"{name}.profraw")}
        arguments = [str(out / name), "-runs=0", *corpora(name)]
        subprocess.run(arguments, env=environment, check=True, capture_output=True)
    merged = str(out / "all.profdata")
    raw = [str(out / f"{name}.profraw") for name in C_TARGETS]
    subprocess.run(["llvm-profdata", "merge", "-o", merged, *raw], check=True)
    objects = [str(out / next(iter(C_TARGETS))), *(f"-object={out / name}" for name in list(C_TARGETS)[1:])]
    report = ["llvm-cov", "report", *objects, f"-instr-profile={merged}", str(build.CSRC), "-show-functions=false"]
    return subprocess.run(report, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("names", nargs="*", choices=[[], *C_TARGETS, *PYTHON_TARGETS])
    parser.add_argument("--rounds", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    if given.seed is not None:
        return 0 if run_examples(given.seed) else 1
    for folder in ("log", "found"):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
    if given.coverage:
        return coverage()
    build.build(OUT)
    return search(given.seconds, given.names, given.rounds)


if __name__ == "__main__":
    sys.exit(main())
