"""What /etc/resolv.conf says: nameservers and search domains.

The grammar is resolv.conf(5)'s: a keyword at the start of the line, `domain` and `search` override each other,
the last one wins. A line that cannot be read is left out, as every resolver does.
"""

from pasta_py.control.ip import IPv4Address, IPv6Address, ip_address
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/etc/resolv.conf"
_MAX_BYTES = 1 << 20


class Resolv(Record):
    """Nameservers in order (IPv6 ones with their scope, if they have one), and search domains."""

    nameservers: tuple[IPv4Address | IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


def parse(text: str) -> Resolv:
    """The contents of a resolv.conf; never fails."""
    nameservers: list[IPv4Address | IPv6Address] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        if line[:1] in ("#", ";"):
            continue
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            try:
                address = ip_address(words[1])
            except ValueError:
                continue
            if address not in nameservers:
                nameservers.append(address)
        elif words[0] == "domain":
            search = _domains(words[1:2])
        elif words[0] == "search":
            search = _domains(words[1:])
    return Resolv(nameservers=tuple(nameservers), search=search)


def _domains(words: "Iterable[str]") -> tuple[str, ...]:
    """Without the root domain (".": search nothing) and the dot at the end, which the wire formats add themselves."""
    names = (word.rstrip(".") for word in words)
    return tuple(dict.fromkeys(name for name in names if name))


def read(path: str = PATH) -> Resolv:
    """A resolv.conf on disk; one that is missing or unreadable says nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib is slow to import
            return parse(file.read(_MAX_BYTES))
    except OSError:
        return Resolv()
