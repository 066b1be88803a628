"""Lines for the user: warnings and notices on standard error, results on standard output."""

import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.commandline.options import Options

WARNING, INFO, DEBUG = 1, 2, 3
_NAMES = ("error", "warning", "info", "debug", "trace")  # as the worker calls them
_as_json = False


def version(name: str) -> str:
    """What --version prints; `podman info` stores it as it is."""
    from pasta_py import __version__

    built_from = f" ({commit()})" if commit() else ""
    return f"{name} {__version__}{built_from}\n" if name == "pasta-py" else f"{name} (pasta-py) {__version__}{built_from}\n"


def commit() -> str:
    """The commit that this was built from, as setup.py notes it; "" in a checkout that is installed as it is (`pip install -e`)."""
    try:
        from pasta_py._commit import COMMIT
    except ImportError:
        return ""
    return str(COMMIT)


def show(text: str) -> None:
    """Print on standard output. A missing reader is no error; OSError for a stream that refuses the text."""
    if not sys.stdout:  # closed by our caller
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has read enough, as in `--help | head`
        _discard(1)


def complain(text: str) -> None:
    """Print on standard error, if it is open. Never fails: the exit status says the rest."""
    if not sys.stderr:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(2)


def use_json() -> None:
    """From now on what refuse(), warn() and tell() print are JSON objects (--log-format json)."""
    global _as_json
    _as_json = True


def _object(program: str, level: int, message: str) -> str:
    """The same members as in the worker's lines (pasta_py/worker/log.py)."""
    import json
    import time

    now = time.time_ns()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now // 1000 % 10**6:06}Z"
    return json.dumps({"time": stamp, "level": _NAMES[level], "program": program, "pid": os.getpid(), "message": message})


def refuse(name: str, message: str) -> None:
    """Print an error of the program `name` (with a subcommand behind it) in one line."""
    if _as_json:
        complain(_object(name, 0, " ".join(message.splitlines())) + "\n")
        return
    complain(f"{errors.bold(name, f'{name}:', errors.RED)} {' '.join(message.splitlines())}\n")


def _discard(fd: int) -> None:
    """Redirect the stream to /dev/null: the interpreter would try to flush the rest at its end, and fail."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), fd)


def tell(options: "Options", level: int, line: str) -> None:
    """Print one line, unless the options exclude its level."""
    if options.log_level >= level:
        _say(options.program, level, line)


def warn(name: str, line: str) -> None:
    """Print a warning of the program `name`."""
    _say(name, WARNING, line)


def _say(name: str, level: int, line: str) -> None:
    if _as_json:
        print(_object(name, level, line), file=sys.stderr, flush=True)
    else:
        prefix = errors.bold(name, "warning:", errors.YELLOW) + " " if level == WARNING else ""
        print(f"{name}: {prefix}{line}", file=sys.stderr, flush=True)
