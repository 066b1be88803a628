"""Puts the DNS service together for a worker. Loaded only where the plan has it on."""

import _socket
import time

from pasta_py import defaults
from pasta_py.worker import dns_decide, dns_service, dns_upstream, frames, plane, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan


class Watches:
    """Gives each descriptor a number for the core's events, and its handler to the loop."""

    def __init__(self, core: "plane.Plane", handlers: "dict[int, watch.Handler]") -> None:
        self._core, self._handlers = core, handlers
        self._idents: dict[int, int] = {}  # by descriptor
        self._next = watch.DNS_FIRST

    def add(self, fd: int, handler: "Callable[[], None]", *, connect: bool = False) -> None:
        ident = self._next
        self._next = ident + 1 if ident < watch.DNS_LAST else watch.DNS_FIRST
        self._idents[fd], self._handlers[ident] = ident, handler
        if connect:
            self._core.watch_connect(fd, ident)
        else:
            self._core.watch(fd, ident)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed."""
        ident = self._idents.pop(fd, None)
        if ident is not None:
            del self._handlers[ident]
            self._core.unwatch(fd)


class NoRules:
    """Where there is no policy: each name has the same verdict, and every address may be reached."""

    def __init__(self, allow: bool) -> None:
        self._verdict = dns_decide.Verdict(allow)

    def name(self, _name: str) -> "dns_decide.Verdict":
        return self._verdict

    def address(self, _name: str, _address: bytes) -> bool:
        return True

    def pin(self, _name: str, _address: bytes, _ttl_s: int) -> bool:
        return True

    def exact(self, _name: str) -> bool:
        return True

    def above(self, _name: str) -> bool:
        return False

    def verifying(self) -> bool:
        return False


class CoreRules:
    """The egress policy of the core."""

    def __init__(self, core: "plane.Plane", grace_s: int) -> None:
        self._core, self._grace_s = core, grace_s

    def name(self, name: str) -> "dns_decide.Verdict":
        allow, reason, rule = self._core.name_verdict(name.encode())
        by_rule = reason == plane.BY_RULE
        return dns_decide.Verdict(allow, by_rule, rule if by_rule else -1)

    def address(self, name: str, address: bytes) -> bool:
        return self._core.answer_verdict(name.encode(), address)[0]

    def pin(self, name: str, address: bytes, ttl_s: int) -> bool:
        return self._core.pin(address, name.encode(), (max(ttl_s, defaults.PIN_MIN_S) + self._grace_s) * 1000)

    def exact(self, name: str) -> bool:
        return self._core.names_rule(name.encode())[0]

    def above(self, name: str) -> bool:
        return self._core.names_rule(name.encode())[1]

    def verifying(self) -> bool:
        return bool(self._core.verifies(plane.NO_RULE))


def service(core: "plane.Plane", plan: "WorkerPlan", handlers: "dict[int, watch.Handler]") -> "dns_service.Service":
    """The service as the plan has it."""
    watches = Watches(core, handlers)
    host_names = [wire for wire in map(frames.dns_name, plan.host_names) if wire]
    rules = CoreRules(core, plan.pin_grace_s) if plan.egress else NoRules(plan.all_names)
    decider = dns_decide.Decider(rules, host_names, pins_all=bool(plan.detours))
    decider.on_name = core.name_in_captures
    upstream = dns_upstream.Upstream(servers(plan), watches, time.monotonic)
    return dns_service.Service(plan, decider, upstream, watches, core.send)


def servers(plan: "WorkerPlan") -> "list[dns_upstream.Server]":
    """The host's nameservers."""
    return [server(plan, address) for address in plan.dns_servers]


def server(plan: "WorkerPlan", address: bytes) -> "dns_upstream.Server":
    """A nameserver of the host; address: 16 bytes. It is reached as the guest's flows are: --outbound and --outbound-if count."""
    loopback = dns_decide.is_loopback(address)
    four = frames.ipv4(address)
    if four:
        family, where = plan.family4, (_socket.inet_ntop(_socket.AF_INET, four), dns_upstream.PORT)
        source = _socket.inet_ntop(_socket.AF_INET, frames.ipv4(family.outbound)) if family.outbound else ""
        kind = _socket.AF_INET
    else:
        family, kind = plan.family6, _socket.AF_INET6
        scope = family.ifindex if address[:2] == b"\xfe\x80" else 0
        where = (_socket.inet_ntop(kind, address), dns_upstream.PORT, 0, scope)  # type: ignore[assignment]
        source = _socket.inet_ntop(kind, family.outbound) if family.outbound else ""
    bound = (source, 0) if source and not loopback else None
    return dns_upstream.Server(kind, where, bound, "" if loopback else family.outbound_if)
