"""pasta-py show: what an instance has set up. The lines are those of its start, from the same code."""

import json
from ipaddress import ip_address, ip_interface
from types import SimpleNamespace
from typing import Annotated, Any, cast

import typer

from pasta_py import __version__, worker_protocol
from pasta_py.control.planning import summary
from pasta_py.control.subcommands import command, instances
from pasta_py.control.subcommands.flows import INSTANCE
from pasta_py.control.subcommands.instances import plain
from pasta_py.errors import ControlError, WireError
from pasta_py.model import WorkerPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "Show what an instance has set up: interface, addresses, what means the host's loopback, DNS, ports."


def main(argv: "Sequence[str]") -> int:
    return command.run("show", argv, show, summary=SUMMARY)


def show(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array of the lines.")] = False,
) -> int:
    found = [plain(line) for line in lines(instances.find(instance).ask("show"))]
    print(json.dumps(found) if as_json else "\n".join(found))
    return 0


def lines(answer: "dict[str, Any]") -> list[str]:
    """The summary of the start, from the plan in the answer."""
    if answer.get("version") != __version__:
        raise ControlError(f"the instance is of version {plain(answer.get('version'))}, this is {__version__}: use that one's show")
    try:
        plan = worker_protocol.decode(bytes.fromhex(answer["plan"]))
    except (WireError, ValueError):
        plan = None
    if not isinstance(plan, WorkerPlan):
        raise ControlError("the instance's plan does not decode")
    shown: dict[str, list[str]] = {}
    for name, value in plan.shown:
        shown.setdefault(name, []).append(value)
    if not shown:  # slirp4netns
        raise ControlError(f"{plain(plan.program)} has no summary of its start")
    link = SimpleNamespace(
        ifname=shown["ifname"][0], mtu=int(shown["mtu"][0]), configure=shown["configure"] == ["1"],
        addresses=[SimpleNamespace(interface=ip_interface(text)) for text in shown.get("address", ())],
    )  # fmt: skip
    view = SimpleNamespace(
        worker=plan, link=link, templates=shown.get("template", []), notices=shown.get("notice", []),
        dns=[ip_address(text) for text in shown.get("dns", ())], search=shown.get("search", []),
    )  # fmt: skip
    return summary.lines(cast("Any", view), plan.rules)
