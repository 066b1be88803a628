"""pasta-py flows: the open flows of an instance, or what becomes of flows from now on."""

import json
from typing import Annotated, Any

import typer

from pasta_py.control.subcommands import command, instances
from pasta_py.control.subcommands.instances import plain, size, span, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "List the open flows of an instance, or follow what is opened, refused and closed."
_EVENT = b'{"v":1,"event":'
INSTANCE = "A PID, a part of what ps shows under SERVES, or the path of a control socket. One running instance needs none."


def main(argv: "Sequence[str]") -> int:
    return command.run("flows", argv, flows, summary=SUMMARY)


def flows(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each flow, a line each: docs/control.md.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then a line for each flow opened, refused and closed.")] = False,
) -> int:
    chosen = instances.find(instance)
    if not follow:
        found = chosen.flows()
        if as_json:
            for flow in found:
                print(json.dumps(flow))
        else:
            judged = any("rule" in flow for flow in found)  # there is a policy
            rows = [[*row(flow), *([plain(flow.get("rule", ""))] if judged else [])] for flow in found]
            print(table([HEAD + (["RULE"] if judged else []), *rows], NUMBERS), end="")
        return 0
    for lines in chosen.batches("flows", follow=True):
        shown = [text for each in lines for text in followed(chosen, each, as_json)]
        if shown:
            print("\n".join(shown), flush=True)
    return 0


def followed(chosen: instances.Instance, answer: bytes, as_json: bool) -> list[str]:
    """The lines to show for one of the answer. A busy guest has thousands a second, so events stay the JSON that they are."""
    if as_json and answer.startswith(_EVENT):
        return [plain(answer.decode("ascii", "replace"))]
    parsed = chosen.parsed(answer)
    events = parsed.get("flows", [parsed] if "event" in parsed else [])
    return [json.dumps(event) if as_json else line(event) for event in events]


HEAD = ["PROTO", "GUEST", "", "DESTINATION", "HOST PEER", "STATE", "AGE", "SENT", "RECEIVED", "RTT", "RESENT", "NAME"]
NUMBERS = frozenset((6, 7, 8, 9, 10))


def end(flow: "dict[str, Any]", which: str) -> str:
    """An end of a flow: `guest`, `dest` or `peer`."""
    address = str(flow.get(which, ""))
    port = flow.get(f"{which}_port")
    if not address or port is None:
        return plain(address)
    return plain(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")


def row(flow: "dict[str, Any]") -> list[str]:
    """A flow as a row under HEAD."""
    dest, peer = end(flow, "dest"), end(flow, "peer")
    rtt = f"{flow['rtt_us'] / 1000:.1f}ms" if "rtt_us" in flow else ""
    return [
        plain(flow["protocol"]), end(flow, "guest"), "<-" if flow["from"] == "host" else "->", dest, "" if peer == dest else peer,
        plain(flow["state"]), span(flow["duration_s"]), size(flow["sent_bytes"]), size(flow["received_bytes"]), rtt,
        str(flow.get("retransmits", "")), plain(flow.get("name", "")),
    ]  # fmt: skip


def line(event: "dict[str, Any]") -> str:
    """An event as a line."""
    if event["event"] == "lost":
        return f"{event['count']} events are lost: they came faster than they were read"
    when, kind = plain(event["time"])[11:23], plain("open" if event["event"] == "flow" else event["event"])
    arrow = "<-" if event["from"] == "host" else "->"
    parts = [when, kind.ljust(7), plain(event["protocol"]), end(event, "guest"), arrow, end(event, "dest")]
    if event.get("name"):
        parts.append(f"({plain(event['name'])})")
    if "sent_bytes" in event:
        parts.append(f"{size(event['sent_bytes'])} sent, {size(event['received_bytes'])} received in {span(event['duration_s'])}")
    if "reason" in event:
        why = event.get("error") or (event.get("rule") if event["reason"] == "rule" else "")
        parts.append(plain(event["reason"]) + (f": {plain(why)}" if why else ""))
    return " ".join(parts)
