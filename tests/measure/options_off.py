"""`options_off.py DIRECTORY [--OPTION...]`: whether the tests that claim an option (tests/claims.py) fail without it.

For each option, or those named, a copy of the program is made to read the option and forget it, and the tests that claim
it run there: at least one has to fail, and all have passed before. An option that has no effect by its nature is one that
the copy does not know. One that is given once per family is forgotten once for IPv4, and once for IPv6.
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

from claims import collected

from pasta_py.control.commandline.option_table import TABLE, Option

_FORGET = """
TABLE = tuple(row.replace(rule="ignore") if row.long == {name!r} else row for row in TABLE)
"""
_REMOVE = """
TABLE = tuple(row for row in TABLE if row.long != {name!r})
"""
_AGAIN = """
BY_LONG = {option.long: option for option in TABLE}
LETTERS = {option.short: option.long for option in TABLE if option.short}
"""
# Appended to options.py: the values of one family alone are forgotten.
_FORGET_FAMILY = """

_whole = _Parser._store_family


def _store_family(self, dest, value):
    version = value and (value[0] if isinstance(value, tuple) else value).version
    if (dest, version) != ({dest!r}, {version}):
        _whole(self, dest, value)


_Parser._store_family = _store_family
"""


def prepare(target: Path) -> None:
    """The sources with the extension that was built."""
    copy(target)
    for built in (ROOT / "pasta_py").glob("*.so"):
        shutil.copy2(built, target / "pasta_py")
    programs(target, Path(sys.executable))


def without(target: Path, option: Option, version: int) -> None:
    """Make the copy one that the option does nothing in, for one family if `version` is not 0."""
    table, parser = ((ROOT / "pasta_py/control/commandline" / name).read_text() for name in ("option_table.py", "options.py"))
    if version:
        parser += _FORGET_FAMILY.format(dest=option.dest, version=version)
    else:
        change = _REMOVE if option.rule == "ignore" else _FORGET
        table += change.format(name=option.long) + _AGAIN
    (target / "pasta_py/control/commandline/option_table.py").write_text(table)
    (target / "pasta_py/control/commandline/options.py").write_text(parser)
    # A copy that does not even start would fail every test.
    subprocess.run([sys.executable, "-c", "from pasta_py.control.commandline import options"], cwd=target, check=True)


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
    for tests in [claims[name] for name in names] or [["-m", "option", "tests"]]:
        failed, said = failing(target, tests)
        if failed:
            sys.exit(f"with every option in its place: {said}")
        print(f"with every option in its place: {said}", flush=True)
    for option, version in [(each, v) for each in TABLE for v in ((4, 6) if each.rule == "family" else (0,))]:
        name, started = f"--{option.long}", time.monotonic()
        if names and name not in names:
            continue
        without(target, option, version)
        failed, said = failing(target, claims[name])
        what = f"{name} IPv{version}" if version else name
        print(f"{what:24} {'noticed' if failed else 'NOT NOTICED'} {time.monotonic() - started:5.1f} s  {said}", flush=True)
        survivors += [] if failed else [what]
    if survivors:
        sys.exit(f"no test notices that these do nothing: {' '.join(survivors)}")


if __name__ == "__main__":
    main()
