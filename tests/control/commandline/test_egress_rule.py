"""Rules of the egress policy as text: what is read, what is refused and where, and that printing is the inverse of reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control.commandline import egress_rule
from pasta_py.control.commandline.egress_rule import ALL_PROTOCOLS, TCP, UDP, Rule
from pasta_py.errors import UsageError


def read(text: str) -> Rule:
    return egress_rule.parse(text, allow=True)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Example.ORG.:443", "example.org:443"),
        ("b\u00fccher.test:443", "xn--bcher-kva.test:443"),
        ("a\u3002test", "a.test"),
        ("my_host.test:8000-8010/udp", "my_host.test:8000-8010/udp"),
        ("10.0.0.1/32/icmp", "10.0.0.1/icmp"),
        ("[2001:db8:0::/32]:443", "[2001:db8::/32]:443"),
        ("registry.corp.test=10.20.0.0/16:443", "registry.corp.test=10.20.0.0/16:443"),
        ("*.corp.test=@private", "*.corp.test=@private"),
        ("host.containers.internal:80", "@host:80"),
        ("lan.:80", "lan.:80"),
        ("-x.:80", "-x.:80"),
        ("-x.test", "-x.test"),
        ("All", "all."),
        ("*.lan", "*.lan"),
        ("*:53/udp", "*:53/udp"),
    ],
)
def test_a_rule_is_read_and_printed(text: str, printed: str) -> None:
    assert str(read(text)) == printed and read(printed).encoded == read(text).encoded


def test_what_is_not_said_is_wide_within_the_destination() -> None:
    assert (read("a.test").ports, read("a.test").protocols) == ((0, 65535), ALL_PROTOCOLS)
    assert (read("a.test:80").ports, read("a.test:80").protocols) == ((80, 80), TCP | UDP)
    assert (read("a.test/tcp").ports, read("a.test/tcp").protocols) == ((0, 65535), TCP)


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("", 1, "empty"),
        ("a.test:0", 8, "no port"),
        ("a.test:65536", 8, "no port"),
        ("a.test:-5", 8, "no port"),
        ("a.test:https", 8, "no port"),
        ("a.test:443-80", 8, "ends before it begins"),
        ("a.test:443,80", 11, "one rule for each port"),
        ("a test", 2, "no place"),
        ("https://a.test/", 6, "a URL is no rule: give host and port alone, as in example.org:443"),
        ("--sandbox", 1, "'--sandbox' looks like an option: give a destination such as example.org:443 before it"),
        ("--", 1, "looks like an option"),
        ("-t:80", 1, "'-t' looks like an option"),
        ("lan", 1, "did you mean @lan? A host of that name is 'lan.'"),
        ("internet:443", 1, "did you mean @internet?"),
        ("any/tcp", 1, "did you mean *?"),
        ("a.test\n:443", 7, "no place"),
        ("a.test:443/sctp", 12, "no protocol"),
        ("a.test:443/icmp", 12, "no ports"),
        ("2001:db8::1:443", 1, "brackets"),
        ("fd00::1", 6, "brackets"),
        ("[2001:db8::1", 1, "']' is missing"),
        ("[10.0.0.1]", 2, "not an IPv6 address"),
        ("[::ffff:10.0.0.1]", 2, "write it as IPv4"),
        ("10.1.2.3/8", 1, "10.0.0.0/8 is the prefix"),
        ("10.0.0.0/33", 10, "no prefix length"),
        ("1.2.3", 1, "IPv4 address"),
        ("0x7f000001", 1, "IPv4 address"),
        ("a..test", 1, "empty label"),
        ("a*.test", 2, "'*' stands alone"),
        ("*.*.test", 3, "'*' stands alone"),
        ("*=10.0.0.0/8", 2, "not expected"),
        ("a.test=b.test", 8, "a name is not expected"),
        ("a.test=@internet", 8, "leave it out"),
        ("@everything", 1, "no group"),
        ("stra\u00dfe.test", 5, "two forms"),
        ("b\u00fccher.test:99999", 13, "no port"),
        ("\uff0a.test", 1, "no form in DNS"),  # a wide asterisk
        ("1.2.3.\uff14", 1, "no form in DNS"),  # a wide digit
        ("a\u200b\u00a0.test", 2, "no place"),
        ("a.test:\u00fc", 8, "no port"),
        ("10.0.0.0/8\u00fc", 10, "no prefix length"),
        (f"{'a' * 64}.test", 1, "64 characters"),
        (".".join(["a" * 49] * 6), 1, "253 are the most"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_column(text: str, column: int, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(text)
    assert f"column {column}:" in str(refused.value) and why in str(refused.value)


def test_a_deny_takes_no_limit() -> None:
    with pytest.raises(UsageError, match="column 7"):
        egress_rule.parse("a.test=10.0.0.0/8", allow=False)


LABELS = st.text("abcxyz019-_", min_size=1, max_size=63).map(lambda label: f"a{label[:62]}")
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
GROUPS = st.sampled_from(sorted(egress_rule.GROUP_NAMES))
V4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda p: f"{masked(*p)}/{p[1]}")
V6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 80)).map(lambda p: f"[{masked(*p)}/{p[1]}]")
LIMITS = V4 | V6 | st.sampled_from(["@private", "@lan", "@host"])
DESTINATIONS = (
    st.just("*") | GROUPS | V4 | V6 | NAMES | NAMES.map(lambda n: f"*.{n}") | st.tuples(NAMES, LIMITS).map("=".join)
)
PORTS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
ENDS = st.sampled_from(["", "/tcp", "/udp", "/icmp"]) | st.builds(
    lambda ports, protocol: f":{ports[0]}-{ports[1]}{protocol}", PORTS, st.sampled_from(["", "/tcp", "/udp"])
)
PROVED = st.tuples(
    NAMES | NAMES.map(lambda n: f"*.{n}") | st.tuples(NAMES, LIMITS).map("=".join),
    st.sampled_from(["", ":8443", ":1-65535"]), st.sampled_from(["/tls", "/http"]),
)  # fmt: skip


def masked(address: object, bits: int) -> object:
    from ipaddress import ip_network

    return ip_network(f"{address}/{bits}", strict=False).network_address


@pytest.mark.parametrize(
    ("text", "shown"), [("a.test/tls", "a.test:443/tls"), ("*.a.test/http", "*.a.test:80/http"), ("a.test=@lan:8443/tls",) * 2]
)
def test_a_proof_without_a_port_is_for_that_of_its_protocol(text: str, shown: str) -> None:
    assert str(read(text)) == shown and read(text).protocols in (9, 17)


@pytest.mark.parametrize("text", ["*/tls", "10.0.0.0/8/tls", "192.0.2.1:443/tls", "@lan/http", "host.docker.internal/tls"])
def test_a_proof_needs_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="proves a name, and this rule has none: give the port and tcp"):
        read(text)


@given((st.tuples(DESTINATIONS, ENDS) | PROVED).map("".join))
def test_property_printing_is_the_inverse_of_reading(text: str) -> None:
    rule = read(text)
    assert read(str(rule)).encoded == rule.encoded and str(read(str(rule))) == str(rule)


@given(st.text(max_size=40) | st.text("a.test:*/[]@=-1239,tcpudip ", max_size=30))
def test_property_any_text_is_a_rule_or_refused_with_a_column(text: str) -> None:
    try:
        assert read(str(read(text))).encoded == read(text).encoded
    except UsageError as error:
        assert "column" in str(error)


def test_a_file_is_read_with_notes_and_a_default() -> None:
    text = "\ufeffversion 1\r\n# build\r\nallow a.test:443  # the index\r\n\r\ndeny *.b.test\r\ndefault internet\r\n"
    parsed = egress_rule.parse_file(text.encode(), "rules")
    assert [str(rule) for rule in parsed.rules] == ["a.test:443", "*.b.test"]
    assert [rule.allow for rule in parsed.rules] == [True, False]
    first = next(iter(parsed.rules))
    assert (first.note, first.where, parsed.default) == ("the index", "rules:3", "internet")


def test_names_of_a_file_that_are_not_ascii_are_mapped_and_its_errors_have_the_columns_of_the_file() -> None:
    lines = [f"allow b\u00fccher{n}.test:443  # n\u00f6te\t{n}" for n in range(50)]
    parsed = egress_rule.parse_file("\n".join(lines).encode(), "r\u00fcles")
    assert [str(rule) for rule in parsed.rules] == [str(read(f"b\u00fccher{n}.test:443")) for n in range(50)]
    seventh = read("b\u00fccher7.test:443")
    assert parsed.rules.texts[7].split("\t") == ["r\u00fcles:8", f"allow {seventh}", "n\u00f6te 7"]
    with pytest.raises(UsageError, match=r"rules:51: rule 'b\u00fccher.test:https', column 13"):
        egress_rule.parse_file("\n".join([*lines, "deny  b\u00fccher.test:https"]).encode(), "rules")


def test_a_rule_that_is_not_ascii_is_its_own_note() -> None:
    assert (read("B\u00fccher.test:443").note, read("a.test").note) == ("B\u00fccher.test:443", "")
    assert egress_rule.parse("\u00e9.test", allow=False, note="why").note == "why"
    lines = ("allow  *.b\u00fccher.test:443 ", "allow \u00e9.test#mine", "deny a.test", "deny \u00e9.b\u00e9.test")
    for end in ("\n", "\r\n"):
        notes = [rule.note for rule in egress_rule.parse_file(end.join(lines).encode(), "f").rules]
        assert notes == ["*.b\u00fccher.test:443", "mine", "", "\u00e9.b\u00e9.test"]


@given(st.lists(st.tuples(st.booleans(), DESTINATIONS, ENDS, st.text("ab #\t\u00fc", max_size=5)), max_size=8))
def test_property_a_file_says_what_its_lines_say(lines: list[tuple[bool, str, str, str]]) -> None:
    lines = [line for line in lines if line[0] or "=" not in line[1]]
    file = "".join(f"{'allow' if allow else 'deny'} {to}{end} #{note}\r\n" for allow, to, end, note in lines)
    alone = [(allow, to + end) for allow, to, end, _ in lines]
    parsed = egress_rule.parse_file(f"default none\n{file}".encode(), "f")
    assert [(rule.allow, rule.encoded) for rule in parsed.rules] == [
        (allow, egress_rule.parse(text, allow=allow).encoded) for allow, text in alone
    ]
    assert [rule.where for rule in parsed.rules] == [f"f:{n}" for n in range(2, len(alone) + 2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "rules: the file says nothing"),
        (b"# only a note\n", "rules: the file says nothing"),
        (b"allow a.test\npermit b.test\n", "rules:2: 'permit b.test' is not understood"),
        (b"allow a.test b.test\n", "rules:1: 'allow a.test b.test' is not understood"),
        (b"allow a.test:99999\n", "rules:1: rule 'a.test:99999', column 8"),
        (b"version 2\nallow a.test\n", "rules:1: version '2' is not known"),
        (b"default none\ndefault open\n", "rules:2: 'default open' is a second default"),
        (b"default closed\n", "rules:1: 'closed' is no default"),
        (b"allow a.test\nallow \xff\n", "rules:2: this is not UTF-8"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_with_its_line(text: bytes, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rule.parse_file(text, "rules")
    assert str(refused.value).startswith(said)
