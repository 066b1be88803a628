"""What the egress policy has denied, for the lines at the end of a command: how often, and the narrowest rule that would allow it.

Invariants: it keeps at most _KEPT things, however many the guest tries; a name is shown as dns_wire.text() escapes it.
"""

import _socket
import time

from pasta_py.worker import dns_decide, frames, log, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker import rule_set

    #: where a rule stands, the rule with its verdict, its note; None: no rule
    Rule = tuple[str, str, str] | None
    #: a name and the rule; or a name, an address that it led to, and the name's rule; or destination, port, protocol and rule of a
    #: flow, and what was wrong with the name in it
    Key = tuple[str, Rule] | tuple[str, str, Rule] | tuple[bytes, int, str, Rule, str]

PING = "ping"
_KEPT = 1000
_SECOND = 1.0
_SHOWN = 20
_REVERSE = ".arpa"
#: What a flow did that had to name a name first, by its reason.
_UNPROVED = {
    "without_name": "it named no name", "not_verified": "it was something else", "name_late": "no name came in time",
}  # fmt: skip


class Denials:
    """Counts denied flows and names."""

    def __init__(
        self, core: "plane.Plane", rules: "rule_set.RuleSet", search: "tuple[str, ...]",
        clock: "Callable[[], float]" = time.monotonic,
    ) -> None:  # fmt: skip
        """`search`: the guest's search domains. `clock`: seconds."""
        self._core, self._rules, self._search, self._clock = core, rules, search, clock
        self._counts: dict[Key, int] = {}
        self._queries_at: dict[Key, float] = {}  # when each that a query led to was last counted
        self._others = 0

    def on_records(self, records: bytes) -> None:
        """Records of flow events, as of Plane.take_events()."""
        for flow in plane.judged_flows(records):
            if flow.outcome in plane.DENIED:
                self._count((flow.dest, flow.port, flow.protocol, self._rules.rule(flow.rule), self._wrong(flow)))

    def _wrong(self, flow: "plane.JudgedFlow") -> str:
        """What a rule that wants a proof says of a flow without one; "" for other rules."""
        if flow.outcome == plane.OTHER_NAME:
            named = self._core.named_last(flow.dest, flow.port)
            wrong = f"it named {named}: {proof_hint(self._core, named, flow)} would allow it" if named else "it named another name"
        else:
            wrong = _UNPROVED.get(flow.outcome, "")
        proof = {"tls": "TLS", "http": "HTTP"}.get(self._core.verifies(flow.rule), "TLS or HTTP") if wrong else ""
        return wrong and f"wants {proof} that names it, and {wrong}"

    def on_query(self, judgement: "dns_decide.Judgement", _name: str, _kind: int, _guest: bytes) -> None:
        """As Service.on_judged has it."""
        if judgement.what == dns_decide.DENIED and not judgement.owner.endswith(_REVERSE):
            self._count_query((judgement.owner, self._rules.rule(judgement.rule)))

    def on_withheld(self, judgement: "dns_decide.Judgement", addresses: "list[str]", _guest: bytes) -> None:
        """As Service.on_withheld has it."""
        for address in addresses:
            self._count_query((judgement.owner, address, self._rules.rule(judgement.rule)))

    def _count_query(self, key: "Key") -> None:
        """Once a second, as the core tells of flows: a resolver asks for two types, and again with a search domain."""
        now = self._clock()
        if now - self._queries_at.get(key, now - _SECOND) >= _SECOND:
            self._count(key)
            if key in self._counts:
                self._queries_at[key] = now

    def _count(self, key: "Key") -> None:
        if key in self._counts or len(self._counts) < _KEPT:
            self._counts[key] = self._counts.get(key, 0) + 1
        else:
            self._others += 1

    def tell(self, journal: "log.Log") -> None:
        """The lines for the user."""
        shown = [(count, *self._explained(key)) for key, count in self._counts.items() if not self._is_search(key)]
        shown.sort(key=lambda each: -each[0])
        for count, what, hint in shown[:_SHOWN]:
            times = "once" if count == 1 else f"{count} times"
            journal.write(log.INFO, f"egress: denied {times}: {what}: {hint}", asked=True)
        more = max(len(shown) - _SHOWN, 0) + self._others
        if more:
            others = "another destination was" if more == 1 else f"{more} other destinations were"
            journal.write(log.INFO, f"egress: {others} denied", asked=True)

    def _is_search(self, key: "Key") -> bool:
        """Whether a resolver has put a search domain behind another name that it also asked for."""
        if len(key) != 2 or key[1]:
            return False
        bare = (key[0].removesuffix(f".{domain}") for domain in self._search)
        return any(other != key[0] and (other, None) in self._counts for other in bare)

    def _explained(self, key: "Key") -> tuple[str, str]:
        """What was denied, and what would allow it."""
        if len(key) == 2:
            name, rule = key
            return f"the name {name}", _closes(rule) or f"{self._rules.hint(name)} would allow it, if this is the port"
        if len(key) == 3:
            name, address, rule = key
            return f"the address {address} of {name}", f"{address_hint(rule, name, address)} would allow it"
        dest, port, protocol, rule, wrong = key
        what = f"{_text(dest)}{end(port, protocol)}"
        if rule and wrong:
            return what, f"{rule[0]}: {rule[1]!r} {wrong}"
        return what, _closes(rule) or f"{flow_hint(self._core, dest, port, protocol)} would allow it"


def _closes(rule: "Rule") -> str:
    """That a rule denies it; "" without a rule. A rule that allows it would have to stand before that one."""
    if not rule:
        return ""
    where, text, note = rule
    return f"{where}: {text!r} closes it" + (f" ({note})" if note else "")


def flow_hint(core: "plane.Plane", dest: bytes, port: int, protocol: str) -> str:
    """The narrowest option that would allow a flow; `protocol`: tcp, udp, PING."""
    names = core.pinned(dest)
    return f"--allow {names[0].decode() if names else _text(dest)}{end(port, protocol)}"


def proof_hint(core: "plane.Plane", named: str, flow: "plane.JudgedFlow") -> str:
    """The narrowest option for what a flow named in TLS or HTTP."""
    return f"--allow {named}:{flow.port}/{core.verifies(flow.rule) or flow.protocol}"


def address_hint(rule: "Rule", name: str, address: str) -> str:
    """The same for an address that a name led to, and that rules for the name do not open: the name with this address alone, and
    with the ports and the protocol of the name's rule."""
    behind = rule[1].rpartition("]")[2] if rule else ""  # an IPv6 prefix has colons of its own
    _dest, ports, ending = behind.partition(":")
    return f"--allow {name}={f'[{address}]' if ':' in address else address}{ports}{ending}"


def end(port: int, protocol: str) -> str:
    """How a rule for this flow ends."""
    return "/icmp" if protocol in (PING, "icmp") else f":{port}/{protocol}"


def _text(address: bytes) -> str:
    four = frames.ipv4(address)
    return _socket.inet_ntop(_socket.AF_INET, four) if four else f"[{_socket.inet_ntop(_socket.AF_INET6, address)}]"
