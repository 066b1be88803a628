"""`build.py DIRECTORY`: builds the C fuzz targets for libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

A target contains the whole core, unchanged. Its system calls are linked with `--wrap` to the simulated kernel of targets/kernel.h.
PASTA_FUZZ_FLAGS replaces the sanitizer flags, for a build that measures coverage.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = HERE / "targets"
CSRC = HERE.parent / "csrc"
NAMES = ("client_hello", "filter", "frame", "handshake", "http_host", "ring", "rules", "session", "stream", "vhost")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-gdwarf-4", "-fno-omit-frame-pointer", "-pthread", f"-I{CSRC}", f"-I{TARGETS}"]
SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]


def wrapped() -> list[str]:
    return re.findall(r"^WRAPPED\([^,]+, (\w+),", (TARGETS / "wrapped.h").read_text(encoding="utf-8"), re.MULTILINE)


def compile_one(source: Path, out: Path, flags: list[str]) -> Path:
    target = out / f"{source.stem}.o" if source.parent == TARGETS else out / f"{source.parent.name}-{source.stem}.o"
    newest = max(path.stat().st_mtime for folder in (CSRC, TARGETS) for path in folder.rglob("*.[ch]"))
    if not target.exists() or target.stat().st_mtime < newest:
        subprocess.run(["clang", *FLAGS, *flags, *WARNINGS, "-c", str(source), "-o", str(target)], check=True)
    return target


def build(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    flags = os.environ.get("PASTA_FUZZ_FLAGS", " ".join(SANITIZERS)).split()
    core = sorted(CSRC.rglob("*.c"))
    shared = [path for path in sorted(TARGETS.glob("*.c")) if path.stem not in NAMES]
    targets = [TARGETS / f"{name}.c" for name in NAMES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip([*core, *shared, *targets], pool.map(lambda p: compile_one(p, out, flags), [*core, *shared, *targets])))
    common = [str(objects[path]) for path in (*core, *shared)]
    for path in targets:
        link = [*flags, "-pthread", *(f"-Wl,--wrap={name}" for name in wrapped())]
        subprocess.run(["clang", *link, str(objects[path]), *common, "-o", str(out / path.stem)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
