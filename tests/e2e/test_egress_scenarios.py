"""What people want of names under an egress policy, each with the program that they use.

The nameserver is tests/programs/nameserver.py.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest
import sid
from lab import FAR4, FAR6, GATEWAY4, HOST4, HOST6, NO_PORTS, PROGRAMS, Guest, Lab, program, routed, wait_until
from servers import nginx

OURS = "169.254.1.1"
DIG = ("dig", "+tries=1", "+time=20")
PRIVATE4 = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", HOST4, GATEWAY4, OURS)
PRIVATE6 = ("::1", "::ffff:10.0.0.1", "fd00::1", "fe80::1", "64:ff9b::a00:1", "2002:a00:1::1", "::", HOST6)

ZONE = [
    f"api.test A {FAR4}", f"api.test AAAA {FAR6}", "api.test TXT hello", f"db.test A {FAR4}",
    f"index.test A {FAR4}", f"files.test A {FAR4}",
    "shop.test CNAME e1.cdn.test.", f"e1.cdn.test A {FAR4}",
    f"v4only.test A {FAR4}", "v4only.test !AAAA -",
    "_http._tcp.mirror.test SRV 1 1 80 m1.cdn.test.", f"m1.cdn.test A {FAR4}", f"mirror.test A {FAR4}",
    f"xn--bcher-kva.test A {FAR4}", f"my_host.test A {FAR4}", f"buildhost A {FAR4}",
    *(f"many.test A 203.0.{n // 250}.{n % 250 + 1}" for n in range(300)),
    *(f"r4.evil.test A {address}" for address in (*PRIVATE4, FAR4)),
    *(f"r6.evil.test AAAA {address}" for address in (*PRIVATE6, FAR6)),
    "*.fresh.test/0 A 203.0.114.#",
    *(f"turning.test/5*8 A 203.1.{n // 250}.{n % 250 + 1}" for n in range(4000)),
    *(f"c{n}.test CNAME c{n + 1}.test." for n in range(10)), f"c10.test A {FAR4}",
    "loop.test CNAME loop2.test.", "loop2.test CNAME loop.test.",
    "reg.corp.test A 192.0.2.1", "reg.corp.test A 10.1.2.3",
]  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(routed) as made:
        made.host.sysctl(ipv4__ip_unprivileged_port_start=0)
        made.seen = made.directory / "seen"  # type: ignore[attr-defined]
        server = made.host.popen(sys.executable, PROGRAMS / "nameserver.py", "127.0.0.53", made.seen)  # type: ignore[attr-defined]
        assert server.stdin and server.stdout
        server.stdin.write("\n".join(ZONE) + "\n\n")
        server.stdin.flush()
        assert server.stdout.readline() == "ready\n"
        made.router.setup(f"route add 203.0.114.0/24 via {FAR4} dev far\nroute add 203.1.0.0/20 via {FAR4} dev far")
        made.remote.setup("route add local 203.0.114.0/24 dev lo\nroute add local 203.1.0.0/20 dev lo")
        nginx(made)
        made.remote.run("sh", "-c", "echo it works >/run/big/www/index.html")
        made.resolv("nameserver 127.0.0.53\n")
        yield made


def seen(lab: Lab) -> list[bytes]:
    """The queries that have come to the nameserver since the last call."""
    path = Path(lab.seen)  # type: ignore[attr-defined]
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return [bytes.fromhex(line.split()[1]) for line in lines]


def asked(lab: Lab) -> list[str]:
    return [str(dns.message.from_wire(data).question[0]).lower() for data in seen(lab)]


def dig(guest: Guest, *words: str) -> list[str]:
    return guest.run(*DIG, "+short", *words).stdout.split()


def status(guest: Guest, *words: str) -> str:
    shown = guest.run(*DIG, *words).stdout
    found = re.search(r"status: (\w+)", shown)
    assert found, shown
    return found[1]


def fetched(guest: Guest, url: str, *options: str) -> str:
    return guest.run("curl", "-sS", "-m", "20", *options, url).stdout.strip()


def refused(guest: Guest, url: str, *options: str) -> str:
    done = guest.run("curl", "-sS", "-m", "20", *options, url, check=False)
    assert done.returncode, done.stdout
    return done.stderr


def allow(*rules: str) -> tuple[str, ...]:
    return (*NO_PORTS, *(word for rule in rules for word in ("--allow", rule)))


def test_an_allowed_name_is_reached_and_its_address_under_no_other_port(lab: Lab) -> None:
    with lab.guest(*allow("api.test:80")) as guest:
        assert "no route" not in refused(guest, f"http://{FAR4}/")  # before the name was resolved: denied
        assert fetched(guest, "http://api.test/", "-4") == "it works"
        assert fetched(guest, "http://api.test/", "-6") == "it works"
        assert fetched(guest, f"http://{FAR4}/") == "it works"
        assert guest.script("probe.py", "tcp", FAR4, 81, 1)["error"]
        assert "Could not resolve host" in refused(guest, "http://other.test/")
        assert guest.run("getent", "ahosts", "other.test", check=False).returncode == 2


def test_pip_files_on_a_second_name(lab: Lab) -> None:
    """The index is fetched; the file's name does not exist, which pip says in its own words."""
    page = "<html><body><a href=http://files.test/demo-1.0-py3-none-any.whl>demo-1.0-py3-none-any.whl</a></body></html>"
    lab.remote.run("sh", "-c", f"mkdir -p /run/big/www/demo; echo '{page}' >/run/big/www/demo/index.html")
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries", "0", "--timeout", "20")
    pip += ("--index-url", "http://index.test/", "--trusted-host", "index.test", "-d", f"{lab.directory}/got", "demo")
    with lab.guest(*allow("index.test:80")) as guest:
        seen(lab)
        done = guest.run(*pip, check=False)
        assert done.returncode and "files.test" in done.stderr + done.stdout
        assert re.search("name resolution|Name or service not known|Temporary failure", done.stderr + done.stdout), done.stderr
        assert not [query for query in asked(lab) if query.startswith("files.test")]
        assert "--allow files.test" in guest.run(*DIG, "files.test").stdout


def test_rebinding(lab: Lab) -> None:
    with lab.guest(*allow("*.evil.test:80")) as guest:
        assert dig(guest, "r4.evil.test", "A") == [FAR4]
        assert dig(guest, "r6.evil.test", "AAAA") == [FAR6]
        shown = guest.run(*DIG, "r4.evil.test").stdout
        assert "may not lead to" in shown
        for address in ("169.254.169.254", "10.0.0.1", GATEWAY4):
            assert guest.script("probe.py", "tcp", address, 80, 1)["error"]


def test_a_name_with_its_prefix(lab: Lab) -> None:
    with lab.guest(*allow("reg.corp.test=10.0.0.0/8:443")) as guest:
        assert dig(guest, "reg.corp.test") == ["10.1.2.3"]
    with lab.guest(*allow("reg.corp.test")) as guest:
        assert dig(guest, "reg.corp.test") == []


@pytest.mark.parametrize("rule", ["reg.corp.test:80", "*.corp.test:80/tcp", "reg.corp.test"])
def test_the_end_names_the_narrowest_rule_for_a_name_that_leads_into_the_hosts_network(lab: Lab, rule: str) -> None:
    """That rule, and the one before it, give the guest the address."""

    def run(*rules: str) -> "subprocess.CompletedProcess[str]":
        return lab.host.run(program("pasta-py"), *allow(*rules), "--", "getent", "ahostsv4", "reg.corp.test", check=False)

    refused = run(rule)
    assert "10.1.2.3" not in refused.stdout
    ending = rule.partition(":")[1] + rule.partition(":")[2]
    (line,) = (each for each in refused.stderr.splitlines() if "10.1.2.3" in each)
    assert line.endswith(f": the address 10.1.2.3 of reg.corp.test: --allow reg.corp.test=10.1.2.3{ending} would allow it"), line
    assert "10.1.2.3" in run(rule, f"reg.corp.test=10.1.2.3{ending}").stdout


def test_single_label_and_the_hosts_own_name(lab: Lab) -> None:
    name = lab.host.run("uname", "-n").stdout.strip()
    for options in (("--deny", "other.test"), ("--allow", "api.test")):
        with lab.guest(*NO_PORTS, *options) as guest:
            seen(lab)
            for asking in (name, "myhost", "_gateway", "printer.local", "1.2.0.192.in-addr.arpa" if "--allow" in options else "_x"):
                assert status(guest, asking) == "NXDOMAIN"
            assert guest.run("getent", "ahosts", "localhost").stdout
            assert dig(guest, "foo.localhost") == ["127.0.0.1"]
            assert asked(lab) == []
    with lab.guest(*allow("buildhost:80")) as guest:
        assert fetched(guest, "http://buildhost/") == "it works"


def test_one_family_only(lab: Lab) -> None:
    """The nameserver says NXDOMAIN for AAAA although A exists: glibc, and Python on top of it, connect."""
    with lab.guest(*allow("v4only.test:80")) as guest:
        assert status(guest, "v4only.test", "AAAA") == "NOERROR" and dig(guest, "v4only.test", "AAAA") == []
        assert fetched(guest, "http://v4only.test/") == "it works"
        code = "import urllib.request as u; print(u.urlopen('http://v4only.test/', timeout=20).read().decode())"
        assert guest.run(sys.executable, "-c", code).stdout.strip() == "it works"


def test_curl_and_python_go_by_ipv4_where_ipv6_is_denied(lab: Lab) -> None:
    """At once: the second address would have its turn after 30 s."""
    code = (
        "import asyncio\n"
        "async def main():\n"
        "    _, writer = await asyncio.open_connection('api.test', 80, happy_eyeballs_delay=30)\n"
        "    print(writer.get_extra_info('peername')[0])\n"
        "asyncio.run(main())"
    )
    with lab.guest(*NO_PORTS, "--deny", "[::/0]", "--allow", "api.test:80") as guest:
        curl = ("--happy-eyeballs-timeout-ms", "30000", "-w", "%{remote_ip}")
        assert fetched(guest, "http://api.test/", *curl) == f"it works\n{FAR4}"
        assert guest.run(sys.executable, "-c", code, timeout=29).stdout.strip() == FAR4


def test_cname_into_a_denied_name(lab: Lab) -> None:
    with lab.guest(*allow("shop.test:80"), "--deny", "*.cdn.test") as guest:
        assert dig(guest, "shop.test") == ["e1.cdn.test.", FAR4]
        assert status(guest, "e1.cdn.test") == "NXDOMAIN"
        assert fetched(guest, "http://shop.test/") == "it works"
    with lab.guest(*allow("shop.test:80")) as guest:
        assert status(guest, "e1.cdn.test") == "NXDOMAIN"
        dig(guest, "shop.test")
        assert dig(guest, "e1.cdn.test") == [FAR4]  # a client that follows the alias itself


def test_chain_of_ten_and_a_loop(lab: Lab) -> None:
    with lab.guest(*allow("c0.test", "loop.test")) as guest:
        assert dig(guest, "c0.test") == [*(f"c{n}.test." for n in range(1, 11)), FAR4]
        assert dig(guest, "loop.test") in (["loop2.test.", "loop.test."], [])


def test_srv_and_underscores(lab: Lab) -> None:
    with lab.guest(*allow("mirror.test:80", "my_host.test")) as guest:
        assert dig(guest, "_http._tcp.mirror.test", "SRV") == ["1", "1", "80", "m1.cdn.test."]
        assert dig(guest, "m1.cdn.test") == [FAR4]
        assert fetched(guest, "http://m1.cdn.test/") == "it works"
        assert dig(guest, "my_host.test") == [FAR4]
        assert status(guest, "_http._tcp.other.test", "SRV") == "NXDOMAIN"


@pytest.mark.parametrize("rules", [("api.test:80",), ("_xmpp._tcp.db.test:5222", "api.test:80")])
def test_labels_of_a_service_carry_no_more_than_the_name_of_one(lab: Lab, rules: tuple[str, ...]) -> None:
    """More labels, or longer ones, would be a way out to the nameservers of the name. A rule may be for such a name itself."""
    with lab.guest(*allow(*rules)) as guest:
        seen(lab)
        for name in ("_c._b._a.api.test", "_sixteen-letters-._tcp.api.test", f"_{'x' * 62}.api.test", "_a.db.test"):
            assert status(guest, name, "SRV") == "NXDOMAIN"
        assert asked(lab) == []
        status(guest, "_http._tcp.api.test", "SRV")
        status(guest, "_xmpp._tcp.db.test", "SRV")
        assert asked(lab) == ["_http._tcp.api.test. in srv", "_xmpp._tcp.db.test. in srv"][: len(rules)]


def test_idna(lab: Lab) -> None:
    log = lab.directory / "idna.json"
    with lab.guest(*allow("bücher.test"), "--decision-log", log) as guest:
        for name in ("xn--bcher-kva.test", "XN--BCHER-KVA.test.", "Xn--Bcher-Kva.TEST"):
            assert dig(guest, "+noidnin", name) == [FAR4]
        assert status(guest, "+noidnin", "b\\195\\188cher.test") == "NXDOMAIN"
        assert status(guest, "+noidnin", "xn--bcher-9cd.test") == "NXDOMAIN"
    first = json.loads(log.read_text().splitlines()[0])
    assert (first["name"], first["rule"], first["note"]) == ("xn--bcher-kva.test", "allow xn--bcher-kva.test", "bücher.test")


def test_channels_in_what_is_allowed(lab: Lab) -> None:
    """Whatever the guest writes into its queries, the nameserver sees the same bytes, but for ID and the case that is ours."""
    ways = [
        (), ("+nocookie",), ("+cookie=0123456789abcdef",), ("+subnet=198.51.100.0/24",), ("+padding=128",), ("+bufsize=4096",),
        ("+noedns",), ("+ednsopt=65001:736563726574",), ("+adflag",), ("+zflag",), ("+aaflag",), ("+norecurse",), ("+tcp",),
        ("+nsid",), ("+expire",),
    ]  # fmt: skip
    with lab.guest(*allow("api.test:80")) as guest:
        seen(lab)
        for number, way in enumerate(ways):
            name = "".join(c.upper() if number >> i % 4 & 1 else c for i, c in enumerate("api.test"))
            answer = guest.run(*DIG, *way, name).stdout
            assert re.search(rf"^{name}\.\s+\d+\s+IN\s+A\s", answer, re.M), answer
        queries = seen(lab)
        assert len(queries) == len(ways) and len({query[2:].lower() for query in queries}) == 1
        for kind in ("ANY", "NULL", "TYPE65280", "AXFR", "HINFO"):
            shown = guest.run(*DIG, "+notcp", kind, "api.test", check=False).stdout
            assert kind == "AXFR" or "status: NOERROR" in shown
        dig(guest, "-c", "CH", "version.bind", "TXT")
        assert asked(lab) == []


def test_300_addresses(lab: Lab) -> None:
    """Whole over TCP; in a datagram as many as go in, and the flag that says so."""
    with lab.guest(*allow("many.test:80")) as guest:
        assert len(set(dig(guest, "many.test"))) == 300
        cut = guest.run(*DIG, "+noedns", "+ignore", "many.test").stdout
        assert "flags: qr tc rd ra" in cut
        assert len(guest.run("getent", "ahostsv4", "many.test").stdout.split()) >= 300


def test_pin_before_answer(lab: Lab) -> None:
    """A connection in the moment of the answer, each time to an address that was never seen before: none is refused."""
    code = """
import socket, sys
for number in range(200):
    name = f"n{number}.fresh.test"
    address = socket.gethostbyname(name)
    flow = socket.create_connection((address, 80), 20)
    flow.close()
print("all")
"""
    with lab.guest(*allow("*.fresh.test:80"), "--threads", "2") as guest:
        assert guest.run(sys.executable, "-c", code).stdout == "all\n"


def test_other_nameservers_are_answered_here_unless_a_rule_opens_them(lab: Lab) -> None:
    with lab.guest(*allow("api.test")) as guest:
        for server in ("8.8.8.8", FAR4, GATEWAY4, "2001:4860:4860::8888"):
            assert dig(guest, f"@{server}", "api.test", "A") == [FAR4]
            assert status(guest, f"@{server}", "+tcp", "other.test") == "NXDOMAIN"
        assert guest.script("probe.py", "tcp", FAR4, 853, 1)["error"]
    for rule in (f"{FAR4}:53", FAR4, "*:53"):
        with lab.guest(*allow("api.test", rule)) as guest:
            done = guest.run("dig", "+tries=1", "+time=1", f"@{FAR4}", "api.test", check=False)
            assert "connection refused" in done.stdout + done.stderr  # nothing listens there: it was asked itself
            assert dig(guest, "api.test") == [FAR4]
    with lab.guest(*allow("api.test", "*")) as guest:
        assert dig(guest, f"@{FAR4}", "api.test") == [FAR4]


@pytest.mark.parametrize("options", [("--egress", "internet"), ("--deny", "other.test")])
def test_a_policy_that_allows_answers_all_names_but_the_denied(lab: Lab, options: tuple[str, ...]) -> None:
    with lab.guest(*NO_PORTS, *options, "--deny", "db.test") as guest:
        assert fetched(guest, "http://api.test/") == "it works"
        assert status(guest, "db.test") == "NXDOMAIN"
        assert status(guest, "@8.8.8.8", "db.test") == "NXDOMAIN"
        assert fetched(guest, f"http://{FAR4}/") == "it works"  # a name says nothing about addresses that others have too


@pytest.mark.parametrize("dnssec", ["no", "allow-downgrade"])
def test_systemd_resolved_in_the_guest(lab: Lab, dnssec: str) -> None:
    """A denied name does not mark our nameserver as broken: allowed names go on resolving, and so does what it follows itself."""
    conf = f"[Resolve]\nDNS={OURS}\nFallbackDNS=\nDNSSEC={dnssec}\nLLMNR=no\nMulticastDNS=no\n"
    files = "/etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/resolv.conf"
    made = f"""
mount -t tmpfs none /run
mkdir -p /run/etc/systemd /run/systemd/resolve
cp {files} /run/etc
echo systemd-resolve:x:0:0::/:/bin/false >>/run/etc/passwd
cat >/run/etc/systemd/resolved.conf
mount --bind /run/etc /etc
exec {sid.program("systemd-resolved", "systemd-resolved")}
"""
    with lab.guest(*allow("api.test:80", "shop.test:80")) as guest:
        resolved = guest.popen("sh", "-ec", made)
        assert resolved.stdin
        resolved.stdin.write(conf)
        resolved.stdin.close()
        wait_until(lambda: guest.run("ss", "-ulnH", "sport = :53").stdout, 10, "systemd-resolved")
        for _ in range(3):
            assert dig(guest, "@127.0.0.53", "api.test")[-1:] == [FAR4]
            assert status(guest, "@127.0.0.53", "files.test") == "NXDOMAIN"
            assert dig(guest, "@127.0.0.53", "shop.test")[-1:] == [FAR4]
        resolved.kill()


def test_ping_and_traceroute_to_an_allowed_name(lab: Lab) -> None:
    """A rule for TCP alone closes them, and they hear so; one for ICMP opens both, with the errors of the routers on the way."""
    ping = ("ping", "-4", "-c1", "-W20", "api.test")
    with lab.guest(*allow("api.test:80/tcp")) as guest:
        assert fetched(guest, "http://api.test/", "-4") == "it works"
        shown = guest.run(*ping, check=False)
        assert "Packet filtered" in shown.stdout and shown.returncode
        hops = guest.run(sid.program("busybox", "busybox"), "traceroute", "-4", "-n", "-q1", "-m4", "api.test", check=False).stdout
        assert hops.splitlines()[1].endswith("!A") and "*" not in hops, hops  # prohibited, at once
    with lab.guest(*allow("api.test/icmp")) as guest:
        assert "1 received" in guest.run(*ping).stdout
        heard = [guest.script("hops.py", HOST4, FAR4, hops)["from"] for hops in (1, 2, 3)]
        assert heard == [GATEWAY4, FAR4, FAR4]
        assert refused(guest, "http://api.test/", "-4")


def test_a_denied_name_costs_one_query_and_no_wait(lab: Lab) -> None:
    code = """
import socket, time
def took(name):
    before = time.monotonic()
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror as error:
        assert error.errno == socket.EAI_NONAME, error
    return time.monotonic() - before
print(sorted(took(f"x{n}.denied.test") for n in range(31))[15], sorted(took("api.test") for n in range(31))[15])
"""
    with lab.guest(*allow("api.test")) as guest:
        denied, allowed = map(float, guest.run(sys.executable, "-c", code).stdout.split())
        assert denied < 2 * allowed + 0.05


def test_flows_are_listed_with_the_name_that_led_to_them(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.host.run("mkdir", "-m", "700", lab.directory / "run")
    there = {**lab.environment(), "XDG_RUNTIME_DIR": f"{lab.directory}/run"}  # where the control socket is
    monkeypatch.setattr(lab, "environment", lambda: there)
    code = "import socket; s = socket.create_connection(('api.test', 80)); print('open', flush=True); input()"
    with lab.guest(*allow("api.test:80"), "-4") as guest:
        held = guest.popen(sys.executable, "-c", code)
        assert held.stdout and held.stdout.readline() == "open\n"
        listed = lab.host.run(program("pasta-py"), "flows", "--json").stdout.splitlines()
        (name,) = [flow["name"] for flow in map(json.loads, listed) if flow["dest"] == FAR4]
        assert name == "api.test"
        held.communicate("\n", timeout=20)


def test_servfail_when_the_nameserver_is_gone() -> None:
    with Lab(routed) as made:
        made.resolv("nameserver 127.0.0.53\n")
        with made.guest(*allow("api.test")) as guest:
            shown = guest.run("dig", "+tries=1", "+time=20", "api.test").stdout
            assert "status: SERVFAIL" in shown and "EDE: 22" in shown
            assert status(guest, "other.test") == "NXDOMAIN"
