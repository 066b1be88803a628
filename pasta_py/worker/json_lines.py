"""JSON (RFC 8259) for the control socket: requests in, answers out. One object is one line.

The json module takes 1.4 MB, and cannot be loaded behind the lock-in. Of numbers this one has what fits 64 bits.

Invariants: `parse` of any bytes gives a value or raises ControlError; it needs memory in proportion to the line, and no more depth
than _MAX_DEPTH. What `text` gives is ASCII without control characters, whatever is in the value: a terminal can show it.
"""

from pasta_py.errors import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Value: TypeAlias = "None | bool | int | float | str | list[Value] | dict[str, Value]"
    Object: TypeAlias = dict[str, Value]

_MAX_DEPTH = 8
_MAX_DIGITS = 32
_HIGH, _LOW = 0xD800, 0xDC00  # of a pair that stands for one character (RFC 8259, 7)
_SPACE = " \t\r\n"
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS: "dict[str, None | bool]" = {"null": None, "true": True, "false": False}


def parse(line: bytes) -> "dict[str, Value]":
    """The object in a line; ControlError with the reason if there is none."""
    try:
        reader = _Reader(line.decode())
    except UnicodeDecodeError:
        raise ControlError("not JSON: not UTF-8") from None
    value = reader.value(0)
    if reader.skip():
        raise ControlError(f"not JSON: more behind the end, at {reader.at}")
    if not isinstance(value, dict):
        raise ControlError("not a request: it is no JSON object")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def skip(self) -> str:
        """The next character that is no space, "" at the end."""
        while self.text[self.at : self.at + 1] in tuple(_SPACE):
            self.at += 1
        return self.text[self.at : self.at + 1]

    def wrong(self, wanted: str) -> ControlError:
        return ControlError(f"not JSON: {wanted} is missing at {self.at}")

    def value(self, depth: int) -> "Value":
        if depth > _MAX_DEPTH:
            raise ControlError("not a request: nested too deeply")
        first = self.skip()
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self.array(depth)
        if first == '"':
            return self.string()
        for word, value in _WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        return self.number()

    def object(self, depth: int) -> "dict[str, Value]":
        found: "dict[str, Value]" = {}
        self.at += 1
        if self.skip() == "}":
            self.at += 1
            return found
        while True:
            if self.skip() != '"':
                raise self.wrong("a name")
            name = self.string()
            if self.skip() != ":":
                raise self.wrong("a colon")
            self.at += 1
            found[name] = self.value(depth + 1)
            if self.more("}"):
                return found

    def array(self, depth: int) -> "list[Value]":
        found: "list[Value]" = []
        self.at += 1
        if self.skip() == "]":
            self.at += 1
            return found
        while True:
            found.append(self.value(depth + 1))
            if self.more("]"):
                return found

    def more(self, end: str) -> bool:
        """Step over a comma or the end; whether it was the end."""
        character = self.skip()
        if character not in (",", end):
            raise self.wrong(f"a comma or {end}")
        self.at += 1
        return character == end

    def string(self) -> str:
        end = self.text.find('"', self.at + 1)
        plain = self.text[self.at + 1 : end]
        if end > 0 and "\\" not in plain and plain.isprintable():  # long ones: a character at a time takes long
            self.at = end + 1
            return plain
        found: "list[str]" = []
        self.at += 1
        while True:
            character = self.text[self.at : self.at + 1]
            self.at += 1
            if character == '"':
                return "".join(found)
            if character < " ":  # "" too
                raise self.wrong("a quotation mark")
            if character == "\\":
                character = self.escape()
            found.append(character)

    def escape(self) -> str:
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        if kind != "u":
            raise self.wrong("an escape")
        number = self.unit()
        if number >> 10 == _HIGH >> 10 and self.text.startswith("\\u", self.at):
            self.at += 2
            low = self.unit()
            if low >> 10 == _LOW >> 10:
                return chr(0x10000 + ((number - _HIGH) << 10) + low - _LOW)
            self.at -= 6  # no pair: each stands for itself
        return chr(number)

    def unit(self) -> int:
        """Four hexadecimal digits."""
        digits = self.text[self.at : self.at + 4]
        if len(digits) < 4 or digits.strip("0123456789abcdefABCDEF"):
            raise self.wrong("an escape")
        self.at += 4
        return int(digits, 16)

    def number(self) -> "int | float":
        start = self.at
        while self.text[self.at : self.at + 1] in tuple("+-0123456789.eE") and self.at - start < _MAX_DIGITS:
            self.at += 1
        word = self.text[start : self.at]
        try:
            return float(word) if word.strip("-0123456789") else int(word)
        except ValueError:
            raise self.wrong("a value") from None


def text(value: "Value") -> str:
    """A value as JSON. Names and strings may hold anything."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{text(each)}" for name, each in value.items()) + "}"
    return "[" + ",".join(map(text, value)) + "]"


def _quoted(value: str) -> str:
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else _escaped(c) for c in value) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{_HIGH + (number >> 10):04x}\\u{_LOW + (number & 0x3FF):04x}"
