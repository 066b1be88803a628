"""Names that the worker answers itself, end to end: real programs in the guest, a real nameserver on the host."""

import re
from collections.abc import Iterator

import pytest
from lab import NO_PORTS, PATIENCE_S, REMOTE4, Guest, Lab, program, wait_until
from servers import DNS_LONG, DNS_NAME, named_web
from test_autoconf import dhclient, rdisc6

OURS = "169.254.1.1"
DIG = ("dig", "+tries=1", "+time=20")
ALL = (*NO_PORTS, "--egress-dns", "all")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host whose one nameserver is at 127.0.0.53."""
    with Lab() as made:
        named_web(made, "nameserver 127.0.0.53\nsearch lan.test\n")
        yield made


def dig(guest: Guest, *words: str) -> list[str]:
    return guest.run(*DIG, "+short", *words).stdout.split()


@pytest.mark.option("--egress-dns")
@pytest.mark.parametrize("entry", ["pasta", "pasta-py"])
def test_names_resolve_whatever_nameserver_is_asked(lab: Lab, entry: str) -> None:
    with lab.guest(*ALL, entry=entry) as guest:
        seen = guest.run("cat", "/etc/resolv.conf").stdout
        assert f"nameserver {OURS}\n" in seen and "127.0.0.53" not in seen and "search lan.test" in seen
        assert guest.run("getent", "hosts", DNS_NAME).stdout.split()[0] == REMOTE4
        for server in (OURS, "8.8.8.8", "192.0.2.1", "127.0.0.53", "2001:db8::53"):
            if server != "127.0.0.53":
                shown = guest.run(*DIG, f"@{server}", DNS_NAME).stdout
                assert REMOTE4 in shown and f"SERVER: {server}#53" in shown, shown
                assert dig(guest, f"@{server}", "+tcp", DNS_NAME) == [REMOTE4]
        assert guest.run("curl", "-sS", "-m", "20", f"http://{DNS_NAME}/").stdout == "it works\n"


@pytest.mark.parametrize("options", [("-6",), ("-4", "--threads", "4")], ids=["ipv6", "threads"])
def test_with_one_family_and_with_threads(lab: Lab, options: tuple[str, ...]) -> None:
    """With IPv6 alone the nameserver that the guest is told is our link-local address."""
    with lab.guest(*ALL, *options) as guest:
        (server,) = re.findall("nameserver (.*)", guest.run("cat", "/etc/resolv.conf").stdout)
        assert server == OURS if "-4" in options else re.fullmatch("fe80::.*%eth0", server)
        assert guest.run("getent", "hosts", DNS_NAME).stdout.split()[0] == REMOTE4
        for _ in range(8):  # each is a flow of its own, which may belong to any thread
            assert dig(guest, "+tcp", DNS_NAME) == [REMOTE4]


def test_a_long_answer_comes_over_tcp(lab: Lab) -> None:
    """2,880 bytes: more than goes into one datagram, from the nameserver and to the guest."""
    with lab.guest(*ALL, "--threads", "2") as guest:
        long = guest.run(*DIG, DNS_LONG, "TXT").stdout
        assert "Truncated, retrying in TCP mode" in long and long.count("x" * 240) == 12, long
        assert re.search("flags: qr rd ra;", long)
        cut = guest.run(*DIG, "+ignore", "+notcp", DNS_LONG, "TXT").stdout
        assert re.search("flags: qr tc rd ra;", cut)


def test_none_answers_no_name_and_says_so(lab: Lab) -> None:
    with lab.guest(*NO_PORTS, "--egress-dns", "none") as guest:
        shown = guest.run(*DIG, DNS_NAME).stdout
        assert "status: NXDOMAIN" in shown and "EDE: 15 (Blocked)" in shown and f"--allow {DNS_NAME}" in shown
        assert guest.run("getent", "hosts", "localhost").stdout
        done = guest.run("curl", "-sS", "-m", "20", f"http://{DNS_NAME}/", check=False)
        assert done.returncode == 6 and "Could not resolve host" in done.stderr


def test_guests_that_ask_are_told(lab: Lab) -> None:
    """By DHCP, router advertisement and DHCPv6, each with an address of its family that answers."""
    with lab.stray() as guest:
        process = lab.host.popen(program("pasta"), "-f", *ALL, "--dhcp-dns", lab.inner_pid(guest.pid))
        wait_until(lambda: "eth0" in guest.run("ip", "link").stdout, 10, "the interface")
        advertised = rdisc6(guest).stdout
        server6 = re.search(r"Recursive DNS server +: (fe80::\S+)", advertised)
        assert server6, advertised
        assert dhclient(lab, guest, "-4")["new_domain_name_servers"] == OURS
        for server in (OURS, f"{server6[1]}%eth0"):
            assert dig(guest, f"@{server}", DNS_NAME) == [REMOTE4]
        assert dhclient(lab, guest, "-6")["new_dhcp6_name_servers"].split("%")[0] == server6[1]
        process.terminate()
        process.wait(PATIENCE_S)


def test_a_nameserver_that_would_not_be_asked_is_refused(lab: Lab) -> None:
    done = lab.host.run(program("pasta"), *ALL, "--dns", REMOTE4, "--", "true", check=False)
    assert done.returncode and f"--dns {REMOTE4}: with an egress policy or --egress-dns" in done.stderr
    assert f"--dns-host {REMOTE4}; --allow {REMOTE4}:53 opens it" in done.stderr

