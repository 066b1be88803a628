"""core/egress: verdicts against a model that reads the rules one by one, pins against a model with a clock."""

from __future__ import annotations

import functools
import ipaddress
import operator
import re
from typing import Any

import internals
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pasta_py.control.commandline import egress_rule
from pasta_py.control.commandline.egress_rule import HOST, LAN, METADATA, MULTICAST, PRIVATE, Rules
from pasta_py.control.planning import egress_encode, egress_groups

module = internals.build()
ffi, lib = module.ffi, module.lib
KEY = ffi.new("struct siphash_key *", {"k": [1, 2]})
TCP, UDP, ICMP = 6, 17, 1
BY_RULE, BY_DEFAULT, PIN_ENDED = range(3)
NO_RULE = 0xFFFF
GROUPS = {
    "127.0.0.0/8": HOST | PRIVATE,
    "::1/128": HOST | PRIVATE,
    "192.0.2.10/32": HOST,
    "192.0.2.0/24": LAN,
    "10.0.0.0/8": PRIVATE,
    "fc00::/7": PRIVATE,
    "169.254.0.0/16": PRIVATE,
    "169.254.169.254/32": METADATA,
    "224.0.0.0/4": MULTICAST,
    "ff00::/8": MULTICAST,
}
OWN_NAT64 = "2001:db8:64::/48"


def packed(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def prefix(text: str) -> tuple[bytes, int]:
    network = ipaddress.ip_network(text)
    return packed(str(network.network_address)), network.prefixlen + (96 if network.version == 4 else 0)


def rules_of(*lines: str) -> Rules:
    pairs = (line.split() for line in lines)
    return egress_rule.joined([egress_rule.parse(text, allow=verdict == "allow") for verdict, text in pairs])


def policy(*lines: str, allow_others: bool = False, names: int = egress_encode.NAMES_OF_RULES) -> bytes:
    return egress_encode.encode(
        egress_encode.Policy(
            rules=rules_of(*lines),
            allow_others=allow_others,
            names=names,
            groups=tuple((*prefix(text), groups) for text, groups in GROUPS.items()),
            nat64=(*egress_groups.nat64(), prefix(OWN_NAT64)),
        )
    )


class Egress:
    """An egress policy of the core, until the collector frees it."""

    def __init__(self, compiled: bytes) -> None:
        handle = ffi.new("struct egress **")
        assert lib.egress_new(compiled, len(compiled), KEY, handle) == 0
        self.own = ffi.gc(handle[0], lib.egress_free)

    @staticmethod
    def address(text: str) -> Any:
        return ffi.new("struct addr *", {"b": packed(text)})

    def flow(
        self, to: str, port: int = 443, proto: int = TCP, *, leads_to: str = "", now: int = 0
    ) -> tuple[bool, int, int]:
        dest, host = self.address(to), self.address(leads_to or to)
        verdict = lib.egress_verdict(self.own, proto, dest, host, port, now)
        return verdict.allow, verdict.reason, verdict.rule

    def allows(self, to: str, port: int = 443, proto: int = TCP, *, leads_to: str = "", now: int = 0) -> bool:
        return self.flow(to, port, proto, leads_to=leads_to, now=now)[0]

    def name(self, name: str) -> tuple[bool, int]:
        verdict = lib.egress_name_verdict(self.own, name.encode(), len(name))
        return verdict.allow, verdict.rule

    def answer(self, name: str, address: str) -> bool:
        allow: bool = lib.egress_address_verdict(self.own, name.encode(), len(name), self.address(address)).allow
        return allow

    def pin(self, address: str, name: str, now: int, until: int) -> int:
        result: int = lib.egress_pin(self.own, self.address(address), name.encode(), len(name), now, until)
        return result

    def pinned(self, address: str) -> list[str]:
        out = ffi.new("char[4096]")
        text: str = ffi.buffer(out, lib.egress_pinned(self.own, self.address(address), out, 4096))[:].decode()
        return sorted(text.split())


def egress(*lines: str, allow_others: bool = False, names: int = egress_encode.NAMES_OF_RULES) -> Egress:
    return Egress(policy(*lines, allow_others=allow_others, names=names))


# ---- rules ----


def test_first_rule_counts_that_matches_port_and_protocol() -> None:
    e = egress("deny 198.51.100.7:25", "allow 198.51.100.0/24:1-100/tcp", "allow *:53/udp", "allow 203.0.113.1/icmp")
    assert e.flow("198.51.100.7", 25) == (False, BY_RULE, 0)
    assert e.flow("198.51.100.7", 26) == (True, BY_RULE, 1)
    assert e.flow("198.51.100.7", 101) == (False, BY_DEFAULT, NO_RULE)
    assert e.flow("8.8.8.8", 53, UDP) == (True, BY_RULE, 2)
    assert e.flow("203.0.113.1", 0, ICMP) == (True, BY_RULE, 3)
    assert not e.allows("203.0.113.1", 443)


def test_groups_hold_what_belongs_to_them() -> None:
    e = egress("deny @lan:22", "allow @internet")
    assert e.allows("8.8.8.8") and e.allows("2606:4700::1")
    for closed in ("127.0.0.1", "::1", "192.0.2.10", "192.0.2.77", "10.1.2.3", "fd00::1", "169.254.169.254"):
        assert not e.allows(closed), closed
    assert not e.allows("224.0.0.251", 5353, UDP) and not e.allows("ff02::fb", 5353, UDP)


def test_an_allowed_group_does_not_open_the_host_or_the_metadata_in_it() -> None:
    e = egress("allow @lan", "allow @private")
    assert e.allows("192.0.2.77") and e.allows("10.1.2.3") and e.allows("169.254.7.7")
    assert not e.allows("192.0.2.10") and not e.allows("169.254.169.254") and not e.allows("127.0.0.1")
    assert egress("allow @host").allows("192.0.2.10") and egress("allow @metadata").allows("169.254.169.254")


@pytest.mark.parametrize(
    "form",
    [
        "64:ff9b::{0:02x}{1:02x}:{2:02x}{3:02x}",
        "64:ff9b:1::{0:02x}{1:02x}:{2:02x}{3:02x}",
        "2001:db8:64:{0:02x}{1:02x}:{2:02x}:{3:02x}00::",
        "2002:{0:02x}{1:02x}:{2:02x}{3:02x}::1",
    ],
)
def test_an_embedded_ipv4_address_is_judged_too(form: str) -> None:
    inside, public = form.format(10, 0, 0, 1), form.format(8, 8, 8, 8)
    e = egress("allow @internet")
    assert e.allows(public) and not e.allows(inside)
    assert not egress("deny 10.0.0.0/8", "allow *").allows(inside)
    wide = egress("allow [::/0]")
    assert wide.allows(public) and not wide.allows(inside)
    assert egress("allow 10.0.0.0/24").allows(inside)


def test_the_address_of_a_teredo_client_is_inverted() -> None:
    inside = "2001:0:4136:e378:8000:63bf:" + f"{0x0A00 ^ 0xFFFF:x}:{0x0001 ^ 0xFFFF:x}"
    assert not egress("allow @internet").allows(inside)
    assert not egress("deny 10.0.0.1", "allow *").allows(inside)


def test_a_mapped_address_is_what_it_leads_to() -> None:
    gateway, lo = "192.0.2.1", "127.0.0.1"
    assert not egress("allow 192.0.2.0/24").allows(gateway, leads_to=lo)
    assert not egress("allow @lan").allows(gateway, leads_to=lo)
    assert not egress("allow @internet").allows(gateway, leads_to=lo)
    assert egress("allow 192.0.2.1").allows(gateway, leads_to=lo)
    assert egress("allow @host").allows(gateway, leads_to=lo)
    assert egress("allow 127.0.0.0/8").allows(gateway, leads_to=lo)
    assert not egress("deny 192.0.2.0/24", "allow *").allows(gateway, leads_to=lo)
    assert not egress("deny @host", "allow *").allows(gateway, leads_to=lo)
    assert egress("allow 192.0.2.0/24").allows(gateway)


def test_a_spliced_port_is_open_unless_a_rule_denies_it() -> None:
    def splice(*lines: str) -> bool:
        lo = Egress.address("127.0.0.1")
        allow: bool = lib.egress_splice_verdict(egress(*lines).own, TCP, lo, 5432).allow
        return allow

    assert splice() and splice("allow example.org:443") and not splice("deny @host") and not splice("deny *:5000-6000")


# ---- names ----


def test_names_match_as_wholes_and_below() -> None:
    e = egress("deny ads.example.org", "allow *.example.org:443", "allow my_host.test", "allow api.test:443/tcp")
    assert e.name("www.example.org") == (True, 1) and e.name("a.b.example.org") == (True, 1)
    assert e.name("example.org") == (False, NO_RULE) and e.name("badexample.org") == (False, NO_RULE)
    assert e.name("ads.example.org") == (False, 0) and e.name("x.ads.example.org") == (True, 1)
    assert e.name("my_host.test") == (True, 2) and e.name("test") == (False, NO_RULE)
    # Which of these count as the name behind them is for dns_decide to know: a query has room for less than a rule would.
    assert e.name("_https._tcp.api.test") == e.name("_tcp") == (False, NO_RULE)
    assert egress("allow _https._tcp.api.test").name("_https._tcp.api.test") == (True, 0)
    assert e.name(".".join(["a"] * 127)) == (False, NO_RULE)


def test_ancestors_of_allowed_names_are_known() -> None:
    e = egress("allow www.example.org", "allow *.cdn.test:443", "deny x.y.test")
    for name, named in (
        ("www.example.org", 1),
        ("example.org", 2),
        ("org", 2),
        ("cdn.test", 2),
        ("y.test", 0),
        ("a.cdn.test", 0),
    ):
        assert lib.egress_named(e.own, name.encode(), len(name)) == named, name


def test_which_names_are_answered_follows_the_mode() -> None:
    every = egress("deny bad.test", "deny worse.test:25", names=egress_encode.ALL_NAMES)
    assert every.name("good.test")[0] and not every.name("bad.test")[0] and every.name("worse.test")[0]
    assert not egress("allow good.test", names=egress_encode.NO_NAMES).name("good.test")[0]


def test_an_address_is_handed_out_if_a_flow_to_it_could_pass() -> None:
    e = egress(
        "allow *.evil.test:80", "allow reg.test=10.20.0.0/16:443", "allow corp.test=@private", "allow 10.9.9.9:22"
    )
    inside = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00::1", "64:ff9b::a00:1", "192.0.2.10", "192.0.2.1")
    for address in inside:
        assert not e.answer("x.evil.test", address), address
    assert e.answer("x.evil.test", "8.8.8.8") and e.answer("x.evil.test", "64:ff9b::808:808")
    assert (
        e.answer("reg.test", "10.20.3.4")
        and not e.answer("reg.test", "10.21.3.4")
        and not e.answer("reg.test", "8.8.8.8")
    )
    assert e.answer("corp.test", "10.1.1.1") and not e.answer("corp.test", "8.8.8.8")
    assert not e.answer("corp.test", "169.254.169.254") and not e.answer("corp.test", "127.0.0.1")
    assert e.answer("other.test", "10.9.9.9") and not e.answer("other.test", "8.8.8.8")
    opened = egress("deny 10.0.0.0/8", allow_others=True, names=egress_encode.ALL_NAMES)
    assert opened.answer("any.test", "192.168.1.1") and not opened.answer("any.test", "10.0.0.1")


# ---- pins ----


def test_a_pin_opens_what_the_rules_of_its_name_say() -> None:
    e = egress("allow good.test:443", "deny bad.test", "allow reg.test=10.20.0.0/16:5000")
    assert e.flow("203.0.113.7", 443) == (False, BY_DEFAULT, NO_RULE)
    assert e.pin("203.0.113.7", "good.test", 0, 1000) == 0
    assert e.flow("203.0.113.7", 443) == (True, BY_RULE, 0)
    assert not e.allows("203.0.113.7", 80) and not e.allows("203.0.113.8")
    assert e.flow("203.0.113.7", 443, now=1000) == (False, PIN_ENDED, NO_RULE)
    assert e.pin("10.0.0.1", "good.test", 0, 1000) == 0 and not e.allows("10.0.0.1")
    assert e.pin("10.20.0.1", "reg.test", 0, 1000) == 0 and e.allows("10.20.0.1", 5000)


def test_a_name_that_denies_does_not_close_the_address_for_another() -> None:
    e = egress("deny bad.test:25", "allow good.test", "allow bad.test:80")
    for name in ("bad.test", "good.test"):
        assert e.pin("203.0.113.7", name, 0, 1000) == 0
    assert e.allows("203.0.113.7", 25)
    assert e.pinned("203.0.113.7") == ["bad.test", "good.test"]


def test_a_replacement_keeps_the_pins_that_are_still_allowed() -> None:
    e = egress("allow a.test:443", "allow b.test:443")
    for number, name in enumerate(("a.test", "b.test")):
        assert e.pin(f"203.0.113.{number}", name, 0, 1000) == 0
    after = policy("allow *.c.test", "allow a.test:80")
    assert lib.egress_replace(e.own, after, len(after)) == 0
    assert e.pinned("203.0.113.0") == ["a.test"] and e.pinned("203.0.113.1") == []
    assert e.allows("203.0.113.0", 80) and not e.allows("203.0.113.0", 443)
    assert lib.egress_replace(e.own, after, len(after) - 1) == -22
    assert e.allows("203.0.113.0", 80)


def test_other_prefixes_of_the_host_keep_all_pins() -> None:
    """Those of denied names too: where rules choose a way, and not what is allowed, they say what goes straight."""
    lines = ("deny a.test", "deny @lan", "allow *")
    e = egress(*lines)
    assert e.pin("203.0.113.7", "a.test", 0, 1000) == 0
    assert not e.allows("203.0.113.7") and e.allows("203.0.113.8") and not e.allows("192.0.2.8")
    groups, names = ((*prefix("203.0.113.8/32"), LAN),), egress_encode.NAMES_OF_RULES
    joined = egress_encode.Policy(rules=rules_of(*lines), allow_others=False, names=names, groups=groups, nat64=())
    after = egress_encode.encode(joined)
    assert lib.egress_regroup(e.own, after, len(after)) == 0
    assert not e.allows("203.0.113.7") and not e.allows("203.0.113.8") and e.allows("192.0.2.8")


def test_at_the_bound_only_ended_pins_make_room() -> None:
    e = egress("allow a.test")
    bound = 65536
    for number in range(bound):
        assert e.pin(str(ipaddress.ip_address("32.0.0.0") + number), "a.test", 0, 100 if number % 2 else 10**6) == 0
    assert e.pin("9.9.9.9", "a.test", 0, 10**6) == -28  # ENOSPC
    assert e.allows("32.0.0.0") and e.allows("32.0.255.254")
    assert e.pin("9.9.9.9", "a.test", 5000, 10**6) == 0
    assert e.allows("9.9.9.9", now=5000) and e.allows("32.0.0.0", now=5000)
    assert e.flow("32.0.0.1", now=5000) == (False, BY_DEFAULT, NO_RULE)


class PinModel(RuleBasedStateMachine):
    """An address is open as long as a pin of an allowed name says, and no longer."""

    addresses = st.sampled_from(["203.0.113.1", "203.0.113.2", "2001:db8::1"])
    names = st.sampled_from(["a.test", "b.test", "c.test"])

    def __init__(self) -> None:
        super().__init__()
        self.egress = egress("allow a.test:443", "allow b.test:80")
        self.until: dict[tuple[str, str], int] = {}
        self.now = 0

    @rule(address=addresses, name=names, keep=st.integers(0, 100))
    def pin(self, address: str, name: str, keep: int) -> None:
        assert self.egress.pin(address, name, self.now, self.now + keep) == 0
        self.until[address, name] = max(self.until.get((address, name), 0), self.now + keep)

    @rule(passed=st.integers(0, 60))
    def wait(self, passed: int) -> None:
        self.now += passed

    @invariant()
    def open_while_pinned(self) -> None:
        for address in ("203.0.113.1", "203.0.113.2", "2001:db8::1"):
            for port, name in ((443, "a.test"), (80, "b.test")):
                live = self.until.get((address, name), 0) > self.now
                assert self.egress.allows(address, port, now=self.now) == live
            assert not self.egress.allows(address, 22, now=self.now)


TestPins = PinModel.TestCase
TestPins.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

# ---- properties ----

ADDRESSES = ["10.0.0.1", "10.0.1.1", "11.0.0.1", "192.0.2.10", "192.0.2.11", "8.8.8.8", "2001:db8::1", "fd00::1", "::1"]
PREFIXES = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1", "0.0.0.0/0", "192.0.2.0/24", "[2001:db8::/32]", "[::/0]"]
NAMED = ["a.test", "*.a.test", "*.test", "b.a.test=10.0.0.0/8", "*.test=@private"]
DESTINATIONS = ["*", "@lan", "@host", "@private", "@internet", *PREFIXES, *NAMED]
ENDS = ["", ":443", ":80-500", ":53/udp", "/tcp", "/icmp"]
LINES = st.lists(
    st.builds(lambda v, d, e: f"{v} {d.partition('=')[0] if v == 'deny' else d}{e}", st.sampled_from(["allow", "deny"]),
              st.sampled_from(DESTINATIONS), st.sampled_from(ENDS)),
    max_size=8,
)  # fmt: skip
NAMES = st.sampled_from(["", "a.test", "b.a.test", "c.b.a.test", "test", "x.test", "a.testing"])


def naive_groups(address: str) -> int:
    found = ipaddress.ip_address(address)
    holding = [groups for text, groups in GROUPS.items() if found in ipaddress.ip_network(text)]
    return functools.reduce(operator.or_, holding, 0)


def in_prefix(text: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(text.strip("[]"))


def in_group(name: str, groups: int, allow: bool) -> bool:
    bits = egress_rule.GROUP_NAMES[name]
    if bits == egress_rule.INTERNET:
        return not groups
    return bool(groups & bits) and not (allow and groups & (HOST | METADATA | MULTICAST) & ~bits)


RULE = re.compile(r"(?P<to>\[.*\]|.*?)(?P<limit>=.*?)?(:(?P<first>\d+)(-(?P<last>\d+))?)?(/(?P<proto>tcp|udp|icmp))?")


def naive_match(line: str, address: str, port: int, proto: int, name: str) -> bool:
    """What a line says, read here once more in a simple way."""
    verdict, text = line.split()
    found, allow, groups = RULE.fullmatch(text), verdict == "allow", naive_groups(address)
    assert found
    to, limit, first = found["to"], (found["limit"] or "")[1:], found["first"]
    usual = [TCP, UDP] if first else [TCP, UDP, ICMP]
    if proto not in ([{"tcp": TCP, "udp": UDP, "icmp": ICMP}[found["proto"]]] if found["proto"] else usual):
        return False
    if first and not int(first) <= port <= int(found["last"] or first):
        return False
    if "test" in to:
        if name != to if to[0] != "*" else not name.endswith(to[1:]):
            return False
        if not allow:
            return True
        if limit[:1].isdigit():
            return in_prefix(limit, address) and not groups & (HOST | METADATA | MULTICAST)
        return in_group(limit, groups, allow) if limit else not groups
    if to == "*":
        return True
    return in_group(to, groups, allow) if to[0] == "@" else in_prefix(to, address)


@settings(max_examples=300, deadline=None)
@given(
    lines=LINES, others=st.booleans(), address=st.sampled_from(ADDRESSES), name=NAMES,
    port=st.sampled_from([0, 53, 80, 443, 500, 501]), proto=st.sampled_from([TCP, UDP, ICMP]),
)  # fmt: skip
def test_property_the_first_matching_rule_decides(
    lines: list[str], others: bool, address: str, name: str, port: int, proto: int
) -> None:
    e = egress(*lines, allow_others=others)
    if name:
        assert e.pin(address, name, 0, 1) == 0
    matches = ((line.startswith("allow"), i) for i, line in enumerate(lines) if naive_match(line, address, port, proto, name))
    allow, _reason, index = e.flow(address, port, proto)
    assert (allow, index) == next(matches, (others, NO_RULE))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_property_other_bytes_are_refused_or_judged(data: bytes, cut: int, at: int, byte: int) -> None:
    whole = bytearray(policy("allow a.test=10.0.0.0/8:1", "deny *.b.test", "allow @lan", "allow 10.0.0.0/8"))
    whole[at % len(whole)] = byte
    for compiled in (data, bytes(whole), bytes(whole)[: cut % len(whole)]):
        handle = ffi.new("struct egress **")
        if lib.egress_new(compiled, len(compiled), KEY, handle) == 0:
            lib.egress_verdict(handle[0], TCP, Egress.address("10.0.0.1"), Egress.address("10.0.0.1"), 1, 0)
            lib.egress_name_verdict(handle[0], b"x.b.test", 8)
            lib.egress_free(handle[0])
