"""Programs of Debian sid, newer than the machine's own: sid.txt says which packages, sid.sh fetches them into build/sid.

PASTA_SID_ROOT is another place for them.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PASTA_SID_ROOT") or HERE.parent / "build" / "sid")
DIRECTORIES = ("bin", "sbin", "lib/systemd", "libexec", "lib")  # of ROOT/usr


def _versions(path: Path) -> dict[str, str]:
    """The versions, by package, that a file lists."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: version for name, _, version in (line.partition(" ") for line in lines)}


WANTED = _versions(HERE / "sid.txt")


@functools.cache
def fetch() -> dict[str, str]:
    """The version of each package that is there; the packages are fetched where they are not."""
    subprocess.run(["sh", HERE / "sid.sh", ROOT], stdout=sys.stderr, check=True)
    return _versions(ROOT / "packages")


def program(package: str, name: str) -> Path:
    """A program of a package of sid.txt, as every user can start it."""
    assert package in WANTED, f"{package} is not in sid.txt"
    fetch()
    return next(path for place in DIRECTORIES if (path := ROOT / "usr" / place / name).exists())


def changed() -> list[str]:
    """What is there in another version than sid.txt says, a line each. Fetches nothing."""
    try:
        present = _versions(ROOT / "packages")
    except FileNotFoundError:
        return []
    return [
        f"Debian sid: {name} {present.get(name)}, where the archive no longer has {version}"
        for name, version in WANTED.items()
        if present.get(name) != version
    ]
