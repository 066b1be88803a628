"""`sanitized.py DIRECTORY SANITIZERS`: a copy of the sources with an extension built for them (gcc's, such as address,undefined).

Python itself is not built that way: the sanitizer's library is loaded before everything else (LD_PRELOAD), in the tests and in
the workers they start.
"""

import os
import subprocess
import sys
from pathlib import Path

from prepare import copy

PROGRAM = """#!{python}
import sys
sys.path.insert(0, {target!r})
from pasta_py.control.{module} import {function}
sys.exit({function}())
"""
ENTRIES = {"pasta": ("entry", "pasta"), "pasta-py": ("cli", "main")}


def programs(target: Path) -> None:
    """The installed commands would start the package that is installed."""
    (target / "bin").mkdir(exist_ok=True)
    for name, (module, function) in ENTRIES.items():
        path = target / "bin" / name
        path.write_text(PROGRAM.format(python=sys.executable, target=str(target), module=module, function=function))
        path.chmod(0o755)


def main() -> None:
    target, sanitizers = Path(sys.argv[1]).resolve(), sys.argv[2]
    target.mkdir(parents=True, exist_ok=True)
    copy(target)
    environment = {**os.environ, "PASTA_SANITIZE": sanitizers}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=target, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    programs(target)


if __name__ == "__main__":
    main()
