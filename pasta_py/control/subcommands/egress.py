"""pasta-py egress: the rules of a running instance: show and change them, and ask why."""

import json
import time
from typing import Annotated, Any

import typer

from pasta_py.control.commandline import egress_rule, port_spec
from pasta_py.control.planning import egress as planning
from pasta_py.control.subcommands import command, instances
from pasta_py.control.subcommands.flows import INSTANCE
from pasta_py.control.subcommands.instances import plain
from pasta_py.errors import ControlError, HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUMMARY = "Show or change the rules of a running instance, or ask what they say of a destination."
CHANGED = "The path of the control socket that --control has named at the start. Others only show."
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WAIT_S, _PAUSE_S = 5.0, 0.02
_WORDS = "'pasta-py egress WORD --help' says more."


def main(argv: "Sequence[str]") -> int:
    functions: dict[str, Callable[..., int]] = {
        "show": show, "explain": explain, "denials": denials, "replace": replace, "add": add,
    }  # fmt: skip
    function = functions.get(argv[0]) if argv else None
    if function is None:
        return command.run("egress", argv, overview, summary=f"{SUMMARY}\n\n{_WORDS}")
    return command.run(f"egress {argv[0]}", argv[1:], function, summary=function.__doc__ or SUMMARY)


def overview(
    action: Annotated[str, typer.Argument(metavar="show|explain|denials|replace|add", help="What to do: each has --help.")] = "",
) -> int:
    if action:
        raise UsageError(f"{action!r} is not understood: show, explain, denials, replace and add are")
    print(f"pasta-py egress: give one of show, explain, denials, replace, add. {_WORDS}")
    return 0


def show(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """The rules in force, in their order, and what no rule matches."""
    state = read(instances.find(instance))
    if as_json:
        print(json.dumps(state))
        return 0
    others = {"open": "allowed", "internet": "allowed on the internet"}.get(state["default"], "denied")
    names = {"all": "all that no rule denies", "rules": "those that rules allow"}.get(state["dns"], "none")
    print(f"rule set {state['number']}: {len(state['rules'])} rules; what none matches is {others}; names answered: {names}")
    for rule in state["rules"]:
        print(described(rule))
    return 0


def explain(
    destination: Annotated[str, typer.Argument(help="DEST[:PORT][/PROTO]; without a port 443.", show_default=False)] = "",
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
    query: Annotated[str, typer.Option("--query", metavar="NAME", help="A name: is a query for it answered?")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The answer as a JSON object.")] = False,
) -> int:
    """What the rules say of a connection or a query, and why."""
    if query and destination and instance:
        raise UsageError("give a destination, or --query NAME")
    if query:
        destination, instance = query, destination
    rule = egress_rule.parse(destination, allow=True)
    answer = instances.find(instance).ask("egress-explain", **_asked(destination, rule, query=bool(query)))
    if as_json:
        print(json.dumps(answer))
        return 0
    for line in explained(rule, answer):
        print(line)
    return 0


def denials(
    instance: Annotated[str, typer.Argument(help=INSTANCE, show_default=False)] = "",
) -> int:
    """A JSON line for each denial, from now on, as in the decision log: docs/egress.md."""
    for answer in instances.find(instance).lines("egress-denials", follow=True):
        if "event" in answer:
            print(json.dumps(answer), flush=True)
    return 0


def replace(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rules, as --egress-file takes them.", show_default=False)],
    instance: Annotated[str, typer.Argument(metavar="PATH", help=CHANGED, show_default=False)],
) -> int:
    """Put the rules of a file in place of all. Connections that they deny end within a second."""
    try:
        with open(file, "rb") as stream:
            parsed = egress_rule.parse_file(stream.read(), file)
    except OSError as error:
        raise HostError(f"{file!r}: {reason(error, 'give a file that can be read')}") from None
    chosen = instances.find(instance)
    default = parsed.default or str(chosen.ask("egress")["default"])
    said = planning.Said(rules=parsed.rules, default=default)
    for warning in planning.warnings(said):
        print(warning)
    whole = planning.all_rules(said)
    answer = chosen.ask("egress-replace", rules=list(whole.texts), code=whole.encoded.hex(), default=default)
    return _tell(chosen, answer, "the rules are the same as before")


def add(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="As --allow takes it.", show_default=False)],
    instance: Annotated[str, typer.Argument(metavar="PATH", help=CHANGED, show_default=False)],
    seconds: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90s, 10m, 2h, 1d. Default: to the end.")] = "",
    deny: Annotated[bool, typer.Option("--deny", help="The rule denies.")] = False,
) -> int:
    """Add a rule before all others. When its time is over, connections that only it allowed end."""
    made = egress_rule.joined([egress_rule.parse(rule, allow=not deny, where="added")])
    until = {"for_s": duration(seconds)} if seconds else {}
    chosen = instances.find(instance)
    answer = chosen.ask("egress-add", rules=list(made.texts), code=made.encoded.hex(), **until)
    return _tell(chosen, answer, "nothing changes")


# ---- what is asked and told ----


def read(chosen: "instances.Instance") -> "dict[str, Any]":
    """All rules, which come in pieces."""
    state = chosen.ask("egress")
    while len(state["rules"]) < state["count"]:
        piece = chosen.ask("egress", **{"from": len(state["rules"])})
        if piece["number"] != state["number"] or not piece["rules"]:
            return read(chosen)  # they have changed meanwhile
        state["rules"] += piece["rules"]
    return state


def described(rule: "dict[str, Any]") -> str:
    note = f"  # {plain(rule['note'])}" if rule.get("note") else ""
    left = f", for {instances.span(rule['left_s'])} more" if "left_s" in rule else ""
    return f"{plain(rule['rule'])}  ({plain(rule.get('where', ''))}{left}){note}"


def duration(text: str) -> int:
    """Seconds of a time such as 10m."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdigit() and 0 < int(number) * _UNITS[unit] <= 366 * _UNITS["d"]):
        raise UsageError(f"{text!r} is no time: give a number with s, m, h or d behind it, such as 10m")
    return int(number) * _UNITS[unit]


def _asked(text: str, rule: "egress_rule.Rule", *, query: bool) -> "dict[str, Any]":
    """A destination as the instance takes it."""
    protocol = {egress_rule.ECHO: "icmp", egress_rule.UDP: "udp"}.get(rule.protocols, "tcp")
    first, last = rule.ports
    any_port = (first, last) == (0, port_spec.MAX_PORT)
    if not any_port and first != last:
        raise UsageError(f"{text!r} has more than one port: ask for one")
    port = 0 if protocol == "icmp" else 443 if any_port else first
    if rule.kind == egress_rule.NAME:
        return {"name": rule.name} if query else {"name": rule.name, "port": port, "protocol": protocol}
    address = str(rule).partition(":" if str(rule)[:1] != "[" else "]")[0].partition("/")[0].strip("[")
    if query or rule.kind != egress_rule.PREFIX or rule.prefix[1] != 128:
        raise UsageError(f"{text!r} is no {'name' if query else 'single name or address'}: ask for one")
    return {"address": address, "port": port, "protocol": protocol}


def explained(rule: "egress_rule.Rule", answer: "dict[str, Any]") -> "list[str]":
    """The answer for people."""
    found = []
    via = f", under the rules of {plain(answer['via'])}" if "via" in answer else ""
    if "query" in answer:
        found.append(f"query for {rule.name}: {_verdict(answer['query'])}{via}")
    if "connect" in answer:
        what = f"{rule} (at port 443)" if (rule.ports, rule.protocols) == ((0, 65535), 7) else str(rule)
        found.append(f"connection to {what}: {_verdict(answer['connect'])}")
    if answer.get("addresses"):
        found.append(f"it was resolved to {', '.join(map(plain, answer['addresses']))}")
    if answer.get("pins"):
        found.append(f"it was an answer for {', '.join(map(plain, answer['pins']))}")
    return found


def _verdict(part: "dict[str, Any]") -> str:
    why = {
        "rule": f"by {described(part)}" if "rule" in part else "", "default": "no rule matches",
        "name_ended": "the name was resolved too long ago: a connection waits until it is asked again",
    }.get(part["reason"], plain(part.get("why", part["reason"])))  # fmt: skip
    hint = f"; {plain(part['hint'])} would allow it" if "hint" in part else ""
    proof = {"tls": "its TLS has to name it", "http": "its HTTP has to name it"}.get(part.get("verified", ""), "")
    return f"{plain(part['verdict'])}, {why}{hint}{'; verified: ' if proof else ''}{proof}"


def _tell(chosen: "instances.Instance", answer: "dict[str, Any]", same: str) -> int:
    """What became of open connections, once each thread has looked at its own."""
    if not answer["changed"]:
        print(same)
        return 0
    end = time.monotonic() + _WAIT_S
    state = chosen.ask("egress")
    while state["waiting"] and time.monotonic() < end:
        time.sleep(_PAUSE_S)
        state = chosen.ask("egress")
    if state["waiting"]:
        raise ControlError("the rules are in force, but a thread has not looked at its connections yet: see 'pasta-py flows'")
    print(f"rule set {answer['number']} is in force; open connections: {state['kept']} kept, {state['ended']} ended")
    return 0
