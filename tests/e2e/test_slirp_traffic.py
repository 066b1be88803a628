"""slirp4netns at work, ours beside the real one: what the guest reaches and as whom, forwarded ports, DHCP, kinds of target."""

import json
import re
from collections.abc import Iterator

import pytest
from lab import HOST4, HOSTS, PROGRAMS, REMOTE4, REMOTE6, REMOTES, Guest, Lab, Script, wait_until
from servers import DNS4, DNS_NAME, dnsmasq, own_etc, resolver, write
from slirp import API, DNS, DNS6, GATEWAY, GATEWAY6, GUEST4, NAMES, Running, connected, path, start
from test_autoconf import dhclient

SECOND = {4: "192.0.2.22", 6: "2001:db8::22"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PORT, CLOSED = 7500, 7501
ASK = ("ask", "ask-udp")
FOLLOWS_S = 5
ANSWER_S, SILENCE_S = 20, 1  # what has to come, and what is not expected


@pytest.fixture(scope="module", autouse=True)
def services(lab: Lab) -> "Iterator[None]":
    """Who answers says who it is, and to whom: the host's loopback, the remote machine. DNS is there for both families."""
    started: list[Script] = []
    for family in (4, 6):
        started.append(lab.host.start("answer.py", "name", LOOPBACK[family], PORT, "loopback"))
        started.append(lab.remote.start("answer.py", "name", REMOTES[family], PORT, "remote"))
        lab.host.setup(f"addr add {SECOND[family]}/{32 if family == 4 else 128} dev eth0 preferred_lft 0")
    dnsmasq(lab)
    lab.resolv(f"nameserver {REMOTE4}\nnameserver {REMOTE6}\n")
    yield
    for server in started:
        server.result()


def answer(guest: Guest, how: str, address: str, wait: int = ANSWER_S) -> str:
    """WHO and to whom; "" for none."""
    done = guest.run("python3", PROGRAMS / "probe.py", how, address, PORT, wait, check=False)
    return " ".join(json.loads(done.stdout)["answer"].split()[:2]) if done.returncode == 0 else ""


def name_server(guest: Guest, address: str, wait: int = ANSWER_S) -> list[list[str]]:
    """What it says over UDP and TCP; nothing if there is none."""
    dig = ("dig", f"@{address}", "+short", "+tries=1", f"+time={wait}", DNS_NAME, "A")
    done = [guest.run(*dig, protocol, check=False) for protocol in ("+notcp", "+tcp")]
    return [one.stdout.split() if one.returncode == 0 else [] for one in done]


def with_ipv6(guest: Guest) -> None:
    """The real one leaves it to an advertisement."""
    wait_until(lambda: "default" in guest.run("ip", "-6", "route").stdout, 10, "IPv6 is configured")


def everything(guest: Guest, ipv6: bool, silent: set[str]) -> dict[str, object]:
    """What the guest reaches, and as whom. `silent`: what is not waited for."""
    wait = {name: SILENCE_S if name in silent else ANSWER_S for name in ("gateway", "gateway6", "dns")}
    found: dict[str, object] = {"ping": guest.run("ping", "-c1", "-W20", REMOTE4, check=False).returncode}
    for how in ASK:
        found[f"remote {how}"] = answer(guest, how, REMOTE4)
        found[f"gateway {how}"] = answer(guest, how, GATEWAY, wait["gateway"])
    found["dns"] = name_server(guest, DNS, wait["dns"])
    if ipv6:
        with_ipv6(guest)
        for how in ASK:
            found[f"remote6 {how}"] = answer(guest, how, REMOTE6)
            found[f"gateway6 {how}"] = answer(guest, how, GATEWAY6, wait["gateway6"])
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"remote": f"remote {HOST4}", "gateway": f"loopback {LOOPBACK[4]}"}),
        (("-6",), {"remote6": f"remote {HOSTS[6]}", "gateway6": f"loopback {LOOPBACK[6]}"}),
        (("-6", "--disable-host-loopback"), {"gateway": "", "gateway6": "", "remote6": f"remote {HOSTS[6]}"}),
        (("--disable-dns",), {"dns": [[], []], "gateway": f"loopback {LOOPBACK[4]}"}),
        (("--disable-host-loopback", "--disable-dns"), {"dns": [[], []], "gateway": ""}),
        (("--outbound-addr", SECOND[4]), {"remote": f"remote {SECOND[4]}"}),
        (("--outbound-addr=eth0",), {"remote": f"remote {HOST4}"}),
        (("-6", "--outbound-addr6", SECOND[6]), {"remote6": f"remote {SECOND[6]}", "remote": f"remote {HOST4}"}),
        (("--enable-sandbox", "--enable-seccomp", "-m", "65520"), {"dns": [[DNS4], [DNS4]]}),
    ],
    ids=str,
)
def test_what_the_guest_reaches(lab: Lab, options: tuple[str, ...], expected: dict[str, object]) -> None:
    found, silent = {}, {key for key, value in expected.items() if value in ("", [[], []])}
    for name in NAMES:
        with connected(lab, name, "-c", *options) as (guest, _running):
            found[name] = everything(guest, "-6" in options, silent)
    if any("outbound" in option for option in options):  # the real one takes that address for loopback connections, too
        for one in found.values():
            for key in [key for key in one if key.startswith("gateway")]:
                one[key] = str(one[key]).split()[0]
    assert found["ours"] == found["real"]
    assert found["ours"]["ping"] == 0
    for key, value in expected.items():
        answers = [one for name, one in found["ours"].items() if name.split()[0] == key]
        assert answers == [value] * len(answers) != [], key


def test_dns_over_ipv6(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name, "-c", "-6") as (guest, _running):
            with_ipv6(guest)
            assert name_server(guest, DNS6) == [[DNS4], [DNS4]], name


def test_another_network(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name, "-c", "--cidr=172.16.0.0/12") as (guest, _running):
            assert answer(guest, "ask", "172.16.0.2") == f"loopback {LOOPBACK[4]}", name
            assert name_server(guest, "172.16.0.3") == [[DNS4], [DNS4]], name


# Forwarded ports


@pytest.mark.parametrize("how", ASK)
def test_a_forwarded_port(lab: Lab, how: str) -> None:
    """Reached from outside, with the client's own address, until it is taken away."""
    proto = "udp" if how == "ask-udp" else "tcp"
    for name in NAMES:
        with connected(lab, name, "-c", "-a", API) as (guest, running):
            server = guest.start("answer.py", "name", GUEST4, 80, "guest")
            number = running.forward(proto, 8080, 80)
            reply = lab.remote.script("probe.py", how, HOST4, 8080)
            assert reply["answer"] == "guest {} {}".format(*reply["me"]), name  # type: ignore[misc]
            if (name, proto) != ("real", "udp"):  # which answers nobody else of the host after that
                local = str(lab.host.script("probe.py", how, "127.0.0.1", 8080)["answer"])
                assert local.split()[:2] == ["guest", GATEWAY], name
            assert running.api({"execute": "remove_hostfwd", "arguments": {"id": number}}) == {"return": {}}
            assert lab.remote.script("probe.py", proto, HOST4, 8080)["error"] == "ECONNREFUSED", name
            server.result()


def test_a_forwarded_port_of_one_address_to_another(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name, "-c", "-a", API) as (guest, running):
            guest.setup("addr add 10.0.2.77/24 dev tap0")
            server = guest.start("answer.py", "name", "10.0.2.77", 81, "other")
            running.forward("tcp", 8080, 81, host_addr=HOST4, guest_addr="10.0.2.77")
            assert str(lab.remote.script("probe.py", "ask", HOST4, 8080)["answer"]).startswith("other "), name
            assert lab.host.script("probe.py", "tcp", "127.0.0.1", 8080)["error"] == "ECONNREFUSED", name
            server.result()


def test_many_ports_come_and_go_under_traffic(lab: Lab) -> None:
    with connected(lab, "ours", "-c", "-m", 65520, "-a", API) as (guest, running):
        server = guest.start("stream.py", "read", GUEST4, 80, 50_000_000, 0, "listen")
        running.forward("tcp", 8080, 80)
        sender = lab.remote.popen("python3", PROGRAMS / "stream.py", "send", HOST4, 8080, 50_000_000, 0, "connect")
        numbers = [running.forward("udp", 9000 + n, 9000 + n) for n in range(40)]
        assert numbers == list(range(2, 42))
        for number in [1, *numbers]:  # the connection outlives its port
            assert running.api({"execute": "remove_hostfwd", "arguments": {"id": number}}) == {"return": {}}
        assert running.api({"execute": "list_hostfwd"})["entries"] == []
        assert server.result()["sha256"] == Script.finished(sender)["sha256"]
        assert "udp" not in lab.host.run("ss", "-ulnHp", "sport >= 9000 and sport < 9040").stdout


def test_a_privileged_port_of_a_privileged_caller(lab: Lab) -> None:
    for name in NAMES:
        with connected(lab, name, "-c", "-a", API, caps=True) as (guest, running):
            server = guest.start("answer.py", "name", GUEST4, 80, "guest")
            running.forward("tcp", 88, 80)
            assert str(lab.remote.script("probe.py", "ask", HOST4, 88)["answer"]).startswith("guest "), name
            server.result()


# Guests that configure themselves


def test_dhcp(lab: Lab) -> None:
    leases = {}
    for name in NAMES:
        with connected(lab, name) as (guest, _running):
            guest.setup("link set lo up\nlink set tap0 up")
            told = dhclient(lab, guest, "-4", link="tap0")
            assert answer(guest, "ask", REMOTE4) == f"remote {HOST4}", name
            wanted = ("new_ip_address", "new_subnet_mask", "new_routers", "new_domain_name_servers", "new_dhcp_server_identifier")
            leases[name] = [told.get(key) for key in wanted]
    assert leases["ours"] == leases["real"] == ["10.0.2.15", "255.255.255.0", GATEWAY, DNS, GATEWAY]


def test_advertisements(lab: Lab) -> None:
    heard = {}
    for name in NAMES:
        with connected(lab, name, "-6") as (guest, _running):
            guest.sysctl(ipv6__conf__tap0__accept_dad=0)
            guest.setup("link set lo up\nlink set tap0 up")
            said = guest.run("rdisc6", "-1", "-r3", "-w20000", "tap0", timeout=240).stdout
            found = [re.search(pattern, said) for pattern in (r"Prefix +: (\S+)", r"DNS server +: (\S+)", r"from (fe80::\S+)")]
            heard[name] = [one[1] if one else "" for one in found]
            with_ipv6(guest)
            assert answer(guest, "ask", REMOTE6) == f"remote {HOSTS[6]}", name
    assert heard["ours"] == heard["real"] == ["fd00::/64", DNS6, "fe80::2"]


# Kinds of target


def reaches(guest: Guest, running: Running) -> None:
    try:
        assert running.ready == "1", running.end("wait")
        assert answer(guest, "ask", REMOTE4) == f"remote {HOST4}"
    finally:
        if running.ready:
            running.end()


@pytest.mark.parametrize("name", NAMES)
def test_a_namespace_by_its_path(lab: Lab, name: str) -> None:
    with lab.stray() as guest:
        where = f"/proc/{lab.inner_pid(guest.pid)}/ns"
        options = ("--netns-type=path", f"--userns-path={where}/user", "-c")
        reaches(guest, start(lab, name, *options, f"{where}/net", "tap0"))


def test_a_tap_that_the_caller_has_opened(lab: Lab) -> None:
    """Since slirp4netns 1.3, which Debian 12 has not."""
    with lab.stray() as guest:
        guest.setup(
            f"tuntap add dev tap9 mode tap\naddr add {GUEST4}/24 dev tap9\nlink set tap9 up\nroute add default via {GATEWAY}"
        )
        reaches(guest, start(lab, "ours", "--netns-type=tapfd", f"TAP:{lab.inner_pid(guest.pid)}:tap9"))


@pytest.mark.parametrize("name", NAMES)
def test_frames_over_a_socket(lab: Lab, name: str) -> None:
    """--target-type=bess: whoever connects is the guest, and is ready with that."""
    command = [path(name), "--target-type=bess", f"{lab.directory}/bess.sock"]
    with open(lab.directory / "bess.log", "w") as log:
        process = lab.host.popen(*command, stdout=log, stderr=log)
    wait_until(lambda: (lab.directory / "bess.sock").exists(), 5, "it listens")
    said = lab.host.script("bess.py", f"{lab.directory}/bess.sock", GATEWAY, DNS)
    assert said == {GATEWAY: "52:55:0a:00:02:02", DNS: "52:55:0a:00:02:03" if name == "real" else "52:55:0a:00:02:02"}
    process.terminate()
    process.wait(30)
    (lab.directory / "bess.sock").unlink(missing_ok=True)


# The addresses of its own


def found_at(guest: Guest, address: str, *protocols: str) -> list[object]:
    """Whether it answers a ping, and how TCP and UDP, or what is named, end at a port that nothing serves."""
    pinged = guest.run("ping", "-c1", "-W20", address, check=False).returncode == 0
    return [pinged, *(guest.script("probe.py", how, address, CLOSED, 20)["error"] for how in protocols or ("tcp", "udp"))]


@pytest.mark.parametrize("name", ["ours", "sid"])
def test_its_own_addresses_answer_pings_and_lead_nowhere(name: str) -> None:
    """But for the host's loopback and DNS; the original asks the host's network for fe80::2, with --disable-dns for 10.0.2.3."""
    refused: list[object] = [True, "ENETUNREACH", "ENETUNREACH"]
    with Lab(pings=False) as lab:
        with connected(lab, name, "-c", "-6", "--disable-host-loopback") as (guest, _running):
            with_ipv6(guest)
            for address in (GATEWAY, DNS, GATEWAY6, DNS6):
                assert found_at(guest, address) == refused, address
        with connected(lab, name, "-c") as (guest, _running):
            assert found_at(guest, GATEWAY, "tcp") == [True, "ECONNREFUSED"]  # to UDP the original is silent
            assert found_at(guest, DNS) == refused
        if name == "ours":
            with connected(lab, name, "-c", "-6", "--disable-dns") as (guest, _running):
                for address in (DNS, DNS6, "fe80::2%tap0"):
                    assert found_at(guest, address) == refused, address


# Several neighbours at one tap

BRIDGED = """
rm -f log* leases*
mount -t tmpfs none /run; mkdir /run/netns
ip link add br0 type bridge; ip link set br0 up; ip link set tap0 master br0; ip link set tap0 up; ip link set lo up
for n in 1 2; do
    ip netns add n$n
    ip link add v$n type veth peer name eth0 netns n$n
    ip link set v$n up master br0
    ip -n n$n link set lo up; ip -n n$n link set eth0 up
    ip netns exec n$n dhclient -4 -1 -sf $SCRIPT -lf $PWD/leases$n -pf $PWD/pid$n -e LEASE_LOG=$PWD/log$n eth0 >$PWD/said$n 2>&1
    grep new_ip_address $PWD/log$n
done
ip netns exec n1 ping -c1 -W20 10.0.2.16 >/dev/null && echo they see each other
for n in 1 2; do
    ip netns exec n$n curl -sS -m 15 -o $PWD/got$n -w '%{size_download}\\n' http://192.0.2.10:7600/big &
done
wait
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_bridge_with_several_stations(lab: Lab, name: str) -> None:
    """Each gets an address of its own, reaches the other directly, and both download at a time."""
    size = 30_000_000
    (lab.directory / "big").write_bytes(bytes(size))
    web = lab.remote.serve("python3", "-m", "http.server", "7600", port=7600)
    with connected(lab, name) as (guest, _running):
        script = f"SCRIPT={PROGRAMS}/dhclient-script\ncd {lab.directory}\n{BRIDGED}"
        said = guest.run("unshare", "-m", "sh", "-c", script, timeout=240)
    web.kill()
    wanted = ["new_ip_address=10.0.2.15", "new_ip_address=10.0.2.16", "they see each other", str(size), str(size)]
    assert said.stdout.splitlines() == wanted, said


@pytest.mark.parametrize("options", [("-c",), ("-c", "--enable-sandbox", "--enable-seccomp")], ids=" ".join)
@pytest.mark.parametrize("name", ["ours", "sid"])
def test_the_hosts_new_nameserver_is_asked_at_the_same_address(name: str, options: tuple[str, ...]) -> None:
    """resolv.conf is rewritten in place, replaced, gone and back. The original looks once a second at most, ours at each change."""
    with Lab() as lab:
        own_etc(lab)
        other = "192.0.2.53"
        lab.remote.setup(f"addr add {other}/24 dev eth0")
        answers = {REMOTE4: "198.51.100.1", other: "198.51.100.2"}
        for server, answer in answers.items():
            resolver(lab.remote, server, name_is=answer)

        def asks(server: str) -> None:
            wanted = [[answers[server]]] * 2
            wait_until(lambda: name_server(guest, DNS) == wanted, FOLLOWS_S, f"{server} is asked")

        write(lab, "/etc/resolv.conf", f"nameserver {REMOTE4}\n")
        with connected(lab, name, *options) as (guest, _running):
            asks(REMOTE4)
            lab.host.run("sh", "-c", f"echo nameserver {other} >/etc/resolv.conf")
            asks(other)
            write(lab, "/etc/resolv.conf", f"nameserver {REMOTE4}\n")
            asks(REMOTE4)
            lab.host.run("rm", "/etc/resolv.conf")
            if name == "ours":  # the original has no nameserver then
                asks(REMOTE4)
            write(lab, "/etc/resolv.conf", f"nameserver {other}\n")
            asks(other)
