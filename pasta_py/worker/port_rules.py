"""Purpose: port forwarding rules that change while the worker serves, through the control socket (--conf-path) or by control.

How: swap() replaces all rules or none. Sockets that both sets of rules need stay open, and new ones are bound before old ones are
closed. One case needs the other order: a port that a leaving rule holds in another form (127.0.0.1:80 becomes *:80) is closed
first, and bound again if the swap fails. TCP connections outlive their rule. UDP flows end with their port.

Invariants: each port of a rule that is neither weak nor scanned has its sockets; when swap() raises, the rules are the old ones.
One exception: a port that was closed first is lost if another program binds it before we do.
"""



import errno
import posix as os  # os takes 0.8 ms to import

from pasta_py import hostports, pesto_protocol, worker_protocol
from pasta_py.errors import ConfError, WireError
from pasta_py.model import IPPROTO_TCP, AutoRule, ForwardRule, Listener, WorkerPlan
from pasta_py.worker import helper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pasta_py.worker import autoports, plane

    #: to_host, protocol, address, interface, port
    Key = tuple[bool, int, bytes, str, int]
    #: target address, target port
    Target = tuple[bytes, int]
    Sockets = tuple[list[int], Target]

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
#: No further port can be bound: no descriptors are left, or (the last three) the helper hangs or has ended.
_NO_MORE = (*_NO_DESCRIPTORS, errno.ETIMEDOUT, errno.ECONNRESET, errno.ENOTCONN)
_MAX_PORTS = 4 * 65535  # every port of both protocols in both directions


class Rules:
    """The rules of the tables HOST and SPLICE (pesto_protocol). Owns their sockets; AutoPorts owns those of scanned rules."""

    def __init__(
        self, core: "plane.Plane", plan: WorkerPlan, host_fds: "list[int]", guest_fds: "dict[tuple[int, int], list[int]]",
        auto: "autoports.AutoPorts | None",
    ) -> None:  # fmt: skip
        self._core, self._plan, self._auto = core, plan, auto
        self._room = hostports.room()  # read now: the system call filter will forbid it
        self._given: dict[Key, int] = {}  # the socket that control has bound, while change() runs
        self._held: dict[Key, Sockets] = {}
        self.guest = auto is not None  # whether sockets can be made in the guest's namespace
        self.rules = tuple(rule.replace(address=self._canonical(rule.address)) for rule in plan.rules)
        self.capabilities = pesto_protocol.IPV4 * plan.family4.on | pesto_protocol.IPV6 * plan.family6.on | pesto_protocol.IFNAME
        self.capabilities |= pesto_protocol.TCP * plan.tcp | pesto_protocol.UDP * plan.udp | pesto_protocol.SCAN * self.guest
        taken = 0
        for listener in plan.listeners:
            for offset in range(listener.count):
                if not listener.inherited:
                    self._hold(listener, offset, False, [host_fds[taken + offset]])
            taken += listener.count
        for listener in plan.guest_ports:
            for offset in range(listener.count):
                fds = guest_fds.get((listener.proto, listener.port + offset))
                if fds:
                    self._hold(listener, offset, True, fds)

    def _hold(self, listener: Listener, offset: int, to_host: bool, fds: "list[int]") -> None:
        key = (to_host, listener.proto, self._canonical(listener.address), listener.ifname, listener.port + offset)
        self._held[key] = (fds, (listener.target, listener.target_port + offset))

    def _canonical(self, address: bytes) -> bytes:
        """0.0.0.0 becomes b"" (any address) where IPv6 is off: pesto_protocol writes both in the same way."""
        return b"" if address == hostports.ANY4 and not self._plan.family6.on else address

    def holds(self, proto: int, port: int) -> bool:
        """Whether a port of the host is bound here."""
        return any(key[:2] == (False, proto) and key[4] == port for key in self._held)

    def swap(self, rules: "tuple[ForwardRule, ...]") -> None:
        """Make these the rules. ConfError if they cannot be; the old ones stay in force."""
        if rules == self.rules:
            return
        pesto_protocol.check(rules)
        if sum(rule.last - rule.first + 1 for rule in rules if not rule.scan) > _MAX_PORTS:
            raise ConfError(f"rules of more than {_MAX_PORTS} ports")
        for rule in rules:
            self._check(rule)
        stay = {key: target for _rule, key, target in _ports(rules) if key in self._held}
        made: dict[Key, Sockets] = {}
        released: dict[Key, Sockets] = {}
        try:
            self._bind_all(rules, stay, made, released)
        except BaseException:
            self._undo(made, released)
            raise
        self._commit(stay, made)
        self.rules = rules
        if self._auto:
            self._auto.rules = _auto_rules(rules)

    def change(self, message: bytes, fds: "Sequence[int]") -> None:
        """Carry out a change by control (worker_protocol): add a rule of one port with its socket, or remove it. Errors as swap().

        Control binds the socket, because the locked-in worker lacks the privilege for low ports.
        """
        unused = list(fds)
        try:
            rule = worker_protocol.decode(message)
            if not isinstance(rule, ForwardRule) or rule.first != rule.last or rule.to_host or rule.scan or len(fds) > 1:
                raise ConfError(f"no rule of one port of the host's, with {len(fds)} descriptors")
            rule = rule.replace(address=self._canonical(rule.address))
            if unused:
                self._given = {(False, rule.proto, rule.address, rule.ifname, rule.first): unused.pop()}
                self.swap((*self.rules, rule))
            elif rule in self.rules:
                self.swap(tuple(other for other in self.rules if other != rule))
            else:
                raise ConfError(f"no rule {pesto_protocol.describe(rule)} to remove")
        except WireError as error:
            raise ConfError(f"no rule: {error}") from None
        finally:
            for fd in [*unused, *self._given.values()]:
                os.close(fd)
            self._given = {}

    def _check(self, rule: ForwardRule) -> None:
        plan, what = self._plan, pesto_protocol.describe(rule)
        if not (plan.tcp if rule.proto == IPPROTO_TCP else plan.udp):
            raise ConfError(f"rule {what}: the protocol is switched off")
        if rule.address and not plan.family(4 if hostports.is_ipv4(rule.address) else 6).on:
            raise ConfError(f"rule {what}: the family of its address is switched off")
        if (rule.to_host or rule.scan) and not self.guest and rule not in self.rules:
            raise ConfError(f"rule {what}: the guest's namespace cannot be entered: see the warnings at the start")

    def _bind_all(
        self, rules: "tuple[ForwardRule, ...]", stay: "dict[Key, Target]", made: "dict[Key, Sockets]",
        released: "dict[Key, Sockets]",
    ) -> None:  # fmt: skip
        """Bind the new ports, and have the core take their traffic.

        A weak rule goes without a port that it cannot get. ConfError for any other port, and if a direction and protocol gets none.
        """
        failed: dict[tuple[bool, int], ConfError] = {}
        got: set[tuple[bool, int]] = set()
        known = {rule for rule in self.rules if rule.weak}
        full = False
        for rule, key, target in _ports(rules):
            direction = (rule.to_host, rule.proto)
            if key in stay:
                got.add(direction)
                continue
            if rule in known or (full and rule.weak):
                continue  # a weak rule that stays lacked this port before, or no port can be bound any more
            try:
                self._bind(key, target, stay, made, released)
                got.add(direction)
            except OSError as error:
                refusal = ConfError(_refusal(key, error))
                if not rule.weak:
                    raise refusal from None
                failed.setdefault(direction, refusal)
                full = full or error.errno in _NO_MORE
        for direction, refusal in failed.items():
            if direction not in got:
                raise refusal

    def _bind(
        self, key: "Key", target: "Target", stay: "dict[Key, Target]", made: "dict[Key, Sockets]",
        released: "dict[Key, Sockets]",
    ) -> None:  # fmt: skip
        to_host, proto, _address, _ifname, port = key
        if to_host and self._auto:  # an automatic port may hold some of the loopback addresses
            self._auto.release(proto, to_host, port)
        try:
            fds = self._open(key)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._make_way(key, stay, released):
                raise
            fds = self._open(key)
        made[key] = (fds, target)
        self._listen(key, fds, target)

    def _make_way(self, key: "Key", stay: "dict[Key, Target]", released: "dict[Key, Sockets]") -> bool:
        """Close what holds this port and is not in the new rules; whether there was any."""
        to_host, proto, _address, _ifname, port = key
        way = self._auto is not None and self._auto.release(proto, to_host, port)
        for held in [k for k in self._held if k[4] == port and k[:2] == key[:2] and k not in stay]:
            released[held] = self._held.pop(held)
            self._close(released[held][0])
            way = True
        return way

    def _open(self, key: "Key") -> "list[int]":
        """The sockets of one port: a pair for both loopback addresses of the guest's namespace, else one."""
        to_host, proto, address, ifname, port = key
        if key in self._given:
            return [self._in_room(self._given.pop(key))]
        if not to_host:
            families = {"ipv4": self._plan.family4.on, "ipv6": self._plan.family6.on}
            return [self._in_room(hostports.bind(proto, address, ifname, port, **families))]
        fds: list[int] = []
        last = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        for version, loopback in ((4, helper.LOOPBACK4), (6, helper.LOOPBACK6)):
            if not self._plan.family(version).on:
                continue
            try:
                fds.append(self._in_room(helper.bind_loopback(self._core, proto, loopback, port)))
            except OSError as error:
                last = error
                if error.errno not in hostports.NO_FAMILY:
                    self._close(fds)
                    raise
        if not fds:
            raise last
        return fds

    def _in_room(self, fd: int) -> int:
        """The descriptor, if its number leaves enough for connections; else it is closed, and EMFILE."""
        if fd < self._room:
            return fd
        os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _close(self, fds: "list[int]") -> None:
        for fd in fds:
            try:
                self._core.remove_listener(fd)
            except OSError:
                pass  # the core does not have it yet
            if self._auto:
                self._auto.forget(fd)
            os.close(fd)

    def _listen(self, key: "Key", fds: "list[int]", target: "Target") -> None:
        """Have the core take what arrives at the sockets of one port."""
        to_host, proto, _address, _ifname, port = key
        listener = Listener(proto=proto, port=port, target=target[0], target_port=target[1])
        for fd in fds:
            self._core.add_listeners(listener, [fd], to_host=to_host)
            if self._auto:
                self._auto.exclude(fd)

    def _undo(self, made: "dict[Key, Sockets]", released: "dict[Key, Sockets]") -> None:
        for fds, _target in made.values():
            self._close(fds)
        for key, (_fds, target) in released.items():
            try:
                fds = self._open(key)
                self._held[key] = (fds, target)
                self._listen(key, fds, target)
            except OSError:
                pass  # another program has just bound it: the port is lost; the caller logs why the swap failed

    def _commit(self, stay: "dict[Key, Target]", made: "dict[Key, Sockets]") -> None:
        for key in [key for key in self._held if key not in stay]:
            self._close(self._held.pop(key)[0])
        for key, (fds, target) in list(self._held.items()):
            if target != stay[key]:
                for fd in fds:
                    self._core.remove_listener(fd)
                self._listen(key, fds, stay[key])
                self._held[key] = (fds, stay[key])
        self._held |= made


def _ports(rules: "tuple[ForwardRule, ...]") -> "Iterator[tuple[ForwardRule, Key, Target]]":
    """Each port of the rules that are not scanned, one at a time: a list of all ports would take much memory."""
    for rule in rules:
        for offset in () if rule.scan else range(rule.last - rule.first + 1):
            key = (rule.to_host, rule.proto, rule.address, rule.ifname, rule.first + offset)
            yield rule, key, (rule.target, rule.target_first + offset)


def _auto_rules(rules: "tuple[ForwardRule, ...]") -> "tuple[AutoRule, ...]":
    return tuple(
        AutoRule(**{name: getattr(rule, name) for name in AutoRule._fields}) for rule in rules if rule.scan
    )  # fmt: skip


def _refusal(key: "Key", error: OSError) -> str:
    to_host, proto, address, ifname, port = key
    rule = ForwardRule(
        proto=proto, to_host=to_host, address=address, ifname=ifname, first=port, last=port, target=b"", target_first=port,
        weak=False, scan=False,
    )  # fmt: skip
    where = pesto_protocol.describe(rule).partition("  =>")[0]
    hint = ""
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = ": below net.ipv4.ip_unprivileged_port_start, only ports of the command line can be had; lower it, or restart"
    elif error.errno == errno.EADDRINUSE:
        hint = f": {hostports.taken()}"
    elif error.errno == errno.EADDRNOTAVAIL and not to_host:
        hint = ": the host has no such address"
    elif error.errno == errno.EINVAL and address[:1] == b"\xfe":
        hint = ": a link-local address needs its interface (ADDRESS%INTERFACE)"
    elif error.errno == errno.ENODEV:
        hint = f": the host has no interface {ifname!r}"
    elif error.errno in _NO_DESCRIPTORS:
        hint = ": raise the limit of open files (ulimit -n), or forward fewer ports"
    return f"cannot listen on {'namespace' if to_host else 'host'} {where}: {error.strerror or os.strerror(error.errno or 0)}{hint}"
