"""The egress policy with the real program: what a guest reaches, and how a client hears a no."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, NO_PORTS, PROGRAMS, REMOTE4, REMOTE6, Guest, Lab, Script, program
from packets import ip
from quickest import least
from reached import METADATA, PORT, PUBLIC4, PUBLIC6, ether, frames, neighbours, payloads, watch

ELSEWHERE = ("--no-map-gw",)


@pytest.fixture(scope="module", autouse=True)
def services(lab: Lab) -> Iterator[None]:
    """Servers beyond the host's link, on it, and on the host itself."""
    lab.remote.setup(f"addr add {PUBLIC4}/32 dev lo\naddr add {METADATA}/32 dev lo\naddr add {PUBLIC6}/128 dev lo")
    everywhere = (PUBLIC4, PUBLIC6, REMOTE4, REMOTE6, GATEWAY4, GATEWAY6, METADATA)
    far = [lab.remote.start("answer.py", "name", address, PORT, "far") for address in everywhere]
    names = {"good.test": PUBLIC4, "bad.test": PUBLIC4, "inside.test": REMOTE4, "lo.test": "127.0.0.1"}
    known = [f"--address=/{name}/{address}" for name, address in names.items()]
    at = (f"--listen-address={REMOTE4}", "--bind-interfaces")
    dnsmasq = ("dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", *at, *known)
    lab.remote.serve(*dnsmasq, port=53, proto="udp", caps=True)
    near = [lab.host.start("answer.py", "name", address, PORT, "host") for address in ("0.0.0.0", "::")]
    yield
    for server in (*far, *near):
        server.result()


def attempts(guest: Guest, *these: tuple[str, str, int] | tuple[str, str, int, float]) -> list[tuple[str, float]]:
    done = guest.run(sys.executable, PROGRAMS / "denied.py", input=json.dumps(these), timeout=120)
    return [(what, milliseconds) for what, milliseconds in json.loads(done.stdout)["results"]]


def outcome(guest: Guest, kind: str, address: str, port: int = PORT) -> str:
    return attempts(guest, (kind, address, port))[0][0]


def reached(guest: Guest, *addresses: str) -> list[str]:
    """Of these the addresses that answer TCP at PORT."""
    results = attempts(guest, *(("tcp", address, PORT) for address in addresses))
    return [address for address, (what, _) in zip(addresses, results, strict=True) if what == "answered"]


@pytest.mark.option("--egress")
def test_nothing_leaves_with_egress_none_and_each_client_hears_at_once(lab: Lab) -> None:
    with lab.guest("--egress", "none") as guest:
        guest.run("sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range", check=False)
        seen = watch(lab, "eth0")
        kinds = ("tcp", "udp", "ping")
        asked = [(kind, address, PORT) for address in (PUBLIC4, PUBLIC6, REMOTE4, REMOTE6) for kind in kinds]
        prohibited = {4: "EHOSTUNREACH", 6: "EACCES"}
        expected = [what for family in (4, 6, 4, 6) for what in ("ECONNREFUSED", prohibited[family], prohibited[family])]

        def longest_ms() -> float:
            results = attempts(guest, *asked)
            assert [what for what, _ in results] == expected, results
            return max(milliseconds for _, milliseconds in results)

        # What takes a client longest is far from the second after which it would ask again.
        least(longest_ms, below=900)
        passed = [p for p in json.loads(json.dumps(seen.result()["first"])) if REMOTE4 in p]
        assert not passed


@pytest.mark.option("--allow")
def test_what_a_rule_allows_passes_and_nothing_else(lab: Lab) -> None:
    with lab.guest("--allow", f"{PUBLIC4}:{PORT}/tcp", "--allow", f"[2600::/16]:{PORT}", "--allow", f"{REMOTE4}/icmp") as guest:
        guest.run("sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range", check=False)
        assert [what for what, _ in attempts(
            guest, ("tcp", PUBLIC4, PORT), ("udp", PUBLIC4, PORT), ("tcp", PUBLIC6, PORT), ("udp", PUBLIC6, PORT),
            ("ping", REMOTE4, 0), ("tcp", REMOTE4, PORT), ("ping", PUBLIC4, 0))
        ] == ["answered", "EHOSTUNREACH", "answered", "answered", "answered", "ECONNREFUSED", "EHOSTUNREACH"]  # fmt: skip


@pytest.mark.option("--deny")
def test_a_deny_closes_one_place_and_the_first_rule_counts(lab: Lab) -> None:
    with lab.guest("--deny", REMOTE4) as guest:
        assert reached(guest, REMOTE4, REMOTE6, PUBLIC4) == [REMOTE6, PUBLIC4]
    with lab.guest("--allow", f"{REMOTE4}:{PORT}", "--deny", "192.0.2.0/24", "--egress", "open") as guest:
        assert reached(guest, REMOTE4, GATEWAY4, PUBLIC4) == [REMOTE4, PUBLIC4]


@pytest.mark.option("--egress")
def test_internet_is_all_but_the_host_its_networks_and_the_metadata(lab: Lab) -> None:
    mapped = ("--map-guest-addr", "198.18.0.5", "--egress", "internet")
    with lab.guest(*mapped) as guest:
        everything = (PUBLIC4, PUBLIC6, REMOTE4, REMOTE6, GATEWAY4, GATEWAY6, METADATA, "198.18.0.5")
        assert reached(guest, *everything) == [PUBLIC4, PUBLIC6]
        assert outcome(guest, "udp", PUBLIC4) == "answered" and outcome(guest, "udp", REMOTE4) == "EHOSTUNREACH"
    with lab.guest(*mapped, "--allow", "@host", "--allow", "@lan") as guest:
        assert reached(guest, *everything) == [a for a in everything if a != METADATA]


@pytest.mark.option("--egress-file")
def test_a_file_is_read_where_it_stands(lab: Lab) -> None:
    lab.directory.joinpath("rules").write_text(f"version 1\nallow {REMOTE4}:{PORT}  # the mirror\ndefault internet\n")
    with lab.guest("--deny", PUBLIC4, "--egress-file", "rules", "--deny", REMOTE4) as guest:
        assert reached(guest, PUBLIC4, PUBLIC6, REMOTE4, REMOTE6) == [PUBLIC6, REMOTE4]


def started(lab: Lab, *options: object) -> subprocess.CompletedProcess[str]:
    return lab.host.run(program(), "--config-net", *options, "--", "true", check=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--allow", "a.test:443,80"), "--allow: rule 'a.test:443,80', column 11: ',' has no place in a rule"),
        (("--allow", "--sandbox"), "--allow: rule '--sandbox', column 1: '--sandbox' looks like an option: give a destination"),
        (("--egress", "closed"), "'closed' for --egress: expected one of open, internet, none"),
        (("--egress", "none", "--egress", "open"), "--egress none and --egress open are both given"),
        (("--egress-file", "nosuch"), "--egress-file 'nosuch': No such file or directory"),
        (("--egress-file", "broken"), "broken:2: 'permit b.test' is not understood"),
        (("--egress", "none", "--egress-file", "opens"), "--egress says 'none' and opens says 'open'"),
        (("--egress-file", "twice"), "'allow a.test:443' (twice:2) has no effect: 'allow *.test' (twice:1) comes first"),
    ],
)
def test_a_policy_that_is_not_clear_refuses_the_start(lab: Lab, options: tuple[str, ...], said: str) -> None:
    lab.directory.joinpath("broken").write_text("allow a.test\npermit b.test\n")
    lab.directory.joinpath("opens").write_text("default open\n")
    lab.directory.joinpath("twice").write_text("allow *.test\nallow a.test:443\n")
    done = started(lab, *options)
    assert done.returncode != 0 and said in done.stderr, done.stderr


def test_a_rule_without_effect_and_a_wide_one_are_warned_of(lab: Lab) -> None:
    done = started(lab, "--allow", "10.0.0.0/8", "--deny", "10.1.0.0/16:22", "--allow", "*.com")
    assert done.returncode == 0
    assert "'deny 10.1.0.0/16:22' (--deny) has no effect: 'allow 10.0.0.0/8' (--allow) comes first" in done.stderr
    assert "'allow *.com' (--allow) allows every name that ends in .com" in done.stderr
    done = lab.host.run(program("pasta-py"), "--allow", "a.test", "--allow", "b.test:443", "--allow", "@lan", "--", "true")
    wide = "egress rule 'allow a.test' (--allow) is for every port of TCP and UDP, and for ping"
    assert done.stderr == f"pasta-py: warning: {wide}\n"
    for rule, warned in (("a.test", True), ("a.test:443/tcp", True), ("10.0.0.1:443", True), ("*.a.test:80", False)):
        done = started(lab, "--verify-names", "--deny", "b.test:443", "--allow", rule)
        assert done.returncode == 0 and ("--verify-names changes no rule" in done.stderr) == warned, (rule, done.stderr)


# ---- ports ----


def test_ports_are_closed_unless_they_are_given(lab: Lab) -> None:
    """Forwarded ports work, and so do their replies; the guest opens nothing back."""
    with lab.guest("--egress", "none", "-t", "7500", "-u", "7500") as guest:
        server = guest.start("answer.py", "name", "0.0.0.0", 7500, "guest")
        clients = json.dumps([("tcp", HOST4, 7500), ("udp", HOST4, 7500)])
        done = lab.remote.run(sys.executable, PROGRAMS / "denied.py", input=clients)
        assert [what for what, _ in json.loads(done.stdout)["results"]] == ["answered", "answered"]
        assert reached(guest, REMOTE4) == []
        server.result()


def test_spliced_ports_are_the_hosts_and_open_what_is_given(lab: Lab) -> None:
    lo = ("127.0.0.1", "::1")
    with lab.guest("--egress", "none", "-T", str(PORT), "-U", str(PORT)) as guest:
        assert reached(guest, *lo, GATEWAY4) == [*lo]
        assert outcome(guest, "udp", "127.0.0.1") == "answered"
    with lab.guest("--deny", f"@host:{PORT}", "-T", str(PORT), "-U", str(PORT)) as guest:
        assert reached(guest, *lo, REMOTE4) == [REMOTE4]
        assert attempts(guest, ("udp", "127.0.0.1", PORT, 1))[0][0] == "silence"
    with lab.guest("--egress", "internet") as guest:
        assert reached(guest, *lo) == []


# ---- names ----


@pytest.fixture
def nameserver(lab: Lab) -> Iterator[None]:
    lab.resolv(f"nameserver {REMOTE4}\n")
    yield
    lab.resolv("")


def fetched(guest: Guest, name: str) -> str:
    """What a client of the name hears."""
    ask = f"import socket; s = socket.create_connection(({name!r}, {PORT}), 20); print(s.recv(100).split()[0].decode())"
    done = guest.run(sys.executable, "-c", ask, check=False)
    return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2].partition(":")[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_name_opens_its_addresses_and_no_others(lab: Lab, nameserver: None, threads: int) -> None:
    allowed = (f"good.test:{PORT}", f"inside.test=192.0.2.0/24:{PORT}", "lo.test")
    rules = [word for rule in allowed for word in ("--allow", rule)]
    with lab.guest("--deny", "bad.test", *rules, "--threads", threads, entry="pasta-py") as guest:
        assert reached(guest, PUBLIC4, REMOTE4) == []
        assert fetched(guest, "good.test") == "far" and reached(guest, PUBLIC4, REMOTE4) == [PUBLIC4]
        assert fetched(guest, "bad.test") == "socket.gaierror" and fetched(guest, "other.test") == "socket.gaierror"
        assert fetched(guest, "inside.test") == "far" and fetched(guest, "lo.test") == "socket.gaierror"
        assert outcome(guest, "tcp", PUBLIC4, PORT + 1) == "ECONNREFUSED"


def test_a_denied_name_does_not_close_the_address_that_another_has(lab: Lab, nameserver: None) -> None:
    with lab.guest("--deny", "bad.test", "--egress", "open", entry="pasta-py") as guest:
        assert fetched(guest, "bad.test") == "socket.gaierror"
        assert fetched(guest, "good.test") == "far" and fetched(guest, "inside.test") == "far"


# ---- the guest's root tries to get round it ----


def test_no_frame_of_the_guests_root_leaves(lab: Lab) -> None:
    """Forms of addresses, sources, fragments, options, groups, link-local, port 0: none reaches the link or the host."""
    at_host = Script(lab.host.popen(sys.executable, PROGRAMS / "reach.py", "watch", "lo", caps=True))
    with lab.guest("--egress", "none", *NO_PORTS) as guest:
        link = watch(lab, "eth0")
        sent = send(guest, frames())
        sent += send(guest, to_everywhere())
        assert sent > 1000
        seen = link.result()
        quiet = [packet for packet in seen["first"] if not neighbours(packet)]  # type: ignore[attr-defined]
        assert quiet == [], seen
    assert at_host.result()["packets"] == 0


def to_everywhere() -> Iterator[bytes]:
    inside = ("::ffff:192.0.2.10", "64:ff9b::c000:20a", "2002:c000:20a::1", REMOTE6, PUBLIC6, "ff02::fb", "ff0e::1")
    for source, targets in (
        (HOST4, (REMOTE4, PUBLIC4, GATEWAY4, METADATA, "224.0.0.251", "239.1.1.1", "192.0.2.255")),
        (HOST6, inside),
        ("192.0.2.77", (REMOTE4, PUBLIC4)),
        ("2001:db8::77", (REMOTE6, PUBLIC6)),
    ):
        for target in targets:
            for port in (0, 53, 67, 853, PORT):
                for proto, body in payloads(source, target, 31000, port):
                    yield ether(ip(source, target, proto, body))


def send(guest: Guest, these: Iterator[bytes]) -> int:
    text = "\n".join(frame.hex() for frame in these)
    done = guest.run(sys.executable, PROGRAMS / "reach.py", "send", guest.interface(), input=text, timeout=240)
    return int(json.loads(done.stdout)["sent"])


# ---- what is told at the end ----


def told(lab: Lab, *options: str, command: str) -> list[str]:
    done = lab.host.run(program("pasta-py"), *options, "--", "sh", "-c", command, check=False)
    return [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("pasta-py: egress: ")]


def test_a_command_ends_with_what_was_denied_and_the_rule_that_would_allow_it(lab: Lab, nameserver: None) -> None:
    """Attempts at one destination within a second count once, queries for both types too. The rules that are named do allow it."""
    curl = f"curl -s -m 5 http://good.test:{PORT}/; "
    more = f"getent ahosts other.test; curl -s -m 5 http://{REMOTE4}:{PORT}/; ping -c1 {GATEWAY4}; curl -m 5 http://{METADATA}:80/"
    rules = ("--allow", f"good.test:{PORT + 1}", "--deny", METADATA, "--deny", "*.bad.test")
    lines = told(lab, "-4", *rules, command=f"{curl}{more}; getent ahosts x.bad.test")
    assert sorted(line.partition(": denied once: ")[2] for line in lines) == [
        f"{METADATA}:80/tcp: --deny: 'deny {METADATA}' closes it",
        f"{GATEWAY4}/icmp: --allow {GATEWAY4}/icmp would allow it",
        f"{REMOTE4}:{PORT}/tcp: --allow {REMOTE4}:{PORT}/tcp would allow it",
        f"{PUBLIC4}:{PORT}/tcp: --allow good.test:{PORT}/tcp would allow it",
        f"the name other.test: --allow other.test:{PORT + 1} would allow it, if this is the port",
        "the name x.bad.test: --deny: 'deny *.bad.test' closes it",
    ]
    assert told(lab, "-4", "--allow", f"good.test:{PORT}/tcp", command=curl) == []


def test_what_is_told_has_an_end(lab: Lab) -> None:
    many = " ".join(f"{REMOTE4}:{port}" for port in range(1, 31))
    lines = told(lab, "-4", "--egress", "none", command=f"for at in {many}; do curl -s -m 5 http://$at/; done")
    assert len(lines) == 21 and lines[-1] == "egress: 10 other destinations were denied", lines
    lines = told(lab, "--egress-dns", "none", "--allow", "a.test:80", command="getent ahosts a.test")
    hint = "--egress-dns rules --allow a.test:80 would allow it, if this is the port"
    assert lines == [f"egress: denied once: the name a.test: {hint}"]
