"""What the egress policy decides, as JSON: the decision log (--decision-log), and clients that watch denials (docs/egress.md).

Flows come as the core's events, names from the DNS service; decision_lines says how much of it is told.

Invariant: what a guest chooses is in a line only as json_lines writes it: ASCII without control characters.
"""

import time

from pasta_py.worker import decision_lines, denials, dns_decide, dns_wire, event_readers, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker import rule_set
    from pasta_py.worker.decision_lines import Members

    #: the name that an address had been an answer for at a time (time.monotonic())
    Origin = Callable[[bytes, float], dns_decide.Found | None]

ALLOWED, DENIED = "allowed", decision_lines.DENIED
#: Why: of flows, of queries, of answers. docs/egress.md explains them.
REASONS = (
    "rule", "default", "name_ended", "no_route", "other_name", "without_name", "not_verified", "name_late",
    "proxy",
    "derived", "above", "type", "local", "canary", "localhost", "no_name",
    "withheld",
)  # fmt: skip
_NOT_JUDGED = frozenset(("address", "no_room", "rate_limit"))  # outcomes of flows for which the policy was not asked


class Decisions:
    """Makes lines of what is decided."""

    def __init__(
        self, core: "plane.Plane", rules: "rule_set.RuleSet", search: "tuple[str, ...]", origin: "Origin",
        lines: "decision_lines.Lines",
    ) -> None:  # fmt: skip
        """`search`: the guest's search domains."""
        self._core, self._rules, self._origin, self.lines = core, rules, origin, lines
        self._search = tuple(f".{domain.lower()}" for domain in search)
        self._lost = core.lost_events()

    def on_records(self, records: bytes) -> None:
        """Records of flow events, as of Plane.take_events()."""
        clock_ms = event_readers.clock_ms()
        for flow in plane.judged_flows(records):
            if flow.outcome not in _NOT_JUDGED:
                self.lines.tell(self._flow(flow, clock_ms))
        self.on_lost()

    def on_lost(self) -> None:
        lost = self._core.lost_events()
        if lost != self._lost:
            self.lines.left_out(lost - self._lost)
            self._lost = lost

    def _flow(self, flow: "plane.JudgedFlow", clock_ms: int) -> "Members":
        by_policy = flow.outcome in plane.DENIED
        denied = by_policy or flow.outcome == "proxy"
        unproved = flow.outcome in plane.UNPROVED
        told = {"name_ended": "name_ended", "unreachable": "no_route", "proxy": "proxy"}
        reason = flow.outcome if unproved else told.get(flow.outcome, "")
        found = self._origin(flow.dest, (flow.at_ms + 1) / 1000)
        members: Members = {"address": dns_decide.shown_address(flow.dest), "port": flow.port, "protocol": flow.protocol}
        if flow.protocol == denials.PING:
            members |= {"port": "", "protocol": "icmp"}
        if by_policy and flow.rule == plane.NO_RULE:
            members["hint"] = denials.flow_hint(self._core, flow.dest, flow.port, flow.protocol)
        if flow.outcome == plane.OTHER_NAME:
            named = self._core.named_last(flow.dest, flow.port)
            members |= {"named": named, "hint": denials.proof_hint(self._core, named, flow)}
        members |= {"name": found.name if found else "", "via": found.via if found else ""}
        members["guest"] = dns_decide.shown_address(flow.guest)
        return self._members("connect", denied, reason, flow.rule, members, flow.at_ms + clock_ms)

    def on_query(self, judgement: "dns_decide.Judgement", name: str, kind: int, guest: bytes) -> None:
        """A query for a name, as dns_wire.text() shows it. `guest`: address of 16 bytes, or b""."""
        denied = judgement.what in (dns_decide.DENIED, dns_decide.NEGATIVE)
        members: Members = {"name": name, "type": dns_wire.kind_name(kind), "guest": _shown(guest)}
        if judgement.owner != name:
            members["via"] = judgement.owner
        if denied and judgement.reason == "default":
            members["hint"] = self._rules.hint(judgement.owner)
        told = self._members("query", denied, judgement.reason, judgement.rule, members)
        bare, rest = [], name
        while domain := next((each for each in self._search if rest.endswith(each)), ""):
            rest = rest.removesuffix(domain)
            bare.append(rest)
        if denied and bare and judgement.rule < 0:
            self.lines.hold(told, bare)
        else:
            self.lines.tell(told, 1 + self.lines.folded(name))

    def on_withheld(self, judgement: "dns_decide.Judgement", addresses: "list[str]", guest: bytes) -> None:
        """Addresses that an answer led to and the guest does not get."""
        for address in addresses:
            hint = denials.address_hint(self._rules.rule(judgement.rule), judgement.owner, address)
            members: Members = {"name": judgement.owner, "address": address, "guest": _shown(guest), "hint": hint}
            self.lines.tell(self._members("answer", True, "withheld", judgement.rule, members))

    def _members(
        self, event: str, denied: bool, reason: str, index: int, members: "Members", real_ms: int = 0
    ) -> "Members":  # fmt: skip
        where, text, note = self._rules.rule(index) or ("", "", "")
        known: Members = {
            "time": decision_lines.moment(real_ms or time.time_ns() // 10**6), "event": event,
            "verdict": DENIED if denied else ALLOWED, "reason": reason or ("rule" if text else "default"),
            "rule": text, "where": where, "rules": self._rules.number, "note": note, **members,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value != ""}


def _shown(address: bytes) -> str:
    return dns_decide.shown_address(address) if address else ""
