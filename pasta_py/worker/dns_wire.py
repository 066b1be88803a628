"""DNS messages (RFC 1035, 4): from bytes to checked records, and back. Both sides are hostile, the guest and the nameservers.

Invariants: nothing here raises but Malformed, whatever the bytes. Names in records are uncompressed and in wire form, those inside
of record data too, so that a record can move to another message. The time for a message grows with its length only: a
compression pointer leads backwards, and what it leads to is read once.

Rejected: dnspython (12 MiB and 100 ms to import) and dnslib (2.5 MiB and 18 ms, and it has no views of names inside of data).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER_BYTES = 12
NAME_MAX_BYTES = 255  # RFC 1035, 2.3.4
MESSAGE_MAX_BYTES = 65535
UDP_PLAIN_BYTES = 512  # RFC 1035, 4.2.1: without EDNS

# RFC 1035, 4.1.1; AD and CD: RFC 4035, 3.2
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE = 0x7800

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = range(5)  # RFC 1035, 4.1.1
BADVERS = 16  # RFC 6891, 9

IN = 1
A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR, DNAME, OPT, DS, SSHFP = 1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 39, 41, 43, 44
RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, TLSA, SVCB, HTTPS, CAA = 46, 47, 48, 50, 51, 52, 64, 65, 257

_KIND_NAMES = (
    "A", "NS", "CNAME", "SOA", "PTR", "MX", "TXT", "AAAA", "SRV", "NAPTR", "DNAME", "OPT", "DS", "SSHFP", "RRSIG", "NSEC",
    "DNSKEY", "NSEC3", "NSEC3PARAM", "TLSA", "SVCB", "HTTPS", "CAA",
)  # fmt: skip

_DO = 0x8000  # RFC 6891, 6.1.4
EDE = 15  # RFC 8914, 2: the option for Extended DNS Errors

# Where names stand in the data of a record: a digit is that many bytes, "s" a character string, "n" a name, "*" the rest.
# RFC 1035, 3.3; RFC 1183 (RP, AFSDB, RT); RFC 2230 (KX); RFC 2782 (SRV); RFC 3403 (NAPTR); RFC 6672 (DNAME); RFC 4034 (RRSIG,
# NSEC); RFC 9460 (SVCB, HTTPS). RFC 3597, 4: data of other types has no compressed names.
_LAYOUTS = {
    NS: "n", 3: "n", 4: "n", CNAME: "n", SOA: "nn*", 7: "n", 8: "n", 9: "n", PTR: "n", 14: "nn", MX: "2n", 17: "nn", 18: "2n",
    21: "2n", 24: "99n*", SRV: "6n", NAPTR: "4sssn", 36: "2n", DNAME: "n", RRSIG: "99n*", NSEC: "n*", SVCB: "2n*", HTTPS: "2n*",
}  # fmt: skip
_COMPRESSED = frozenset((NS, CNAME, SOA, PTR, MX))  # RFC 3597, 4: only names in these may be compressed


class Malformed(Exception):
    """Bytes that are no DNS message."""


class Rr:
    """One resource record. `data` has no compressed names."""

    __slots__ = ("name", "kind", "klass", "ttl", "data")

    def __init__(self, name: bytes, kind: int, ttl: int, data: bytes, klass: int = IN) -> None:
        self.name, self.kind, self.klass, self.ttl, self.data = name, kind, klass, ttl, data

    def _key(self) -> "tuple[object, ...]":
        return self.name, self.kind, self.klass, self.ttl, self.data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rr) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Rr({text(self.name)} {self.ttl} {self.klass} {self.kind} {self.data.hex()})"


class Edns:
    """What an OPT record says (RFC 6891, 6.1)."""

    __slots__ = ("udp_bytes", "do", "version", "rcode_high", "options")

    def __init__(
        self, udp_bytes: int, do: bool = False, version: int = 0, rcode_high: int = 0, options: "Iterable[tuple[int, bytes]]" = ()
    ) -> None:
        self.udp_bytes, self.do, self.version, self.rcode_high = udp_bytes, do, version, rcode_high
        self.options = tuple(options)


class Message:
    """A DNS message. Of a query `sections` are empty: what a client may put there is read and forgotten."""

    __slots__ = ("ident", "flags", "name", "kind", "klass", "sections", "edns")

    def __init__(
        self, ident: int, flags: int, name: bytes, kind: int, klass: int = IN,
        sections: "tuple[list[Rr], list[Rr], list[Rr]] | None" = None, edns: "Edns | None" = None,
    ) -> None:  # fmt: skip
        self.ident, self.flags, self.name, self.kind, self.klass = ident, flags, name, kind, klass
        self.sections: tuple[list[Rr], list[Rr], list[Rr]] = sections or ([], [], [])  # answer, authority, additional without OPT
        self.edns = edns

    @property
    def rcode(self) -> int:
        return self.flags & 15 | (self.edns.rcode_high << 4 if self.edns else 0)


# ---- reading ----


class _Reader:
    """A position in a message. `end` is that of the record or the message that is being read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.end = data, 0, len(data)
        self._known: dict[int, bytes] = {}  # names by where they begin

    def take(self, count: int) -> bytes:
        at = self.at
        if count > self.end - at:
            raise Malformed("cut short")
        self.at = at + count
        return self.data[at : at + count]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def name(self) -> bytes:
        """A name, compressed or not (RFC 1035, 4.1.4)."""
        data, known, at, behind = self.data, self._known, self.at, 0
        start, end = at, self.end  # a pointer leads to before `start`
        passed: list[int] = []  # labels and pointers
        while True:
            if behind and at in known:
                wire = known[at]
                break
            if at >= end:
                raise Malformed("a name is cut short")
            size = data[at]
            if not size:
                wire = b"\0"
                behind = behind or at + 1
                break
            passed.append(at)
            if size < 64:
                at += 1 + size
                continue
            if size < 192 or at + 2 > end:
                raise Malformed("neither a label nor a pointer")
            behind = behind or at + 2
            at, end = (size & 63) << 8 | data[at + 1], len(data)
            if not HEADER_BYTES <= at < start:
                raise Malformed("a pointer that does not lead backwards")
            start = at
        for at in reversed(passed):
            if data[at] < 64:
                wire = data[at : at + 1 + data[at]] + wire
            if len(wire) > NAME_MAX_BYTES:
                raise Malformed("a name of more than 255 bytes")
            known[at] = wire
        self.at = behind
        return wire

    def rdata(self, kind: int, size: int) -> bytes:
        """The data of a record, its names uncompressed."""
        layout = _LAYOUTS.get(kind)
        if layout is None:
            return self.take(size)
        whole, pieces = self.end, b""
        if size > whole - self.at:
            raise Malformed("a record is cut short")
        self.end = self.at + size
        for field in layout:
            if field == "n":
                pieces += self.name()
            elif field == "s":
                pieces += self.take(1)
                pieces += self.take(pieces[-1])
            else:
                pieces += self.take(self.end - self.at if field == "*" else int(field))
        if self.at != self.end:
            raise Malformed("a record has bytes left over")
        self.end = whole
        return pieces

    def record(self) -> Rr:
        name = self.name()
        head = self.take(10)
        kind, klass, ttl, size = (int.from_bytes(head[a:b], "big") for a, b in ((0, 2), (2, 4), (4, 8), (8, 10)))
        # RFC 2181, 8: a TTL with the highest bit set is 0.
        return Rr(name, kind, ttl if ttl < 1 << 31 or kind == OPT else 0, self.rdata(kind, size), klass)


def read(data: bytes) -> Message:
    """A message with one question. Bytes behind its last record are ignored."""
    reader = _Reader(data)
    ident, flags, *counts = (reader.number(2) for _ in range(6))
    if counts[0] != 1:
        raise Malformed("not one question")
    name, kind, klass = reader.name(), reader.number(2), reader.number(2)
    message = Message(ident, flags, name, kind, klass)
    for section, count in zip(message.sections, counts[1:]):
        for _ in range(count):
            record = reader.record()
            if record.kind == OPT:
                if message.edns or record.name != b"\0" or section is not message.sections[2]:
                    raise Malformed("an OPT record where none may be")  # RFC 6891, 6.1.1
                message.edns = _edns(record)
            else:
                section.append(record)
    return message


def read_query(data: bytes) -> "Message | None":
    """A guest's query. None: it gets no answer, because it is one itself or has no header. Malformed: FORMERR answers it.

    A query with another opcode than QUERY has only a header; NOTIMP answers it.
    """
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        return None
    if data[2] << 8 & _OPCODE:
        return Message(data[0] << 8 | data[1], data[2] << 8 | data[3], b"\0", 0)
    query = read(data)
    query.sections = ([], [], [])
    return query


def question(data: bytes) -> "tuple[bytes, int] | None":
    """The name and type of the first question of a message, in a fifth of the time that read() takes; None if it has none."""
    at, last = HEADER_BYTES, len(data) - 5  # a type and a class follow the name
    while at <= last and data[at]:
        at += 1 + data[at]
    at += 1
    if not HEADER_BYTES < at <= len(data) - 4 or at - HEADER_BYTES > NAME_MAX_BYTES:
        return None
    name = data[HEADER_BYTES:at]
    return name, data[at] << 8 | data[at + 1]


def is_query(message: Message) -> bool:
    return not message.flags & _OPCODE


def _edns(record: Rr) -> Edns:
    reader = _Reader(record.data)
    options = []
    while reader.at < reader.end:
        code, size = reader.number(2), reader.number(2)
        options.append((code, reader.take(size)))
    return Edns(
        record.klass, bool(record.ttl & _DO), version=record.ttl >> 16 & 255, rcode_high=record.ttl >> 24, options=options
    )


# ---- writing ----


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[bytes, int] = {}  # lower-case names and where they begin

    def name(self, wire: bytes) -> None:
        known, data, at = self._known, self.data, 0
        lower = wire.lower()  # no length is the code of a letter
        while wire[at]:
            pointer = known.get(lower[at:])
            if pointer is not None:
                data += wire[:at] + (0xC000 | pointer).to_bytes(2, "big")
                return
            if len(data) + at < 0x4000:
                known[lower[at:]] = len(data) + at
            at += 1 + wire[at]
        data += wire

    def record(self, record: Rr) -> None:
        self.name(record.name)
        self.data += record.kind.to_bytes(2, "big") + record.klass.to_bytes(2, "big") + record.ttl.to_bytes(4, "big") + b"\0\0"
        start = len(self.data)
        if record.kind in _COMPRESSED:
            for field, piece in split(record.kind, record.data):
                if field == "n":
                    self.name(piece)
                else:
                    self.data += piece
        else:
            self.data += record.data
        self.data[start - 2 : start] = (len(self.data) - start).to_bytes(2, "big")


def write(message: Message, most_bytes: int = MESSAGE_MAX_BYTES) -> bytes:
    """The bytes of a message. Where it exceeds `most_bytes`, records are left out and TC says so (RFC 2181, 9).

    Records of the additional section are left out without TC. The OPT record always has room in 512 bytes, unless its options are
    long: then it loses them.
    """
    writer, edns, counts, flags = _Writer(), message.edns, [0, 0, 0], message.flags
    writer.data += bytes(HEADER_BYTES)
    writer.name(message.name)
    writer.data += message.kind.to_bytes(2, "big") + message.klass.to_bytes(2, "big")
    opt = _opt(edns) if edns else b""
    if edns and len(writer.data) + len(opt) > most_bytes:
        opt = _opt(Edns(edns.udp_bytes, edns.do, edns.version, edns.rcode_high))
    room = most_bytes - len(opt)
    for index, section in enumerate(message.sections):
        for record in section:
            before = len(writer.data)
            writer.record(record)
            if len(writer.data) > room:
                del writer.data[before:]
                flags |= TC if index < 2 else 0
                break
            counts[index] += 1
        else:
            continue
        break
    writer.data += opt
    numbers = (message.ident, flags, 1, counts[0], counts[1], counts[2] + bool(opt))
    writer.data[:HEADER_BYTES] = b"".join(number.to_bytes(2, "big") for number in numbers)
    return bytes(writer.data)


def write_error(query: bytes, rcode: int) -> bytes:
    """The answer to a query that cannot be read, from at least a header of it: no question (RFC 1035, 4.1.1)."""
    flags = QR | RA | rcode | (query[2] << 8 & (_OPCODE | RD))
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def _opt(edns: Edns) -> bytes:
    options = b"".join(code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for code, value in edns.options)
    ttl = edns.rcode_high << 24 | edns.version << 16 | (_DO if edns.do else 0)
    return b"\0\0\x29" + edns.udp_bytes.to_bytes(2, "big") + ttl.to_bytes(4, "big") + len(options).to_bytes(2, "big") + options


# ---- record data and names ----


def split(kind: int, data: bytes) -> "list[tuple[str, bytes]]":
    """The data of a record of a type that has names in it, in pieces: ("n", a name) or ("", other bytes)."""
    pieces, at = [], 0
    for field in _LAYOUTS[kind]:
        end = at
        if field == "n":
            while data[end]:
                end += 1 + data[end]
            end += 1
        elif field == "s":
            end += 1 + data[end]
        else:
            end = len(data) if field == "*" else end + int(field)
        pieces.append((field if field == "n" else "", data[at:end]))
        at = end
    return pieces


def target(record: Rr) -> bytes:
    """The last name in the data of a record; b"" if it has none."""
    if record.kind not in _LAYOUTS:
        return b""
    return [piece for field, piece in split(record.kind, record.data) if field == "n"][-1]


def labels(wire: bytes) -> "list[bytes]":
    """The labels of a name, without the root."""
    found, at = [], 0
    while wire[at]:
        found.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return found


_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_*/"


def text(wire: bytes) -> str:
    """A name as people read it, without the final dot; "." for the root.

    Every byte but letters, digits and -_*/ is \\DDD (RFC 1035, 5.1): what is shown can be put into a terminal, JSON or HTML.
    """
    if wire == b"\0":
        return "."
    parts = labels(wire)
    whole = b".".join(parts)
    if whole.translate(None, _PLAIN) == b"." * (len(parts) - 1):
        return whole.decode("ascii")
    return ".".join("".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label) for label in parts)


def from_text(name: str) -> bytes:
    """The wire form of what text() shows; ValueError for what is no name."""
    wire = b""
    for part in name.split(".") if name not in ("", ".") else ():
        label, at = b"", 0
        while at < len(part):
            if part[at] == "\\":
                label += bytes((int(part[at + 1 : at + 4]),))
                at += 4
            else:
                label += part[at].encode("ascii")
                at += 1
        if not 0 < len(label) < 64:
            raise ValueError(f"not a name: {name!r}")
        wire += bytes((len(label),)) + label
    if len(wire) >= NAME_MAX_BYTES:
        raise ValueError(f"not a name: {name!r}")
    return wire + b"\0"


def kind_name(kind: int) -> str:
    """The name of a type; RFC 3597, 5 for those that have none here."""
    return next((name for name in _KIND_NAMES if globals()[name] == kind), f"TYPE{kind}")
