"""From options and files to the policy of the core: defaults, groups, ports that close, and rules that are useless."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_host import HOST

from pasta_py.control.commandline import egress_rule, options, port_spec
from pasta_py.control.ip import ip_address, ip_network, packed
from pasta_py.control.planning import egress, egress_encode, plan, summary
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import HostError, UsageError


def said(*args: str) -> egress.Said | None:
    return egress.read(options.parse([*args, "--", "true"], "pasta-py"))


def test_the_default_follows_from_the_rules_unless_it_is_said() -> None:
    def default(*args: str) -> str:
        policy = said(*args)
        return policy.default if policy else "no policy"

    assert default() == "no policy" and default("--egress", "open") == "no policy"
    assert default("--allow", "a.test") == "none" and default("--deny", "a.test") == "open"
    assert default("--allow", "a.test", "--egress", "internet") == "internet"


def test_files_stand_where_they_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("deny b.test\ndefault none\n")
    policy = said("--allow", "a.test", "--egress-file", str(file), "--allow", "c.test")
    assert policy and [str(rule) for rule in policy.rules] == ["a.test", "b.test", "c.test"]
    with pytest.raises(UsageError, match="two defaults"):
        said("--egress", "open", "--egress-file", str(file))
    with pytest.raises(HostError, match="No such file"):
        said("--egress-file", str(tmp_path / "other"))


def test_ports_close_with_the_default_unless_they_are_given() -> None:
    def closed(*args: str) -> list[str]:
        parsed = options.parse([*args, "--", "true"], "pasta-py")
        policy = egress.read(parsed)
        assert policy
        fitting = egress.fitting(parsed, policy)
        names = ("tcp_ports", "udp_ports", "tcp_ns", "udp_ns")
        return [name for name in names if getattr(fitting, name) == (port_spec.NONE,)]

    assert closed("--egress", "none") == ["tcp_ports", "udp_ports", "tcp_ns", "udp_ns"]
    assert closed("--allow", "a.test", "-t", "80", "-U", "53") == ["udp_ports", "tcp_ns"]
    assert closed("--egress", "internet") == ["tcp_ns", "udp_ns"] and closed("--deny", "a.test") == []


def made(*args: str) -> plan.Plan:
    """The plan of a start with these options on a host whose nameservers are 192.0.2.53 and a loopback address."""
    parsed = options.parse([*args, "--", "true"], "pasta")
    policy = egress.read(parsed)
    assert policy
    parsed = egress.fitting(parsed, policy)
    servers = Resolv(nameservers=(ip_address("192.0.2.53"), ip_address("127.0.0.53")))
    return egress.into(plan.build(parsed, HOST.replace(name="box"), servers), policy, parsed, HOST)


@pytest.mark.option("--pin-grace")
def test_how_long_addresses_of_names_stay_reachable_is_said() -> None:
    assert made("--allow", "a.test").worker.pin_grace_s == 3600
    assert made("--allow", "a.test", "--pin-grace", "7").worker.pin_grace_s == 7


@pytest.mark.option("--verify-names")
def test_verify_names_is_in_the_policy_and_the_summary() -> None:
    plain, verified = made("--allow", "a.test:443"), made("--allow", "a.test:443", "--verify-names")
    assert (plain.worker.egress[3], verified.worker.egress[3]) == (0, 1)
    assert plain.worker.egress[4:] == verified.worker.egress[4:]
    assert "names are verified at ports 443 and 80" in "\n".join(summary.lines(verified, ()))


def test_a_policy_brings_our_own_nameserver_and_asks_all_of_the_hosts() -> None:
    worker = made("--allow", "a.test").worker
    assert worker.serves_dns and worker.dns == (packed(ip_address("169.254.1.1")), worker.our_link_local)[: len(worker.dns)]
    assert worker.dns_servers == (packed(ip_address("192.0.2.53")), packed(ip_address("127.0.0.53")))
    assert worker.host_names == ("box",) and not worker.dns_tls
    assert made("--allow", "a.test", "--dns-host", "192.0.2.7").worker.dns_servers == (packed(ip_address("192.0.2.7")),)
    resolv = made("--allow", "a.test").resolv
    assert resolv and resolv.from_user == ("169.254.1.1",)
    with pytest.raises(UsageError, match="--dns-host 192.0.2.9"):
        made("--allow", "a.test", "--dns", "192.0.2.9")


def remarked(*lines: str) -> list[tuple[int, int]]:
    """Indexes of rules without effect, and of those because of which."""
    rules = read(*lines)
    policy = egress_encode.Policy(rules=rules, allow_others=False, names=0, groups=(), nat64=())
    return [
        pair for pair in egress_rule.remarks(egress_encode.encode(policy), len(lines)) if pair[1] != egress_rule.TOO_WIDE
    ]


def read(*lines: str) -> egress_rule.Rules:
    pairs = (line.split() for line in lines)
    return egress_rule.joined([egress_rule.parse(text, allow=verdict == "allow") for verdict, text in pairs])


def pairs(*lines: str) -> list[tuple[str, str]]:
    texts = [line.split()[1] for line in lines]
    return [(texts[rule], texts[earlier]) for rule, earlier in remarked(*lines)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("allow *", "deny a.test"),
        ("allow *:1-100/tcp", "allow 10.0.0.1:80/tcp"),
        ("deny 10.0.0.0/8", "allow 10.1.0.0/16:22"),
        ("allow [2001:db8::/32]", "deny [2001:db8::1]"),
        ("deny *.test", "allow a.b.test:443"),
        ("deny *.test", "allow *.b.test=10.0.0.0/8"),
        ("allow a.test", "allow a.test:443"),
        ("deny a.test", "allow a.test=@private"),
        ("deny @lan", "allow @lan:80"),
    ],
)
def test_a_rule_behind_a_wider_one_is_useless(first: str, second: str) -> None:
    assert pairs(first, second) == [(second.split()[1], first.split()[1])]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("allow *.test", "allow test"),
        ("allow [::/0]", "allow 10.0.0.1"),
        ("allow 10.0.0.0/8:443", "allow 10.0.0.0/8"),
        ("allow 10.0.0.0/8/tcp", "allow 10.0.0.1"),
        ("allow a.test", "allow a.test=10.0.0.0/8"),
        ("allow a.test=10.0.0.0/8", "deny a.test"),
        ("deny @internet", "deny 8.8.8.8"),
        ("deny 10.0.0.1", "deny @private"),
    ],
)
def test_a_rule_that_can_decide_is_not(first: str, second: str) -> None:
    assert pairs(first, second) == []


RULES = st.lists(
    st.tuples(
        st.sampled_from(["allow", "deny"]),
        st.sampled_from(
            ["*", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "[::/0]", "[fd00::/8]", "a.test", "*.test", "*.a.test"]
        ),
        st.sampled_from(["", ":443", ":1-500", "/tcp", ":53/udp"]),
    ).map(lambda parts: f"{parts[0]} {parts[1]}{parts[2]}"),
    max_size=6,
)


@given(RULES)
def test_property_a_useless_rule_changes_nothing(lines: list[str]) -> None:
    """Without the useless rules, every question has the same answer."""
    dropped = {rule for rule, _ in remarked(*lines)}
    kept = [line for index, line in enumerate(lines) if index not in dropped]
    for destination in ("10.1.1.1", "10.2.2.2", "fd00::1", "a.test", "b.a.test", "x.test"):
        for port in (1, 53, 443, 501):
            for protocol in (egress_rule.TCP, egress_rule.UDP):
                assert first(lines, destination, port, protocol) == first(kept, destination, port, protocol)


def first(lines: list[str], destination: str, port: int, protocol: int) -> bool | None:
    """The verdict of the first line that matches."""
    for line in lines:
        verdict, text = line.split()
        rule = egress_rule.parse(text, allow=verdict == "allow")
        if rule.ports[0] <= port <= rule.ports[1] and rule.protocols & protocol and holds(text, destination):
            return rule.allow
    return None


def holds(text: str, destination: str) -> bool:
    """Whether the destination of a rule holds an address or a name."""
    to = re.sub(r"(:[\d-]+)?(/[a-z]+)?$", "", text)
    if to == "*":
        return True
    if not to[-1].isalpha():
        network = ip_network(to.strip("[]"))
        return not destination[-1].isalpha() and ip_address(destination) in network
    return destination == to or (to.startswith("*.") and destination.endswith(to[1:]))
