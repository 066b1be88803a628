"""Which name an address stands for, as the guest's own DNS answers say. For people who read flows; nothing is decided by it.

Where no policy answers the guest's queries, the core copies answers that pass (csrc/core/dns_copies.h) and `Copied` reads them.
"""

import time

from pasta_py.worker import dns_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker import plane

_NAMES_MAX = 8192
_NEVER = float("inf")
_WANTED_S = 300.0  # after a list: `top` asks for one every second
_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_BYTES = {dns_wire.A: 4, dns_wire.AAAA: 16}


class Copied:
    """Names by addresses of 16 bytes, out of the answers that the core copies. Bounded: the oldest goes first."""

    def __init__(self, core: "plane.Plane") -> None:
        self._core, self._until = core, 0.0
        self._names: dict[bytes, str] = {}

    def want(self, *, stays: bool) -> None:
        """A reader is there. `stays`: it says when it goes; without that, others may come for a while."""
        try:
            self._core.want_names(True)
        except (OSError, MemoryError):
            return  # without names, then
        self._until = _NEVER if stays else time.monotonic() + _WANTED_S

    def refresh(self) -> None:
        """Read what has come. When the last reader came long ago, nothing is copied any more."""
        for message in self._core.take_answers():
            self.learn(message)
        if time.monotonic() > self._until:
            self._core.want_names(False)

    def learn(self, data: bytes) -> None:
        """The addresses in an answer stand for the name that was asked for, whatever aliases lead there."""
        try:
            message = dns_wire.read(data)
        except dns_wire.Malformed:
            return
        if not message.flags & dns_wire.QR or message.klass != dns_wire.IN:
            return
        name = dns_wire.text(message.name.lower())
        for record in message.sections[0]:
            if record.klass == dns_wire.IN and len(record.data) == _BYTES.get(record.kind):
                address = record.data if record.kind == dns_wire.AAAA else _MAPPED + record.data
                self._names.pop(address, None)
                self._names[address] = name
                self._core.name_in_captures(address, name)
        while len(self._names) > _NAMES_MAX:
            del self._names[next(iter(self._names))]

    def known(self) -> "list[tuple[bytes, str]]":
        """All addresses with their names; the oldest first."""
        return [*self._names.items()]

    @property
    def any(self) -> bool:
        return bool(self._names)

    def lookup(self, address: bytes) -> "str | None":
        """The name as plain text (dns_wire.text)."""
        return self._names.get(address)
