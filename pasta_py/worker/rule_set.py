"""The egress policy of a worker: the rules in force, as text for people and as bytes for the core, and their live changes.

A policy's bytes (plane_egress() of csrc/plane_api.h) are a head, the host's prefixes, and the rules. The prefixes change with the
host (--follow), the rules by the control socket; each change keeps the other part. Rules that are added live come first.

Invariant: the core has the rules that `texts` shows: what it refuses changes nothing here.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan
    from pasta_py.worker import decision_lines, decisions, dns_service, event_readers, log, plane

_HEAD_BYTES, _NAT64_BYTES, _GROUP_BYTES = 12, 17, 18
_NAMES = {"none": 0, "rules": 1, "all": 2}
_OPEN, _NONE = "open", "none"
_NEVER = float("inf")
_ANY_PORT = "443"  # of a name of which nothing but the query is known, where the rules have not one port


class Base:
    """The rules but for those that were added: texts, as in WorkerPlan.egress_rules, their code, and what no rule matches."""

    def __init__(self, texts: "tuple[str, ...]", code: bytes, default: str) -> None:
        self.texts, self.code, self.default = texts, code, default


class Added:
    """A rule that was added live. `until`: time.monotonic() at which it ends."""

    def __init__(self, text: str, code: bytes, until: float) -> None:
        self.text, self.code, self.until = text, code, until


class RuleSet:
    """The rules in force. `number` counts the sets of rules that there have been, from 1."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", before_change: "Callable[[], None]" = lambda: None,
        arm: "Callable[[], None]" = lambda: None,
    ) -> None:  # fmt: skip
        """`before_change`: has events read that the present rules have decided. `arm`: is called when `due` may be earlier."""
        self._core, self._before_change, self._arm = core, before_change, arm
        self._dns = plan.egress_dns if plan.egress_dns_said else ""
        self._prefixes, code = _parts(plan.egress)
        self._verify = plan.egress[3]
        self._base, self._added = Base(plan.egress_rules, code, plan.egress_default), list[Added]()
        self._names = plan.egress[2]
        self._port = ""  # of port_of_names(), while it is known
        self.number = 1

    @property
    def texts(self) -> "tuple[str, ...]":
        return (*(each.text for each in self._added), *self._base.texts)

    @property
    def default(self) -> str:
        return self._base.default

    @property
    def names(self) -> str:
        """Which names are answered: a value of --egress-dns."""
        return next(word for word, number in _NAMES.items() if number == self._names)

    @property
    def due(self) -> float:
        """When on_tick() wants to be called: the next rule ends."""
        return min((each.until for each in self._added), default=_NEVER)

    def rule(self, index: int) -> "tuple[str, str, str] | None":
        """Where a rule stands, the rule with its verdict, its note; None: there is no rule of this index."""
        texts, first = self._base.texts, index - len(self._added)
        if index < 0 or first >= len(texts):
            return None
        where, text, note = (texts[first] if first >= 0 else self._added[index].text).split("\t")
        return where, text, note

    def hint(self, name: str) -> str:
        """The narrowest option that would allow a name of which nothing but the query is known."""
        self._port = self._port or port_of_names(self.texts)  # of thousands of rules it takes 10 ms
        return f"{'' if self._names else '--egress-dns rules '}--allow {name}:{self._port}"

    def left_s(self, index: int) -> "float | None":
        """For how long a rule is in force; None: to the end."""
        until = self._added[index].until if index < len(self._added) else _NEVER
        return until - time.monotonic() if until < _NEVER else None

    # ---- changes: OSError with EINVAL if the core refuses the rules ----

    def replace(self, base: Base) -> bool:
        """Put other rules in place of all; whether anything is changed."""
        return self._put(self._prefixes, base, [])

    def add(self, added: Added) -> bool:
        done = self._put(self._prefixes, self._base, [added, *self._added])
        self._arm()
        return done

    def adopt(self, policy: bytes) -> None:
        """The host has changed: take its prefixes from this policy."""
        self._put(_parts(policy)[0], self._base, self._added)

    def on_tick(self, journal: "log.Log") -> None:
        now = time.monotonic()
        ended = [each for each in self._added if each.until <= now]
        if not ended:
            return
        self._put(self._prefixes, self._base, [each for each in self._added if each.until > now])
        for each in ended:
            journal.write(2, f"egress: the rule {each.text.split(chr(9))[1]!r} has ended")

    def _put(self, prefixes: bytes, base: Base, added: "list[Added]") -> bool:
        names = _NAMES[self._dns or ("rules" if base.default == _NONE else "all")]
        count = len(added) + len(base.texts)
        head = bytes((1, base.default == _OPEN, names, self._verify)) + prefixes[:4] + count.to_bytes(2, "big") + bytes(2)
        self._before_change()
        changed = self._core.set_egress(head + prefixes[4:] + b"".join(each.code for each in added) + base.code)
        self.number += changed and prefixes == self._prefixes
        self._prefixes, self._base, self._added, self._names, self._port = prefixes, base, added, names, ""
        return changed


def port_of_names(texts: "tuple[str, ...]") -> str:
    """The port of the rules that allow one port of a name, if all have the same."""
    ports = set()
    for text in texts:
        dest, _, port = text.split("\t")[1].removesuffix("/tcp").removesuffix("/udp").rpartition(":")
        if dest.startswith("allow ") and port.isdigit() and "@" not in dest and any(c.isalpha() for c in dest[6:]):
            ports.add(port)
    return ports.pop() if len(ports) == 1 else _ANY_PORT


def _parts(policy: bytes) -> "tuple[bytes, bytes]":
    """The counts and bytes of a policy's prefixes, and its rules."""
    nat64, groups = (int.from_bytes(policy[at : at + 2], "big") for at in (4, 6))
    end = _HEAD_BYTES + _NAT64_BYTES * nat64 + _GROUP_BYTES * groups
    return policy[4:8] + policy[_HEAD_BYTES:end], policy[end:]


def with_prefixes(policy: bytes, other: bytes) -> bytes:
    """A policy with the prefixes of another."""
    prefixes, code = _parts(other)[0], _parts(policy)[1]
    return policy[:4] + prefixes[:4] + policy[8:_HEAD_BYTES] + prefixes[4:] + code


class Policy:
    """What of a worker belongs to its egress policy: the rules, the DNS service that asks them, the lines of what is decided."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: "log.Log", dns: "dns_service.Service",
        hub: "Callable[[], event_readers.Readers]", arm: "Callable[[], None]",
    ) -> None:  # fmt: skip
        self._core, self._log, self.dns, self._hub, self._arm = core, journal, dns, hub, arm
        self.rules = RuleSet(core, plan, lambda: hub().on_events(), arm)
        dns.hint = self.rules.hint
        # Those of a command's resolv.conf are not always told by DHCP.
        self.search = tuple(value for name, value in plan.shown if name == "search") or plan.search
        self._decisions: decisions.Decisions | None = None

    def decisions(self) -> "decisions.Decisions":
        """Where to add a reader of decisions. The first makes all be read from now on."""
        if not self._decisions:
            from pasta_py.worker import decision_lines, decisions

            lines = decision_lines.Lines(self._arm)
            self._decisions = decisions.Decisions(self._core, self.rules, self.search, self.dns.origin, lines)
            self._hub().add_taker(self._decisions.on_records)
            self.dns.on_judged.append(self._decisions.on_query)
            self.dns.on_withheld.append(self._decisions.on_withheld)
        return self._decisions

    def forget(self, sink: "decision_lines.Sink") -> None:
        """It reads no more, if it ever did."""
        if self._decisions:
            self._decisions.lines.remove(sink)

    @property
    def due(self) -> float:
        """When on_tick() wants to be called (time.monotonic())."""
        return min(self.rules.due, self._decisions.lines.due if self._decisions else _NEVER)

    def on_tick(self, *, end: bool = False) -> None:
        self.rules.on_tick(self._log)
        if end:
            self._hub().on_events()
        if self._decisions:
            self._decisions.lines.on_tick(end=end)
