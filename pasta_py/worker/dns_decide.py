"""Which names a guest may ask for, and what of an answer it gets. No input or output; the rules are asked through `Rules`.

A name is judged in this order: the rules, for the name and for what is behind leading underscore labels (_http._tcp.NAME counts
as NAME); names derived from an answer; the default. What is never asked upstream without a rule: single labels and the host's own
name, which the host's resolver would answer out of its own files, and names that are meant for one machine or link.

An answer is rebuilt out of what belongs to the question: the chain of aliases and the records at its end. Records that lead
where the rules do not allow are taken out, and their signatures with them.
"""

from pasta_py import defaults
from pasta_py.worker import dns_wire
from pasta_py.worker.dns_wire import IN, Edns, Message, Rr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Rules(Protocol):
        """The egress policy. Names are as dns_wire.text() shows them, in lower case; addresses are 16 bytes."""

        def name(self, name: str) -> "Verdict": ...
        def address(self, name: str, address: bytes) -> bool:
            """Whether any flow to the address could be allowed under the name."""
        def pin(self, name: str, address: bytes, ttl_s: int) -> bool:
            """Let the rules of the name count for the address; False if there is no room."""
        def exact(self, name: str) -> bool:
            """Whether a rule allows this very name."""
        def above(self, name: str) -> bool:
            """Whether a rule allows a name below this one."""
        def verifying(self) -> bool:
            """Whether connections have to name a name in TLS."""


TTL_MAX_S = 86400  # what is told is never longer than what is kept
_DERIVED_MAX = 4096
_NAMES_MAX = 8192  # addresses
_FOUND_MAX = 4  # names of an address
_CHAIN_MAX = 16
_SERVICE_LABELS, _SERVICE_BYTES = 2, 15  # RFC 2782; RFC 6335, 5.1
_TEXT_MAX = 253  # more is possible only with bytes that no name of a host has, because they are shown as four characters

ALLOWED, NEGATIVE, LOCALHOST, DENIED = range(4)

_DS_KINDS = frozenset((dns_wire.DS, dns_wire.DNSKEY))
_ZONE_KINDS = _DS_KINDS | {dns_wire.NS, dns_wire.SOA}
#: What is asked upstream; TXT only for the very name of a rule: queries for it are the classic channel.
_KINDS = _ZONE_KINDS | {
    dns_wire.A, dns_wire.AAAA, dns_wire.CNAME, dns_wire.PTR, dns_wire.MX, dns_wire.SRV, dns_wire.NAPTR, dns_wire.DNAME,
    dns_wire.SSHFP, dns_wire.TLSA, dns_wire.SVCB, dns_wire.HTTPS, dns_wire.CAA,
}  # fmt: skip
_META_KINDS = 128  # RFC 6895, 3.1: from here to 255, and 0
_DERIVING = frozenset((dns_wire.CNAME, dns_wire.DNAME, dns_wire.MX, dns_wire.SRV, dns_wire.SVCB, dns_wire.HTTPS))
_PROOFS = frozenset((dns_wire.SOA, dns_wire.NSEC, dns_wire.NSEC3, dns_wire.RRSIG))
_BINDINGS = frozenset((dns_wire.SVCB, dns_wire.HTTPS))

# RFC 9460, 14.3.2: keys of parameters
_IPV4HINT, _ECH, _IPV6HINT = 4, 5, 6

#: Browsers and systems that get an address for these look for another resolver, or a proxy: Firefox's canary, Apple's relay, DDR
#: (RFC 9462, 4).
_CANARIES = frozenset(
    dns_wire.from_text(name) for name in ("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "_dns.resolver.arpa")
)
_LOCALHOST = dns_wire.from_text("localhost")  # RFC 6761, 6.3
_LOCAL = dns_wire.from_text("local")  # RFC 6762, 3: for mDNS
#: RFC 6303, 4, and RFC 6761, 6.1: what the host's own network calls its addresses is not for the guest.
_PRIVATE_REVERSE = tuple(
    dns_wire.from_text(f"{name}.arpa")
    for name in (
        "10.in-addr", "168.192.in-addr", "254.169.in-addr", "127.in-addr", "0.in-addr", "d.f.ip6", "c.f.ip6",
        "8.e.f.ip6", "9.e.f.ip6", "a.e.f.ip6", "b.e.f.ip6", *(f"{i}.172.in-addr" for i in range(16, 32)),
    )
)  # fmt: skip
_LOOPBACK = {dns_wire.A: bytes((127, 0, 0, 1)), dns_wire.AAAA: bytes(15) + b"\x01"}
_MAPPED = bytes(10) + b"\xff\xff"


class Verdict:
    """What a rule, or without one the default, says about a name."""

    __slots__ = ("allow", "by_rule", "rule")

    def __init__(self, allow: bool, by_rule: bool = False, rule: int = -1) -> None:
        self.allow, self.by_rule, self.rule = allow, by_rule, rule


class Judgement:
    """What is done with a query. `owner`: the name whose rules count for what it resolves to; `rule`: -1 for none.

    `reason`: in one word, of decisions.REASONS; `why`: for people.
    """

    __slots__ = ("what", "owner", "rule", "reason", "why")

    def __init__(self, what: int, owner: str, reason: str, why: str = "", rule: int = -1) -> None:
        self.what, self.owner, self.rule, self.reason, self.why = what, owner, rule, reason, why


class Found:
    """A name that an address was an answer for, the alias of it that had the address, or "", and when."""

    __slots__ = ("name", "via", "at_s")

    def __init__(self, name: str, via: str, at_s: float) -> None:
        self.name, self.via, self.at_s = name, via, at_s


class Decider:
    """The decisions for one guest. `host_names`: the host's own, in wire form."""

    def __init__(self, rules: "Rules", host_names: "Iterable[bytes]" = (), *, pins_all: bool = False) -> None:
        """`pins_all`: addresses of names that no rule names are pinned too, because a proxy is asked for names."""
        self._rules, self._host_names, self._pins_all = rules, frozenset(name.lower() for name in host_names), pins_all
        self._derived: dict[bytes, tuple[str, float]] = {}  # owner, the end; the oldest first
        self._names: dict[bytes, tuple[Found, ...]] = {}  # by address; the oldest first
        self.on_name: Callable[[bytes, str], None] = lambda _address, _name: None  # hears of each before the guest does

    def judge(self, name: bytes, kind: int, now_s: float) -> Judgement:
        """Whether a query goes upstream. `name`: lower-case, in wire form."""
        shown = dns_wire.text(name)
        if len(shown) > _TEXT_MAX:
            return Judgement(DENIED, shown, "no_name", "no name of a host")
        if name == _LOCALHOST or name.endswith(_LOCALHOST) and below(name, _LOCALHOST):
            return Judgement(LOCALHOST, shown, "localhost")
        verdict, counted, service = self._rules.name(shown), shown, _without_underscores(name)
        if service != name:
            found = self._rules.name(dns_wire.text(service))
            if found.by_rule and (not verdict.by_rule or found.rule < verdict.rule):
                verdict, counted = found, dns_wire.text(service)
        if verdict.by_rule and not verdict.allow:
            return Judgement(DENIED, counted, "rule", "a rule denies this name", verdict.rule)
        if verdict.by_rule:
            return self._typed(shown, counted, verdict.rule, kind, "rule")
        for candidate in (name, service):
            owner, until_s = self._derived.get(candidate, ("", 0.0))
            if until_s > now_s and (found := self._rules.name(owner)).allow:  # the rules may have changed since the answer
                return self._typed(shown, owner, found.rule, kind, "derived")
        if name in _CANARIES:
            return Judgement(DENIED, shown, "canary", "asks for a way around this nameserver")
        if self._rules.above(shown):
            if kind in _DS_KINDS:  # a resolver that validates an allowed name asks for the zones above it
                return Judgement(ALLOWED, shown, "above")
            if not verdict.allow:
                return Judgement(NEGATIVE, shown, "above", "only names below this one are allowed")
        if not verdict.allow:
            return Judgement(DENIED, shown, "default", "no rule allows this name")
        return self._by_default(name, shown, kind)

    def _typed(self, name: str, owner: str, rule: int, kind: int, reason: str) -> Judgement:
        if kind in _KINDS or (kind == dns_wire.TXT and (self._rules.exact(name) or self._rules.exact(owner))):
            return Judgement(ALLOWED, owner, reason, rule=rule)
        return Judgement(NEGATIVE, owner, "type", "queries of this type are not allowed", rule)

    def _by_default(self, name: bytes, shown: str, kind: int) -> Judgement:
        """A name that no rule names, where names are allowed by default."""
        if name == b"\0" or len(name) == 2 + name[0]:
            if kind in _ZONE_KINDS:
                return Judgement(ALLOWED, shown, "default")
            return Judgement(DENIED, shown, "local", "a single label is a name of the host's network: a rule has to allow it")
        if name in self._host_names or below(name, _LOCAL) or any(name == zone or below(name, zone) for zone in _PRIVATE_REVERSE):
            return Judgement(DENIED, shown, "local", "a name of the host or its network: a rule has to allow it")
        if kind == 0 or _META_KINDS <= kind < 256 or kind == dns_wire.OPT:
            return Judgement(NEGATIVE, shown, "type", "queries of this type are not allowed")
        return Judgement(ALLOWED, shown, "default")

    def lookup(self, address: bytes) -> "str | None":
        """The name that an address of 16 bytes was last an answer for; plain text, as dns_wire.text() makes it."""
        found = self._names.get(address)
        return found[-1].name if found else None

    def known(self) -> "list[tuple[bytes, str]]":
        """All addresses with their last names; the oldest first."""
        return [(address, found[-1].name) for address, found in self._names.items()]

    def origin(self, address: bytes, at_s: float) -> "Found | None":
        """The same at an earlier time."""
        return next((found for found in reversed(self._names.get(address, ())) if found.at_s <= at_s), None)

    def addresses(self, name: str) -> "list[bytes]":
        """The addresses that this name led to."""
        return [address for address, names in self._names.items() if any(found.name == name for found in names)]

    # ---- answers ----

    def filtered(self, name: bytes, kind: int, judgement: Judgement, answer: Message, now_s: float) -> "tuple[Message, list[str]]":
        """What the guest gets of an upstream's answer: a new message with the rcode and AD of it. Addresses are pinned.

        Also returns what was taken out, for people.
        """
        owner = judgement.owner
        chain = _chain(name, kind, answer.sections[0])
        withheld: list[str] = []
        touched: set[tuple[bytes, int]] = set()  # RRsets that are no longer whole
        kept: list[Rr] = []
        for record in chain:
            if record.kind == dns_wire.RRSIG:
                continue
            ttl = min(record.ttl, TTL_MAX_S)
            data = record.data
            if record.kind in (dns_wire.A, dns_wire.AAAA):
                if not self._admit(judgement, record, data, record.kind, now_s, withheld):
                    touched.add((record.name.lower(), record.kind))
                    continue
            elif record.kind in _BINDINGS:
                data = self._binding(judgement, record, now_s, withheld)
                if data != record.data:
                    touched.add((record.name.lower(), record.kind))
            if record.kind in _DERIVING:
                self._derive(record, owner, now_s + max(ttl, defaults.PIN_MIN_S))
            kept.append(Rr(record.name, record.kind, ttl, data))
        kept += [r for r in chain if r.kind == dns_wire.RRSIG and (r.name.lower(), _covered(r)) not in touched]
        flags = answer.flags & 15 | (answer.flags & dns_wire.AD if not touched else 0)
        positive = any(record.kind not in (dns_wire.CNAME, dns_wire.DNAME, dns_wire.RRSIG) for record in kept)
        proofs = [r for r in answer.sections[1] if r.kind in _PROOFS and r.klass == IN]
        if positive:
            proofs = [r for r in proofs if r.kind != dns_wire.SOA]
        elif not any(r.kind == dns_wire.SOA for r in proofs):
            proofs.append(soa(name))  # without one, resolvers take it for a broken server
        signs = Edns(0, bool(answer.edns and answer.edns.do))  # by DO a validating guest knows what its nameserver can
        return Message(answer.ident, flags, name, kind, sections=(kept, proofs, []), edns=signs), withheld

    def _admit(
        self, judgement: Judgement, record: Rr, data: bytes, kind: int, now_s: float, withheld: "list[str]"
    ) -> bool:
        """Pin an address in a record, unless the name may not lead there or there is no room. `kind`: A or AAAA.

        A name that no rule names gets no pin: addresses alone decide. Where most of them are closed it still learns public ones.
        """
        if len(data) != (4 if kind == dns_wire.A else 16):
            return False
        address = _MAPPED + data if kind == dns_wire.A else data
        named = judgement.rule >= 0
        if not self._rules.address(judgement.owner, address) and (named or not _is_public(address)):
            withheld.append(shown_address(address))
            return False
        if (named or self._pins_all) and not self._rules.pin(judgement.owner, address, min(record.ttl, TTL_MAX_S)):
            return False
        end = dns_wire.text(record.name.lower())
        known = self._names.pop(address, ())
        # Asked for again, it is still the name of flows that are older than this answer.
        since_s = known[-1].at_s if known and known[-1].name == judgement.owner else now_s
        found = Found(judgement.owner, end if end != judgement.owner else "", since_s)
        self._names[address] = (*(each for each in known if each.name != found.name), found)[-_FOUND_MAX:]
        if len(self._names) > _NAMES_MAX:
            del self._names[next(iter(self._names))]
        self.on_name(address, found.name)
        return True

    def _binding(self, judgement: Judgement, record: Rr, now_s: float, withheld: "list[str]") -> bytes:
        """The data of an SVCB or HTTPS record without hints that may not be reached; with verified names also without ECH."""
        head = b"".join(piece for _field, piece in dns_wire.split(dns_wire.SVCB, record.data)[:2])
        rest, result = record.data[len(head) :], head
        while len(rest) >= 4:
            key, size = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
            value, rest = rest[4 : 4 + size], rest[4 + size :]
            if key in (_IPV4HINT, _IPV6HINT):
                kind, width = (dns_wire.A, 4) if key == _IPV4HINT else (dns_wire.AAAA, 16)
                hints = (value[at : at + width] for at in range(0, len(value), width))
                value = b"".join(hint for hint in hints if self._admit(judgement, record, hint, kind, now_s, withheld))
                if not value:
                    continue
            elif key == _ECH and self._rules.verifying():
                continue
            result += key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
        return result

    def _derive(self, record: Rr, owner: str, until_s: float) -> None:
        """Let the target of an alias or service be asked too: some clients follow it themselves."""
        target = dns_wire.target(record).lower()
        if target in (b"", b"\0"):
            return
        derived = self._derived
        known = derived.pop(target, None)
        if known and known[0] != owner and known[1] > until_s:
            until_s = known[1]
        derived[target] = (owner, until_s)
        if len(derived) > _DERIVED_MAX:
            del derived[next(iter(derived))]


def _chain(name: bytes, kind: int, records: "list[Rr]") -> "list[Rr]":
    """The records of an answer that answer the question: aliases in order, then what is at their end; each with its signatures."""
    found: list[Rr] = []
    at, seen = name.lower(), set[bytes]()
    while at not in seen and len(seen) < _CHAIN_MAX:
        seen.add(at)
        here = [r for r in records if r.klass == IN and r.name.lower() == at]
        above = [r for r in records if r.klass == IN and below(at, r.name.lower()) and r not in found]
        found += [r for r in above if dns_wire.DNAME in (r.kind, _covered(r))]
        ends = [r for r in here if r.kind == kind and r not in found]
        alias = next((r for r in here if r.kind == dns_wire.CNAME), None)
        if ends or alias is None:
            return found + ends + [r for r in here if _covered(r) == kind]
        found.append(alias)
        found += [r for r in here if _covered(r) == dns_wire.CNAME]
        at = alias.data.lower()
    return found


def _covered(record: Rr) -> int:
    """The type that a signature is of; -1 for no signature."""
    return int.from_bytes(record.data[:2], "big") if record.kind == dns_wire.RRSIG else -1


def below(name: bytes, zone: bytes) -> bool:
    """Whether a name is below another; both lower-case, in wire form."""
    at = 0
    while name[at]:
        at += 1 + name[at]
        if name[at:] == zone:
            return True
    return False


def parent(name: bytes) -> bytes:
    return name[1 + name[0] :] if name[0] else name


def _without_underscores(name: bytes) -> bytes:
    """A name without the labels of a service and its protocol. Longer ones would carry what a guest likes to tell."""
    for _ in range(_SERVICE_LABELS):
        if name[0] and name[1] == 0x5F and name[0] <= 1 + _SERVICE_BYTES:
            name = parent(name)
    return name


def shown_address(address: bytes) -> str:
    """An address of 16 bytes, as people read it."""
    import _socket

    if address[:12] == _MAPPED:
        return _socket.inet_ntop(_socket.AF_INET, address[12:])
    return _socket.inet_ntop(_socket.AF_INET6, address)


def _is_public(address: bytes) -> bool:
    """Whether an address is global unicast (RFC 6890; RFC 4291, 2.4)."""
    if address[:12] != _MAPPED:
        return address[0] & 0xE0 == 0x20 and address[:2] != b"\x20\x02"  # 6to4 embeds an IPv4 address
    first, second = address[12], address[13]
    if first in (0, 10, 127) or first >= 224:
        return False
    return not (
        (first == 100 and 64 <= second < 128) or (first == 169 and second == 254) or (first == 172 and 16 <= second < 32)
        or (first == 192 and second == 168)
    )  # fmt: skip


def is_loopback(address: bytes) -> bool:
    """Whether an address of 16 bytes is one of the host's loopback (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3)."""
    return address[:13] == _MAPPED + b"\x7f" or address == _LOOPBACK[dns_wire.AAAA]


# ---- answers of our own ----


def localhost(name: bytes, kind: int) -> "list[Rr]":
    """RFC 6761, 6.3: the loopback addresses, whatever the case and what is below it."""
    return [Rr(name, kind, defaults.DENIED_NAME_S, _LOOPBACK[kind])] if kind in _LOOPBACK else []


def soa(name: bytes) -> Rr:
    """What lets a negative answer be kept (RFC 2308, 5), for as long as a new rule may take."""
    timers = b"".join(seconds.to_bytes(4, "big") for seconds in (1, 3600, 600, 86400, defaults.DENIED_NAME_S))
    return Rr(parent(name), dns_wire.SOA, defaults.DENIED_NAME_S, b"\0\0" + timers)
