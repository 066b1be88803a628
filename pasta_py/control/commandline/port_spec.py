"""Port specifications: the argument of -t, -u, -T and -U as a string, as a record, and as rules to bind.

    SPEC  := none | [LADDR/]CHUNK{,CHUNK}
    LADDR := ADDR[%IF] | [*][%IF]
    CHUNK := all[:ADDR] | auto | ~R | R[:R' | :ADDR | :ADDR/R']        R := N[-M]

Brackets round an address are optional. What stands before the first "/" is LADDR if it is one; so
"2001:db8::1/80" listens on that address, and "8080:[fc00::1]/80" or "8080:192.0.2.1/80" names a target.

Three steps, all pure: parse (string -> PortSpec), str (PortSpec -> string; parse is its inverse), resolve
(PortSpecs of one option -> Rules). Rejected: expanding to one entry per port. 65,535 ports are one Rule.

Invariants: no string makes parse or resolve raise anything but UsageError; the message quotes what was refused
and says what would be taken. Rules of one resolve() never overlap on matching addresses.
"""

from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from pasta_py.control.ip import IPv4Address, IPv6Address

    Address: TypeAlias = "IPv4Address | IPv6Address"

MAX_PORT = 65535
IFNAME_BYTES, ALTIFNAME_BYTES = 16, 128  # IFNAMSIZ and ALTIFNAMSIZ of the kernel, the terminating zero included

_BEFORE_BLANKS = ("", ",", ":", "/", "-", "~")

#: Kinds of a chunk.
ALL, AUTO, EXCLUDE, PORTS = "all", "auto", "exclude", "ports"


class Chunk(Record):
    """One item between commas. `first`..`last` are ports (0 where `kind` has none)."""

    kind: str
    first: int = 0
    last: int = 0
    target: "Address | None" = None  # target address; None: none is named
    target_first: int = 0  # port that `first` becomes; the others follow

    def __str__(self) -> str:
        if self.kind == AUTO:
            return "auto"
        if self.kind == ALL:
            return "all" if self.target is None else f"all:{_bracketed(self.target)}"
        if self.kind == EXCLUDE:
            return "~" + _ports(self.first, self.last)
        moved = self.target_first != self.first
        there = _ports(self.target_first, self.target_first + self.last - self.first)
        text = _ports(self.first, self.last)
        if self.target is not None:
            return f"{text}:{_bracketed(self.target)}" + (f"/{there}" if moved else "")
        return f"{text}:{there}" if moved else text


class PortSpec(Record):
    """One specification. No chunks: "none"."""

    address: "Address | None" = None  # listening address; None: any, both families
    ifname: str = ""  # interface that the listening socket is bound to
    chunks: tuple[Chunk, ...] = ()

    def __str__(self) -> str:
        if not self.chunks:
            return "none"
        where = "" if self.address is None else _bracketed(self.address)
        where += f"%{self.ifname}" if self.ifname else ""
        return (f"{where}/" if where else "") + ",".join(map(str, self.chunks))


class Rule(Record):
    """Ports `first`..`last` on one address, forwarded to `target_first` and up."""

    address: "Address | None"  # None: any, both families
    ifname: str
    first: int
    last: int
    target: "Address | None"  # None: the guest's own address of the peer's family
    target_first: int
    weak: bool  # best effort: a port that cannot be bound is left out; only if all fail it is an error
    scan: bool  # bound only while something listens on the target port ("auto")


NONE = PortSpec()
DEFAULT = PortSpec(chunks=(Chunk(kind=AUTO),))


def _bracketed(address: "Address") -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _ports(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _refuse(spec: str, part: str, why: str) -> UsageError:
    if part == spec:
        return UsageError(f"port specification {spec!r}: {why}")
    return UsageError(f"port specification {spec!r}: {part!r}: {why}")


def _address(text: str) -> "Address | None":
    """The address, with or without brackets; None if it is none. v4-mapped ones become IPv4."""
    from pasta_py.control.ip import IPv4Address, IPv6Address

    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if not text or "%" in text or "/" in text:
        return None
    try:
        if ":" not in text:
            return IPv4Address(text)
        six = IPv6Address(text)
        return six.ipv4_mapped or six
    except ValueError:
        return None


def _is_range(text: str) -> bool:
    """Whether the text has the form N or N-M, whatever the numbers."""
    first, dash, last = text.partition("-")
    return _is_digits(first) and (not dash or _is_digits(last))


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _range(spec: str, text: str) -> tuple[int, int]:
    if not _is_range(text):
        raise _refuse(spec, text, "not a port or a range of ports; expected 1 to 65535, or FIRST-LAST")
    first_text, dash, last_text = text.partition("-")
    bounds = []
    for number in (first_text, last_text) if dash else (first_text, first_text):
        value = int(number) if len(number) <= 10 else MAX_PORT + 1
        if not 1 <= value <= MAX_PORT:
            raise _refuse(spec, number, "not a port; expected a number from 1 to 65535")
        bounds.append(value)
    if bounds[0] > bounds[1]:
        raise _refuse(spec, text, f"the range ends before it begins; did you mean {bounds[1]}-{bounds[0]}?")
    return bounds[0], bounds[1]


def valid_ifname(name: str, room: int = IFNAME_BYTES) -> bool:
    """Whether the kernel would take this as an interface name (dev_valid_name), and as no pattern for one (%d).

    `room` in bytes, with the terminating zero: ALTIFNAME_BYTES where an alternative name is valid too.
    """
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 0 < size < room or name in (".", ".."):
        return False
    return not any(c in "/:%\0" or c.isspace() for c in name)


def _listen(text: str) -> "tuple[Address | None, str] | None":
    """LADDR as (address, interface); None if it is none."""
    host, percent, ifname = text.partition("%")
    if percent and not valid_ifname(ifname, ALTIFNAME_BYTES):
        return None
    if host in ("", "*"):
        return None, ifname
    address = _address(host)
    return None if address is None else (address, ifname)


def _listen_error(spec: str, text: str, listen: bool) -> UsageError:
    host, percent, ifname = text.partition("%")
    if percent and not valid_ifname(ifname, ALTIFNAME_BYTES):
        return _refuse(spec, ifname, "not an interface name; expected 1 to 127 characters without '/', ':', '%' or space")
    meant = _meant_address(spec, host) if listen else ""
    instead = f"did you mean {meant}?" if meant else "expected an IPv4 or IPv6 address, '*', or nothing"
    return _refuse(spec, host, f"not a listening address; {instead}")


def _meant_address(spec: str, host: str) -> str:
    """The specification with which another one is most often meant; "" if it is like none."""
    rest = spec.partition("/")[2]
    if host == "localhost":
        return f"127.0.0.1/{rest} or [::1]/{rest}"
    if host[:1].isalpha() and "." not in host and valid_ifname(host):
        return f"%{host}/{rest}, which listens on that interface"
    return ""


def _looks_like_chunk(text: str) -> bool:
    """Whether the text before the first "/", which is no LADDR, is more likely a chunk with a target."""
    first = text.split(",", 1)[0]
    return "," in text or first.startswith("~") or _is_range(first.split(":", 1)[0])


def _chunk(spec: str, text: str) -> Chunk:
    if text == "auto":
        return Chunk(kind=AUTO)
    if text == "all":
        return Chunk(kind=ALL)
    if text.startswith("~"):
        first, last = _range(spec, text[1:])
        return Chunk(kind=EXCLUDE, first=first, last=last)
    if text == "none":
        raise _refuse(spec, text, "stands alone; leave out the rest of the specification")
    here, colon, there = text.partition(":")
    if here == "all":
        return Chunk(kind=ALL, target=_target(spec, there))
    if not _is_range(here):
        raise _refuse(spec, text, "expected a port, a range, ~PORTS, 'all' or 'auto'")
    first, last = _range(spec, here)
    if not colon:
        return Chunk(kind=PORTS, first=first, last=last, target_first=first)
    address = None
    if not _is_range(there):
        host, slash, there = there.partition("/")
        address = _target(spec, host)
        if not slash:
            return Chunk(kind=PORTS, first=first, last=last, target=address, target_first=first)
    target_first, target_last = _range(spec, there)
    if target_last - target_first != last - first:
        end = min(target_first + last - first, MAX_PORT)
        raise _refuse(
            spec, text, f"{last - first + 1} ports cannot become {target_last - target_first + 1}; "
            f"expected a target range as long as {here}, such as {_ports(max(end - last + first, 1), end)}"
        )  # fmt: skip
    return Chunk(kind=PORTS, first=first, last=last, target=address, target_first=target_first)


def _target(spec: str, text: str) -> "Address":
    address = _address(text)
    if address is None:
        raise _refuse(spec, text, "not a target; expected a port, a range of ports, or an IPv4 or IPv6 address")
    if address.is_unspecified or address.is_multicast:
        raise _refuse(spec, text, "not an address to connect to; expected a unicast address")
    return address


def parse(text: str, *, listen: bool = True) -> PortSpec:
    """The specification that `text` is. listen=False: the directions -T and -U, which take no listening address."""
    text = _without_blanks(text)
    if text == "none":
        return NONE
    address, ifname, rest = None, "", text
    where, slash, after = text.partition("/")
    if slash:
        found = _listen(where)
        if found is not None:
            address, ifname, rest = found[0], found[1], after
            if not listen:
                raise _refuse(text, where + "/", "no listening address here; expected ports on the loopback")
        elif not _looks_like_chunk(where) and not where.startswith("all:"):
            raise _listen_error(text, where, listen)
    if not rest:
        raise _refuse(text, rest or text, "no ports; expected 'none', 'all', 'auto', or ports such as 8080,~22")
    chunks = tuple(_chunk(text, piece) for piece in rest.split(","))
    if address is not None and address.is_multicast:
        raise _refuse(text, where, "a multicast address has no connections; expected a unicast address, or '*'")
    for chunk, piece in zip(chunks, rest.split(","), strict=True):
        _check_target(text, piece, chunk, address)
    if any(c.kind == PORTS for c in chunks) and any(c.kind == ALL and c.target for c in chunks):
        raise _refuse(text, text, "'all:ADDR' has no effect beside ports; leave out one of the two")
    return PortSpec(address=address, ifname=ifname, chunks=chunks)


def _without_blanks(text: str) -> str:
    """The text without blanks before a chunk or a number, as in `8080, 8081`: passt's pasta skips them."""
    kept, before = [], ""
    for char in text:
        if not char.isspace() or before not in _BEFORE_BLANKS:
            kept.append(char)
            before = char
    return "".join(kept)


def _check_target(spec: str, piece: str, chunk: Chunk, address: "Address | None") -> None:
    if chunk.target is None or (address is not None and address.version == chunk.target.version):
        return
    anywhere = "0.0.0.0" if chunk.target.version == 4 else "[::]"
    raise _refuse(
        spec, piece, "a target address needs a listening address of its own family; "
        f"did you mean {anywhere}/{chunk}?"
    )  # fmt: skip


def real_names(specs: tuple[PortSpec, ...], alternatives: "Iterable[tuple[str, str]]") -> tuple[PortSpec, ...]:
    """The specifications with alternative names of interfaces replaced by their own: sockets can be bound to these only.

    UsageError for an unknown name that is longer than an interface's own name can be: the kernel would cut it.
    """
    own = dict(alternatives)
    found = []
    for spec in specs:
        name = own.get(spec.ifname, spec.ifname)
        if len(name.encode("utf-8", "surrogateescape")) >= IFNAME_BYTES:
            raise UsageError(f"port specification {str(spec)!r}: the host has no interface {name!r}: name one of its own")
        found.append(spec if name == spec.ifname else spec.replace(ifname=name))
    return tuple(found)


def published(text: str) -> tuple[str, str]:
    """-t or -u and the specification that means what podman and Docker publish as [ADDRESS:]PORT[:PORT][/tcp|/udp]; UsageError."""
    rest, _, proto = text.partition("/")
    address, numbers = "", rest
    if rest.startswith("["):
        address, _, numbers = rest.rpartition("]:")
        address += "]"
    elif rest.count(":") > 1:
        address, _, numbers = rest.partition(":")
    if proto not in ("", "tcp", "udp") or not numbers or not set(numbers) <= set("0123456789-:"):
        form = "[ADDRESS:]PORT[:PORT], with ranges as FIRST-LAST, and /tcp or /udp at the end"
        raise UsageError(f"invalid port mapping {text!r}: expected {form}")
    return "-u" if proto == "udp" else "-t", f"{address}/{numbers}" if address else numbers


def published_as(text: str, option: str) -> str:
    """What means the same as `text`, which is in podman's form; "" if it is not.

    `option`: what it was given to; without /tcp or /udp it stays that, with them its direction stays.
    """
    try:
        by_protocol, spec = published(text)
        parse(spec, listen=option.islower())
    except UsageError:
        return ""
    if "/" in text:
        option = by_protocol if option.islower() else by_protocol.upper()
    return f"{option} {spec}"


def meant_by(text: str) -> str:
    """The option that forwards the ports which `text` names, in our form or in that of podman; "" if it names none."""
    as_published = published_as(text, "-t")
    if as_published:
        return as_published
    try:
        return f"-t {parse(text)}"
    except UsageError:
        return ""


def add(specs: tuple[PortSpec, ...], spec: PortSpec) -> tuple[PortSpec, ...]:
    """The specifications with one more: `none` may be followed by ports, but not the other way round."""
    if spec.chunks:
        return (*(s for s in specs if s.chunks), spec)
    if any(s.chunks for s in specs):
        raise UsageError(f"port specification 'none' after {str(specs[-1])!r}: leave out one of the two")
    return (NONE,)


def _without(first: int, last: int, holes: "Sequence[tuple[int, int]]") -> "Iterable[tuple[int, int]]":
    """The parts of first..last outside the holes, which are sorted by their first port."""
    for low, high in holes:
        if high < first:
            continue
        if low > last:
            break
        if low > first:
            yield first, low - 1
        first = max(first, high + 1)
    if first <= last:
        yield first, last


def _rules(spec: PortSpec, ephemeral: tuple[int, int]) -> "Iterable[Rule]":
    if not spec.chunks:
        return
    holes = [(c.first, c.last) for c in spec.chunks if c.kind == EXCLUDE]
    scan = any(c.kind == AUTO for c in spec.chunks)
    includes = [c for c in spec.chunks if c.kind == PORTS]
    weak = not includes
    if weak:
        holes.append(ephemeral)
        targets = [c.target for c in spec.chunks if c.kind == ALL and c.target is not None]
        if len(targets) > 1:
            raise _refuse(str(spec), f"all:{targets[1]}", "a second target for all ports; expected one")
        everything = Chunk(kind=PORTS, first=1, last=MAX_PORT, target=targets[0] if targets else None, target_first=1)
        includes = [everything]
    holes.sort()
    for chunk in includes:
        for first, last in _without(chunk.first, chunk.last, holes):
            yield Rule(
                address=spec.address, ifname=spec.ifname, first=first, last=last, target=chunk.target,
                target_first=chunk.target_first + first - chunk.first, weak=weak, scan=scan,
            )  # fmt: skip


def loopback_only(specs: "Sequence[PortSpec]", versions: "Sequence[int]") -> tuple[PortSpec, ...]:
    """The same, listening on loopback addresses of the given IP versions instead of any address (--splice-only).

    UsageError for a specification that names another address, or another interface than lo.
    """
    from pasta_py.control.ip import IPv4Address, IPv6Address

    # At any IPv4 address of lo, which has all of 127.0.0.0/8.
    loopback: dict[int, tuple[Address, str]] = {4: (IPv4Address("0.0.0.0"), "lo"), 6: (IPv6Address("::1"), "")}
    found: list[PortSpec] = []
    for spec in specs or (DEFAULT,):
        if spec.ifname not in ("", "lo") or (spec.address is not None and not spec.address.is_loopback):
            why = "--splice-only takes local connections: expected a loopback address, %lo or nothing"
            raise _refuse(str(spec), str(spec).partition("/")[0], why)
        if spec.address is not None or not spec.chunks:
            found.append(spec)
        else:
            for address, ifname in (loopback[version] for version in versions):
                found.append(spec.replace(address=address, ifname=spec.ifname or ifname))
    return tuple(found)


def resolve(specs: "Sequence[PortSpec]", ephemeral: tuple[int, int] = (32768, 60999)) -> tuple[Rule, ...]:
    """The rules of one option, in the order given.

    No specification means `auto`. `ephemeral` is the host's net.ipv4.ip_local_port_range (both ends included),
    left out where no port is named. A specification may exclude all that it names. UsageError for a conflict: the same ports
    on addresses that overlap, whatever the interface.
    """
    checked: tuple[PortSpec, ...] = ()
    for spec in specs or (DEFAULT,):
        checked = add(checked, spec)
    pairs = [(rule, spec) for spec in checked for rule in _rules(spec, ephemeral)]
    _check_conflicts(pairs)
    return tuple(rule for rule, _ in pairs)


def _check_conflicts(pairs: "Sequence[tuple[Rule, PortSpec]]") -> None:
    # Sweep by first port. Without a conflict, the rules that are open at one port have different addresses.
    live: list[tuple[Rule, PortSpec]] = []
    for rule, spec in sorted(pairs, key=lambda pair: pair[0].first):
        live = [pair for pair in live if pair[0].last >= rule.first]
        for other, owner in live:
            if _meet(rule.address, other.address):
                both = _ports(rule.first, min(rule.last, other.last))
                if str(spec) == str(owner):
                    raise UsageError(f"port specification {str(spec)!r} names {both} twice: once is enough")
                raise UsageError(
                    f"port specification {str(spec)!r} conflicts with {str(owner)!r} on {both}; "
                    f"exclude them from one of the two, as in ~{both}"
                )
        live.append((rule, spec))


def _meet(one: "Address | None", other: "Address | None") -> bool:
    """Whether two listening addresses overlap: None with all, an unspecified address with all of its family."""
    if one is None or other is None or one == other:
        return True
    return one.version == other.version and (one.is_unspecified or other.is_unspecified)
