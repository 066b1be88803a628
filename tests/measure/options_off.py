"""`options_off.py DIRECTORY [--OPTION...]`: whether the tests that claim an option (tests/claims.py) fail without it.

For each option, or those named, a copy of the program is made to read the option and forget it, and the tests that claim
it run there: at least one has to fail, and all have passed before. An option that has no effect by its nature is one that
the copy does not know.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from prepare import ROOT, copy
from sanitized import programs

sys.path.append(str(ROOT))
sys.path.append(str(ROOT / "tests"))

from claims import collected  # noqa: E402

from pasta_py.control.option_table import TABLE, Option  # noqa: E402

_FORGET = """
TABLE = tuple(row.replace(rule="ignore") if row.long == {name!r} else row for row in TABLE)
"""
_REMOVE = """
TABLE = tuple(row for row in TABLE if row.long != {name!r})
"""
_AGAIN = """
BY_SHORT = {option.short: option for option in TABLE if option.short}
BY_LONG = {option.long: option for option in TABLE}
"""


def prepare(target: Path) -> None:
    """The sources with the extension that was built."""
    copy(target)
    for built in (ROOT / "pasta_py").glob("*.so"):
        shutil.copy2(built, target / "pasta_py")
    programs(target)


def without(target: Path, option: Option) -> None:
    """Make the copy one that the option does nothing in."""
    change = _REMOVE if option.rule == "ignore" else _FORGET
    text = (ROOT / "pasta_py/control/option_table.py").read_text()
    (target / "pasta_py/control/option_table.py").write_text(text + change.format(name=option.long) + _AGAIN)


def failing(target: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether any of the tests fails in the copy; the last line that pytest says."""
    environment = {
        "PASTA_UNDER_TEST": str(target / "bin/pasta"), "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1",
        "PASTA_TESTS_ALONE": "", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip
    line = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(line, cwd=target, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    if done.returncode not in (0, 1):
        sys.exit("\n".join(lines))
    return done.returncode == 1, next((each for each in lines if each.startswith(("FAILED", "ERROR"))), lines[-1])


def main() -> None:
    target, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    target.mkdir(parents=True, exist_ok=True)
    prepare(target)
    claims, survivors = collected(), []
    failed, said = failing(target, ["-m", "option", "tests"])
    if failed:
        sys.exit(f"with every option in its place: {said}")
    print(f"with every option in its place: {said}", flush=True)
    for option in TABLE:
        name, started = f"--{option.long}", time.monotonic()
        if names and name not in names:
            continue
        without(target, option)
        failed, said = failing(target, claims[name])
        print(f"{name:22} {'noticed' if failed else 'NOT NOTICED'} {time.monotonic() - started:5.1f} s  {said}", flush=True)
        survivors += [] if failed else [name]
    if survivors:
        sys.exit(f"no test notices that these do nothing: {' '.join(survivors)}")


if __name__ == "__main__":
    main()
