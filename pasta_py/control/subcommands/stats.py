"""pasta-py stats: the counters of an instance."""

import json
from typing import Annotated

import typer

from pasta_py.control.subcommands import command, instances
from pasta_py.control.subcommands.flows import INSTANCE
from pasta_py.control.subcommands.instances import plain, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "Show the counters of an instance. Names ending in _flows are what is open now, all others count from the start on."


def main(argv: "Sequence[str]") -> int:
    return command.run("stats", argv, stats, summary=SUMMARY)


def stats(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all counters.")] = False,
    all_of_them: Annotated[bool, typer.Option("--all", help="Show those that are 0 too.")] = False,
) -> int:
    counters = instances.find(instance).ask("stats")["counters"]
    if as_json:
        print(json.dumps(counters))
        return 0
    rows = [[plain(name), str(value)] for name, value in counters.items() if value or all_of_them]
    print(table(rows, frozenset((1,))) if rows else "all counters are 0\n", end="")
    return 0
