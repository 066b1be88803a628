"""What single options change, for those that no test of a larger feature shows: each test fails without its option."""

import functools
import json
import sys
import time
from collections.abc import Iterator

import pytest
from lab import (
    BIG,
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    PROGRAMS,
    REMOTE4,
    REMOTE6,
    REMOTES,
    Guest,
    Lab,
    dual,
    program,
    wait_until,
    wire,
)
from test_autoconf import dhclient

SECOND4, SECOND6 = "198.51.100.2", "2001:db8:1::2"  # the host's, on eth1
ANYWHERE = {4: "203.0.113.7", 6: "2001:db8:2::7"}  # the remote's, by way of eth0, or worse, of eth1
MORE = {4: "192.0.2.77", 6: "2001:db8::77"}  # the host's, too, on eth0
PORT = 7900
OURS, THEIRS = "02:00:00:00:00:88", "02:00:00:00:00:77"


def two_links(made: Lab) -> None:
    """eth0 as everywhere, with a second address of each family and a route of its own; eth1 leads to the same remote."""
    dual(made)
    wire(made, name="eth1", peer="eth1")
    made.remote.setup(f"""\
addr add 198.51.100.1/24 dev eth1
addr add 2001:db8:1::1/64 dev eth1 nodad
addr add {ANYWHERE[4]} dev lo
addr add {ANYWHERE[6]} dev lo nodad
""")
    made.host.setup(f"""\
addr add {SECOND4}/24 dev eth1
addr add {SECOND6}/64 dev eth1 nodad
addr add {MORE[4]}/24 dev eth0
addr add {MORE[6]}/64 dev eth0 nodad preferred_lft 0
route add 198.18.0.0/15 via {GATEWAY4}
-6 route add 2001:db8:18::/48 via {GATEWAY6}
route add {ANYWHERE[4]} via 198.51.100.1 dev eth1 metric 500
-6 route add {ANYWHERE[6]} via 2001:db8:1::1 dev eth1 metric 5000
route add {ANYWHERE[4]} via {GATEWAY4} dev eth0 metric 100 src {HOST4}
-6 route add {ANYWHERE[6]} via {GATEWAY6} dev eth0 metric 100 src {HOST6}
""")
    for space in (made.host, made.remote):
        space.sysctl(ipv4__conf__all__rp_filter=0, ipv4__conf__eth0__rp_filter=0, ipv4__conf__eth1__rp_filter=0)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(two_links) as made:
        servers = [
            made.remote.start("answer.py", "name", address, PORT, "remote")
            for address in (*REMOTES.values(), *ANYWHERE.values())
        ]
        yield made
        for server in servers:
            server.result()


def shown(guest: Guest) -> tuple[dict[str, object], set[str]]:
    """The interface that is not lo, and its addresses with their lengths, without link-local ones."""
    (link,) = [link for link in json.loads(guest.run("ip", "-j", "addr").stdout) if link["ifname"] != "lo"]
    info = [each for each in link["addr_info"] if each["scope"] == "global"]
    return link, {f"{each['local']}/{each['prefixlen']}" for each in info}


def routes(guest: Guest) -> set[str]:
    """Destinations that lead through a gateway."""
    found = [route for family in ("-4", "-6") for route in json.loads(guest.run("ip", "-j", family, "route").stdout)]
    return {f"{route['dst']} {route['gateway']}" for route in found if "gateway" in route}


def told(lab: Lab, *words: object, command: tuple[object, ...] = ("true",)) -> str:
    """What the program says on standard error while a command runs with a network."""
    return lab.host.run(program(), "--config-net", *words, "--", *command, check=False).stderr


def source(guest: Guest, how: str, address: str) -> str:
    """Who the remote takes the guest for."""
    return str(guest.script("probe.py", how, address, PORT)["answer"]).split()[1]


# ---- the guest's interface ----


@pytest.mark.option(
    "--config-net", "--ns-ifname", "--ns-mac-addr", "--mac-addr", "--mtu", "--address", "--netmask", "--gateway"
)
def test_the_interface_is_as_asked_for(lab: Lab) -> None:
    names = ("-I", "pod0", "--ns-mac-addr", THEIRS, "-M", OURS, "-m", 1400)
    addresses = ("-a", "10.9.8.7", "-n", 20, "-g", "10.9.0.1", "-a", "fd09::7", "-g", "fd09::1")
    with lab.guest(*names, *addresses) as guest:
        link, found = shown(guest)
        assert (link["ifname"], link["address"], link["mtu"]) == ("pod0", THEIRS, 1400)
        assert found == {"10.9.8.7/20", "fd09::7/64"}
        assert routes(guest) == {"default 10.9.0.1", "default fd09::1"}
        for family, address in REMOTES.items():
            assert source(guest, "ask", address) in (HOST4, HOST6)
            (neighbour,) = json.loads(guest.run("ip", "-j", f"-{family}", "neigh", "show", "dev", "pod0").stdout)
            assert neighbour["lladdr"] == OURS


@pytest.mark.option("--interface")
def test_addresses_and_routes_come_from_the_interface_that_is_named(lab: Lab) -> None:
    with lab.guest("-i", "eth1") as guest:
        assert shown(guest)[1] == {f"{SECOND4}/24", f"{SECOND6}/64"}
        assert f"{ANYWHERE[4]} 198.51.100.1" in routes(guest)


@pytest.mark.option("--no-copy-addrs")
def test_a_single_address_is_copied(lab: Lab) -> None:
    with lab.guest() as guest:
        assert shown(guest)[1] == {f"{a}/24" for a in (HOST4, MORE[4])} | {f"{a}/64" for a in (HOST6, MORE[6])}
    with lab.guest("--no-copy-addrs") as guest:
        assert len(shown(guest)[1]) == 2


@pytest.mark.option("--no-copy-routes")
def test_the_default_route_alone_is_copied(lab: Lab) -> None:
    default = {f"default {GATEWAY4}", f"default {GATEWAY6}"}
    with lab.guest() as guest:
        assert routes(guest) >= default | {f"198.18.0.0/15 {GATEWAY4}", f"2001:db8:18::/48 {GATEWAY6}"}
    with lab.guest("--no-copy-routes") as guest:
        assert routes(guest) == default


@pytest.mark.parametrize(
    ("option", "family"),
    [
        pytest.param("-4", 4, marks=pytest.mark.option("--ipv4-only")),
        pytest.param("-6", 6, marks=pytest.mark.option("--ipv6-only")),
    ],
)
def test_one_family_alone(lab: Lab, option: str, family: int) -> None:
    with lab.guest(option) as guest:
        assert {":" in address for address in shown(guest)[1]} == {family == 6}
        assert source(guest, "ask", REMOTES[family]) in (HOST4, HOST6)
        other = guest.run("ping", "-c1", "-W1", REMOTES[10 - family], check=False)
        assert other.returncode != 0


# ---- what the guest is told ----


@pytest.mark.option("--dns", "--search")
def test_nameservers_and_domains_of_the_command_line_are_told(lab: Lab) -> None:
    lab.resolv(f"nameserver {GATEWAY4}\nsearch host.example.test\n")
    words = ("-D", REMOTE4, "-D", "192.0.2.11", "-D", REMOTE6, "-S", "one.test two.test")
    with lab.guest(*words, config=False) as guest:
        guest.setup("link set lo up\nlink set eth0 up")
        four = dhclient(lab, guest, "-4")
        assert four["new_domain_name_servers"].split() == [REMOTE4, "192.0.2.11"]
        assert four["new_domain_search"].replace(".test.", ".test").split() == ["one.test", "two.test"]


@pytest.mark.option("--no-dhcp-dns", "--no-dhcp-search")
def test_telling_them_can_be_switched_off(lab: Lab) -> None:
    with lab.guest("-D", REMOTE4, "-S", "one.test", "--no-dhcp-dns", "--no-dhcp-search", config=False) as guest:
        guest.setup("link set lo up\nlink set eth0 up")
        four = dhclient(lab, guest, "-4")
        assert four["new_ip_address"] == HOST4
        assert not {"new_domain_name_servers", "new_domain_search"} & set(four)


@pytest.mark.option("--fqdn")
def test_the_guests_full_name_is_told(lab: Lab) -> None:
    with lab.guest("--fqdn", "box.example.test", config=False) as guest:
        guest.setup("link set lo up\nlink set eth0 up")
        assert dhclient(lab, guest, "-4", more='send fqdn.fqdn "asked";\n')["new_fqdn_fqdn"] == "box.example.test"


@pytest.mark.option("--no-dhcpv6")
def test_dhcpv6_can_be_switched_off(lab: Lab) -> None:
    """The same client gets its address without the option."""
    for words in ((), ("--no-dhcpv6",)):
        with lab.guest(*words, config=False) as guest:
            guest.sysctl(ipv6__conf__eth0__accept_dad=0)
            guest.setup("link set lo up\nlink set eth0 up")
            ask = functools.partial(dhclient, lab, guest, "-6", wait=2)  # -6 -1 does not heed it
            if words:
                with pytest.raises(AssertionError):
                    ask()
            else:
                assert ask()["new_ip6_address"] == HOST6


# ---- protocols ----


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.option(f"--no-{name}")) for name in ("tcp", "udp", "icmp")]
)
def test_a_protocol_is_switched_off_and_the_others_are_not(lab: Lab, name: str) -> None:
    """Its frames get no answer at all, and its ports are not bound on the host."""
    wait = {each: 2 if each == name else 20 for each in ("tcp", "udp", "icmp")}
    with lab.guest(f"--no-{name}", "-t", PORT + 1, "-u", PORT + 1) as guest:
        answered = {
            "tcp": guest.script("probe.py", "tcp", REMOTE4, PORT, wait["tcp"])["error"] is None,
            "udp": guest.script("probe.py", "udp", REMOTE6, PORT, wait["udp"])["error"] is None,
            "icmp": guest.run("ping", "-c1", "-W", wait["icmp"], REMOTE4, check=False).returncode == 0,
        }
        assert answered == {each: each != name for each in answered}
        for each, flag in (("tcp", "-tlnH"), ("udp", "-ulnH")):
            assert bool(lab.host.run("ss", flag, f"sport = :{PORT + 1}").stdout) == (each != name)


# ---- sockets towards the world ----


@pytest.mark.option("--outbound")
def test_sockets_are_bound_to_the_address_that_is_given(lab: Lab) -> None:
    with lab.guest("-o", MORE[4], "-o", MORE[6]) as guest:
        for family, address in REMOTES.items():
            assert {source(guest, how, address) for how in ("ask", "ask-udp")} == {MORE[family]}


@pytest.mark.parametrize(
    ("option", "family", "seen"),
    [
        pytest.param("--outbound-if4", 4, SECOND4, marks=pytest.mark.option("--outbound-if4")),
        pytest.param("--outbound-if6", 6, SECOND6, marks=pytest.mark.option("--outbound-if6")),
    ],
)
def test_sockets_are_bound_to_the_interface_that_is_named(lab: Lab, option: str, family: int, seen: str) -> None:
    """The kernel by itself would take the better route, by way of eth0."""
    with lab.guest(option, "eth1", "-i", "eth0") as guest:
        assert {source(guest, how, ANYWHERE[family]) for how in ("ask", "ask-udp")} == {seen}
    with lab.guest() as guest:
        assert source(guest, "ask", ANYWHERE[family]) in (HOST4, HOST6)


# ---- what is said ----


@pytest.mark.option("--debug", "--trace", "--quiet")
def test_more_and_less_is_said(lab: Lab) -> None:
    """A refused connection is for --debug, its packets are for --trace; the end of the guest is for all but --quiet."""
    command = (sys.executable, PROGRAMS / "probe.py", "tcp", REMOTE4, PORT + 9)
    refusal, packet = "connect: Connection refused", f"from guest: {HOST4} > {REMOTE4} protocol 6"
    for option, said in (("--no-map-gw", set()), ("--debug", {refusal}), ("--trace", {refusal, packet})):
        text = told(lab, option, command=command)
        assert {each for each in (refusal, packet) if each in text} == said, text
    for words in ((), ("--quiet",)):
        with lab.stray() as guest:
            process = lab.host.popen(program(), "-f", *words, lab.inner_pid(guest.pid))
            wait_until(lambda: lab.translators(), 5, "the program has a tap")
            wait_until(lambda: "eth0" in guest.run("ip", "-br", "link").stdout, 5, "the guest has it")
        assert process.stderr is not None
        text = process.communicate(timeout=30)[1]
        assert ("the process of the network namespace has ended" in text) == (not words), text


@pytest.mark.option("--log-size")
def test_the_log_file_is_kept_under_the_size_that_is_given(lab: Lab) -> None:
    path = lab.directory / "traced.log"
    sender = f"import socket; s = socket.socket(type=2); [s.sendto(b'x', ('{REMOTE4}', 9)) for _ in range(200)]"
    command = (sys.executable, "-c", sender)
    told(lab, "--trace", "-l", path, command=command)
    whole = path.stat().st_size
    path.unlink()
    told(lab, "--trace", "-l", path, "--log-size", 4096, command=command)
    assert 0 < path.stat().st_size <= 4096 < whole


@pytest.mark.option("--stats")
def test_counters_are_shown_at_most_as_often_as_asked_for(lab: Lab) -> None:
    command = ("sh", "-c", f"for i in $(seq 15); do ping -c1 -W1 {REMOTE4} >/dev/null; sleep 0.1; done")
    begun = time.monotonic()
    lines = [line for line in told(lab, "--stats", "1", command=command).splitlines() if "stats: " in line]
    assert 1 <= len(lines) <= 2 + time.monotonic() - begun
    assert lines[0].startswith("pasta: stats: ") and "=" in lines[0]  # no warning, though a command's default is --quiet


# ---- runtimes ----


@pytest.mark.option("--network")
def test_the_option_string_of_a_runtime_is_obeyed(lab: Lab) -> None:
    done = lab.host.run(program("pasta-py"), "--network=pasta:-I,pod7,-m,1300,-4", "--", "ip", "-br", "-4", "addr")
    assert "pod7" in done.stdout and HOST4 in done.stdout


@pytest.mark.option("--pcap")
def test_frames_are_captured(lab: Lab) -> None:
    path = f"{BIG}/option.pcap"
    told(lab, "-p", path, command=("ping", "-c1", "-W20", REMOTE4))
    assert "Echo (ping) request" in lab.host.run("tshark", "-r", path).stdout
