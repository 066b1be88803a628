"""`pasta-py report FLOWLOG...`: one HTML page about what a guest talked to."""

import os
import sys
from pathlib import Path

from pasta_py.control.commandline.notices import complain
from pasta_py.control.report import flows, page
from pasta_py.control.subcommands import command
from pasta_py.errors import HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SUMMARY = "Make one HTML page of a flow log (--flow-log): where a guest connected, when, how much, and what failed."


def main(argv: "Sequence[str]") -> int:
    from typing import Annotated

    import typer

    def report(
        logs: Annotated[list[str], typer.Argument(metavar="FLOWLOG...", help="Files of a flow log; `-` is standard input.")],
        output: Annotated[
            str, typer.Option("--output", "-o", metavar="FILE", help="Default: FLOWLOG.html; `-` is standard output.")
        ] = "",
        title: Annotated[str, typer.Option(metavar="TEXT", help="Default: the name of the log.")] = "",
    ) -> int:
        if not output and logs[0] == "-":
            raise UsageError("a log from standard input has no name for the page: name it with --output")
        log = flows.read(_lines(logs))
        if log.unreadable and not log.flows:
            raise UsageError(f"no line of {logs[0]!r} is of a flow log: name one that --flow-log wrote")
        if log.unreadable:
            complain(f"pasta-py report: warning: {log.unreadable} lines are left out: they are not of a flow log\n")
        text = page.render(log, title or (Path(logs[0]).name if logs[0] != "-" else "a flow log"))
        return write(text, output or f"{logs[0]}.html")

    return command.run("report", argv, report, summary=_SUMMARY)


def write(text: str, path: str) -> int:
    """Write the page; its name is told on standard error."""
    data = text.encode("utf-8", "replace")
    if path == "-":
        if os.isatty(1):
            raise UsageError("standard output is a terminal: send the page to a file (--output FILE)")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise HostError(f"Couldn't write the report {path!r}: {reason(error, 'name another file with --output')}") from None
    complain(f"pasta-py report: {path}\n")
    return 0


def _lines(paths: "Sequence[str]") -> "Iterator[bytes]":
    for path in paths:
        try:
            with open(0 if path == "-" else path, "rb") as file:
                # A line that has no end must not fill the memory: it counts as several, which are no records.
                while line := file.readline(flows.MAX_LINE_BYTES + 1):
                    yield line
        except OSError as error:
            raise HostError(f"Couldn't read the flow log {path!r}: {reason(error, 'name one that --flow-log wrote')}") from None
