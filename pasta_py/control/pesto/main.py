"""Console script `pesto`: shows and changes the port forwarding of a running pasta by its control socket (--conf-path).

It takes the command line of passt's pesto, and works with passt's pasta too. The protocol (pasta_py.pesto_protocol) has no answer.
So after a change, pesto waits for the server to close (ours sends a reason if it refuses), reads the tables again, and reports
what is missing in them.
"""

import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from pasta_py import pesto_protocol
from pasta_py.control.commandline import getopt_long, notices, port_spec
from pasta_py.control.start.main import failed, leave
from pasta_py.errors import ConfError, HostError, PastaError, UsageError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, ForwardRule
from pasta_py.record import Record

#: Short form, long form, name of the value ("" for none), help.
TABLE = (
    ("t", "tcp-ports", "SPEC", "TCP ports forwarded to the namespace, as for pasta"),
    ("u", "udp-ports", "SPEC", "UDP ports forwarded to it"),
    ("T", "tcp-ns", "SPEC", "TCP ports forwarded from it to the host"),
    ("U", "udp-ns", "SPEC", "UDP ports forwarded from it to the host"),
    ("A", "add", "", "Add the rules that follow"),
    ("D", "delete", "", "Delete the rules that follow; each must be there just so"),
    ("C", "clear", "TABLE", "Empty the table HOST (of -t and -u) or SPLICE (of -T and -U)"),
    ("s", "show", "", "Show the rules before and after the change"),
    ("d", "debug", "", "Say what is read and sent"),
    ("h", "help", "", "Show this help"),
    ("", "version", "", "Show the version"),
)
_HELP_COLUMN = 24
_USAGE = """\
Usage: pesto [OPTION]... SOCKET

Show the port forwarding of a running pasta, or change it. SOCKET is what it was given with --conf-path.

@OPTIONS@

Without -A, -D or -C before it, the first -t or -u empties HOST, and the first -T or -U empties SPLICE.
"""
_DIRECTIONS = {
    "tcp-ports": (IPPROTO_TCP, False),
    "udp-ports": (IPPROTO_UDP, False),
    "tcp-ns": (IPPROTO_TCP, True),
    "udp-ns": (IPPROTO_UDP, True),
}
_T = TypeVar("_T")
_TIMEOUT_S = 30.0  # the server gives stalled clients before us 5 s each
_MAX_RULES = 65536  # that a server may show in a table
_MAX_REASON_BYTES = 4096
_TABLES = {name: table == pesto_protocol.SPLICE for table, name in pesto_protocol.NAMES.items()}


def help_text() -> str:
    """Usage and all options."""
    rows = []
    for short, long, value, text in TABLE:
        names = (f"-{short}, " if short else "    ") + f"--{long}" + (f" {value}" if value else "")
        rows.append(f"  {names}".ljust(_HELP_COLUMN) + text)
    return _USAGE.replace("@OPTIONS@", "\n".join(rows))


class Tables(Record):
    """The tables that a server shows."""

    rules: tuple[ForwardRule, ...]
    capabilities: int


class _Connection:
    """A connected control socket; every failure is a HostError or ConfError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(_TIMEOUT_S)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            reason = error.strerror or str(error)
            raise HostError(f"Couldn't connect to control socket {path!r}: {reason}: is it pasta's --conf-path?") from None

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            wanted = min(count - len(data), 1 << 16)
            piece = self._io(lambda wanted=wanted: self._sock.recv(wanted))  # type: ignore[misc]
            if not piece:
                raise ConfError(f"control socket {self._path!r} was closed in the middle of the tables: is pasta still there?")
            data += piece
        return data

    def tables(self) -> Tables:
        return read_tables(self.take)

    def update(self, data: bytes) -> str:
        """Send an update and wait until the server has closed; the reason, if it gave one."""
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before the end: the reason can still be read
            self._io(lambda: self._sock.sendall(data))
            self._sock.shutdown(socket.SHUT_WR)
        reason = b""
        with suppress(ConnectionResetError):
            while len(reason) < _MAX_REASON_BYTES:
                piece = self._io(lambda: self._sock.recv(_MAX_REASON_BYTES))
                if not piece:
                    break
                reason += piece
        text = reason.decode("utf-8", "replace").strip()
        return "".join(c if c.isprintable() else "?" for c in text)

    def _io(self, call: "Callable[[], _T]") -> "_T":
        try:
            return call()
        except (BrokenPipeError, ConnectionResetError):
            raise
        except TimeoutError:
            raise HostError(f"control socket {self._path!r}: no answer within {_TIMEOUT_S:.0f} s: try again") from None
        except OSError as error:
            raise HostError(f"control socket {self._path!r}: {error.strerror}") from None


def read_tables(take: "Callable[[int], bytes]") -> Tables:
    """The tables that a server sends. `take(n)` returns its next n bytes. ConfError for anything else."""
    pesto_protocol.check_hello(take(pesto_protocol.HELLO_BYTES))
    rules: list[ForwardRule] = []
    capabilities = 0
    seen: set[int] = set()
    while table := take(1)[0]:
        head = take(pesto_protocol.TABLE_BYTES - 1)
        own, count = (int.from_bytes(head[at : at + 4], "big") for at in (pesto_protocol.NAME_BYTES, pesto_protocol.NAME_BYTES + 4))
        if table not in pesto_protocol.NAMES or table in seen or count > _MAX_RULES:
            raise ConfError(f"the server shows table {table} with {count} rules: that is not known here")
        seen.add(table)
        capabilities |= own
        for _ in range(count):
            rule = pesto_protocol.read_rule(
                take(pesto_protocol.RULE_BYTES), to_host=table == pesto_protocol.SPLICE, ipv6=bool(own & pesto_protocol.IPV6)
            )
            rules.append(rule)
    return Tables(rules=tuple(rules), capabilities=capabilities)


def show(tables: Tables, title: str) -> str:
    """The tables as passt's pesto shows them, since scripts may read them."""
    lines = [title]
    for name, to_host in _TABLES.items():
        lines.append(f"  {name}")
        lines += [f"    {pesto_protocol.describe(rule)}" for rule in tables.rules if rule.to_host == to_host]
    return "\n".join(lines) + "\n"


# ---- the change ----


class Change:
    """A server's tables, to which the options are applied in their order."""

    def __init__(self, tables: Tables) -> None:
        self.rules = list(tables.rules)
        self._capabilities = tables.capabilities
        self._mode = ""
        self._begun: set[bool] = set()  # directions whose table the next option does not empty
        self._specs: dict[str, tuple[port_spec.PortSpec, ...]] = {}

    def take(self, name: str, value: str) -> None:
        if name in ("add", "delete"):
            self._mode = name
        elif name == "clear":
            if value not in _TABLES:
                raise UsageError(f"--clear {value!r}: no such table: expected {' or '.join(_TABLES)}")
            self._clear(_TABLES[value])
        elif name in _DIRECTIONS:
            self._ports(name, value)

    def _clear(self, to_host: bool) -> None:
        self.rules = [rule for rule in self.rules if rule.to_host != to_host]
        self._begun.add(to_host)

    def _ports(self, name: str, value: str) -> None:
        proto, to_host = _DIRECTIONS[name]
        try:
            spec = port_spec.parse(value, listen=not to_host)
            if spec.ifname:
                from pasta_py.control.planning import host

                (spec,) = port_spec.real_names((spec,), host.alternatives())
            if not self._mode and to_host not in self._begun:
                self._clear(to_host)
            self._specs[name] = port_spec.add(self._specs.get(name, ()), spec)
            if self._mode and not spec.chunks:
                raise UsageError(f"port specification 'none': nothing to {self._mode}: --clear empties a table")
            rules = self._resolved(proto, to_host, spec)
            if self._mode == "add":
                self._refuse_beside_auto(name, value, rules)
        except UsageError as error:
            raise UsageError(f"--{name}: {error}") from None
        for rule in rules:
            if self._mode == "delete":
                self._delete(rule)
            else:
                self.rules.append(rule)

    def _resolved(self, proto: int, to_host: bool, spec: port_spec.PortSpec) -> list[ForwardRule]:
        from pasta_py.control.forwarding import bind_ports

        ipv6 = bool(self._capabilities & pesto_protocol.IPV6)
        found = []
        for rule in port_spec.resolve([spec], bind_ports.ephemeral_ports()):
            made = bind_ports.forward_rule(proto, to_host, rule)
            if rule.address is not None and rule.address.version == 6 and not ipv6:
                raise UsageError(f"port specification {str(spec)!r}: that pasta has IPv6 switched off")
            if rule.scan and not self._capabilities & pesto_protocol.SCAN:
                raise UsageError(f"port specification {str(spec)!r}: that pasta does not look for listening ports")
            # As the server will send it back.
            found.append(pesto_protocol.read_rule(pesto_protocol.write_rule(made, ipv6=ipv6), to_host=to_host, ipv6=ipv6))
        return found

    def _refuse_beside_auto(self, name: str, value: str, rules: list[ForwardRule]) -> None:
        """Say what to do about ports that rules of `auto` have already."""
        proto, to_host = _DIRECTIONS[name]
        found = [rule for rule in self.rules if rule.scan and (rule.proto, rule.to_host) == (proto, to_host)]
        fixed = [rule for rule in rules if not rule.scan]
        if not any(rule.first <= other.last and other.first <= rule.last for rule in fixed for other in found):
            return
        if found != self._resolved(proto, to_host, port_spec.DEFAULT):
            return  # the general line about a conflict names the two
        option = next(short for short, long, _value, _help in TABLE if long == name)
        without = ",".join(f"~{rule.first}-{rule.last}" if rule.last > rule.first else f"~{rule.first}" for rule in fixed)
        change = f"pesto -D -{option} auto -A -{option} auto,{without} -{option} {value} SOCKET"
        side = "on the host" if to_host else "in the guest"
        already = f"{value!r} is forwarded already while a program {side} listens there (auto)"
        raise UsageError(f"{already}: to forward it always: {change}")

    def _delete(self, rule: ForwardRule) -> None:
        if rule not in self.rules:
            name = pesto_protocol.describe(rule)
            raise UsageError(f"no rule {name}: those there are shown without options, and must be given whole")
        self.rules.remove(rule)

    def message(self) -> bytes:
        """ConfError for rules that contradict each other."""
        pesto_protocol.check(self.rules)
        ipv6 = bool(self._capabilities & pesto_protocol.IPV6)
        tables = {
            table: [pesto_protocol.write_rule(r, ipv6=ipv6) for r in self.rules if r.to_host == (table == pesto_protocol.SPLICE)]
            for table in pesto_protocol.NAMES
        }
        return pesto_protocol.write_update(tables)


def _options(argv: list[str]) -> tuple[list[tuple[str, str]], str]:
    """Options by their long names, and the socket's path."""
    rest: list[str] = []
    try:
        named = list(getopt_long.read(argv, *getopt_long.names(TABLE), rest, permute=True))
    except UsageError as error:
        raise UsageError(f"{error}: see pesto --help") from None
    if {"help", "version"} & {name for name, _ in named}:
        return named, ""
    if len(rest) != 1:
        raise UsageError(f"{len(rest)} paths of a control socket are given: give one, as in: pesto [OPTION]... SOCKET")
    return named, rest[0]


def _missing(wanted: Iterable[ForwardRule], there: Iterable[ForwardRule]) -> list[str]:
    """Differences of two sets of rules, a line each."""
    before, after = set(wanted), set(there)
    lines = [f"{pesto_protocol.describe(rule)} is not there" for rule in wanted if rule not in after]
    return lines + [f"{pesto_protocol.describe(rule)} is still there" for rule in after if rule not in before]


def _run(argv: list[str]) -> None:
    named, path = _options(argv)
    names = [name for name, _ in named]
    if "help" in names:
        notices.show(help_text())
        return
    if "version" in names:
        notices.show(notices.version("pesto"))
        return
    debug = "debug" in names
    with _Connection(path) as connection:
        before = connection.tables()
        if debug:
            print(f"pesto: {len(before.rules)} rules read, capabilities {before.capabilities:#x}", file=sys.stderr)
        if not set(names) & {"add", "delete", "clear", *_DIRECTIONS}:
            notices.show(show(before, f"passt/pasta configuration ({path})"))
            return
        change = Change(before)
        for name, value in named:
            change.take(name, value)
        message = change.message()
        if "show" in names:
            notices.show(show(before, f"Previous configuration ({path})"))
        if debug:
            print(f"pesto: {len(change.rules)} rules sent, {len(message)} bytes", file=sys.stderr)
        reason = connection.update(message)
    with _Connection(path) as connection:
        after = connection.tables()
    wrong = _missing(change.rules, after.rules)
    if reason:
        raise HostError(f"nothing was changed: {reason}")
    if wrong:
        raise HostError(f"not all was changed: {'; '.join(wrong[:3])}: see the log of that pasta")
    if "show" in names:
        notices.show(show(after, f"Updated configuration ({path})"))


def run(argv: list[str]) -> int:
    """The exit status; an error is one line on standard error."""
    try:
        _run(argv)
    except PastaError as error:
        notices.complain(f"pesto: {' '.join(str(error).splitlines())}\n")
        return 1
    except (OSError, MemoryError) as error:
        return failed("pesto", error)
    return 0


def main() -> None:
    """Console script `pesto`."""
    leave(run(sys.argv[1:]))
