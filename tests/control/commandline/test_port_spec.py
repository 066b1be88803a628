"""Port specifications: what each form means, what is refused and how, and that parser and printer are inverse."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control.commandline import port_spec
from pasta_py.control.commandline.port_spec import ALL, AUTO, EXCLUDE, PORTS, Chunk, PortSpec, Rule
from pasta_py.errors import UsageError

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
EPHEMERAL = (32768, 60999)


def ports(first: int, last: int = 0, to: int = 0, target: str = "") -> Chunk:
    where = ip_address(target) if target else None
    return Chunk(kind=PORTS, first=first, last=last or first, target=where, target_first=to or first)


def excluded(first: int, last: int = 0) -> Chunk:
    return Chunk(kind=EXCLUDE, first=first, last=last or first)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", PortSpec()),
        ("8080", PortSpec(chunks=(ports(8080),))),
        ("/8080", PortSpec(chunks=(ports(8080),))),
        ("*/8080", PortSpec(chunks=(ports(8080),))),
        ("%eth0/8080", PortSpec(ifname="eth0", chunks=(ports(8080),))),
        ("*%eth0/8080", PortSpec(ifname="eth0", chunks=(ports(8080),))),
        ("192.0.2.1/80", PortSpec(address=V4, chunks=(ports(80),))),
        ("[192.0.2.1]/80", PortSpec(address=V4, chunks=(ports(80),))),
        ("192.0.2.1%eth0/80", PortSpec(address=V4, ifname="eth0", chunks=(ports(80),))),
        ("0.0.0.0%eth0/8080", PortSpec(address=IPv4Address("0.0.0.0"), ifname="eth0", chunks=(ports(8080),))),
        ("2001:db8::1/80", PortSpec(address=V6, chunks=(ports(80),))),
        ("[2001:db8::1]/80", PortSpec(address=V6, chunks=(ports(80),))),
        ("[2001:db8::1]%eth0/80", PortSpec(address=V6, ifname="eth0", chunks=(ports(80),))),
        ("::1/8080-8080:80-80", PortSpec(address=IPv6Address("::1"), chunks=(ports(8080, to=80),))),
        ("::ffff:192.0.2.1/80", PortSpec(address=V4, chunks=(ports(80),))),
        ("1-65535", PortSpec(chunks=(ports(1, 65535),))),
        ("22:2222,80-90:8080-8090", PortSpec(chunks=(ports(22, to=2222), ports(80, 90, to=8080)))),
        ("all", PortSpec(chunks=(Chunk(kind=ALL),))),
        ("auto,~22", PortSpec(chunks=(Chunk(kind=AUTO), excluded(22)))),
        ("~5000-6000,1024-65535", PortSpec(chunks=(excluded(5000, 6000), ports(1024, 65535)))),
        ("0.0.0.0/all:10.0.0.1", PortSpec(address=IPv4Address("0.0.0.0"),
                                          chunks=(Chunk(kind=ALL, target=ip_address("10.0.0.1")),))),
        ("192.0.2.1/80:10.0.0.1", PortSpec(address=V4, chunks=(ports(80, target="10.0.0.1"),))),
        ("192.0.2.1/80:10.0.0.1/8080", PortSpec(address=V4, chunks=(ports(80, to=8080, target="10.0.0.1"),))),
        ("[::]/8080:fc00::1/80", PortSpec(address=IPv6Address("::"), chunks=(ports(8080, to=80, target="fc00::1"),))),
        ("[::]/8080:[fc00::1]/80,90", PortSpec(address=IPv6Address("::"),
                                               chunks=(ports(8080, to=80, target="fc00::1"), ports(90)))),
    ],
)  # fmt: skip
def test_each_form_has_its_meaning(text: str, spec: PortSpec) -> None:
    assert port_spec.parse(text) == spec
    assert port_spec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "quoted", "accepted"),
    [
        ("", "''", "ports such as 8080"),
        ("192.0.2.1/", "'192.0.2.1/'", "ports such as 8080"),
        ("0", "'0'", "1 to 65535"),
        ("65536", "'65536'", "1 to 65535"),
        ("80,99999999999999999999", "'99999999999999999999'", "1 to 65535"),
        ("90-80", "'90-80'", "did you mean 80-90?"),
        ("80:0", "'0'", "1 to 65535"),
        ("80-90:1-3", "'80-90:1-3'", "as long as 80-90"),
        ("80,,90", "''", "a port"),
        ("http", "'http'", "a port"),
        ("~", "''", "a port or a range"),
        ("~80:90", "'80:90'", "a range of ports"),
        ("8o,90", "'8o'", "a port"),
        ("²", "'²'", "a port"),
        ("80,none", "'none'", "stands alone"),
        ("192.0.2.1/none", "'none'", "stands alone"),
        ("192.0.2.300/80", "'192.0.2.300'", "an IPv4 or IPv6 address"),
        ("[::1/80", "'[::1'", "an IPv4 or IPv6 address"),
        ("%/80", "''", "interface name"),
        ("%" + "x" * 128 + "/80", "x" * 128, "1 to 127 characters"),
        ("224.0.0.1/80", "'224.0.0.1'", "unicast"),
        ("80:10.0.0.1", "'80:10.0.0.1'", "did you mean 0.0.0.0/80:10.0.0.1?"),
        ("80:[fc00::1]/81", "'80:[fc00::1]/81'", "did you mean [::]/80:[fc00::1]/81?"),
        ("192.0.2.1/80:fc00::1", "'80:fc00::1'", "own family"),
        ("all:10.0.0.1", "'all:10.0.0.1'", "own family"),
        ("0.0.0.0/80:0.0.0.0", "'0.0.0.0'", "unicast"),
        ("0.0.0.0/80:10.0.0.300/1", "'10.0.0.300'", "not a target"),
        ("0.0.0.0/all:10.0.0.1,80", "all:10.0.0.1,80", "one of the two"),
        ("auto:80", "'auto:80'", "'auto'"),
        ("localhost/8080", "'localhost'", "did you mean 127.0.0.1/8080 or [::1]/8080?"),
        ("eth0/8080", "'eth0'", "did you mean %eth0/8080, which"),
    ],
)
def test_a_refusal_quotes_the_part_and_says_what_is_accepted(text: str, quoted: str, accepted: str) -> None:
    with pytest.raises(UsageError) as caught:
        port_spec.parse(text)
    message = str(caught.value)
    assert quoted in message
    assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["127.0.0.1/80", "%eth0/80", "*/80", "/80", "::1/80"])
def test_the_namespaces_own_directions_take_no_listening_address(text: str) -> None:
    assert port_spec.parse("80:81", listen=False) == port_spec.parse("80:81")
    with pytest.raises(UsageError, match="no listening address here"):
        port_spec.parse(text, listen=False)


numbers = st.integers(1, 65535)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None)).filter(
    lambda a: not a.is_multicast
)
ifnames = st.text(st.sampled_from("abcz019.-_,%[]*~"), min_size=1, max_size=15).filter(port_spec.valid_ifname)


@st.composite
def port_specs(draw: st.DrawFn) -> PortSpec:
    address = draw(st.none() | addresses)

    def target() -> object:
        if address is None:
            return None
        other = st.ip_addresses(v=address.version).filter(
            lambda a: not a.is_multicast and not a.is_unspecified and getattr(a, "ipv4_mapped", None) is None
        )
        return draw(st.none() | other)

    chunks = []
    for kind in draw(st.lists(st.sampled_from((ALL, AUTO, EXCLUDE, PORTS)), min_size=1, max_size=5)):
        first, other = draw(numbers), draw(numbers)
        first, last = min(first, other), max(first, other)
        if kind == PORTS:
            there = draw(st.integers(1, 65535 - (last - first)))
            chunks.append(Chunk(kind=kind, first=first, last=last, target=target(), target_first=there))
        elif kind == EXCLUDE:
            chunks.append(Chunk(kind=kind, first=first, last=last))
        else:
            named = any(c.kind == PORTS for c in chunks) or kind == AUTO
            chunks.append(Chunk(kind=kind, target=None if named else target()))
    if any(c.kind == PORTS for c in chunks):
        chunks = [c.replace(target=None) if c.kind == ALL else c for c in chunks]
    return PortSpec(address=address, ifname=draw(st.just("") | ifnames), chunks=tuple(chunks))


@given(port_specs())
def test_parse_undoes_print(spec: PortSpec) -> None:
    assert port_spec.parse(str(spec)) == spec


@given(st.text(st.sampled_from("0123456789-:/,~*%[].abcdefalutonexh \0²"), max_size=30) | st.text(), st.booleans())
def test_any_string_parses_to_what_prints_the_same_or_is_a_usage_error(text: str, listen: bool) -> None:
    try:
        spec = port_spec.parse(text, listen=listen)
    except UsageError as error:
        assert str(error)
        return
    assert port_spec.parse(str(spec)) == spec


@given(st.lists(port_specs(), max_size=4), st.tuples(numbers, numbers).map(sorted).map(tuple))
def test_resolve_gives_disjoint_rules_without_excluded_ports_or_a_usage_error(
    specs: list[PortSpec], ephemeral: tuple[int, int]
) -> None:
    try:
        rules = port_spec.resolve(specs, ephemeral)
    except UsageError:
        return
    for index, rule in enumerate(rules):
        assert 1 <= rule.first <= rule.last <= 65535
        assert 1 <= rule.target_first <= rule.target_first + rule.last - rule.first <= 65535
        for other in rules[index + 1 :]:
            same = rule.address is None or other.address is None or rule.address == other.address
            assert not same or rule.last < other.first or other.last < rule.first
    if len(specs) == 1:
        for chunk in (c for c in specs[0].chunks if c.kind == EXCLUDE):
            assert all(rule.last < chunk.first or chunk.last < rule.first for rule in rules)


def resolved(*texts: str) -> tuple[Rule, ...]:
    return port_spec.resolve([port_spec.parse(text) for text in texts], EPHEMERAL)


def shape(rules: tuple[Rule, ...]) -> list[tuple[int, int, int, bool, bool]]:
    return [(r.first, r.last, r.target_first, r.weak, r.scan) for r in rules]


@pytest.mark.parametrize(
    ("texts", "rules"),
    [
        ((), [(1, 32767, 1, True, True), (61000, 65535, 61000, True, True)]),
        (("none",), []),
        (("none", "80"), [(80, 80, 80, False, False)]),
        (("auto",), [(1, 32767, 1, True, True), (61000, 65535, 61000, True, True)]),
        (("all,8080",), [(8080, 8080, 8080, False, False)]),
        (("auto,8080",), [(8080, 8080, 8080, False, True)]),
        (("40000",), [(40000, 40000, 40000, False, False)]),
        (("~10-65535",), [(1, 9, 1, True, False)]),
        (("all,~2-65534",), [(1, 1, 1, True, False), (65535, 65535, 65535, True, False)]),
        (("80-90:8080-8090,~83-85,~85-86",), [(80, 82, 8080, False, False), (87, 90, 8087, False, False)]),
        (("8080", "auto,~8080,~1-8000,~8082-65535"), [(8080, 8080, 8080, False, False), (8001, 8079, 8001, True, True),
                                                     (8081, 8081, 8081, True, True)]),
        (("192.0.2.1/80", "192.0.2.2/80", "::1/80"), [(80, 80, 80, False, False)] * 3),
        (("0.0.0.0/80", "::/80"), [(80, 80, 80, False, False)] * 2),
        (("80:8080,~80",), []),
        (("80-90,~1-100", "81"), [(81, 81, 81, False, False)]),
    ],
)  # fmt: skip
def test_specifications_become_rules(texts: tuple[str, ...], rules: list[tuple[int, int, int, bool, bool]]) -> None:
    assert shape(resolved(*texts)) == rules


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8080, 8081", "8080,8081"),
        ("8080,\t 8081:80", "8080,8081:80"),
        (" 8080", "8080"),
        ("8080: 80", "8080:80"),
        ("127.0.0.1/ 8080", "127.0.0.1/8080"),
        ("8080- 8082", "8080-8082"),
        ("auto, ~ 22", "auto,~22"),
    ],
)
def test_blanks_before_a_port_or_a_chunk_are_passed_over(text: str, meant: str) -> None:
    assert port_spec.parse(text) == port_spec.parse(meant)


@pytest.mark.parametrize("text", ["8080 ", "8080 ,8081", "80 80", "127.0.0.1 /80", "none ", " ", "80-82 : 80"])
def test_blanks_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        port_spec.parse(text)


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (("auto", "8080"), ("'auto'", "'8080'", "~8080")),
        (("80,80",), ("'80,80'",)),
        (("80-90", "85-95"), ("'80-90'", "'85-95'", "85-90")),
        (("80", "192.0.2.1/80"), ("'80'", "'192.0.2.1/80'")),
        (("%eth0/80", "%eth1/80"), ("'%eth0/80'", "'%eth1/80'")),
        (("0.0.0.0/80", "192.0.2.1/80"), ("'0.0.0.0/80'", "'192.0.2.1/80'")),
        (("::1/80", "::/80"), ("'[::1]/80'", "'[::]/80'")),
        (("80", "none"), ("'none'", "'80'")),
    ],
)
def test_conflicts_name_both_specifications(texts: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(*texts)
    for part in parts:
        assert part in str(caught.value)


def test_thousands_of_chunks_resolve_without_comparing_all_pairs() -> None:
    rules = resolved(",".join(str(port) for port in range(1, 65536, 2)))
    assert len(rules) == 32768


@pytest.mark.parametrize(
    ("given", "listened"),
    [
        ([], ["0.0.0.0%lo/auto", "[::1]/auto"]),
        (["8080"], ["0.0.0.0%lo/8080", "[::1]/8080"]),
        (["%lo/80-90,~85"], ["0.0.0.0%lo/80-90,~85", "[::1]%lo/80-90,~85"]),
        (["127.0.0.2/8080", "[::1]/9090"], ["127.0.0.2/8080", "[::1]/9090"]),
        (["none"], ["none"]),
    ],
)
def test_loopback_only(given: list[str], listened: list[str]) -> None:
    specs = [port_spec.parse(text) for text in given]
    assert [str(spec) for spec in port_spec.loopback_only(specs, (4, 6))] == listened


@pytest.mark.parametrize("text", ["192.0.2.1/80", "[2001:db8::1]/80", "%eth0/80", "127.0.0.1%eth0/80"])
def test_loopback_only_refuses_others(text: str) -> None:
    with pytest.raises(UsageError, match="--splice-only"):
        port_spec.loopback_only([port_spec.parse(text)], (4, 6))


def test_alternative_names_become_the_interfaces_own() -> None:
    names = (("enp0s3", "eth0"), ("x" * 127, "eth0"))
    specs = tuple(port_spec.parse(text) for text in ("%enp0s3/80", f"192.0.2.1%{'x' * 127}/81", "%eth0/82", "%none9/83", "84"))
    real = port_spec.real_names(specs, names)
    assert [spec.ifname for spec in real] == ["eth0", "eth0", "eth0", "none9", ""]
    assert [spec.chunks for spec in real] == [spec.chunks for spec in specs]


def test_a_long_name_of_no_interface_is_not_left_for_the_kernel_to_cut() -> None:
    with pytest.raises(UsageError, match="no interface 'x{16}'"):
        port_spec.real_names((port_spec.parse(f"%{'x' * 16}/80"),), ())


@pytest.mark.parametrize(
    ("port", "option"),
    [
        ("8080", ("-t", "8080")),
        ("8080:80/udp", ("-u", "8080:80")),
        ("127.0.0.1:8080:80/tcp", ("-t", "127.0.0.1/8080:80")),
        ("[::1]:8000-8001:80-81", ("-t", "[::1]/8000-8001:80-81")),
    ],
)
def test_published_ports_are_podmans(port: str, option: tuple[str, str]) -> None:
    assert port_spec.published(port) == option


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("8080:80", "-t 8080:80"),
        ("53:53/udp", "-u 53:53"),
        ("192.0.2.1:80:80", "-t 192.0.2.1/80:80"),
        ("127.0.0.1/80", "-t 127.0.0.1/80"),
        ("80,443", "-t 80,443"),
        ("out.pcap", ""),
        ("12:30:00", ""),
        ("/tmp/8080", ""),
        ("-", ""),
    ],
)
def test_what_was_meant_by_a_port_in_the_wrong_place(text: str, option: str) -> None:
    assert port_spec.meant_by(text) == option
