"""What a guest's query leads to: a question upstream, an answer, a pin. The nameserver is a function that gives zone lines."""

from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns_rules import Rules
from sample_plan import sample_plan

from pasta_py.worker import dns_decide, dns_service, dns_wire
from pasta_py.worker.dns_decide import Decider
from pasta_py.worker.dns_service import Client, Service


class Nameserver:
    """Stands in for dns_upstream.Upstream: answers at once out of `zone`, or when told to (`slow`)."""

    def __init__(self, zone: str, slow: bool = False) -> None:
        self.zone = [line.split(" ", 2) for line in zone.strip().splitlines()]
        self.asked: list[tuple[str, int]] = []
        self.slow, self.later = slow, []  # type: ignore[var-annotated]
        self.full, self.rcode, self.silent = False, 0, False
        self.busy = False

    def ask(self, name: bytes, kind: int, done: "Callable[[object], None]", *, do: bool = False, cd: bool = False) -> bool:
        if self.full:
            return False
        self.asked.append((dns_wire.text(name), kind))
        query = dns.message.make_query(dns_wire.text(name).rstrip(".") + ".", kind)
        message = dns.message.make_response(query, recursion_available=True)
        names = {dns_wire.text(name)}
        for owner, rtype, data in self.zone:
            if owner in names and rtype in (dns.rdatatype.to_text(dns.rdatatype.RdataType(kind)), "CNAME"):
                message.answer.append(dns.rrset.from_text(owner + ".", 300, "IN", rtype, data))
                if rtype == "CNAME":
                    names.add(data.rstrip("."))
        if not any(owner in names for owner, _type, _data in self.zone):
            message.set_rcode(dns.rcode.NXDOMAIN)
        if self.rcode:
            message.set_rcode(dns.rcode.Rcode(self.rcode))
        answer = None if self.silent else dns_wire.read(message.to_wire())
        if self.slow:
            self.later.append(lambda: done(answer))
        else:
            done(answer)
        return True

    def on_tick(self) -> None:
        pass


class Guest:
    """Asks a service, and reads with dnspython what it gets."""

    def __init__(self, rules: Rules, zone: str = "", slow: bool = False, host_names: tuple[str, ...] = ()) -> None:
        self.now = 1000.0
        self.rules, self.upstream = rules, Nameserver(zone, slow)
        decider = Decider(rules, map(dns_wire.from_text, host_names))
        self.service = Service(sample_plan(), decider, self.upstream, None, self.frames, lambda: self.now)  # type: ignore[arg-type]
        self.answers: list[bytes] = []

    def frames(self, _frame: bytes) -> None:
        raise AssertionError("no frame is expected")

    def send(self, data: bytes, most: int = 4096) -> list[bytes]:
        self.answers = []
        self.service.on_query(data, Client(self.answers.append, most))
        return self.answers

    def ask(self, name: str, kind: str = "A", **options: object) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
        (answer,) = self.send(query.to_wire())
        read = dns.message.from_wire(answer)
        assert read.id == query.id and read.question == query.question and read.flags & dns.flags.QR
        assert str(read.question[0].name) == str(query.question[0].name), "the answer has the case of the query"
        return read


def texts(message: dns.message.Message) -> list[str]:
    return [f"{part.name} {rdata.to_text()}" for part in message.answer for rdata in part]


def told(message: dns.message.Message) -> tuple[str, str]:
    """The rcode, and the text of the Extended DNS Error."""
    errors = [option for option in message.options if isinstance(option, dns.edns.EDEOption)]
    return dns.rcode.to_text(message.rcode()), errors[0].text or "" if errors else ""


SHOP = "shop.test CNAME e1.cdn.test.\ne1.cdn.test A 192.0.2.1\ne1.cdn.test AAAA 2001:db8::1\n"


def test_an_allowed_name_is_asked_pinned_and_answered() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7\napi.test A 192.0.2.8")
    answer = guest.ask("aPi.TesT.")
    assert sorted(texts(answer)) == ["aPi.TesT. 192.0.2.7", "aPi.TesT. 192.0.2.8"]
    assert guest.rules.pins == {("api.test", "192.0.2.7"): 300, ("api.test", "192.0.2.8"): 300}
    assert answer.answer[0].ttl == 300 and guest.upstream.asked == [("api.test", 1)]


def test_a_denied_name_does_not_exist_for_five_seconds_and_says_which_rule_would_allow_it() -> None:
    guest = Guest(Rules("allow api.test"))
    answer = guest.ask("files.test", use_edns=0)
    assert told(answer) == ("NXDOMAIN", "pasta-py: no rule allows this name: --allow files.test")
    (soa,) = answer.authority
    assert soa.ttl == 5 and soa[0].minimum == 5
    assert guest.upstream.asked == []
    assert told(Guest(Rules("deny bad.test", allow_others=True)).ask("bad.test", use_edns=0))[1].endswith("rule 1")


def test_without_edns_a_denial_has_no_options() -> None:
    answer = Guest(Rules()).ask("files.test", use_edns=-1)
    assert answer.rcode() == dns.rcode.NXDOMAIN and answer.edns == -1 and answer.opt is None


def test_names_above_an_allowed_name_exist_but_have_nothing() -> None:
    guest = Guest(Rules("allow a.b.corp.test"))
    for name in ("b.corp.test", "corp.test", "test"):
        answer = guest.ask(name)
        assert answer.rcode() == dns.rcode.NOERROR and not answer.answer and answer.authority
    assert guest.ask("c.corp.test").rcode() == dns.rcode.NXDOMAIN
    assert guest.upstream.asked == []
    guest.ask("corp.test", "DS")
    guest.ask(".", "DNSKEY")
    assert guest.upstream.asked == [("corp.test", 43), (".", 48)]


@pytest.mark.parametrize(
    ("kind", "asked"), [("AAAA", True), ("HTTPS", True), ("MX", True), ("TXT", True), ("ANY", False), ("NULL", False)]
)
def test_types_off_the_list_have_no_data_and_are_not_asked(kind: str, asked: bool) -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7")
    answer = guest.ask("api.test", kind)
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer
    assert bool(guest.upstream.asked) == asked


def test_txt_is_asked_for_the_very_name_of_a_rule_only() -> None:
    guest = Guest(Rules("allow *.tunnel.test", "allow db.test"))
    guest.ask("c2VjcmV0.tunnel.test", "TXT")
    assert guest.upstream.asked == []
    guest.ask("db.test", "TXT")
    assert guest.upstream.asked == [("db.test", 16)]


def test_do_is_passed_on_as_the_nameserver_has_it() -> None:
    """systemd-resolved takes a nameserver without it for one that cannot validate, and one with it for one that can."""
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7")
    real = guest.upstream.ask
    for can in (False, True):

        def signing(name: bytes, kind: int, done: "Callable[[object], None]", can: bool = can, **options: bool) -> bool:
            def mark(answer: object) -> None:
                assert isinstance(answer, dns_wire.Message)
                answer.edns = dns_wire.Edns(1232, can)
                done(answer)

            return real(name, kind, mark, **options)

        guest.upstream.ask = signing  # type: ignore[method-assign]
        assert bool(guest.ask("api.test", want_dnssec=True).ednsflags & dns.flags.DO) == can
        assert not guest.ask("api.test", use_edns=0).ednsflags & dns.flags.DO
    assert guest.ask("files.test", want_dnssec=True).ednsflags & dns.flags.DO


def test_another_class_and_another_opcode_are_not_asked() -> None:
    guest = Guest(Rules(allow_others=True))
    assert guest.ask("version.bind", "TXT", rdclass="CH").rcode() == dns.rcode.NOERROR
    (answer,) = guest.send(b"\0\7\x28\0" + bytes(8))
    assert answer[:2] == b"\0\7" and answer[3] & 15 == dns_wire.NOTIMP
    (answer,) = guest.send(b"\0\7\1\0\0\2" + bytes(6) + b"\1a\0\0\1\0\1" * 2)
    assert answer[:2] == b"\0\7" and answer[3] & 15 == dns_wire.FORMERR
    assert guest.upstream.asked == []


def test_a_version_of_edns_that_we_do_not_know_is_told() -> None:
    query = dns.message.make_query("api.test", "A")
    query.use_edns(1)
    (answer,) = Guest(Rules("allow api.test")).send(query.to_wire())
    assert dns.message.from_wire(answer).rcode() == dns.rcode.BADVERS


def test_a_failing_nameserver_is_servfail_never_nxdomain() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7")
    guest.upstream.silent = True
    assert told(guest.ask("api.test", use_edns=0)) == ("SERVFAIL", "no nameserver of the host answers")
    guest.upstream.silent, guest.upstream.rcode = False, dns.rcode.REFUSED
    assert guest.ask("api.test").rcode() == dns.rcode.SERVFAIL
    guest.upstream.full = True
    assert guest.send(dns.message.make_query("api.test", "A").to_wire()) == []


def test_cname_into_a_denied_name() -> None:
    guest = Guest(Rules("allow shop.test", "deny *.cdn.test"), SHOP)
    answer = guest.ask("shop.test")
    assert texts(answer) == ["shop.test. e1.cdn.test.", "e1.cdn.test. 192.0.2.1"]
    assert guest.rules.pins == {("shop.test", "192.0.2.1"): 300}
    assert told(guest.ask("e1.cdn.test", use_edns=0)) == ("NXDOMAIN", "pasta-py: a rule denies this name: rule 2")


def test_a_derived_name_may_be_asked_while_its_pin_lasts() -> None:
    guest = Guest(Rules("allow shop.test"), SHOP)
    assert guest.ask("e1.cdn.test").rcode() == dns.rcode.NXDOMAIN
    guest.ask("shop.test")
    assert texts(guest.ask("e1.cdn.test", "AAAA")) == ["e1.cdn.test. 2001:db8::1"]
    assert ("shop.test", "2001:db8::1") in guest.rules.pins
    guest.now += 301
    assert guest.ask("e1.cdn.test").rcode() == dns.rcode.NXDOMAIN


def test_a_derived_name_is_denied_once_no_rule_allows_the_name_that_led_to_it() -> None:
    guest = Guest(Rules("allow shop.test", "allow other.test"), SHOP)
    guest.ask("shop.test")
    guest.rules.replace("allow other.test")
    asked = len(guest.upstream.asked)
    assert told(guest.ask("e1.cdn.test", use_edns=0)) == ("NXDOMAIN", "pasta-py: no rule allows this name: --allow e1.cdn.test")
    assert len(guest.upstream.asked) == asked
    guest.rules.replace("allow other.test", "allow shop.test")
    assert texts(guest.ask("e1.cdn.test")) == ["e1.cdn.test. 192.0.2.1"]
    assert guest.service.judge(dns_wire.from_text("e1.cdn.test"), 1).rule == 1  # where it stands now


def test_an_answer_is_judged_by_the_rules_in_force_when_it_comes() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7", slow=True)
    judged: list[bool] = []
    guest.service.on_judged.append(lambda judgement, _name, _kind, _guest: judged.append(judgement.what == dns_decide.ALLOWED))
    answers: list[bytes] = []
    client = Client(answers.append, 4096, bytes(10) + b"\xff\xff\xc0\0\2\2")
    guest.service.on_query(dns.message.make_query("api.test", "A").to_wire(), client)
    guest.service.ask_again("api.test", bytes(10) + b"\xff\xff\xc0\0\2\7", lambda: answers.append(b""))
    guest.rules.replace("allow other.test")
    guest.upstream.later[0]()
    assert dns.message.from_wire(answers[0]).rcode() == dns.rcode.NXDOMAIN and answers[1:] == [b""]
    assert guest.rules.pins == {} and judged == [True, False]


def test_srv_and_underscores() -> None:
    zone = "_http._tcp.mirror.test SRV 1 1 80 m1.cdn.test.\nm1.cdn.test A 192.0.2.9\nmy_host.test A 192.0.2.3"
    guest = Guest(Rules("allow mirror.test", "allow my_host.test"), zone)
    assert texts(guest.ask("_http._tcp.mirror.test", "SRV")) == ["_http._tcp.mirror.test. 1 1 80 m1.cdn.test."]
    assert texts(guest.ask("m1.cdn.test")) == ["m1.cdn.test. 192.0.2.9"]
    assert ("mirror.test", "192.0.2.9") in guest.rules.pins
    assert texts(guest.ask("my_host.test")) == ["my_host.test. 192.0.2.3"]
    asked = len(guest.upstream.asked)
    for name in ("_http._tcp.other.test", "_sixteen-letters-._tcp.mirror.test", "_c._b._a.mirror.test", "a._tcp.mirror.test"):
        assert guest.ask(name, "SRV").rcode() == dns.rcode.NXDOMAIN
    assert len(guest.upstream.asked) == asked


def test_a_name_with_underscores_has_its_own_rules_and_those_of_its_host_and_the_first_counts() -> None:
    def judged(name: str, *lines: str) -> tuple[bool, str, int]:
        found = Guest(Rules(*lines)).service.judge(dns_wire.from_text(name), dns_wire.SRV)
        return found.what == dns_decide.ALLOWED, found.owner, found.rule

    assert judged("_a._b.api.test", "deny api.test", "allow *.test") == (False, "api.test", 0)
    assert judged("_a._b.api.test", "allow *.test", "deny api.test") == (True, "_a._b.api.test", 0)
    assert judged("_a._b.api.test", "deny x.test", "allow _a._b.api.test") == (True, "_a._b.api.test", 1)


REBINDING = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00::1", "::ffff:10.0.0.1")


def test_rebinding() -> None:
    """The address forms that embed another are the core's to know: tests/csrc/test_egress_verdicts.py."""
    for address in REBINDING:
        kind = "AAAA" if ":" in address else "A"
        public = "2001:db8::9" if kind == "AAAA" else "192.0.2.9"
        guest = Guest(Rules("allow *.evil.test"), f"a.evil.test {kind} {address}\na.evil.test {kind} {public}")
        answer = guest.ask("a.evil.test", kind, use_edns=0)
        assert texts(answer) == [f"a.evil.test. {public}"]
        assert told(answer)[1].startswith("pasta-py: a.evil.test may not lead to ")
        assert len(guest.rules.pins) == 1
    alone = Guest(Rules("allow *.evil.test"), "b.evil.test A 10.0.0.1").ask("b.evil.test")
    assert alone.rcode() == dns.rcode.NOERROR and not alone.answer


def test_a_name_with_its_prefix_may_lead_into_the_private_network() -> None:
    zone = "registry.corp.test A 10.20.3.4\nregistry.corp.test A 10.21.0.1"
    guest = Guest(Rules("allow registry.corp.test=10.20.0.0/16"), zone)
    assert texts(guest.ask("registry.corp.test")) == ["registry.corp.test. 10.20.3.4"]


def test_single_label_and_the_hosts_own_name() -> None:
    guest = Guest(Rules("allow buildhost", allow_others=True), "buildhost A 192.0.2.5", host_names=("mybox.corp.test", "mybox"))
    for name in ("myhost", "_gateway", "mybox.corp.test", "printer.local", "5.2.0.10.in-addr.arpa"):
        assert guest.ask(name).rcode() == dns.rcode.NXDOMAIN, name
    assert guest.upstream.asked == []
    assert texts(guest.ask("buildhost")) == ["buildhost. 192.0.2.5"]


def test_localhost_is_answered_here() -> None:
    guest = Guest(Rules())
    assert texts(guest.ask("localhost")) == ["localhost. 127.0.0.1"]
    assert texts(guest.ask("Foo.LocalHost", "AAAA")) == ["Foo.LocalHost. ::1"]
    assert guest.ask("localhost", "MX").rcode() == dns.rcode.NOERROR
    assert guest.ask("notlocalhost").rcode() == dns.rcode.NXDOMAIN
    assert guest.upstream.asked == []


def test_browsers_are_told_to_use_this_nameserver() -> None:
    guest = Guest(Rules(allow_others=True))
    for name in ("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "_dns.resolver.arpa"):
        assert guest.ask(name).rcode() == dns.rcode.NXDOMAIN
    assert guest.upstream.asked == []


def test_one_family_only() -> None:
    """A nameserver that says NXDOMAIN for AAAA of a name that has an A."""
    guest = Guest(Rules("allow v4only.test"), "v4only.test A 192.0.2.4")
    zone = guest.upstream.zone
    guest.upstream.ask_real = guest.upstream.ask  # type: ignore[attr-defined]

    def broken(name: bytes, kind: int, done: "Callable[[object], None]", **options: bool) -> bool:
        guest.upstream.zone = [] if kind == 28 else zone
        return bool(guest.upstream.ask_real(name, kind, done, **options))  # type: ignore[attr-defined]

    guest.upstream.ask = broken  # type: ignore[method-assign]
    answer = guest.ask("v4only.test", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer
    assert guest.ask("nothing.v4only.test", "AAAA").rcode() == dns.rcode.NXDOMAIN


def test_where_there_is_no_room_for_pins_the_answer_is_shorter() -> None:
    rules = Rules("allow many.test", room=100)
    guest = Guest(rules, "\n".join(f"many.test A 192.0.2.{i}" for i in range(1, 151)))
    (answer,) = guest.send(dns.message.make_query("many.test", "A").to_wire(), 65535)
    assert len(texts(dns.message.from_wire(answer))) == 100 == len(rules.pins)


def test_300_addresses_are_cut_without_edns_and_whole_over_tcp() -> None:
    zone = "\n".join(f"many.test A 192.0.{i // 250}.{i % 250 + 1}" for i in range(300))
    guest = Guest(Rules("allow many.test"), zone)
    query = dns.message.make_query("many.test", "A", use_edns=-1).to_wire()
    (short,) = guest.send(query)
    read = dns.message.from_wire(short)
    assert len(short) <= 512 and read.flags & dns.flags.TC and texts(read)
    (whole,) = guest.send(query, 65535)
    assert len(texts(dns.message.from_wire(whole))) == 300 == len(guest.rules.pins)


def test_queries_for_the_same_wait_for_one_answer_each_in_its_own_case() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7", slow=True)
    got: list[bytes] = []
    queries = [dns.message.make_query(name, "A") for name in ("api.test", "API.test", "api.TEST")]
    for query in queries:
        guest.service.on_query(query.to_wire(), Client(got.append, 4096))
    assert got == [] and guest.upstream.asked == [("api.test", 1)]
    guest.upstream.later.pop()()
    assert [dns.message.from_wire(answer).id for answer in got] == [query.id for query in queries]
    assert [str(dns.message.from_wire(answer).question[0].name) for answer in got] == ["api.test.", "API.test.", "api.TEST."]


def test_a_flood_of_denied_queries_gets_few_answers_and_delays_no_allowed_name() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7")
    answered = sum(len(guest.send(dns.message.make_query(f"x{i}.denied.test", "A").to_wire())) for i in range(2000))
    assert answered == dns_service._DENIALS_BURST
    assert texts(guest.ask("api.test"))
    guest.now += 0.1
    assert guest.ask("files.test").rcode() == dns.rcode.NXDOMAIN


def test_names_that_no_rule_names_are_not_pinned() -> None:
    zone = "any.test A 93.184.215.14\nany.test A 10.0.0.1"
    guest = Guest(Rules("allow api.test", allow_others=True), zone)
    assert texts(guest.ask("any.test")) == ["any.test. 93.184.215.14"] and not guest.rules.pins


def test_names_of_other_bytes_that_are_too_long_to_be_shown_are_denied() -> None:
    guest = Guest(Rules("allow *.api.test", allow_others=True))
    for name in (b"\x3f" + b"\0" * 63 + b"\x3f" + b"\xff" * 63 + b"\3api\4test\0",):
        (answer,) = guest.send(b"\0\1\1\0\0\1" + bytes(6) + name + b"\0\1\0\1")
        assert answer[3] & 15 == dns_wire.NXDOMAIN
    assert guest.upstream.asked == []


def test_an_address_has_the_name_that_it_was_last_an_answer_for() -> None:
    guest = Guest(Rules("allow api.test", "allow other.test"), "api.test A 192.0.2.7\nother.test A 192.0.2.7\napi.test A 10.0.0.1")
    address = bytes(10) + b"\xff\xff\xc0\0\2\7"
    assert guest.service.lookup(address) is None
    for name in ("api.test", "other.test", "API.test"):
        guest.ask(name)
        assert guest.service.lookup(address) == name.lower()
    assert guest.service.lookup(bytes(10) + b"\xff\xff\x0a\0\0\1") is None  # withheld


def test_a_name_that_is_asked_for_again_is_still_that_of_an_earlier_flow() -> None:
    guest = Guest(Rules("allow *.test"), "a.test A 192.0.2.7\nb.test A 192.0.2.7")
    address = bytes(10) + b"\xff\xff\xc0\0\2\7"
    for guest.now, name in ((1000.0, "a.test"), (1010.0, "a.test"), (1020.0, "b.test")):
        guest.ask(name)
    found = [guest.service.origin(address, at_s) for at_s in (999.0, 1005.0, 1015.0, 1025.0)]
    assert [each.name if each else "" for each in found] == ["", "a.test", "a.test", "b.test"]


def test_a_name_that_a_connection_waits_for_is_asked_and_pinned_before_it_goes_on() -> None:
    guest = Guest(Rules("allow *.test", "deny other.example"), "a.test A 192.0.2.7\na.test AAAA 2001:db8::7", slow=True)
    four, six, done = bytes(10) + b"\xff\xff\xc0\0\2\7", bytes.fromhex("20010db8") + bytes(11) + b"\7", list[str]()
    guest.service.ask_again("a.test", four, lambda: done.append("first"))
    guest.service.ask_again("a.test", bytes(10) + b"\xff\xff\xc0\0\2\1", lambda: done.append("second"))  # the same question
    guest.service.ask_again("a.test", six, lambda: done.append("third"))
    assert guest.upstream.asked == [("a.test", 1), ("a.test", 28)] and done == []
    guest.upstream.later.pop(0)()
    assert done == ["first", "second"] and guest.rules.pins == {("a.test", "192.0.2.7"): 300}
    guest.upstream.silent = True
    guest.service.ask_again("b.test", four, lambda: done.append("silence"))
    guest.upstream.later.pop()()
    guest.service.ask_again("other.example", four, lambda: done.append("denied"))
    guest.upstream.full = True
    guest.service.ask_again("c.test", four, lambda: done.append("full"))
    assert done[2:] == ["silence", "denied", "full"] and len(guest.upstream.asked) == 3


def test_hints_of_services_are_pinned_or_taken_out() -> None:
    zone = 'web.test HTTPS 1 . alpn="h2" ipv4hint=192.0.2.1,10.0.0.1 ipv6hint=fd00::1'
    guest = Guest(Rules("allow web.test"), zone)
    assert texts(guest.ask("web.test", "HTTPS")) == ['web.test. 1 . alpn="h2" ipv4hint="192.0.2.1"']
    assert guest.rules.pins == {("web.test", "192.0.2.1"): 300}


@pytest.mark.parametrize("verifies", [False, True])
def test_keys_for_an_encrypted_hello_are_taken_out_while_names_are_verified(verifies: bool) -> None:
    guest = Guest(Rules("allow web.test", verifies=verifies), 'web.test HTTPS 1 . alpn="h2" ech="AAT+DQAA"')
    (answer,) = texts(guest.ask("web.test", "HTTPS"))
    assert ("ech" not in answer) == verifies and 'alpn="h2"' in answer


def test_a_dname_on_the_way_is_told_with_its_signature() -> None:
    """Without that a guest that validates takes the whole answer for forged."""
    guest = Guest(Rules("allow a.old.test"), "a.old.test CNAME a.new.test.\na.new.test A 192.0.2.1")
    real = guest.upstream.ask

    def with_dname(name: bytes, kind: int, done: "Callable[[object], None]", **options: bool) -> bool:
        def add(answer: object) -> None:
            assert isinstance(answer, dns_wire.Message)
            old, new, other = map(dns_wire.from_text, ("old.test", "new.test", "bank.test"))
            signature = dns_wire.DNAME.to_bytes(2, "big") + bytes(16) + dns_wire.from_text("test") + b"signed"
            signed = [dns_wire.Rr(owner, dns_wire.RRSIG, 60, signature) for owner in (old, other)]
            answer.sections[0][:0] = [dns_wire.Rr(old, dns_wire.DNAME, 60, new), *signed]
            done(answer)

        return real(name, kind, add, **options)

    guest.upstream.ask = with_dname  # type: ignore[method-assign]
    kinds = [(str(each.name), dns.rdatatype.to_text(each.rdtype)) for each in guest.ask("a.old.test", want_dnssec=True).answer]
    assert sorted(kinds) == [("a.new.test.", "A"), ("a.old.test.", "CNAME"), ("old.test.", "DNAME"), ("old.test.", "RRSIG")]


def test_chain_of_ten_and_a_loop() -> None:
    chain = "\n".join(f"c{i}.test CNAME c{i + 1}.test." for i in range(10)) + "\nc10.test A 192.0.2.1"
    guest = Guest(Rules("allow c0.test"), chain)
    assert len(texts(guest.ask("c0.test"))) == 11
    looped = Guest(Rules("allow l.test"), "l.test CNAME m.test.\nm.test CNAME l.test.").ask("l.test")
    assert sorted(texts(looped)) == ["l.test. m.test.", "m.test. l.test."]


def test_records_that_answer_another_question_are_left_out() -> None:
    guest = Guest(Rules("allow api.test"), "api.test A 192.0.2.7")
    real = guest.upstream.ask

    def lying(name: bytes, kind: int, done: "Callable[[object], None]", **options: bool) -> bool:
        def add(answer: object) -> None:
            assert isinstance(answer, dns_wire.Message)
            answer.sections[0].insert(0, dns_wire.Rr(dns_wire.from_text("bank.test"), 1, 60, b"\xc0\0\2\x63"))
            answer.sections[2].append(dns_wire.Rr(dns_wire.from_text("api.test"), 1, 60, b"\xc0\0\2\x64"))
            done(answer)

        return real(name, kind, add, **options)

    guest.upstream.ask = lying  # type: ignore[method-assign]
    answer = guest.ask("api.test")
    assert texts(answer) == ["api.test. 192.0.2.7"] and not answer.additional
    assert list(guest.rules.pins) == [("api.test", "192.0.2.7")]


def test_what_is_shown_of_a_name_is_plain() -> None:
    guest = Guest(Rules())
    name = b"\x0b\x1b[31m\n<b>\"x" + b"\x04test\0"
    (answer,) = guest.send(b"\0\1\1\0\0\1" + bytes(5) + b"\1" + name + b"\0\1\0\1" + b"\0\0\x29\x04\xd0" + bytes(6))
    assert told(dns.message.from_wire(answer))[1].endswith("--allow \\027\\09131m\\010\\060b\\062\\034x.test")
