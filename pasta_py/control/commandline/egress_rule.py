"""Rules of the egress policy: the argument of --allow and --deny, and the lines of --egress-file.

    RULE   := DEST[:PORT[-PORT]][/PROTO]
    DEST   := * | NAME[=LIMIT] | *.NAME[=LIMIT] | ADDR | PREFIX | GROUP          IPv6 in brackets, with its length inside them
    LIMIT  := ADDR | PREFIX | GROUP                                              what the name may resolve into
    GROUP  := @host | @lan | @private | @metadata | @multicast | @internet
    PROTO  := tcp | udp | icmp

Without port and protocol a rule is for all of tcp, udp and icmp; with a port alone for tcp and udp.

Pure: parse (string -> Rule), str (Rule -> string; parse is its inverse), parse_file (text -> rules and default).

Invariants: no string makes parse raise anything but UsageError, whose message has the column; a rule that cannot be read never
becomes a wider one.
"""

import _socket

from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Fields = dict[str, Any]  # of a Rule

TCP, UDP, ECHO = 1, 2, 4  # as in plane_egress() of csrc/plane_api.h
ALL_PROTOCOLS = TCP | UDP | ECHO
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ECHO}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
MAX_PORT = 65535

#: Kinds of a destination, and of a limit, as in plane_egress() of csrc/plane_api.h.
ANY, PREFIX, GROUPS, NAME, BELOW = range(5)

#: Groups of addresses and their bits there.
HOST, LAN, PRIVATE, METADATA, MULTICAST, INTERNET = 1, 2, 4, 8, 16, 128
GROUP_NAMES = {
    "@host": HOST, "@lan": LAN, "@private": PRIVATE, "@metadata": METADATA, "@multicast": MULTICAST, "@internet": INTERNET,
}  # fmt: skip
_NAMES_OF_GROUPS = {bit: name for name, bit in GROUP_NAMES.items()}

#: Names that stand for the host without any query: runtimes write them into the guest's /etc/hosts.
HOST_NAMES = ("host.containers.internal", "host.docker.internal")

OPEN, INTERNET_ONLY, NONE = "open", "internet", "none"
PRESETS = (OPEN, INTERNET_ONLY, NONE)
FILE_VERSION = "1"

_LABEL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_MAX_LABEL, _MAX_NAME = 63, 253  # RFC 1035, 2.3.4, as text without the final dot
_V4_PREFIX = bytes(10) + b"\xff\xff"
# IDNA 2003, which Python has, and IDNA 2008, which browsers have, differ in these: sharp s, final sigma, joiners.
_AMBIGUOUS = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")


class Rule(Record):
    """One rule. The prefix is of the destination, or of the limit of a name; so are the groups."""

    allow: bool
    kind: int  # ANY, PREFIX, GROUPS, NAME, BELOW
    name: str = ""  # lower-case A-labels, without a final dot
    limit: int = ANY  # of a name: ANY (none), PREFIX, GROUPS
    address: bytes = b""  # 16 bytes, IPv4 in v4-mapped form, zero behind the prefix
    bits: int = 0  # of 128
    groups: int = 0
    first: int = 0
    last: int = MAX_PORT
    protocols: int = ALL_PROTOCOLS
    where: str = ""  # where it stands, for messages
    note: str = ""

    def __str__(self) -> str:
        return _destination(self) + _end(self)


def _destination(rule: Rule) -> str:
    if rule.kind == ANY:
        return "*"
    name = {NAME: rule.name, BELOW: f"*.{rule.name}"}.get(rule.kind, "")
    what = rule.kind if not name else rule.limit
    limit = _prefix_text(rule) if what == PREFIX else _NAMES_OF_GROUPS[rule.groups] if what == GROUPS else ""
    return f"{name}={limit}" if name and limit else name or limit


def _prefix_text(rule: Rule) -> str:
    if rule.address.startswith(_V4_PREFIX) and rule.bits >= 96:
        text, bits, whole = _socket.inet_ntop(_socket.AF_INET, rule.address[12:]), rule.bits - 96, 32
        return text if bits == whole else f"{text}/{bits}"
    text = _socket.inet_ntop(_socket.AF_INET6, rule.address)
    return f"[{text}]" if rule.bits == 128 else f"[{text}/{rule.bits}]"


def _end(rule: Rule) -> str:
    every = (rule.first, rule.last) == (0, MAX_PORT)
    ports = "" if every else f":{rule.first}" if rule.first == rule.last else f":{rule.first}-{rule.last}"
    if rule.protocols == (ALL_PROTOCOLS if every else TCP | UDP):
        return ports
    return f"{ports}/{_PROTOCOL_NAMES[rule.protocols]}"


# ---- parsing ----


class _Refused(Exception):
    def __init__(self, column: int, why: str) -> None:
        self.column, self.why = column, why


def parse(text: str, *, allow: bool, where: str = "", note: str = "") -> Rule:
    """The rule in `text`. UsageError: it is none; the message has the column, counted from 1."""
    try:
        return _rule(text, allow, where, note)
    except _Refused as refused:
        at = f"{where}: " if where and not where.startswith("-") else ""  # the reader of options names the option
        raise UsageError(f"{at}rule {text!r}, column {refused.column + 1}: {refused.why}") from None


def _rule(text: str, allow: bool, where: str, note: str) -> Rule:
    _check_characters(text)
    fields, at = _read_destination(text)
    if not allow and fields.get("limit"):
        raise _Refused(text.index("="), "'=' limits what is allowed: a deny takes the name alone")
    protocols = ALL_PROTOCOLS
    if text.startswith(":", at):
        fields["first"], fields["last"], at = _read_ports(text, at + 1)
        protocols = TCP | UDP
    if text.startswith("/", at):
        protocols = _read_protocol(text, at + 1, "first" in fields)
        at = len(text)
    if at < len(text):
        raise _Refused(at, f"{text[at]!r} is not expected here: a rule is DEST[:PORT[-PORT]][/PROTO]")
    return Rule(allow=allow, protocols=protocols, where=where, note=note, **fields)


def _check_characters(text: str) -> None:
    if text.isascii() and text.isprintable() and " " not in text and "," not in text and text:
        return
    if not text:
        raise _Refused(0, "it is empty: give a destination such as example.org:443")
    for column, character in enumerate(text):
        if character == ",":
            raise _Refused(column, "',' has no place in a rule: give one rule for each port or destination")
        if character.isspace() or not character.isprintable():
            raise _Refused(column, f"{character!r} has no place in a rule")


def _read_destination(text: str) -> "tuple[Fields, int]":
    """The fields of the destination, and where it ends."""
    if text[0] in "[@":
        return _read_addresses(text, 0)
    end = _token_end(text, 0)
    token = text[:end]
    if token == "*":
        return {"kind": ANY}, end
    last_label = token.rstrip(".").rpartition(".")[2]
    if last_label[:1].isdigit() and (last_label.isdigit() or last_label[:2] in ("0x", "0X")):  # no name ends so (RFC 1123, 2.1)
        return _read_addresses(text, 0)
    below = token.startswith("*.")
    name = _a_labels(text, 2 if below else 0, end)
    if name in HOST_NAMES and not below:
        return {"kind": GROUPS, "groups": HOST}, end
    fields: Fields = {"kind": BELOW if below else NAME, "name": name}
    if text.startswith("=", end):
        limit, end = _read_addresses(text, end + 1)
        fields |= limit | {"kind": fields["kind"], "limit": limit["kind"]}
    return fields, end


def _token_end(text: str, at: int) -> int:
    ends = [i for i in (text.find(":", at), text.find("/", at), text.find("=", at)) if i >= 0]
    return min(ends) if ends else len(text)


def _read_addresses(text: str, at: int) -> "tuple[Fields, int]":
    """An address, a prefix or a group from `at` on."""
    if text.startswith("@", at):
        end = _token_end(text, at)
        group = GROUP_NAMES.get(text[at:end])
        if group is None:
            raise _Refused(at, f"{text[at:end]!r} is no group: expected one of {', '.join(GROUP_NAMES)}")
        if group == INTERNET and at:
            raise _Refused(at, "a name resolves into @internet without saying so: leave it out")
        return {"kind": GROUPS, "groups": group}, end
    if text.startswith("[", at):
        end = text.find("]", at)
        if end < 0:
            raise _Refused(at, "']' is missing")
        address, slash, length = text[at + 1 : end].partition("/")
        return _prefix(text, at + 1, _socket.AF_INET6, address, length if slash else None), end + 1
    end = _token_end(text, at)
    address = text[at:end]
    shorter: str | None = None
    if text.startswith("/", end) and text[end + 1 : end + 2].isdigit():
        after = _token_end(text, end + 1)
        shorter, end = text[end + 1 : after], after
    return _prefix(text, at, _socket.AF_INET, address, shorter), end


def _prefix(text: str, at: int, family: int, address: str, length: "str | None") -> "Fields":
    try:
        packed = _socket.inet_pton(family, address)
    except (OSError, ValueError):
        if family == _socket.AF_INET and text.count(":", at) > 1:
            raise _Refused(at, "put an IPv6 address into brackets, as [2001:db8::1]:443") from None
        what = "an IPv4 address" if family == _socket.AF_INET else "an IPv6 address"
        raise _Refused(at, f"{address!r} is not {what}" + (": a name is not expected here" if at else "")) from None
    whole = 8 * len(packed)
    bits = whole
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= whole):
            raise _Refused(at + len(address) + 1, f"{length!r} is no prefix length: expected a number from 0 to {whole}")
        bits = int(length)
    value = int.from_bytes(packed, "big")
    first = value >> whole - bits << whole - bits
    if first != value:
        shown = _socket.inet_ntop(family, first.to_bytes(whole // 8, "big"))
        raise _Refused(at, f"bits are set behind the prefix: {shown}/{bits} is the prefix, {address} the address alone")
    if family == _socket.AF_INET:
        return {"kind": PREFIX, "address": _V4_PREFIX + packed, "bits": bits + 96}
    if packed.startswith(_V4_PREFIX) and bits >= 96:
        raise _Refused(at, f"{address!r} is an IPv4 address in IPv6 form: write it as IPv4, which covers this form")
    return {"kind": PREFIX, "address": packed, "bits": bits}


def _read_ports(text: str, at: int) -> "tuple[int, int, int]":
    slash = text.find("/", at)
    end = slash if slash >= 0 else len(text)
    if ":" in text[at:end]:
        raise _Refused(text.index(":", at), "a second ':': put an IPv6 address into brackets, as [2001:db8::1]:443")
    first, dash, last = text[at:end].partition("-")
    low = _port(first, at)
    high = _port(last, at + len(first) + 1) if dash else low
    if high < low:
        raise _Refused(at, f"the range {first}-{last} ends before it begins: did you mean {last}-{first}?")
    return low, high, end


def _port(text: str, at: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_PORT):
        raise _Refused(at, f"{text!r} is no port: expected a number from 1 to {MAX_PORT}")
    return int(text)


def _read_protocol(text: str, at: int, ports: bool) -> int:
    protocol = _PROTOCOLS.get(text[at:])
    if protocol is None:
        raise _Refused(at, f"{text[at:]!r} is no protocol: expected one of {', '.join(_PROTOCOLS)}")
    if protocol == ECHO and ports:
        raise _Refused(at, "icmp has no ports: leave the port or the protocol out")
    return protocol


def _a_labels(text: str, at: int, end: int) -> str:
    """The name from `at` to `end` as lower-case A-labels without a final dot (RFC 5890, 2.3.2.1)."""
    name = text[at:end]
    if not name.isascii():
        name = _to_ascii(name, at)
    name = name.lower().removesuffix(".")
    if "*" in name:
        raise _Refused(text.index("*", at), "'*' stands alone or as the whole first label, as in *.example.org")
    for label in name.split("."):
        if not label:
            raise _Refused(at, f"{text[at:end]!r} has an empty label" if name else "a name is missing")
        if len(label) > _MAX_LABEL:
            raise _Refused(at, f"the label {label[:20]!r}... has {len(label)} characters: {_MAX_LABEL} are the most")
        if not _LABEL_CHARS.issuperset(label):
            bad = next(c for c in label if c not in _LABEL_CHARS)
            raise _Refused(max(text.find(bad, at), at), f"{bad!r} has no place in a name")
    if len(name) > _MAX_NAME:
        raise _Refused(at, f"the name has {len(name)} characters: {_MAX_NAME} are the most")
    return name


def _to_ascii(name: str, at: int) -> str:
    bad = next((i for i, c in enumerate(name) if c in _AMBIGUOUS), -1)
    if bad >= 0:
        raise _Refused(at + bad, f"{name[bad]!r} has two forms in DNS: write the name as it is asked for, with xn--")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise _Refused(at, f"{name!r} has no form in DNS: write it as it is asked for, with xn--") from None


# ---- files ----


class Parsed(Record):
    """What a file says."""

    rules: tuple[Rule, ...]
    default: str  # of PRESETS; "": it says none


def parse_file(data: bytes, path: str) -> Parsed:
    """The rules of a file. UsageError, with file, line and column, for anything that is not understood."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{bad}: this is not UTF-8 text") from None
    rules: list[Rule] = []
    default = ""
    for row, line in enumerate(text.split("\n"), 1):
        words, _, note = line.removesuffix("\r").partition("#")
        word, values = (words.split() or [""])[0], words.split()[1:]
        if word in ("allow", "deny") and len(values) == 1:
            rules.append(parse(values[0], allow=word == "allow", where=f"{path}:{row}", note=note.strip()))
        elif word == "default" and len(values) == 1:
            default = _file_default(values[0], default, f"{path}:{row}")
        elif word == "version" and len(values) == 1:
            if values[0] != FILE_VERSION:
                raise UsageError(f"{path}:{row}: version {values[0]!r} is not known: expected {FILE_VERSION}")
        elif word:
            expected = "expected 'allow RULE', 'deny RULE', 'default PRESET' or 'version 1'"
            raise UsageError(f"{path}:{row}: {line.strip()!r} is not understood: {expected}")
    if not rules and not default:
        raise UsageError(f"{path}: the file says nothing: give it a rule, or a line 'default none'")
    return Parsed(rules=tuple(rules), default=default)


def _file_default(value: str, before: str, where: str) -> str:
    if value not in PRESETS:
        raise UsageError(f"{where}: {value!r} is no default: expected one of {', '.join(PRESETS)}")
    if before:
        raise UsageError(f"{where}: a second default: one line of a file says it")
    return value
