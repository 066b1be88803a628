"""The protocol of the control socket (--conf-path): version 2 of the protocol between passt and its pesto.

Numbers are big-endian. Each connection has one exchange:

    server -> client   hello: "basil:s\\0", u32 version, u32 bytes of a table's name, u32 bytes of an interface's name
                       per table: u8 id, name, u32 capabilities, u32 count, rules; then u8 0
    client -> server   nothing, and closes: it only wanted to read
                       or per table: u8 id, u32 count, rules; then u8 0. A table that is not sent becomes empty
    server             replaces all tables or none, and closes

    rule, 56 bytes     16 address to listen at, 16 target address, 16 interface, u16 first, last, first at the target,
                       u8 protocol, u8 flags

Our extension: if nothing is replaced, the server sends the reason as one line before it closes. passt's pesto does not read it.

Invariants: whatever the bytes, only ConfError is raised; read_rule(write_rule(r)) == r; the ports and addresses of a rule that was
read are in range, and fit each other.
"""

import _socket

from pasta_py.errors import ConfError
from pasta_py.hostports import ANY4, ANY6, is_ipv4
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, ForwardRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"basil:s\0"
VERSION = 2
NAME_BYTES = 128
IFNAME_BYTES = 16
HELLO_BYTES = 20
RULE_BYTES = 56
TABLE_BYTES = 1 + NAME_BYTES + 8  # the head of a table that the server sends
MAX_RULES = 4096  # in a table; passt's limit is 255
HOST, SPLICE = 1, 3
NAMES = {HOST: "HOST", SPLICE: "SPLICE"}

# Capabilities of a table.
IPV4, IPV6, TCP, UDP, SCAN, IFNAME = (1 << bit for bit in range(6))
# Flags of a rule.
DUAL_STACK, WEAK, SCANNED = 1, 2, 4

_LOOPBACK = (bytes(10) + b"\xff\xff\x7f\x00\x00\x01", bytes(15) + b"\x01")
_MAX_PORT = 65535
_PROTOCOLS = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}


def write_rule(rule: ForwardRule, *, ipv6: bool = True) -> bytes:
    """The bytes of a rule. Without IPv6, any address is written as 0.0.0.0, as passt does."""
    address, flags = rule.address or (ANY6 if ipv6 else ANY4), WEAK * rule.weak | SCANNED * rule.scan
    if not rule.address and ipv6:
        flags |= DUAL_STACK
    ifname = "lo" if rule.to_host else rule.ifname
    ports = b"".join(port.to_bytes(2, "big") for port in (rule.first, rule.last, rule.target_first))
    name = ifname.encode("utf-8", "surrogateescape").ljust(IFNAME_BYTES, b"\0")
    return address + (rule.target or bytes(16)) + name + ports + bytes([rule.proto, flags])


def read_rule(data: bytes, *, to_host: bool, ipv6: bool = True) -> ForwardRule:
    """The rule that 56 bytes encode; ConfError if they encode none. `to_host`: the rule is in table SPLICE."""
    if len(data) != RULE_BYTES:
        raise ConfError(f"a rule of {len(data)} bytes; expected {RULE_BYTES}")
    first, last, to = (int.from_bytes(data[at : at + 2], "big") for at in (48, 50, 52))
    proto, flags = data[54], data[55]
    address, target = data[:16], data[16:32]
    ifname = _ifname(data[32:48])
    if proto not in _PROTOCOLS:
        raise ConfError(f"a rule of IP protocol {proto}; expected {IPPROTO_TCP} (TCP) or {IPPROTO_UDP} (UDP)")
    if not 1 <= first <= last or not 1 <= to <= _MAX_PORT - (last - first):
        raise ConfError(f"a rule of ports {first}-{last} to {to}: no such ports")
    if flags & ~(DUAL_STACK | WEAK | SCANNED):
        raise ConfError(f"a rule with the unknown flags {flags:#x}")
    if flags & DUAL_STACK and address != ANY6:
        raise ConfError("a rule for both families with an address of one")
    if flags & DUAL_STACK or (address == ANY4 and not ipv6):
        address = b""
    if target == bytes(16):
        target = b""
    if to_host:
        _check_to_host(address, ifname, target)
        address, ifname = b"", ""
    elif _is_multicast(address) or _is_multicast(target) or target == ANY4:
        raise ConfError(f"a rule of port {first}: an address without connections; expected a unicast address")
    elif target and (not address or is_ipv4(address) != is_ipv4(target)):
        raise ConfError(f"a rule of port {first}: a target address needs a listening address of its own family")
    return ForwardRule(
        proto=proto, to_host=to_host, address=address, ifname=ifname, first=first, last=last, target=target,
        target_first=to, weak=bool(flags & WEAK), scan=bool(flags & SCANNED),
    )  # fmt: skip


def _ifname(data: bytes) -> str:
    name, _, rest = data.partition(b"\0")
    # As the kernel's dev_valid_name(), and at most 15 bytes.
    if rest.strip(b"\0") or len(name) == len(data) or name in (b".", b"..") or any(c in b"/: \t\n\v\f\r" for c in name):
        raise ConfError(f"a rule with the interface name {data!r}; expected 1 to 15 bytes without '/', ':' or space")
    return name.decode("utf-8", "surrogateescape")


def _is_multicast(address: bytes) -> bool:
    return address[:1] == b"\xff" or (is_ipv4(address) and address[12] >> 4 == 14)


def _check_to_host(address: bytes, ifname: str, target: bytes) -> None:
    if ifname not in ("", "lo") or (address and address not in (ANY4, ANY6, *_LOOPBACK)):
        raise ConfError("a rule of SPLICE with a listening address; expected the loopback")
    if target:
        raise ConfError("a rule of SPLICE with a target address; expected the host's loopback")


def check(rules: "Sequence[ForwardRule]") -> None:
    """ConfError if two rules have a port of an address in common, whatever their interfaces."""
    live: dict[bytes, ForwardRule] = {}  # the last rule of each address; it may end before the current rule's first port
    table = (False, 0)
    for rule in sorted(rules, key=lambda r: (r.to_host, r.proto, r.first)):
        if table != (rule.to_host, rule.proto):
            live, table = {}, (rule.to_host, rule.proto)
        for other in _meeting(rule.address, live):
            if other.last >= rule.first:
                raise ConfError(f"rule {describe(rule)} conflicts with {describe(other)}: exclude the ports from one of the two")
        live[rule.address] = rule


def _meeting(address: bytes, live: "dict[bytes, ForwardRule]") -> "list[ForwardRule]":
    """The rules at addresses that `address` overlaps: b"" overlaps all, ANY4 and ANY6 all of their family."""
    if address in (b"", ANY4, ANY6):
        return [rule for other, rule in live.items() if not address or not other or is_ipv4(other) == is_ipv4(address)]
    return [live[other] for other in (address, b"", ANY4 if is_ipv4(address) else ANY6) if other in live]


def describe(rule: ForwardRule) -> str:
    """A rule as passt's programs show it: one printable line, also if the interface's name is not printable."""

    def shown(address: bytes) -> str:
        if is_ipv4(address):
            return _socket.inet_ntop(_socket.AF_INET, address[12:])
        return _socket.inet_ntop(_socket.AF_INET6, address)

    def ports(first: int) -> str:
        return str(first) if rule.first == rule.last else f"{first}-{first + rule.last - rule.first}"

    ifname = "lo" if rule.to_host else "".join(c if c.isprintable() else "?" for c in rule.ifname)
    where = f"[{shown(rule.address) if rule.address else '*'}]{'%' * bool(ifname)}{ifname}"
    there = f"{shown(rule.target)}:" if rule.target else ""
    notes = " (best effort)" * rule.weak + " (auto-scan)" * rule.scan
    return f"{_PROTOCOLS[rule.proto]} {where}:{ports(rule.first)}  =>  {there}{ports(rule.target_first)}{' ' * bool(notes)}{notes}"


# ---- what the server sends ----


def hello() -> bytes:
    return MAGIC + b"".join(number.to_bytes(4, "big") for number in (VERSION, NAME_BYTES, IFNAME_BYTES))


def check_hello(data: bytes) -> None:
    """ConfError unless these 20 bytes are a hello of this version."""
    if len(data) != HELLO_BYTES or data[:8] != MAGIC:
        raise ConfError("not a control socket of pasta: another program answers there")
    version, name, ifname = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16))
    if (version, name, ifname) != (VERSION, NAME_BYTES, IFNAME_BYTES):
        raise ConfError(f"the other end speaks version {version} of the protocol: version {VERSION} is known here")


def write_tables(rules: "Sequence[ForwardRule]", capabilities: int) -> bytes:
    """All tables, as the server sends them after its hello."""
    parts = []
    for table, name in NAMES.items():
        own = [write_rule(r, ipv6=bool(capabilities & IPV6)) for r in rules if r.to_host == (table == SPLICE)]
        head = bytes([table]) + name.encode().ljust(NAME_BYTES, b"\0") + capabilities.to_bytes(4, "big")
        parts += [head, len(own).to_bytes(4, "big"), *own]
    return b"".join(parts) + b"\0"


# ---- what the client sends ----


def write_update(tables: "dict[int, list[bytes]]") -> bytes:
    """All that a client sends; `tables`: the encoded rules of each table."""
    parts = [bytes([table]) + len(rules).to_bytes(4, "big") + b"".join(rules) for table, rules in tables.items()]
    return b"".join(parts) + b"\0"


class UpdateReader:
    """Decodes a client's bytes as they arrive, into `rules`. It never holds more than two full tables."""

    def __init__(self, *, ipv6: bool = True) -> None:
        self._data = bytearray()
        self._ipv6 = ipv6
        self._table = 0  # the table whose rules come now
        self._left = 0  # how many of its rules are still to come
        self._seen: set[int] = set()
        self.rules: list[ForwardRule] = []
        self.complete = False

    @property
    def started(self) -> bool:
        """Whether the client has sent anything."""
        return bool(self._data or self._seen or self.complete)

    def feed(self, data: bytes) -> None:
        """Take the next bytes; ConfError as soon as they cannot be part of an update."""
        self._data += data
        at = 0
        while at < len(self._data):
            if self.complete:
                raise ConfError("bytes after the end of the tables")
            if self._left:
                piece = bytes(self._data[at : at + RULE_BYTES])
                if len(piece) < RULE_BYTES:
                    break
                self.rules.append(read_rule(piece, to_host=self._table == SPLICE, ipv6=self._ipv6))
                self._left -= 1
                at += RULE_BYTES
                continue
            table = self._data[at]
            if not table:
                self.complete = True
                at += 1
                continue
            if table not in NAMES or table in self._seen:
                raise ConfError(f"table {table} is not known, or was sent twice; expected {HOST} (HOST) or {SPLICE} (SPLICE)")
            if len(self._data) - at < 5:
                break
            count = int.from_bytes(self._data[at + 1 : at + 5], "big")
            if count > MAX_RULES:
                raise ConfError(f"a table of {count} rules; expected at most {MAX_RULES}")
            self._seen.add(table)
            self._table, self._left = table, count
            at += 5
        del self._data[:at]
