"""Marks the lines of pasta_py that a process executes; in the instrumented copy only, imported by its pasta_py/__init__.py.

A byte for each line in a file mapped into memory: survives forks, the sandbox, _exit and SIGKILL, and takes no system call.
Rejected: coverage.py, which the worker cannot import (-I -S) and which writes when the process ends, by path.
In a process that coverage.py watches already (that of pytest) it does nothing. LINES.txt, beside this file's package, has
"PATH OFFSET" for each source; DIRECTORY.txt has where the maps go.
"""

import mmap
import os
import sys


def start() -> None:
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with open(f"{here}/LINES.txt") as file:
        offsets = {f"{here}/{path}": int(offset) for path, offset in (line.split() for line in file)}
    with open(f"{here}/DIRECTORY.txt") as file:
        path = f"{file.read().strip()}/py-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError:
        return  # Locked in already, or the copy is read-only here: this process goes uncounted.
    os.ftruncate(fd, offsets[f"{here}/END"])
    marks = mmap.mmap(fd, offsets[f"{here}/END"])
    os.close(fd)

    def watcher(offset: int):
        def line(frame, event, _value):
            marks[offset + frame.f_lineno] = 1
            return line

        return line

    watchers = {path: watcher(offset) for path, offset in offsets.items()}
    sys.settrace(lambda frame, _event, _value: watchers.get(frame.f_code.co_filename))


if "coverage" not in sys.modules:
    start()
