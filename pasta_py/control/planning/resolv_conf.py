"""Reads /etc/resolv.conf, and writes the text of the one that a command reads instead.

The grammar is resolv.conf(5)'s: a keyword at the start of the line, `domain` and `search` override each other,
the last one wins. A line that is not valid is left out, as every resolver does.
"""

import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.ip import IPv4Address, IPv6Address, ip_address
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/etc/resolv.conf"
MAX_BYTES = 1 << 20
_READ_BYTES = 64 << 10
_HEAD = "# Made by pasta-py for this namespace out of the host's resolv.conf, and again when that changes."


class Resolv(Record):
    """Nameservers in order (IPv6 ones with their scope, if they have one), and search domains."""

    nameservers: tuple[IPv4Address | IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


class View(Record):
    """How a namespace sees the host's nameservers, and what its own resolv.conf says. Addresses are text."""

    from_user: tuple[str, ...] = ()  # the nameservers of --dns; (): the host's
    search: tuple[str, ...] | None = None  # the domains of --search; None: the host's
    forwarder: str = ""  # leads to the host's nameserver; named where the namespace reaches none of the host's
    versions: tuple[int, ...] = (4, 6)  # of IP that are on in the namespace
    taken: tuple[str, ...] = ()  # addresses that mean something else in the namespace
    ifname: str = ""  # of the interface in the namespace, for link-local addresses

    def reaches(self, server: IPv4Address | IPv6Address) -> bool:
        """Whether a nameserver of the host is found at the same address in the namespace."""
        plain = IPv6Address(int(server)) if isinstance(server, IPv6Address) else server
        if plain.is_loopback or plain.is_unspecified or plain.version not in self.versions or str(plain) in self.taken:
            return False
        return getattr(server, "scope_id", None) in (None, self.ifname)

    def text(self, host: str) -> str:
        """The text of the namespace's resolv.conf, made from that of the host's."""
        servers = self.from_user
        if not servers and self.forwarder and not any(map(self.reaches, parse(host).nameservers)):
            servers = (self.forwarder,)
        lines = [_HEAD, *(f"nameserver {server}" for server in servers)]
        if self.search is not None:
            # Without a line, libc searches the domain of the host name.
            lines.append(f"search {' '.join(self.search) or '.'}")
        dropped = ["nameserver"] if servers else []
        dropped += ["search", "domain"] if self.search is not None else []
        for line in host.splitlines():
            words = line.split()
            if not words or words[0][0] in "#;" or words[0] in dropped:
                continue
            if self.from_user and words[0] == "options":  # trust-ad is about the host's own nameservers
                words = [word for word in words if word != "trust-ad"]
            lines.append(" ".join(words))
        return "\n".join(lines) + "\n"


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
    """A resolv.conf on disk; one that is missing or unreadable counts as empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for a writer
    except OSError:
        return Resolv()
    try:
        data = b""
        while len(data) < MAX_BYTES and (more := os.read(fd, min(_READ_BYTES, MAX_BYTES - len(data)))):
            data += more
    except OSError:
        data = b""
    finally:
        os.close(fd)
    return parse(data.decode("utf-8", "replace"))
