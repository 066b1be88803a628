"""The protocol of the control socket: both ways, against what passt's own programs sent, and for bytes of any kind."""

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py import pesto_protocol
from pasta_py.control.pesto import main as pesto
from pasta_py.errors import ConfError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, ForwardRule

ANY6, LOOPBACK4, TARGET4 = bytes(16), "00" * 10 + "ffff7f000001", "00" * 10 + "ffff0a010101"
LO = b"lo".ljust(16, b"\0").hex()
NO = "00" * 16
HELLO = "626173696c3a7300" + "00000002" + "00000080" + "00000010"
# Recorded from passt 2026-10-02: what `pasta -t 8080 -t 127.0.0.1/9000-9002:9100-9102 -t 61000-65535,auto -T 5000` shows,
# but for the names' zeros, and what its pesto sent for `-A -t 4444 -u 4445:55` to a pasta with -4.
SHOWN = (
    HELLO
    + ("01" + b"HOST".ljust(128, b"\0").hex() + "0000003f" + "00000003")
    + (NO + NO + NO + "1f90" * 3 + "0601")
    + (LOOPBACK4 + NO + NO + "2328232a238c" + "0600")
    + (NO + NO + NO + "ee48ffffee48" + "0605")
    + ("03" + b"SPLICE".ljust(128, b"\0").hex() + "0000003f" + "00000001")
    + (NO + NO + LO + "1388" * 3 + "0601")
    + "00"
)
ANY4 = "00" * 10 + "ffff00000000"
SENT = (
    ("01" + "00000003")
    + (ANY4 + NO + NO + "0051" * 3 + "0600")
    + (ANY4 + NO + NO + "115c" * 3 + "0600")
    + (ANY4 + NO + NO + "115d115d0037" + "1100")
    + ("03" + "00000001")
    + (ANY4 + NO + LO + "1388" * 3 + "0600")
    + "00"
)


def packed(text: str) -> bytes:
    address = ip_address(text)
    return bytes.fromhex("00" * 10 + "ffff") + address.packed if address.version == 4 else address.packed


def rule(first: int, last: int = 0, **changes: object) -> ForwardRule:
    values: dict[str, object] = {
        "proto": IPPROTO_TCP, "to_host": False, "address": b"", "ifname": "", "first": first, "last": last or first,
        "target": b"", "target_first": first, "weak": False, "scan": False,
    }  # fmt: skip
    return ForwardRule(**(values | changes))  # type: ignore[arg-type]


def tables(data: bytes) -> pesto.Tables:
    """As the client reads them; bytes that end early end with ConfError."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(data):
            raise ConfError("cut short")
        return data[at - count : at]

    return pesto.read_tables(take)


SHOWN_RULES = (
    rule(8080),
    rule(9000, 9002, address=packed("127.0.0.1"), target_first=9100),
    rule(61000, 65535, scan=True),
    rule(5000, to_host=True),
)


def test_what_passt_shows_is_understood_and_shown_alike() -> None:
    found = tables(bytes.fromhex(SHOWN))
    assert found.capabilities == 0x3F
    assert found.rules == SHOWN_RULES
    assert (pesto_protocol.hello() + pesto_protocol.write_tables(SHOWN_RULES, 0x3F)).hex() == SHOWN


def test_what_passts_pesto_sends_is_understood_and_sent_alike() -> None:
    reader = pesto_protocol.UpdateReader(ipv6=False)
    reader.feed(bytes.fromhex(SENT))
    assert reader.complete
    assert reader.rules == [
        rule(81), rule(4444), rule(4445, proto=IPPROTO_UDP, target_first=55), rule(5000, to_host=True),
    ]  # fmt: skip
    written = {
        table: [pesto_protocol.write_rule(r, ipv6=False) for r in reader.rules if r.to_host == to_host]
        for table, to_host in ((1, False), (3, True))
    }
    assert pesto_protocol.write_update(written).hex() == SENT


PORTS = st.tuples(st.integers(1, 65535), st.integers(0, 65534), st.integers(1, 65535)).filter(
    lambda p: p[0] + p[1] <= 65535 and p[2] + p[1] <= 65535
)
FAMILIES = {
    4: st.ip_addresses(v=4).filter(lambda a: not a.is_multicast),
    6: st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None and not a.is_multicast),
}
ADDRESSES = st.one_of(*FAMILIES.values())
NAMES = st.text(st.characters(codec="ascii", exclude_characters="/: \0", exclude_categories=("Cc", "Z")), max_size=15)


@st.composite
def rules(draw: st.DrawFn) -> ForwardRule:
    first, more, to = draw(PORTS)
    address = draw(st.one_of(st.none(), ADDRESSES))
    target = draw(st.one_of(st.none(), FAMILIES[address.version])) if address is not None else None
    to_host = draw(st.booleans()) and address is None
    return rule(
        first, first + more, to_host=to_host, proto=draw(st.sampled_from((IPPROTO_TCP, IPPROTO_UDP))),
        address=b"" if address is None else packed(str(address)), target_first=to,
        target=b"" if target is None or not int(target) else packed(str(target)),
        ifname="" if to_host else draw(NAMES.filter(lambda n: n not in (".", ".."))),
        weak=draw(st.booleans()), scan=draw(st.booleans()),
    )  # fmt: skip


@given(rules())
def test_a_rule_survives_the_wire(made: ForwardRule) -> None:
    assert pesto_protocol.read_rule(pesto_protocol.write_rule(made), to_host=made.to_host) == made
    assert pesto_protocol.describe(made).isprintable()


@pytest.mark.parametrize("name", ["\x1b[2J", "\udcff", "\x7f"])
def test_an_interface_with_a_name_for_no_terminal_is_shown_in_letters(name: str) -> None:
    shown = pesto.show(pesto.Tables(rules=(rule(80, ifname=name),), capabilities=0x3F), "title")
    assert shown.encode().isascii() and "%?" in shown and "\x1b" not in shown


@given(st.lists(rules(), max_size=5), st.lists(st.integers(1, 200), max_size=10))
def test_an_update_comes_in_pieces_of_any_size(made: list[ForwardRule], cuts: list[int]) -> None:
    own = {table: [pesto_protocol.write_rule(r) for r in made if r.to_host == (table == 3)] for table in (1, 3)}
    data = pesto_protocol.write_update(own)
    reader = pesto_protocol.UpdateReader()
    for cut in cuts:
        reader.feed(data[:cut])
        data = data[cut:]
    if data:
        reader.feed(data)
    assert reader.complete
    assert sorted(map(repr, reader.rules)) == sorted(map(repr, made))


MOSTLY = st.one_of(st.binary(max_size=400), st.binary(min_size=56, max_size=56))


@given(st.one_of(MOSTLY, st.builds(lambda n, d: b"\x01" + n.to_bytes(4, "big") + d, st.integers(0, 9), st.binary(max_size=300))))
def test_any_bytes_are_an_update_or_refused(data: bytes) -> None:
    with contextlib.suppress(ConfError):
        pesto_protocol.UpdateReader().feed(data)
    for to_host in (False, True):
        with contextlib.suppress(ConfError):
            pesto_protocol.describe(pesto_protocol.read_rule(data, to_host=to_host))


@given(st.integers(0, len(SHOWN) // 2 - 1), st.binary(min_size=1, max_size=8))
def test_a_changed_show_is_read_or_refused(at: int, piece: bytes) -> None:
    data = bytes.fromhex(SHOWN)
    with contextlib.suppress(ConfError):
        pesto.show(tables(data[:at] + piece + data[at + len(piece) :]), "title")
    with contextlib.suppress(ConfError):
        tables(piece)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((48, b"\0\0"), "no such ports"),  # port 0
        ((48, b"\x30\0"), "no such ports"),  # ends before it begins
        ((50, b"\xff\xff\xff\xff"), "no such ports"),  # the target runs out of ports
        ((54, b"\x84"), "IP protocol 132"),
        ((55, b"\x09"), "unknown flags"),
        ((0, b"\1"), "both families with an address of one"),
        ((32, b"a/b"), "interface name"),
        ((32, b"a" * 16), "interface name"),
        ((32, b"a\0b"), "interface name"),
        ((31, b"\1"), "own family"),
        ((16, b"\xff\2"), "unicast"),
        ((26, b"\xff\xff"), "unicast"),
        ((26, b"\xff\xff\xe0\0\0\1"), "unicast"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(change: tuple[int, bytes], why: str) -> None:
    at, piece = change
    data = pesto_protocol.write_rule(rule(0x1F90))
    with pytest.raises(ConfError, match=why):
        pesto_protocol.read_rule(data[:at] + piece + data[at + len(piece) :], to_host=False)


def test_a_rule_of_splice_has_no_addresses() -> None:
    with pytest.raises(ConfError, match="listening address"):
        pesto_protocol.read_rule(pesto_protocol.write_rule(rule(80, address=packed("192.0.2.1"))), to_host=True)
    target = rule(80, address=packed("127.0.0.1"), target=packed("192.0.2.1"))
    with pytest.raises(ConfError, match="target address"):
        pesto_protocol.read_rule(pesto_protocol.write_rule(target), to_host=True)


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (rule(80, 90), rule(90, 95), True),
        (rule(80, 90), rule(91), False),
        (rule(80), rule(80, proto=IPPROTO_UDP), False),
        (rule(80), rule(80, to_host=True), False),
        (rule(80), rule(80, address=packed("192.0.2.1")), True),
        (rule(80, address=packed("192.0.2.2")), rule(80, address=packed("192.0.2.1")), False),
        (rule(80, ifname="a"), rule(80, ifname="b"), True),
        (rule(80, address=packed("0.0.0.0")), rule(80, address=packed("192.0.2.1")), True),
        (rule(80, address=packed("::1")), rule(80, address=packed("::")), True),
        (rule(80, address=packed("0.0.0.0")), rule(80, address=packed("::")), False),
    ],
)
def test_rules_conflict_where_those_of_the_command_line_would(one: ForwardRule, other: ForwardRule, conflict: bool) -> None:
    with pytest.raises(ConfError, match="conflicts with") if conflict else contextlib.nullcontext():
        pesto_protocol.check([one, other])


# ---- pesto's options ----


def changed(before: tuple[ForwardRule, ...], *argv: str, capabilities: int = 0x3F) -> list[ForwardRule]:
    change = pesto.Change(pesto.Tables(rules=before, capabilities=capabilities))
    named, _ = pesto._options([*argv, "path"])
    for name, value in named:
        change.take(name, value)
    change.message()
    return change.rules


def test_the_first_use_replaces_a_table() -> None:
    kept = rule(5, to_host=True)
    assert changed((rule(1), rule(2, proto=IPPROTO_UDP), kept), "-t", "80", "-u", "53") == [
        kept, rule(80), rule(53, proto=IPPROTO_UDP),
    ]  # fmt: skip
    assert changed((rule(1), kept), "-t", "none") == [kept]
    assert changed((rule(1), kept), "-T", "9") == [rule(1), rule(9, to_host=True)]


def test_added_deleted_and_cleared_in_the_order_given() -> None:
    assert changed((rule(1),), "-A", "-t", "2000", "-C", "HOST", "--add", "-T", "3000", "-t", "2001") == [
        rule(3000, to_host=True), rule(2001),
    ]  # fmt: skip
    assert changed((rule(1), rule(2)), "-A", "-t", "3", "-D", "-t", "1") == [rule(2), rule(3)]
    assert changed((rule(1),), "-C", "HOST", "-t", "3", "-t", "4") == [rule(3), rule(4)]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("-D", "-t", "1-2"), "no rule TCP"),
        (("-A", "-t", "1"), "conflicts with"),
        (("-A", "-t", "none"), "nothing to add"),
        (("-t", "80", "-t", "none"), "none' after"),
        (("-C", "TAP"), "no such table"),
        (("-T", "127.0.0.1/80"), "no listening address"),
        (("-t", "x"), "--tcp-ports: port specification 'x'"),
    ],
)
def test_what_cannot_be_done_is_refused(argv: tuple[str, ...], why: str) -> None:
    with pytest.raises(pesto.PastaError, match=why):
        changed((rule(1),), *argv)


def test_a_family_that_is_off_is_respected() -> None:
    with pytest.raises(pesto.UsageError, match="IPv6 switched off"):
        changed((), "-t", "[::1]/80", capabilities=0x3D)
    assert changed((), "-t", "80", capabilities=0x3D) == [rule(80)]


@pytest.mark.parametrize("argv", [["--nosuch", "s"], [], ["a", "b"], ["-t"], ["/nonexistent/s"], ["x" * 200]])
def test_an_error_is_one_line_and_status_1(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert pesto.run(argv) == 1
    assert capsys.readouterr().err.count("\n") == 1
