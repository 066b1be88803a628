"""The commands of the control socket about the egress policy: docs/control.md."""

import _socket
import time

from pasta_py import model
from pasta_py.errors import ControlError
from pasta_py.worker import denials, dns_decide, dns_wire, frames, plane, rule_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker.control_server import Context, Request
    from pasta_py.worker.json_lines import Value

_AT_ONCE = 200  # rules in one answer
_DEFAULTS = ("open", "internet", "none")
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}  # IANA's protocol numbers
_DAY_S = 86400
_TEXT_BYTES = 1024  # of one rule, with where it stands and its note


def policy(context: "Context") -> "rule_set.Policy":
    """The policy. Instances without one do not come here."""
    assert context.policy
    return context.policy


def egress(context: "Context", request: "Request") -> "dict[str, Value]":
    """The rules in force, a piece of them, and what became of open flows at the last change."""
    rules, first = policy(context).rules, request.get("from", 0)
    if not isinstance(first, int) or first < 0:
        raise ControlError("from is the index of a rule")
    shown: "list[Value]" = []
    for index in range(first, min(first + _AT_ONCE, len(rules.texts))):
        shown.append(_rule(rules, index))
    waiting, kept, ended = context.core.egress_outcome()
    return {
        "number": rules.number, "default": rules.default, "dns": rules.names, "count": len(rules.texts), "from": first,
        "rules": shown, "waiting": waiting, "kept": kept, "ended": ended,
    }  # fmt: skip


def _rule(rules: "rule_set.RuleSet", index: int) -> "dict[str, Value]":
    where, text, note = rules.rule(index) or ("", "", "")
    left = rules.left_s(index)
    found: "dict[str, Value]" = {"rule": text, "where": where, "note": note, "left_s": "" if left is None else round(left, 1)}
    return {name: value for name, value in found.items() if value != ""}


# ---- explain ----


def explain(context: "Context", request: "Request") -> "dict[str, Value]":
    """What the rules say, and why: of a query for a name, of a connection to a name or an address."""
    ruled = policy(context)
    name, address = _text(request, "name"), _text(request, "address")
    port, protocol = request.get("port"), _text(request, "protocol") or "tcp"
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535):
        raise ControlError("port is a number up to 65535")
    if protocol not in _PROTOCOLS:
        raise ControlError(f"protocol is one of {', '.join(_PROTOCOLS)}")
    if bool(name) == bool(address):
        raise ControlError("give a name, or an address")
    if address:
        return _explain_address(ruled, context.core, address, port or 0, protocol)
    wire = frames.dns_name(name.lower())
    if not wire:
        raise ControlError("name is a name in A-labels")
    judgement = ruled.dns.judge(wire, dns_wire.A)
    denied = judgement.what in (dns_decide.DENIED, dns_decide.NEGATIVE)
    query = _explained(ruled, not denied, judgement.reason, judgement.rule, judgement.why)
    if denied and judgement.rule < 0:
        asked = f"--allow {judgement.owner}{denials.end(port or 0, protocol)}"
        query["hint"] = ruled.rules.hint(judgement.owner) if port is None else asked
    addresses: "list[Value]" = [dns_decide.shown_address(each) for each in ruled.dns.addresses(name.lower())]
    answer: "dict[str, Value]" = {"query": query, "addresses": addresses}
    if judgement.owner != name.lower():
        answer["via"] = judgement.owner
    if port is not None:
        verdict = context.core.verdict_by_name(_PROTOCOLS[protocol], judgement.owner.encode(), port)
        answer["connect"] = _verdict(ruled, context.core, verdict, f"--allow {judgement.owner}{denials.end(port, protocol)}")
    return answer


def _explain_address(
    ruled: "rule_set.Policy", core: "plane.Plane", text: str, port: int, protocol: str
) -> "dict[str, Value]":
    address = _packed(text)
    if not address:
        raise ControlError("address is an IPv4 or IPv6 address")
    verdict = core.flow_verdict(_PROTOCOLS[protocol], address, port)
    flow = denials.PING if protocol == "icmp" else protocol
    pins: "list[Value]" = [each.decode() for each in core.pinned(address)]
    return {"connect": _verdict(ruled, core, verdict, denials.flow_hint(core, address, port, flow)), "pins": pins}


def _packed(text: str) -> bytes:
    """The 16 bytes of an address, b"" if `text` is none."""
    try:
        return frames.MAPPED + _socket.inet_pton(_socket.AF_INET, text)
    except (OSError, ValueError):
        pass
    try:
        return _socket.inet_pton(_socket.AF_INET6, text)
    except (OSError, ValueError):
        return b""


def _verdict(ruled: "rule_set.Policy", core: "plane.Plane", verdict: "plane.Verdict", hint: str) -> "dict[str, Value]":
    allow, reason, index = verdict
    word = {plane.BY_RULE: "rule", plane.PIN_ENDED: "name_ended"}.get(reason, "default")
    answer = _explained(ruled, allow, word, index if index != plane.NO_RULE else -1, verified=core.verifies(index))
    return answer if allow or word == "rule" else {**answer, "hint": hint}


def _explained(
    ruled: "rule_set.Policy", allow: bool, reason: str, index: int, why: str = "", verified: str = ""
) -> "dict[str, Value]":  # fmt: skip
    rule = _rule(ruled.rules, index) if index >= 0 else {}
    if allow and rule and verified:
        rule["verified"] = verified
    return {"verdict": "allowed" if allow else "denied", "reason": reason, **rule, **({"why": why} if why else {})}


def _text(request: "Request", name: str) -> str:
    value = request.get(name, "")
    if not isinstance(value, str):
        raise ControlError(f"{name} is a string")
    return value


# ---- changes ----


def replace(context: "Context", request: "Request") -> "dict[str, Value]":
    """Other rules in place of all."""
    rules = policy(context).rules
    default = _text(request, "default") or rules.default
    if default not in _DEFAULTS:
        raise ControlError(f"default is one of {', '.join(_DEFAULTS)}")
    base = rule_set.Base(_texts(request), _code(request), default)
    return _done(context, _changed(lambda: rules.replace(base)), f"{len(base.texts)} rules, others {default}")


def add(context: "Context", request: "Request") -> "dict[str, Value]":
    """A rule before all others, perhaps for a while."""
    rules, seconds = policy(context).rules, _seconds(request)
    texts = _texts(request)
    if len(texts) != 1:
        raise ControlError("one rule can be added at a time")
    if len(rules.texts) >= model.MAX_EGRESS_RULES:
        raise ControlError(f"{model.MAX_EGRESS_RULES} rules are the most")
    added = rule_set.Added(texts[0], _code(request), time.monotonic() + seconds if seconds else float("inf"))
    said = f"{texts[0].split(chr(9))[1]!r}{f' for {seconds:g} s' if seconds else ''}"
    return _done(context, _changed(lambda: rules.add(added)), f"added {said}")


def _seconds(request: "Request") -> float:
    """For how long; 0: to the end."""
    seconds = request.get("for_s", 0)
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds <= 366 * _DAY_S:
        raise ControlError("for_s is a number of seconds, up to a year")
    return seconds


def _changed(change: "Callable[[], bool]") -> bool:
    try:
        return change()
    except OSError as error:
        raise ControlError(f"the rules are refused, and nothing is changed: {error.strerror}") from None


def _done(context: "Context", changed: bool, what: str) -> "dict[str, Value]":
    if changed:
        context.log.write(2, f"egress: by the control socket: {what}")
    return {"changed": changed, "number": policy(context).rules.number}


def _texts(request: "Request") -> "tuple[str, ...]":
    """Where each rule stands, the rule with its verdict, its note, with tabs between them."""
    texts = request.get("rules")
    if not isinstance(texts, list) or len(texts) > model.MAX_EGRESS_RULES:
        raise ControlError(f"rules is a list of up to {model.MAX_EGRESS_RULES} texts")
    found: "list[str]" = []
    for text in texts:
        if not isinstance(text, str) or text.count("\t") != 2 or len(text) > _TEXT_BYTES:
            raise ControlError("a rule is where it stands, its text and its note, with tabs between them")
        if text.split("\t")[1].partition(" ")[0] not in ("allow", "deny"):
            raise ControlError("the text of a rule begins with allow or deny")
        found.append(text)
    return tuple(found)


def _code(request: "Request") -> bytes:
    try:
        return bytes.fromhex(_text(request, "code"))
    except ValueError:
        raise ControlError("code is in hexadecimal digits") from None
