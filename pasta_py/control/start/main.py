"""Console entry points: from sys.argv to an exit status, and every expected failure as one line on stderr.

Both programs begin here. A runtime starts `pasta` for every container, so nothing but the option table is
imported until the options are known to be good; --version and --help end here.
"""

import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py.control.commandline import option_table, options
from pasta_py.control.commandline.notices import complain, refuse, show, use_json, version
from pasta_py.errors import PastaError, UnknownOption, last_resort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_USAGE = (
    "Usage: {name} [OPTION]... [COMMAND [ARG]...]\n"
    "       {name} [OPTION]... PID\n"
    "       {name} [OPTION]... --netns PATH|NAME\n"
)
_HELP_COLUMN = 30
SUMMARY = "Connect a network namespace to the host's network with ordinary sockets, without privileges."


_PASST_USAGE = "Usage: {name} [OPTION]...\n"
_PASST_SUMMARY = "Connect a virtual machine to the host's network with ordinary sockets, without privileges."
_CAPABILITIES = """{
  "type": "net"
}
"""


def usage(name: str) -> str:
    """The forms of the command line."""
    return (_PASST_USAGE if name == "passt" else _USAGE).format(name=name)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of words, each at most `width` characters (textwrap would cost 5 ms: it imports re)."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def plain_help(name: str, width: int = 100) -> str:
    """Usage and all options as plain text, from the option table."""
    lines = [usage(name), *_wrapped(_PASST_SUMMARY if name == "passt" else SUMMARY, width)]
    section = ""
    for option in option_table.of(name):
        if option.section != section:
            section = option.section
            lines += ["", f"{section}:"]
        indent = "" if option.short else "    "
        names = f"  {indent}{option.names} {option.metavar}".rstrip()
        first, *others = _wrapped(option.help, width - _HELP_COLUMN)
        if len(names) + 2 > _HELP_COLUMN:
            lines.append(names)
            names = ""
        lines.append(names.ljust(_HELP_COLUMN) + first)
        lines += [" " * _HELP_COLUMN + line for line in others]
    return "\n".join(lines) + "\n"


def run(name: str, argv: "Sequence[str]") -> int:
    """Parse `argv` as the entry point `name` ("pasta" or "pasta-py") and do it; the exit status."""
    try:
        parsed = options.parse(argv, name)
        if parsed.action != "run":
            show(_told(name, parsed.action))
            return 0
        if parsed.log_format == "json":
            use_json()
        return start(parsed)
    except UnknownOption as error:
        refuse(name, str(error))
        complain(usage(name) + f"Try '{name} --help' for all options.\n")
        return error.status
    except PastaError as error:
        refuse(name, str(error))
        return error.status
    except (OSError, MemoryError) as error:
        return failed(name, error)
    except KeyboardInterrupt:
        return _interrupted()


def _told(name: str, action: str) -> str:
    if action == "print-capabilities":
        return _CAPABILITIES
    return version(name) if action == "version" else plain_help(name)


def failed(name: str, error: OSError | MemoryError) -> int:
    """Report an unexpected error in one line; the exit status. For all programs here."""
    refuse(name, f"cannot go on: {last_resort(error)}")
    return 1


def start(parsed: options.Options) -> int:
    """Import the rest of the program, and run it."""
    from pasta_py.control.start import launch

    return launch.run(parsed)


def _interrupted() -> int:
    """End as the default action of SIGINT would, so that a calling shell sees it; no traceback."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 128 + signal.SIGINT  # SIGINT is blocked: the status says it


def pasta() -> None:
    """Console script `pasta`."""
    leave(run("pasta", sys.argv[1:]))


def passt() -> None:
    """Console script `passt`."""
    leave(run("passt", sys.argv[1:]))


def leave(status: int) -> "NoReturn":
    """End at once: the interpreter's own end would take milliseconds."""
    for stream in (sys.stdout, sys.stderr):
        if stream:  # None: closed by our caller
            try:
                stream.flush()
            except OSError:
                pass  # its reader is gone
    os._exit(status)
