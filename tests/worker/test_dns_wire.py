"""DNS messages: properties of reading and writing, and dnspython as a second opinion."""

import contextlib

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_py.worker import dns_wire
from pasta_py.worker.dns_wire import Edns, Malformed, Message, Rr

labels = st.binary(min_size=1, max_size=63)
hosts = st.sampled_from([b"a", b"B", b"www", b"cdn", b"example", b"org", b"_tcp", b"x" * 63])


def wire_name(parts: list[bytes]) -> bytes:
    wire = b""
    for part in parts:
        if len(wire) + len(part) + 2 <= dns_wire.NAME_MAX_BYTES:
            wire += bytes((len(part),)) + part
    return wire + b"\0"


names = st.lists(labels | hosts, max_size=8).map(wire_name)
LAYOUTS = dns_wire._LAYOUTS


@st.composite
def records(draw: st.DrawFn) -> Rr:
    kind = draw(st.sampled_from([1, 16, 28, 99, 257, *LAYOUTS]))
    pieces = {"n": names, "s": st.binary(max_size=9).map(lambda value: bytes((len(value),)) + value), "*": st.binary(max_size=20)}
    data = b""
    for field in LAYOUTS.get(kind, "*"):
        data += draw(pieces[field] if field in pieces else st.binary(min_size=int(field), max_size=int(field)))
    return Rr(draw(names), kind, draw(st.integers(0, 2**31 - 1)), data, draw(st.sampled_from([1, 3])))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    sections = tuple(draw(st.lists(records(), max_size=5)) for _ in range(3))
    options = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=12)), max_size=3)
    edns = Edns(draw(st.integers(0, 65535)), draw(st.booleans()), 0, draw(st.integers(0, 255)), draw(options))
    ident, flags, kind = (draw(st.integers(0, 65535)) for _ in range(3))
    return Message(ident, flags, draw(names), kind, 1, sections, edns if draw(st.booleans()) else None)  # type: ignore[arg-type]


def facts(message: Message) -> tuple[object, ...]:
    """Of names their lower-case form: compression may change the case."""
    edns = message.edns
    sections = [[(r.name.lower(), r.kind, r.klass, r.ttl, r.data.lower()) for r in part] for part in message.sections]
    return (message.ident, message.flags, message.name, message.kind, message.klass, sections) + (
        (edns.udp_bytes, edns.do, edns.version, edns.rcode_high, edns.options) if edns else ()
    )


@settings(max_examples=40)
@given(messages())
def test_what_is_written_is_read_again(message: Message) -> None:
    assert facts(dns_wire.read(dns_wire.write(message))) == facts(message)


@settings(max_examples=40)
@given(messages(), st.integers(dns_wire.UDP_PLAIN_BYTES, 2000))
def test_a_message_that_is_too_long_loses_its_last_records_and_says_so(message: Message, room: int) -> None:
    message.flags &= ~dns_wire.TC
    data = dns_wire.write(message, room)
    assert len(data) <= room
    short = dns_wire.read(data)
    given_records = [record for section in message.sections for record in section]
    kept = [record for section in short.sections for record in section]
    assert [r.kind for r in kept] == [r.kind for r in given_records[: len(kept)]]
    answers = len(message.sections[0]) + len(message.sections[1])
    assert bool(short.flags & dns_wire.TC) == (len(kept) < answers)
    assert (short.edns is None) == (message.edns is None)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        dns_wire.read(data)


@settings(max_examples=40)
@given(messages(), st.data())
def test_a_damaged_message_is_read_or_malformed(message: Message, choose: st.DataObject) -> None:
    data = bytearray(dns_wire.write(message))
    for _ in range(choose.draw(st.integers(1, 4))):
        data[choose.draw(st.integers(0, len(data) - 1))] = choose.draw(st.integers(0, 255))
    try:
        again = dns_wire.read(bytes(data))
    except Malformed:
        return
    # A record without data, and one whose compressed names are longer than what 16 bits count, have no such form.
    if all(len(record.data) < 1000 for section in again.sections for record in section):
        assert facts(dns_wire.read(dns_wire.write(again))) == facts(again)


@given(names)
def test_a_shown_name_is_plain_and_leads_back(name: bytes) -> None:
    shown = dns_wire.text(name)
    assert shown.isascii() and shown.isprintable() and not set(shown) & set(" <>&\"'`$;")
    assert dns_wire.from_text(shown) == name


# ---- dnspython ----


def theirs(message: dns.message.Message) -> list[list[tuple[object, ...]]]:
    return [
        sorted(
            (part.name.to_wire().lower(), int(part.rdtype), int(part.rdclass), part.ttl, bytes(rdata.to_wire() or b"").lower())
            for part in section
            for rdata in part
        )
        for section in (message.answer, message.authority, message.additional)
    ]


def ours(message: Message) -> list[list[tuple[object, ...]]]:
    return [
        sorted((r.name.lower(), r.kind, r.klass, r.ttl, r.data.lower()) for r in section) for section in message.sections
    ]


ZONE = """
www.example.org. 300 IN CNAME e1.cdn.example.net.
e1.cdn.example.net. 20 IN A 192.0.2.1
e1.cdn.example.net. 20 IN A 192.0.2.2
e1.cdn.example.net. 20 IN AAAA 2001:db8::1
example.org. 300 IN MX 10 mail.example.org.
example.org. 300 IN NS ns1.example.org.
example.org. 300 IN SOA ns1.example.org. root.example.org. 1 2 3 4 5
example.org. 300 IN TXT "one" "two"
example.org. 300 IN HTTPS 1 . alpn="h2,h3" ipv4hint=192.0.2.1
example.org. 300 IN SVCB 1 svc.example.org. port=8443
_http._tcp.example.org. 60 IN SRV 1 2 80 www.example.org.
example.org. 60 IN NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:a@b!" sip.example.org.
old.example.org. 60 IN DNAME new.example.org.
example.org. 60 IN CAA 0 issue "ca.example.net"
example.org. 60 IN DS 1 8 2 aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899
www.example.org. 60 IN NSEC a.example.org. A MX RRSIG NSEC TYPE1234
www.example.org. 60 IN RRSIG A 8 3 60 20300101000000 20200101000000 1 example.org. AAAA
www.example.org. 60 IN RP a.example.org. b.example.org.
www.example.org. 60 IN KX 1 kx.example.org.
"""


def test_records_of_every_layout_are_read_as_dnspython_wrote_them() -> None:
    message = dns.message.make_response(dns.message.make_query("WWW.example.org.", "A"))
    message.use_edns(0, dns.flags.DO, 1400)
    for line in ZONE.strip().splitlines():
        name, ttl, klass, kind, rest = line.split(" ", 4)
        message.answer.append(dns.rrset.from_text(name, int(ttl), klass, kind, rest))
    data = message.to_wire()
    read = dns_wire.read(data)
    assert ours(read) == theirs(message)
    assert read.name == dns.name.from_text("WWW.example.org.").to_wire()
    assert read.edns and read.edns.do and read.edns.udp_bytes == message.payload
    written = dns.message.from_wire(dns_wire.write(read))
    assert theirs(written) == theirs(message)
    assert written.question == message.question


@settings(max_examples=40)
@given(messages())
def test_dnspython_reads_what_is_written(message: Message) -> None:
    """Data that dnspython does not take as that of its type is left out: it is not ours to judge."""
    message.flags &= ~(dns_wire.TC | 0x7800)  # another opcode may be another format
    message.klass = 1
    for section in message.sections:
        section[:] = [r for r in section if understood(r)]
    try:
        read = dns.message.from_wire(dns_wire.write(message), one_rr_per_rrset=True)
    except dns.exception.DNSException as error:
        if message.edns and message.edns.options:  # dnspython looks into options
            return
        raise AssertionError("dnspython does not read it") from error
    assert theirs(read) == ours(message)


def understood(record: Rr) -> bool:
    if record.klass != 1 or record.kind not in (1, 16, 28, 2, 5, 6, 12, 15, 33, 39, 257):
        return False
    try:
        rdata = dns.rdata.from_wire(1, record.kind, record.data, 0, len(record.data))
    except (dns.exception.DNSException, ValueError):
        return False
    return bytes(rdata.to_wire() or b"") == record.data


@given(st.binary(max_size=300))
def test_the_quick_look_at_a_question_never_fails(data: bytes) -> None:
    dns_wire.question(data)


@settings(max_examples=40)
@given(messages())
def test_the_quick_look_sees_the_question(message: Message) -> None:
    assert dns_wire.question(dns_wire.write(message)) == (message.name, message.kind)


# ---- what a hostile side sends ----


def test_a_loop_of_pointers_is_malformed() -> None:
    head = bytes.fromhex("000181800001000000000000")
    for name in ("c00c", "01610161c00c", "c00e", "c010", "c000", "c00b", "0161c00d", "40", "80"):
        with pytest.raises(Malformed):
            dns_wire.read(head + bytes.fromhex(name) + b"\0\1\0\1" * 2)


def test_each_name_is_read_once_however_many_pointers_lead_to_it() -> None:
    """64 KiB of pointers, each to the one before it: read one by one, that would be 500 million steps."""
    pointers = 8000
    head = bytes.fromhex("000181800001ffff00000000") + b"\1a\0" + b"\0\1\0\1"
    start = len(head) + 11
    chain = b"".join((0xC000 | (start + 2 * step - 2 if step else 12)).to_bytes(2, "big") for step in range(pointers))
    data = head + b"\0" + b"\xff\0\0\1" + bytes(4) + len(chain).to_bytes(2, "big") + chain
    owner = (0xC000 | start + 2 * pointers - 2).to_bytes(2, "big")
    data += (owner + b"\0\1\0\1" + bytes(6)) * ((65535 - len(data)) // 12)
    steps = 0

    class Counted(bytes):
        def __getitem__(self, key):  # type: ignore[no-untyped-def, override]
            nonlocal steps
            steps += 1
            return bytes.__getitem__(self, key)

    with pytest.raises(Malformed):  # the count in the header is higher than what follows
        dns_wire.read(Counted(data))
    assert steps < 20 * len(data)


def test_a_record_without_the_data_of_its_type_is_malformed() -> None:
    head = bytes.fromhex("000181800001000100000000") + b"\1a\0" + b"\0\1\0\1"
    for kind in LAYOUTS:
        with pytest.raises(Malformed):
            dns_wire.read(head + b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1" + bytes(6))


def test_a_query_in_an_unknown_form_is_no_query() -> None:
    assert dns_wire.read_query(b"\0" * 11) is None
    assert dns_wire.read_query(b"\0\1\x80\0" + bytes(8)) is None
    other = dns_wire.read_query(b"\0\1\x28\0" + bytes(8))
    assert other is not None and not dns_wire.is_query(other)
    for question in (b"", b"\1a\0\0\1\0", b"\1a\0\0\1\0\1" * 2):
        count = 2 if len(question) > 8 else 1
        with pytest.raises(Malformed):
            dns_wire.read_query(b"\0\1\1\0\0" + bytes((count,)) + bytes(6) + question)
