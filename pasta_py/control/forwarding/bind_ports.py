"""Binds the host sockets of -t and -u before the worker gets them, so that a port that is taken is reported at once.

One socket per port (pasta_py.hostports). The worker binds `auto` ports and the namespace's own ports (-T, -U).
"""

import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py import hostports
from pasta_py.control.commandline import port_spec
from pasta_py.control.ip import packed
from pasta_py.errors import HostError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, AutoRule, ForwardRule, Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pasta_py.control.commandline.options import Options

_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_UNPRIVILEGED_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_DEFAULT_RANGE = (32768, 60999)
_ephemeral: list[tuple[int, int]] = []
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}

Bound = list[tuple[Listener, list[int]]]


class Taken(HostError):
    """Another program listens at the port. `proto`: "TCP" or "UDP"."""

    def __init__(self, message: str, proto: str, port: int) -> None:
        super().__init__(message)
        self.proto, self.port = proto, port


def bind(
    options: "Options", warn: "Callable[[str], None]", owner_of: "Callable[[str, int], str]" = lambda _proto, _port: ""
) -> Bound:  # fmt: skip
    """Runs of ports to forward, and for each port a bound, non-blocking, close-on-exec socket, the caller's to close.

    `owner_of`: says who holds a port of "TCP" or "UDP" that is taken; "" if that is not known.

    HostError, with nothing left bound, when a port cannot be bound. A best-effort rule (`all`) stops with a warning before it
    takes the descriptors that traffic needs.
    """
    bound: Bound = []
    wanted = [(IPPROTO_TCP, options.tcp_ports)] if options.tcp else []
    wanted += [(IPPROTO_UDP, options.udp_ports)] if options.udp else []
    try:
        for proto, specs in wanted:
            _bind_option(bound, proto, specs, options, warn)
    except BaseException as error:
        for _listener, fds in bound:
            for fd in fds:
                os.close(fd)
        if isinstance(error, Taken):
            raise HostError(f"{error}: {hostports.taken(owner_of(error.proto, error.port) or 'another program')}") from None
        raise
    return bound


def auto_rules(options: "Options") -> tuple[AutoRule, ...]:
    """The rules whose ports the worker binds and unbinds while it runs."""
    return tuple(
        AutoRule(**{name: getattr(rule, name) for name in AutoRule._fields}) for rule in rules(options) if rule.scan
    )


def rules(options: "Options") -> tuple[ForwardRule, ...]:
    """All rules of all directions, in the order of the options."""
    wanted = [(IPPROTO_TCP, False, options.tcp_ports), (IPPROTO_TCP, True, options.tcp_ns)] if options.tcp else []
    if options.udp:
        wanted += [(IPPROTO_UDP, False, options.udp_ports), (IPPROTO_UDP, True, options.udp_ns)]
    return tuple(
        forward_rule(proto, to_host, rule)
        for proto, to_host, specs in wanted
        for rule in port_spec.resolve(specs, ephemeral_ports())
    )


def forward_rule(proto: int, to_host: bool, rule: port_spec.Rule) -> ForwardRule:
    """A rule in the form that control and worker share."""
    return ForwardRule(
        proto=proto,
        to_host=to_host,
        address=packed(rule.address),
        ifname=rule.ifname,
        first=rule.first,
        last=rule.last,
        target=packed(rule.target),
        target_first=rule.target_first,
        weak=rule.weak,
        scan=rule.scan,
    )


def guest_ports(options: "Options") -> tuple[Listener, ...]:
    """The ports of -T and -U, which the worker binds inside the namespace."""
    wanted = [(IPPROTO_TCP, options.tcp_ns)] if options.tcp else []
    wanted += [(IPPROTO_UDP, options.udp_ns)] if options.udp else []
    return tuple(
        Listener(
            proto=proto,
            port=rule.first,
            target=b"",
            target_port=rule.target_first,
            count=rule.last - rule.first + 1,
            weak=rule.weak,
        )
        for proto, specs in wanted
        for rule in port_spec.resolve(specs, ephemeral_ports())
        if not rule.scan
    )


def _bind_option(
    bound: Bound, proto: int, specs: "Sequence[port_spec.PortSpec]", options: "Options", warn: "Callable[[str], None]"
) -> None:
    """Bind the rules of one option. Best-effort rules fail together: only if none of their ports can be bound."""
    failure: HostError | None = None
    got_weak = 0
    for rule in port_spec.resolve(specs, ephemeral_ports()):
        if rule.scan:
            continue
        before = len(bound)
        refused = _bind_rule(bound, proto, rule, options, warn)
        if rule.weak:
            got_weak += len(bound) - before  # runs, not ports: only zero matters
            failure = failure or refused
    if failure and not got_weak:
        raise failure


def _bind_rule(
    bound: Bound, proto: int, rule: port_spec.Rule, options: "Options", warn: "Callable[[str], None]"
) -> HostError | None:
    """Bind every port of a rule. Raises the first refusal; a best-effort rule returns it, but for a shortage of descriptors."""
    first: HostError | None = None
    if rule.address and not (options.ipv4 if rule.address.version == 4 else options.ipv6):
        off = f"IPv{rule.address.version} is switched off: leave this port out"
        raise HostError(f"Couldn't listen on host {_NAMES[proto]} port {rule.first}, address {rule.address}: {off}")
    last = rule.last
    room = _make_room(sum(len(fds) for _listener, fds in bound), rule.last - rule.first + 1)
    if rule.weak and last - rule.first + 1 > room:
        last = rule.first + room - 1
        warn(f"{_NAMES[proto]} ports {last + 1}-{rule.last} are not forwarded: raise the limit of open files (ulimit -Hn)")
    run: list[int] = []
    address, settings = packed(rule.address), {"ipv4": options.ipv4, "ipv6": options.ipv6, "freebind": options.freebind}
    try:
        for port in range(rule.first, last + 1):
            try:
                run.append(hostports.bind(proto, address, rule.ifname, port, **settings))
            except OSError as error:
                refusal = _refusal(proto, rule, port, error)
                if not rule.weak or error.errno in (errno.EMFILE, errno.ENFILE):
                    raise refusal from None
                first = first or refusal
                _end_run(bound, proto, rule, port, run)
                run = []
    finally:
        _end_run(bound, proto, rule, last + 1, run)
    return first


def _end_run(bound: Bound, proto: int, rule: port_spec.Rule, end: int, fds: list[int]) -> None:
    """Record the sockets of the ports up to, not including, `end`."""
    if fds:
        target = packed(rule.target)
        port = end - len(fds)
        target_port = rule.target_first + port - rule.first
        listener = Listener(
            proto=proto,
            port=port,
            target=target,
            target_port=target_port,
            count=len(fds),
            address=packed(rule.address),
            ifname=rule.ifname,
        )
        bound.append((listener, fds))


def _make_room(made: int, more: int) -> int:
    """How many more sockets there is room for, with the soft limit of descriptors raised to the hard one if they need it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and made + more > hostports.room():
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return more if soft == resource.RLIM_INFINITY else max(0, hostports.room() - made)


def _refusal(proto: int, rule: port_spec.Rule, port: int, error: OSError) -> HostError:
    where = "any address" if rule.address is None else f"address {rule.address}"
    where += f" of {rule.ifname}" if rule.ifname else ""
    start = _numbers(_UNPRIVILEGED_START)
    hint = ""
    if error.errno in (errno.EACCES, errno.EPERM) and start and port < start[0]:
        from pasta_py.control.requirements import settings

        hint = f": {settings.low_port(start[0], port)}, or choose another port"
    elif error.errno == errno.EADDRNOTAVAIL:
        hint = ": the host has no such address: --freebind binds it all the same"
    elif error.errno == errno.EINVAL and rule.address and rule.address.is_link_local:
        hint = f": a link-local address needs its interface, as in {rule.address}%eth0/{port}"
    elif error.errno == errno.ENODEV:
        hint = f": the host has no interface {rule.ifname!r}"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        hint = ": raise the limit of open files (ulimit -n), or forward fewer ports"
    line = f"Couldn't listen on host {_NAMES[proto]} port {port}, {where}: {os.strerror(error.errno or 0)}{hint}"
    return Taken(line, _NAMES[proto], port) if error.errno == errno.EADDRINUSE else HostError(line)


def ephemeral_ports() -> tuple[int, int]:
    """net.ipv4.ip_local_port_range, both ends included; read once."""
    if not _ephemeral:
        numbers = _numbers(_PORT_RANGE)
        _ephemeral.append((numbers[0], numbers[1]) if len(numbers) == 2 else _DEFAULT_RANGE)
    return _ephemeral[0]


def _numbers(path: str) -> list[int]:
    try:
        with open(path, encoding="utf-8") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []
