"""Lines for the user: on standard error, while there is one, and what was asked for on standard output."""

import posix as os  # lean imports: docs/architecture.md
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.commandline.options import Options

WARNING, INFO = 1, 2


def show(text: str) -> None:
    """Print what was asked for on standard output, as far as there is a reader; OSError for one that refuses it."""
    if not sys.stdout:  # closed by our caller
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # it has read enough, as in `--help | head`
        _let_go(1)


def complain(text: str) -> None:
    """Print on standard error, as far as there is a reader: the exit status says the rest."""
    if not sys.stderr:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _let_go(2)


def _let_go(fd: int) -> None:
    """What could not be written is tried again at the interpreter's end, which fails there."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), fd)


def tell(options: "Options", level: int, line: str) -> None:
    """Print one line, unless the options ask for less than its level."""
    if options.log_level >= level:
        prefix = "warning: " if level == WARNING else ""
        print(f"{options.program}: {prefix}{line}", file=sys.stderr, flush=True)
