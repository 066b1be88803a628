"""From the words behind a subcommand to a call of its function, by way of typer.

A module of this wing has `main(argv) -> int`, which calls `run` with a function whose signature says what the subcommand takes.
Errors are one line. A program may have the name of a subcommand: then the line says how to run that.
"""

import os
import shutil
import sys

from pasta_py.control.commandline.notices import complain, refuse
from pasta_py.control.start.typer_command import without_types
from pasta_py.errors import PastaError, last_resort

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
    import typer
    from typer.core import TyperCommand

    usage_error: "Any" = typer.BadParameter.__bases__[0]  # click's, which newer versions of typer contain
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    settings = {"help_option_names": ["-h", "--help"]}
    app.command(name=word, cls=without_types(TyperCommand), help=summary, context_settings=settings)(function)
    if _describes:
        raise Described(typer.main.get_command(app))
    try:
        status = app(prog_name=f"pasta-py {word}", args=list(argv), standalone_mode=False)
    except usage_error as error:
        _say(word, f"{error.format_message()} ('pasta-py {word} --help' says more)")
        complain(_hint(word, argv))
        return 2
    except PastaError as error:
        _say(word, str(error))
        return error.status
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has read enough, as in `flows | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        _say(word, f"cannot go on: {last_resort(error)}")
        return 1
    except (typer.Abort, KeyboardInterrupt):
        return 130  # as a shell reports SIGINT
    return status if isinstance(status, int) else 0


def _say(word: str, message: str) -> None:
    refuse(f"pasta-py {word}", message)


def _hint(word: str, argv: "Sequence[str]") -> str:
    """For a program of the same name, which the caller may have meant; "" if there is none."""
    if not shutil.which(word):
        return ""
    import shlex

    return f"To run the program {word} in a namespace: pasta-py -- {shlex.join([word, *argv])}\n"
