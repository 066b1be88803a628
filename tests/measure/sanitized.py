"""`sanitized.py DIRECTORY SANITIZERS [ARGUMENT...]`: pytest, with these arguments, in a copy of the sources whose extension is
built for the sanitizers (gcc's, such as address,undefined). Without arguments it is only built.

DIRECTORY/bin/python is an interpreter with the sanitizers' libraries (python.c), and runs the tests. It sees what the Python
that runs this sees, and is what tests and programs in turn start: control, workers and helpers all have them, and no other process.
What the sanitizers find is kept in DIRECTORY/reports, even by processes that are locked in, and fails the run.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from prepare import ROOT, copy

sys.path.insert(0, str(ROOT))

from pasta_py.control.start import dispatch

HERE = Path(__file__).resolve().parent
PROGRAM = """#!{python}
import sys
sys.path.insert(0, {target!r})
from pasta_py.control.{module} import {function}
sys.exit({function}())
"""
REPORT_BYTES = 1 << 20  # SPACE_BYTES of python.c
HEAD_BYTES = 8
SUPPRESSED = "shift-exponent:measure/python.c\n"  # its wake()
#: One byte behind an array, and a shift that C does not define, under the worker's own filter of system calls.
CANARIES = {
    "AddressSanitizer: heap-buffer-overflow, write of 1 bytes": "overflow()",
    "UndefinedBehaviorSanitizer: invalid-shift-exponent": "shift(40)",
}
CANARY = """
#include <stdlib.h>
static char *volatile place;
void overflow(void) { place = malloc(8); place[8] = 1; }
int shift(int by) { return 1 << by; }
"""
LOCKED_IN = """
import ctypes, sys
sys.path.insert(0, {target!r})
from pasta_py._plane import lib
canary = ctypes.CDLL({library!r})
assert lib.confine_privileges(0, 0) == 0 and lib.confine_calls(lib.CONFINE_WORKER) == 0
canary.{call}
"""


def interpreter(target: Path, sanitizers: str) -> Path:
    """One that finds its packages as a virtual environment does: by pyvenv.cfg beside bin/ and lib/."""
    (target / "bin").mkdir(exist_ok=True)
    here = {name: str(sysconfig.get_config_var(name) or "") for name in ("LIBDIR", "LIBPL", "LIBS", "SYSLIBS", "LINKFORSHARED")}
    path = target / "bin" / "python"
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizers}"]
    command += [f'-DREPORTS="{reports(target)}"', f'-DSUPPRESSIONS="{target / "suppressed"}"']
    command += ["-isystem", sysconfig.get_path("include"), "-o", str(path), str(HERE / "python.c")]
    command += [f"-L{here['LIBDIR']}", f"-L{here['LIBPL']}", f"-Wl,-rpath,{here['LIBDIR']}"]
    command += [f"-lpython{sysconfig.get_config_var('LDVERSION')}"]
    command += [word for name in ("LIBS", "SYSLIBS", "LINKFORSHARED") for word in shlex.split(here[name])]
    subprocess.run(command, check=True)
    (target / "suppressed").write_text(SUPPRESSED)
    for name in ("lib", "pyvenv.cfg"):
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to(Path(sys.prefix) / name)
    return path


def programs(target: Path, python: Path) -> None:
    """The installed commands would start the package that is installed."""
    for name, entry in {**dispatch.ENTRIES, "pasta-py": "start.typer_command:main"}.items():
        module, _, function = entry.partition(":")
        path = target / "bin" / name
        path.write_text(PROGRAM.format(python=python, target=str(target), module=module, function=function))
        path.chmod(0o755)


def reports(target: Path) -> Path:
    return target / "reports"


def clear(target: Path) -> None:
    """Tests become ordinary users, so everybody may write it; processes that still have the last run's keep that."""
    reports(target).unlink(missing_ok=True)
    reports(target).write_bytes(bytes(REPORT_BYTES))
    reports(target).chmod(0o666)


def found(target: Path) -> str:
    data = reports(target).read_bytes()
    used = int.from_bytes(data[:HEAD_BYTES], sys.byteorder)
    return data[HEAD_BYTES : HEAD_BYTES + used].decode(errors="replace")


def explained(text: str) -> str:
    """With functions and lines instead of addresses, where the file has them."""

    def place(match: re.Match[str]) -> str:
        command = ["addr2line", "-fpse", match[1], match[2]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"    {done.stdout.strip() or match[0].strip()}"

    return re.sub(r"^  (/\S+) (0x[0-9a-f]+)$", place, text, flags=re.MULTILINE)


def check_canaries(target: Path, python: Path, sanitizers: str) -> None:
    """That a mistake in a process that is locked in is seen here."""
    library = target / "canary.so"
    command = ["gcc", "-w", "-shared", "-fPIC", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    command += ["-xc", "-", "-o", str(library)]
    subprocess.run(command, input=CANARY, text=True, check=True)
    for wanted, call in CANARIES.items():
        clear(target)
        code = LOCKED_IN.format(target=str(target), library=str(library), call=call)
        done = subprocess.run([python, "-c", code], capture_output=True, check=False)
        if not done.returncode or wanted not in found(target):
            sys.exit(f"a mistake made on purpose ({wanted}) was not reported: {found(target)!r}, {done}")


def run(target: Path, python: Path, sanitizers: str, arguments: list[str]) -> int:
    clear(target)
    environment = {**os.environ, "PASTA_UNDER_TEST": str(target / "bin" / "pasta"), "PYTHONPATH": str(target)}
    environment["PASTA_SANITIZE"] = sanitizers  # for what tests build themselves
    status = subprocess.run([python, "-m", "pytest", *arguments], cwd=target, env=environment, check=False).returncode
    if text := found(target):
        print(f"found by sanitizers, also in processes that cannot say it:\n{explained(text)}")
    return status or bool(text)


def main() -> int:
    target, sanitizers, *arguments = Path(sys.argv[1]).resolve(), *sys.argv[2:]
    target.mkdir(parents=True, exist_ok=True)
    copy(target)
    environment = {**os.environ, "PASTA_SANITIZE": sanitizers}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=target, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    python = interpreter(target, sanitizers)
    programs(target, python)
    check_canaries(target, python, sanitizers)
    return run(target, python, sanitizers, arguments) if arguments else 0


if __name__ == "__main__":
    sys.exit(main())
