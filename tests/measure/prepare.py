"""`prepare.py DIRECTORY`: an instrumented copy of the sources, with an extension built for gcov, that all tests can run in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = (
    "bench", "contrib", "csrc", "docs", "examples", "fuzz", "packaging", "pasta_py", "tests",
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml", "setup.py", "Makefile",
)  # fmt: skip
DATA = "data"


def copy(target: Path) -> None:
    """Fresh sources, but the objects of the last build: what did not change is not compiled again."""
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis", "_plane.c", "_calls.c")
    for name in (*COPIED, DATA):
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).unlink(missing_ok=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=unwanted)
        else:
            shutil.copy2(ROOT / name, target)
    data = target / DATA
    data.mkdir()
    data.chmod(0o1777)  # for the ordinary users that tests become


def instrument(target: Path) -> None:
    """Every process that imports pasta_py from the copy marks the lines that it executes."""
    package = target / "pasta_py"
    offset, table = 0, []
    for path in sorted(package.rglob("*.py")):
        table.append(f"{path.relative_to(target)} {offset}\n")
        offset += path.read_text(encoding="utf-8").count("\n") + 2
    (target / "LINES.txt").write_text("".join(table) + f"END {offset}\n")
    (target / "DIRECTORY.txt").write_text(f"{target / DATA}\n")
    shutil.copy(HERE / "trace.py", package / "_trace.py")
    with (package / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom pasta_py import _trace  # noqa\n")


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    copy(target)
    environment = {**os.environ, "PASTA_COVERAGE": str(target / DATA)}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=target, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    instrument(target)


if __name__ == "__main__":
    main()
