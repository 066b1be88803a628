"""From the words behind a subcommand to a call of its function. typer shows its help.

A module of this wing has `main(argv) -> int`, which calls `run` with a function whose signature says what the subcommand takes.
Errors are one line. A program may have the name of a subcommand: then the line says how to run that.
"""

import os
import shutil
import sys

from pasta_py.control.commandline.notices import complain, refuse
from pasta_py.control.start.typer_command import without_types
from pasta_py.control.subcommands import parameters
from pasta_py.errors import PastaError, UsageError, last_resort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Described(Exception):
    """In place of running: what typer has made of a subcommand's function."""

    def __init__(self, made: "Any") -> None:
        super().__init__()
        self.made = made


def described(main: "Callable[[Sequence[str]], int]") -> "Any":
    """The command of click behind a subcommand's `main`, for completion: nothing runs."""
    global _describes
    _describes = True
    try:
        main(["--help"])
    except Described as found:
        return found.made
    finally:
        _describes = False
    raise AssertionError("a subcommand that does not go by way of run()")


_describes = False


def run(word: str, argv: "Sequence[str]", function: "Callable[..., int]", *, summary: str) -> int:
    """Call `function` with what `argv` says; the exit status. `summary`: for the help."""
    if _describes:
        raise Described(_typer_command(word, function, summary))
    try:
        values = parameters.read(function, argv)
    except UsageError as error:
        _say(word, f"{error} ('pasta-py {word} --help' says more)")
        complain(_hint(word, argv))
        return 2
    try:
        if values is None:
            _typer_command(word, function, summary)(prog_name=f"pasta-py {word}", args=["--help"], standalone_mode=False)
            return 0
        return function(**values)
    except PastaError as error:
        _say(word, str(error))
        return error.status
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has read enough, as in `flows | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        _say(word, f"cannot go on: {last_resort(error)}")
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT


def _typer_command(word: str, function: "Callable[..., int]", summary: str) -> "Any":
    import typer
    from typer.core import TyperCommand

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    settings = {"help_option_names": ["-h", "--help"]}
    shown = parameters.for_typer(function)
    app.command(name=word, cls=without_types(TyperCommand), help=summary, context_settings=settings)(shown)
    return typer.main.get_command(app)


def _say(word: str, message: str) -> None:
    refuse(f"pasta-py {word}", message)


def _hint(word: str, argv: "Sequence[str]") -> str:
    """For a program of the same name, which the caller may have meant; "" if there is none."""
    if not shutil.which(word):
        return ""
    import shlex

    return f"To run the program {word} in a namespace: pasta-py -- {shlex.join([word, *argv])}\n"
