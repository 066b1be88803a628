"""`report.py DIRECTORY`: how many lines of csrc/ (gcov) and of pasta_py/ the tests run in the instrumented copy executed.

Lines of C are united over all processes: each file that keep.c left is laid out as gcov wants it, and gcov is asked for JSON.
Lines of Python come from coverage.py for pytest's own process and from trace.py for all others.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from coverage import Coverage, CoverageData

Lines = dict[str, dict[int, bool]]


def records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and gcov data of each object, as keep.c wrote them."""
    data, position = path.read_bytes(), 0
    while size := int.from_bytes(data[position : position + 4], sys.byteorder):
        name = data[position + 4 : position + 4 + size].decode()
        position += 4 + size
        size = int.from_bytes(data[position : position + 4], sys.byteorder)
        yield name, data[position + 4 : position + 4 + size]
        position += 4 + size


def add_gcov(kept: Path, lines: Lines) -> None:
    """Unite what one process executed into `lines`; a separate build knows its sources by their full paths."""
    root = f"{kept.parents[1]}/"
    with tempfile.TemporaryDirectory() as scratch:
        names = []
        for name, data in records(kept):
            flat = name.lstrip("/").replace("/", "#")
            (Path(scratch) / flat).write_bytes(data)
            shutil.copy(Path(name).with_suffix(".gcno"), Path(scratch) / flat.replace(".gcda", ".gcno"))
            names.append(flat)
        if not names:
            return
        command = ["gcov", "--json-format", "--stdout", *names]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    for document in done.stdout.splitlines():
        for file in json.loads(document)["files"]:
            if (name := file["file"].removeprefix(root)).startswith("csrc/"):
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[name][number] = lines[name].get(number, False) or line["count"] > 0


def report_c(data: Path) -> None:
    lines: Lines = defaultdict(dict)
    kept = [path for path in data.glob("c-*") if path.stat().st_size]
    for path in kept:
        add_gcov(path, lines)
    if not lines:
        sys.exit(f"{data}: no process left any data of gcov: run `make test-units` first")
    print(f"\nCoverage of csrc/ (gcov, {len(kept)} processes)\n{'File':40}{'Lines':>8}{'Missed':>8}{'Cover':>8}")
    rows = [(name, len(seen), len(seen) - sum(seen.values())) for name, seen in sorted(lines.items())]
    rows.append(("TOTAL", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, count, missed in rows:
        print(f"{name:40}{count:8}{missed:8}{(count - missed) / count:8.0%}")


def report_python(target: Path) -> None:
    traced = CoverageData(basename=str(target / ".coverage.traced"))
    traced.erase()
    table = [line.rsplit(" ", 1) for line in (target / "LINES.txt").read_text().splitlines()]
    offsets = [(path, int(offset)) for path, offset in table]
    executed: dict[str, set[int]] = defaultdict(set)
    kept = list((target / "data").glob("py-*"))
    for marks in (path.read_bytes() for path in kept):
        for (path, start), (_next, end) in zip(offsets, offsets[1:]):
            executed[str(target / path)].update(i for i, mark in enumerate(marks[start:end]) if mark)
    traced.add_lines({path: numbers for path, numbers in executed.items() if numbers})
    traced.write()
    whole = Coverage(data_file=str(target / ".coverage.all"), config_file=False, source=[str(target / "pasta_py")])
    whole.combine([str(target / ".coverage"), str(target / ".coverage.traced")], keep=True)
    print(f"\nCoverage of pasta_py/ (pytest's process and {len(kept)} others)")
    whole.report(include=[str(target / "pasta_py" / "*")], omit=["*/_trace.py"])


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    report_c(target / "data")
    report_python(target)


if __name__ == "__main__":
    main()
