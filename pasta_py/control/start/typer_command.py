"""The typer command of `pasta-py`, made from the option table; the only module that imports typer.

typer gives --help with its sections. The values always go through options.parse(), so that
`pasta` and `pasta-py` mean the same by the same words; typer's own parser sees only help. Importing
typer takes 150 ms, so main() handles everything else without it: `pasta-py` starts as fast as `pasta`.

A subcommand is the very first word. Behind an option, or behind `--`, the same word is a command.
"""

import sys

from pasta_py.control.commandline import option_table, options
from pasta_py.control.start.main import SUMMARY, failed, leave, run
from pasta_py.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

    import typer

NAME = "pasta-py"
_EXAMPLES = """\
[bold]Examples[/]:

[cyan]pasta-py -- curl -s https://example.org[/]  a command in a network of its own

[cyan]pasta-py -t 8080 -- python3 -m http.server 8080[/]  at the host's port 8080

[cyan]pasta-py --pcap out.pcap -- curl -s https://example.org[/]  its frames in a file

[bold]Ports[/]: [cyan]SPEC[/] is [cyan]none[/], [cyan]auto[/], [cyan]all[/], or ports such as [cyan]8080[/],
[cyan]8080:80[/] (80 in the guest), [cyan]8000-8010[/], [cyan]127.0.0.1/8080[/], [cyan]%eth0/8080[/],
[cyan]~22[/] (all but 22), with commas between them.

"""


def wants_typer(argv: "Sequence[str]") -> bool:
    """Whether typer answers this command line: help."""
    try:
        return options.parse(argv, NAME).action == "help"
    except UsageError:
        return False


def without_types(of: "Any") -> "Any":
    """A class of typer's commands whose help has no `<bool>` beside flags and no `<str>` beside arguments, as in newer versions."""

    class Command(of):  # type: ignore[misc]
        def get_params(self, ctx: "Any") -> "list[Any]":
            found: "list[Any]" = super().get_params(ctx)
            for parameter in found:
                if parameter.param_type_name == "argument" or parameter.is_flag:
                    parameter.display_type_rich = lambda ctx: None
            return found

    return Command


def app() -> "typer.Typer":
    """A new typer application of one command, whose options are those of the table."""
    import inspect
    from typing import Annotated, Any

    import typer
    from rich.markup import escape  # brackets in help texts are no markup
    from typer.core import TyperCommand

    class TableCommand(without_types(TyperCommand)):  # type: ignore[misc]
        """Hands everything but help to the table's own parser."""

        def parse_args(self, ctx: Any, args: list[str]) -> Any:
            if wants_typer(args):
                return super().parse_args(ctx, ["--help"])
            ctx.obj = tuple(args)
            return super().parse_args(ctx, [])

    def command(ctx: typer.Context, **_values: object) -> None:
        raise typer.Exit(run(NAME, ctx.obj))

    parameters = [inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for option in sorted(option_table.TABLE, key=lambda option: option_table.SECTIONS.index(option.section)):
        if option.dest == "help" or option.mode == "passt":
            continue
        names = [f"--{option.long}"] + ([f"-{option.short}"] if option.short else [])
        info = typer.Option(
            *names, help=escape(option.help), rich_help_panel=option.section, metavar=option.metavar or " ", show_default=False
        )
        kind: Any = bool if not option.metavar else str
        parameters.append(
            inspect.Parameter(
                option.long.replace("-", "_"), inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info],
                default=False if kind is bool else "",
            )
        )  # fmt: skip
    for name, (_module, text) in option_table.COMPLETION.items():
        info = typer.Option(name, help=text, rich_help_panel="Completion", metavar="bash|zsh|fish", show_default=False)
        parameters.append(
            inspect.Parameter(
                name[2:].replace("-", "_"), inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, info], default=""
            )
        )
    info = typer.Argument(metavar="COMMAND|PID", help="What to run, or whose namespaces to join.", show_default=False)
    parameters.append(
        inspect.Parameter("command", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[list[str], info], default=[])
    )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    made = typer.Typer(name=NAME, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    made.command(
        cls=TableCommand,
        options_metavar="[OPTION]...",
        help=SUMMARY,
        epilog=_EXAMPLES + _subcommands(),
        context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False},
    )(command)
    return made


def _subcommands() -> str:
    """The subcommands for the help, in rich's markup."""
    rows = "\n\n".join(f"[bold cyan]{word}[/]  {text}" for word, (_module, text) in option_table.SUBCOMMANDS.items())
    return f"[bold]Subcommands[/], as the first word ([bold]--[/] before it makes it a command):\n\n{rows}" if rows else ""


def main() -> int:
    """Console script `pasta-py`."""
    argv = sys.argv[1:]
    words = {**option_table.SUBCOMMANDS, **option_table.COMPLETION}
    if argv and argv[0] in words:
        module = f"pasta_py.control.subcommands.{words[argv[0]][0]}"
        leave(__import__(module, fromlist=["main"]).main(argv[1:] if argv[0] in option_table.SUBCOMMANDS else argv))
    if not wants_typer(argv):
        leave(run(NAME, argv))
    try:
        if sys.stdout:  # else closed by our caller
            sys.stdout = _Patient(sys.stdout)
        app()(prog_name=NAME, args=argv)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else 0)
    except OSError as error:
        leave(failed(NAME, error))
    return 0  # not reached: typer exits by itself


class _Patient:
    """A stream whose reader may leave early: typer would end with status 1."""

    def __init__(self, stream: "TextIO") -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            pass
        return len(text)

    def flush(self) -> None:
        self.write("")
