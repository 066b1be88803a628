"""What the egress policy has denied, for the lines at the end of a command: how often, and the narrowest rule that would allow it.

Invariants: it keeps at most _KEPT things, however many the guest tries; a name is shown as dns_wire.text() escapes it.
"""

import _socket

from pasta_py.worker import frames, log, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.model import WorkerPlan

    #: a name; or destination, port, protocol and rule of a flow
    Key = tuple[str] | tuple[bytes, int, str, int]

_KEPT = 1000
_SHOWN = 20
_REVERSE = ".arpa"
_ANY_PORT = 443  # for a name of which nothing but the query is known, where the rules name no port


class Denials:
    """Counts denied flows and names."""

    def __init__(self, core: "plane.Plane", plan: "WorkerPlan") -> None:
        self._core, self._plan = core, plan
        self._counts: dict[Key, int] = {}
        self._others = 0

    def on_records(self, records: bytes) -> None:
        """Records of flow events, as of Plane.take_events()."""
        for dest, port, protocol, rule in plane.denied_flows(records):
            self._count((dest, port, protocol, rule))

    def on_name(self, name: str) -> None:
        if not name.endswith(_REVERSE):
            self._count((name,))

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
        more = len(shown) - _SHOWN
        if more > 0 or self._others:
            journal.write(log.INFO, f"egress: {max(more, 0) + self._others} other destinations were denied", asked=True)

    def _is_search(self, key: "Key") -> bool:
        """Whether a resolver has put a search domain behind another name that it also asked for."""
        name = key[0]
        if not isinstance(name, str):
            return False
        bare = (name.removesuffix(f".{domain}") for domain in self._plan.search)
        return any(other != name and (other,) in self._counts for other in bare)

    def _explained(self, key: "Key") -> tuple[str, str]:
        """What was denied, and what would allow it."""
        if len(key) == 1:
            ports = {rule.rpartition(":")[2] for rule in self._allowed_names()}
            usual = ports.pop() if len(ports) == 1 else str(_ANY_PORT)
            return f"the name {key[0]}", f"--allow {key[0]}:{usual} would allow it, if this is the port"
        dest, port, protocol, rule = key
        address = _text(dest)
        end = "/icmp" if protocol == "ping" else f":{port}/{protocol}"
        what = f"{address}{end}"
        if rule != plane.NO_RULE:
            where, text, note = self._plan.egress_rules[rule].split("\t")
            return what, f"{where}: {text!r} closes it" + (f" ({note})" if note else "")
        names = self._core.pinned(dest)
        return what, f"--allow {names[0].decode() if names else address}{end} would allow it"

    def _allowed_names(self) -> "Iterable[str]":
        """Rules that allow one port of a name."""
        for text in self._plan.egress_rules:
            rule = text.split("\t")[1].partition("/")[0]
            if rule.startswith("allow ") and rule[-1].isdigit() and any(c.isalpha() for c in rule[6:]) and "@" not in rule:
                yield rule


def _text(address: bytes) -> str:
    four = frames.ipv4(address)
    return _socket.inet_ntop(_socket.AF_INET, four) if four else f"[{_socket.inet_ntop(_socket.AF_INET6, address)}]"
