"""Names in a command of pasta-py and in guests that ask, on hosts whose own nameserver the guest cannot reach as it is."""

import re
from collections.abc import Callable, Iterator

import pytest
from lab import (
    GATEWAY4,
    HOST4,
    NO_PORTS,
    PATIENCE_S,
    REMOTE4,
    Guest,
    Lab,
    Space,
    program,
    remote_addresses,
    wait_until,
    wire,
)
from servers import DNS_LONG, DNS_NAME, named_web, own_etc, resolver, systemd_resolved, write
from test_autoconf import dhclient, rdisc6

OURS = "169.254.1.1"
HOSTS_OWN = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan.test\n"
DIG = ("dig", "+tries=1", "+time=20")


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A host whose one nameserver is at 127.0.0.53."""
    with Lab() as made:
        named_web(made, HOSTS_OWN)
        yield made


def names(guest: Guest) -> None:
    """Names resolve: with libc and curl, by UDP, by TCP, with an answer that is too long without EDNS."""
    assert guest.run("getent", "hosts", DNS_NAME).stdout.split()[0] == REMOTE4
    assert guest.run(*DIG, "+short", DNS_NAME, "A").stdout.split() == [REMOTE4]
    assert guest.run(*DIG, "+short", "+tcp", DNS_NAME, "A").stdout.split() == [REMOTE4]
    long = guest.run(*DIG, "+bufsize=4096", "+notcp", "+ignore", DNS_LONG, "TXT").stdout
    assert re.search("flags: qr( aa)? rd ra;", long) and long.count("x" * 240) == 12, long


def seen(guest: Space) -> list[str]:
    """What a command reads in /etc/resolv.conf, without comments."""
    return [line for line in guest.run("cat", "/etc/resolv.conf").stdout.splitlines() if line[:1] != "#"]


@pytest.mark.parametrize("options", [(), NO_PORTS, (*NO_PORTS, "--no-map-gw", "--no-splice"), ("-4", "--threads", "2")])
def test_names_of_a_resolver_on_the_loopback(lab: Lab, options: tuple[str, ...]) -> None:
    with lab.guest(*options, entry="pasta-py", config=False) as guest:
        names(guest)
        assert seen(guest) == [f"nameserver {OURS}", "options edns0 trust-ad", "search lan.test"]
        assert guest.run("curl", "-sS", "-m", "20", f"http://{DNS_NAME}/").stdout == "it works\n"


def test_answers_come_from_the_address_asked_and_only_port_53_is_open(lab: Lab) -> None:
    servers = [lab.host.start("answer.py", "name", *where, "host") for where in (("127.0.0.53", 853), ("127.0.0.1", 80))]
    with lab.guest(*NO_PORTS, entry="pasta-py", config=False) as guest:
        assert f"SERVER: {OURS}#53({OURS}) (UDP)" in guest.run(*DIG, DNS_NAME).stdout
        for port in (853, 80):
            assert guest.script("probe.py", "tcp", OURS, port, 1)["error"]
            assert guest.script("probe.py", "udp", OURS, port, 1)["error"]
        assert guest.script("probe.py", "ask", GATEWAY4, 80)["answer"].startswith("host ")  # as it could be had
    for server in servers:
        server.result()


@pytest.mark.option("--dns")
def test_dns_none_opens_nothing_and_leaves_the_file_alone(lab: Lab) -> None:
    with lab.guest(*NO_PORTS, "--dns", "none", entry="pasta-py", config=False) as guest:
        assert "nameserver 127.0.0.53" in seen(guest)
        assert guest.script("probe.py", "tcp", OURS, 53, 1)["error"]


def test_pasta_leaves_the_file_alone_and_opens_nothing(lab: Lab) -> None:
    with lab.guest("--dns", REMOTE4, "--search", "one.test", *NO_PORTS) as guest:
        assert "nameserver 127.0.0.53" in seen(guest)
        assert guest.script("probe.py", "tcp", OURS, 53, 1)["error"]


@pytest.mark.option("--dns", "--search")
def test_dns_and_search_reach_the_file_of_a_command(lab: Lab) -> None:
    with lab.guest(*NO_PORTS, "-D", REMOTE4, "-D", "2001:db8::10", "-S", "a.test b.test", entry="pasta-py", config=False) as guest:
        assert seen(guest) == [f"nameserver {REMOTE4}", "nameserver 2001:db8::10", "search a.test b.test", "options edns0"]
        assert guest.script("probe.py", "tcp", OURS, 53, 1)["error"]  # not needed, so not open
    with lab.guest(*NO_PORTS, "-S", "example.test", entry="pasta-py", config=False) as guest:
        assert guest.run("getent", "hosts", "short").stdout.split()[0] == REMOTE4
    with lab.guest(*NO_PORTS, "-S", "none", "-D", "none", entry="pasta-py", config=False) as guest:
        assert seen(guest) == ["search .", "nameserver 127.0.0.53", "options edns0 trust-ad"]


def test_names_with_ipv6_alone_come_from_our_link_local_address(lab: Lab) -> None:
    with lab.guest(*NO_PORTS, "-6", entry="pasta-py", config=False) as guest:
        (server,) = [line for line in seen(guest) if line.startswith("nameserver")]
        assert server.startswith("nameserver fe80::") and server.endswith("%eth0")
        names(guest)


@pytest.mark.parametrize(("address", "said"), [("::1", "::1"), (HOST4, HOST4), ("127.0.0.1", "")])
def test_other_nameservers_out_of_reach(address: str, said: str) -> None:
    """At ::1 alone, at the address that host and guest share, and where none is named: then libc asks 127.0.0.1."""
    with Lab() as lab:
        resolver(lab.host, address, name_is=REMOTE4)
        lab.resolv(f"nameserver {said}\n" if said else "options ndots:2\n")
        for options in (NO_PORTS, (*NO_PORTS, "--no-map-gw")):
            with lab.guest(*options, entry="pasta-py", config=False) as guest:
                names(guest)
                assert seen(guest)[0] == f"nameserver {OURS}"


def test_a_nameserver_in_reach_leaves_the_file_alone_and_opens_nothing(lab: Lab) -> None:
    lab.resolv(f"nameserver 127.0.0.53\nnameserver {REMOTE4}\n")
    with lab.guest(*NO_PORTS, entry="pasta-py", config=False) as guest:
        assert seen(guest) == ["nameserver 127.0.0.53", f"nameserver {REMOTE4}"]
        host, command = (space.run("cat", "/proc/self/mountinfo").stdout.count("resolv.conf") for space in (lab.host, guest))
        assert host == command
        assert guest.script("probe.py", "tcp", OURS, 53, 1)["error"]
    lab.resolv(HOSTS_OWN)


def no_default_route(lab: Lab) -> None:
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0")


@pytest.mark.parametrize("build", [no_default_route, lambda lab: None])
def test_names_where_no_route_leads_to_the_nameserver(build: Callable[[Lab], None]) -> None:
    with Lab(build) as lab:
        resolver(lab.host, "127.0.0.53", name_is=REMOTE4)
        lab.resolv("nameserver 127.0.0.53\n")
        with lab.guest(*NO_PORTS, "-4", entry="pasta-py", config=False) as guest:
            names(guest)


# ---- guests that ask ----


def test_guests_that_ask_are_told(lab: Lab) -> None:
    """By DHCP, router advertisement and DHCPv6, each with an address of its family that answers."""
    with lab.stray() as guest:
        process = lab.host.popen(program("pasta-py"), "-f", "--no-config-net", *NO_PORTS, lab.inner_pid(guest.pid))
        wait_until(lambda: "eth0" in guest.run("ip", "link").stdout, 10, "the interface")
        advertised = rdisc6(guest).stdout
        server6 = re.search(r"Recursive DNS server +: (fe80::\S+)", advertised)
        assert server6, advertised
        told = dhclient(lab, guest, "-4")
        assert told["new_domain_name_servers"] == OURS
        for server in (OURS, f"{server6[1]}%eth0"):
            assert guest.run(*DIG, f"@{server}", "+short", DNS_NAME, "A").stdout.split() == [REMOTE4]
        told6 = dhclient(lab, guest, "-6")
        assert told6["new_dhcp6_name_servers"].split("%")[0] == server6[1]
        process.terminate()
        process.wait(PATIENCE_S)


# ---- the host's file is replaced ----


def test_systemd_resolved_and_its_restarts() -> None:
    """The file that /etc/resolv.conf links to is made anew by it each time, and the command has its own again."""
    with Lab() as lab:
        resolver(lab.remote, REMOTE4, name_is=REMOTE4)
        own_etc(lab)
        resolved = systemd_resolved(lab, REMOTE4)
        wanted = [f"nameserver {OURS}", "options edns0 trust-ad", "search lan.test"]
        with lab.guest(*NO_PORTS, entry="pasta-py", config=False) as guest:
            assert sorted(seen(guest)) == sorted(wanted)
            names(guest)
            resolved.kill()
            resolved.wait(PATIENCE_S)
            lab.host.run("rm", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
            systemd_resolved(lab, REMOTE4)
            wait_until(lambda: sorted(seen(guest)) == sorted(wanted), 5, "the command's own file")
            names(guest)


def test_a_file_replaced_by_rename_while_the_command_runs() -> None:
    with Lab() as lab:
        own_etc(lab)
        resolver(lab.host, "127.0.0.53", name_is=REMOTE4)
        write(lab, "/etc/resolv.conf", "nameserver 127.0.0.53\n")
        with lab.guest(*NO_PORTS, entry="pasta-py", config=False) as guest:
            names(guest)
            for domain in ("one.test", "two.test"):
                write(lab, "/etc/resolv.conf", f"nameserver 127.0.0.53\nsearch {domain}\n")
                wanted = [f"nameserver {OURS}", f"search {domain}"]
                wait_until(lambda wanted=wanted: seen(guest) == wanted, 5, "the command's own file")
            names(guest)
            assert lab.host.run("cat", "/etc/resolv.conf").stdout == "nameserver 127.0.0.53\nsearch two.test\n"


def test_without_inotify_a_command_has_its_file_and_a_warning() -> None:
    with Lab() as lab:
        resolver(lab.host, "127.0.0.53", name_is=REMOTE4)
        lab.resolv(HOSTS_OWN)
        lab.host.run("sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances", caps=True)
        done = lab.host.run(program("pasta-py"), *NO_PORTS, "--", "getent", "hosts", DNS_NAME)
        assert done.stdout.split()[0] == REMOTE4
        assert done.stderr.startswith("pasta-py: warning: the command's /etc/resolv.conf is lost when")
        assert "fs.inotify.max_user_instances" in done.stderr


def test_a_missing_file_is_not_made_and_a_command_runs_without() -> None:
    with Lab() as lab:
        own_etc(lab)
        for options in ((), ("--search", "a.test")):
            done = lab.host.run(program("pasta-py"), *NO_PORTS, *options, "--", "ls", "/etc/resolv.conf", check=False)
            assert done.returncode == 2 and not lab.outer("/etc/resolv.conf").exists()
            assert ("--search do not reach the command" in done.stderr) is bool(options)
