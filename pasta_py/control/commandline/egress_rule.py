"""Rules of the egress policy: the argument of --allow and --deny, and the lines of --egress-file.

csrc/core/egress_text.h has the grammar, and reads texts and files. What it has no tables for is here: names that are not ASCII. A
rule is kept as the bytes that the core takes (plane_egress() of csrc/plane_api.h).

Pure: parse (string -> Rule), str (Rule -> string; parse is its inverse), parse_file (bytes -> rules and default).

Invariants: no string makes parse raise anything but UsageError, whose message has the column; a rule that cannot be read never
becomes a wider one.
"""

from pasta_py import _plane
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ffi, lib = _plane.ffi, _plane.lib

TCP, UDP, ECHO = 1, 2, 4  # as in plane_egress() of csrc/plane_api.h
ALL_PROTOCOLS = TCP | UDP | ECHO

#: Kinds of a destination there, and where its bytes begin.
ANY, PREFIX, GROUPS, NAME, BELOW = range(5)
_HEAD_BYTES = 8

#: Groups of addresses and their bits there.
HOST, LAN, PRIVATE, METADATA, MULTICAST, INTERNET = 1, 2, 4, 8, 16, 128
GROUP_NAMES = {
    "@host": HOST, "@lan": LAN, "@private": PRIVATE, "@metadata": METADATA, "@multicast": MULTICAST, "@internet": INTERNET,
}  # fmt: skip

OPEN, INTERNET_ONLY, NONE = "open", "internet", "none"
PRESETS = (OPEN, INTERNET_ONLY, NONE)
_SAID = {lib.EGRESS_UNSAID: "", lib.EGRESS_OPEN: OPEN, lib.EGRESS_INTERNET_ONLY: INTERNET_ONLY, lib.EGRESS_NONE: NONE}

# IDNA 2003, which Python has, and IDNA 2008, which browsers have, differ in these: sharp s, final sigma, joiners.
_AMBIGUOUS = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")


class Rule(Record):
    """One rule."""

    encoded: bytes
    where: str = ""  # where it stands, for messages
    note: str = ""

    @property
    def allow(self) -> bool:
        return bool(self.encoded[0])

    @property
    def protocols(self) -> int:
        return self.encoded[1]

    @property
    def kind(self) -> int:
        """ANY and following."""
        return self.encoded[2]

    @property
    def name(self) -> str:
        """Lower-case A-labels without a final dot; "" for a rule that is not for a name, or the names below one."""
        size = self.encoded[_HEAD_BYTES] if self.kind in (NAME, BELOW) else 0
        return self.encoded[_HEAD_BYTES + 1 :][:size].decode()

    @property
    def prefix(self) -> tuple[bytes, int]:
        """Of a rule for a prefix its address, 16 bytes, and its length of 128 bits."""
        return self.encoded[_HEAD_BYTES:-1], self.encoded[-1]

    @property
    def ports(self) -> tuple[int, int]:
        """The first and the last one."""
        return int.from_bytes(self.encoded[4:6], "big"), int.from_bytes(self.encoded[6:8], "big")

    def __str__(self) -> str:
        return _printed(self.encoded)[0]


class Rules(Record):
    """Rules in their order."""

    encoded: bytes = b""
    texts: tuple[str, ...] = ()  # of each where it stands, "allow RULE" or "deny RULE", its note; with tabs between them

    def __iter__(self) -> "Iterator[Rule]":
        at = 0
        for text in self.texts:
            where, _, note = text.split("\t")
            _shown, size = _printed(self.encoded[at : at + lib.EGRESS_RULE_BYTES])
            yield Rule(encoded=self.encoded[at : at + size], where=where, note=note)
            at += size


def joined(these: "list[Rule | Rules]") -> Rules:
    texts: list[str] = []
    for each in these:
        texts += each.texts if isinstance(each, Rules) else (_line(each),)
    return Rules(encoded=b"".join(each.encoded for each in these), texts=tuple(texts))


def _line(rule: Rule) -> str:
    return f"{rule.where}\t{'allow' if rule.allow else 'deny'} {rule}\t{rule.note}"


def _printed(rules: bytes) -> tuple[str, int]:
    """The text of the first of these rules, and how many bytes it has."""
    out, size = ffi.new("char[]", lib.EGRESS_RULE_CHARS), ffi.new("uint32_t *")
    length = lib.egress_text_print(rules, len(rules), out, size)
    return ffi.buffer(out, length)[:].decode(), size[0]


# ---- reading ----


class _Refused(Exception):
    def __init__(self, at: int, why: str) -> None:
        self.at, self.why = at, why  # bytes before it


def parse(text: str, *, allow: bool, where: str = "", note: str = "") -> Rule:
    """The rule in `text`; one that is not ASCII is its own note. UsageError: it is none; the message has the column, from 1."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return Rule(encoded=_read(data, allow), where=where, note=note or ("" if text.isascii() else text))
    except _Refused as refused:
        before = f"{where}: " if ":" in where else ""  # file and line; the reader of options names the option
        column = 1 + len(data[: refused.at].decode("utf-8", "replace"))
        raise UsageError(f"{before}rule {text!r}, column {column}: {refused.why}") from None


def _read(data: bytes, allow: bool) -> bytes:
    out, no = ffi.new("uint8_t[]", lib.EGRESS_RULE_BYTES), ffi.new("struct egress_refusal *")
    size = lib.egress_text_read(data, len(data), allow, out, no)
    if not size and no.foreign:
        at, end = no.at, no.end
        name = _to_ascii(data[at:end], at)
        read = data[:at] + name + data[end:]
        size = lib.egress_text_read(read, len(read), allow, out, no)
        if not size:
            behind = no.at - at - len(name)
            raise _Refused(end + behind if behind >= 0 else at, _why(no))
    if not size:
        raise _Refused(no.at, _why(no))
    return bytes(ffi.buffer(out, size))


def _why(no: "Any") -> str:
    return bytes(ffi.string(no.why)).decode("utf-8", "replace")


def _to_ascii(name: bytes, at: int) -> bytes:
    """The A-labels of a name that is not ASCII and begins at `at` (RFC 5890, 2.3.2.1)."""
    text = name.decode("utf-8", "surrogateescape")
    for index, character in enumerate(text):
        there = at + len(text[:index].encode("utf-8", "surrogateescape"))
        if character.isspace() or not character.isprintable():
            raise _Refused(there, f"{character!r} has no place in a rule")
        if character in _AMBIGUOUS:
            raise _Refused(there, f"{character!r} has two forms in DNS: write the name as it is asked for, with xn--")
    try:
        found = text.encode("idna").decode("ascii")
    except UnicodeError:
        found = ""
    # What looks like one of these characters must not become part of the grammar: a wide asterisk, a wide digit.
    if not found or not all(c.isalnum() or c in "-_." for c in found) or found.rstrip(".").rpartition(".")[2].isdigit():
        raise _Refused(at, f"{text!r} has no form in DNS: write it as it is asked for, with xn--")
    return found.encode()


# ---- files ----


class Parsed(Record):
    """What a file says."""

    rules: Rules
    default: str  # of PRESETS; "": it says none


def parse_file(data: bytes, path: str) -> Parsed:
    """The rules of a file. UsageError, with file, line and column, for anything that is not understood."""
    try:
        data = data.decode("utf-8-sig").encode()
    except UnicodeDecodeError as error:
        bad = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{bad}: this is not UTF-8 text") from None
    name = ffi.new("char[]", path.encode("utf-8", "surrogateescape"))
    file, no, read = ffi.new("struct egress_file *", {"path": name}), ffi.new("struct egress_refusal *"), data
    try:
        while (result := lib.egress_file_read(file, read, len(read), no)) != 0:
            if result != -_EINVAL:
                raise MemoryError
            if not no.foreign:
                _refuse(data, path, no)
            try:
                read = _in_ascii(read, no.at, no.end)
            except _Refused:
                _refuse(data, path, no)
        if not file.count and not file.preset:
            raise UsageError(f"{path}: the file says nothing: give it a rule, or a line 'default none'")
        texts = ffi.buffer(file.texts, file.texts_len)[:].decode("utf-8", "surrogateescape") if file.count else ""
        encoded = ffi.buffer(file.rules, file.rules_len)[:] if file.count else b""
        return Parsed(rules=Rules(encoded=encoded, texts=tuple(texts.split("\n")[:-1])), default=_SAID[file.preset])
    finally:
        lib.egress_file_free(file)


def _in_ascii(data: bytes, at: int, end: int) -> bytes:
    """A file with the A-labels of a name that is not ASCII; the line as it was is its note, if it has none."""
    line_end = (data.find(b"\n", end) + 1 or len(data) + 1) - 1
    line = data[data.rfind(b"\n", 0, at) + 1 : line_end].rstrip()
    note = b"" if b"#" in line else b"  # " + line.split()[-1]
    return data[:at] + _to_ascii(data[at:end], at) + data[end:line_end].rstrip() + note + data[line_end:]


def _refuse(data: bytes, path: str, no: "Any") -> None:
    """UsageError for the line that was refused; the file is as it was read."""
    where = f"{path}:{no.line}"
    if no.whole_line:
        raise UsageError(f"{where}: {_why(no)}")
    word, rule = data.split(b"\n")[no.line - 1].partition(b"#")[0].split()
    parse(rule.decode(), allow=word == b"allow", where=where)


def remarks(policy: bytes, count: int) -> "list[tuple[int, int]]":
    """Of the `count` rules of a policy those that never decide, each with the earlier rule because of which; TOO_WIDE in its place:
    the rule allows all names below a top domain."""
    out = ffi.new("struct egress_remark[]", max(count, 1))
    found = lib.egress_remarks(policy, len(policy), out, count)
    return [(out[i].rule, out[i].earlier) for i in range(found)]


TOO_WIDE: int = lib.EGRESS_TOO_WIDE
_EINVAL = 22
