"""A guest that is left alone configures itself with dhclient, dhcpcd and SLAAC, and then has a network."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_interface, ip_network

import pytest
import sid
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    PATIENCE_S,
    PROGRAMS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    remote_addresses,
    wait_until,
    wire,
)
from shapes import gateway_off_link

NAMESERVERS = (REMOTE4, REMOTE6)
SEARCH = "lab.example.test example.test"


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    lab.resolv("".join(f"nameserver {address}\n" for address in NAMESERVERS) + f"search {SEARCH}\n")
    with lab.guest("--hostname", "guesthost", "--dhcp-dns", "--dhcp-search", config=False) as made:
        assert " UP " not in made.run("ip", "-br", "link", "show", "dev", "eth0").stdout
        made.setup("link set lo up\nlink set eth0 up")
        yield made


def dhclient(
    lab: Lab, guest: Guest, *options: str, more: str = "", wait: float = PATIENCE_S, link: str = "eth0"
) -> dict[str, str]:
    """Run dhclient until it is bound, `wait` seconds at most for IPv4; what its script was told then. `more`: for its file."""
    log = lab.directory / "lease.log"
    log.unlink(missing_ok=True)
    where = lab.directory
    command = (
        "dhclient",
        *options,
        "-1",
        "-v",
        "-sf",
        PROGRAMS / "dhclient-script",
        "-lf",
        where / "leases",
        "-pf",
        where / "pid",
    )
    (where / "leases").unlink(missing_ok=True)
    (where / "dhclient.conf").write_text(
        "also request dhcp6.name-servers, dhcp6.domain-search, domain-search, interface-mtu;\n"
        f"timeout {wait:.0f};\n{more}"
    )
    config = ("-cf", where / "dhclient.conf")
    said = guest.run(*command, *config, "-e", f"LEASE_LOG={log}", link, timeout=60, check=False)
    told = dict(line.split("=", 1) for line in log.read_text().splitlines() if "=" in line) if log.exists() else {}
    assert said.returncode == 0 and told.get("reason", "").startswith("BOUND"), f"{told}\n{said.stderr}"
    return told


@pytest.mark.option("--hostname", "--dhcp-dns", "--dhcp-search")
def test_dhclient_configures_ipv4(lab: Lab, guest: Guest) -> None:
    told = dhclient(lab, guest, "-4")
    assert told["new_ip_address"] == HOST4
    assert told["new_subnet_mask"] == "255.255.255.0"
    assert told["new_routers"] == GATEWAY4
    assert told["new_domain_name_servers"] == REMOTE4
    assert told["new_domain_search"].replace(".test.", ".test").split() == SEARCH.split()
    assert told["new_host_name"] == "guesthost"
    assert told["new_interface_mtu"] == "65520"
    guest.run("ping", "-c1", "-W20", REMOTE4)


def test_udhcpc_configures_ipv4(lab: Lab, guest: Guest) -> None:
    """It reads from a packet socket, and drops what has a wrong checksum."""
    hook = lab.directory / "udhcpc-hook"
    hook.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip/$mask $router $dns $mtu $hostname"\n')
    hook.chmod(0o755)
    busybox = sid.program("busybox", "busybox")
    options = ("-i", "eth0", "-f", "-n", "-q", "-t", "10", "-O", "mtu", "-O", "hostname")
    said = guest.run(busybox, "udhcpc", *options, "-s", hook)
    assert f"{HOST4}/24 {GATEWAY4} {REMOTE4} 65520 guesthost\n" in said.stdout, said


def test_router_advertisements_configure_ipv6(lab: Lab, guest: Guest) -> None:
    """The kernel's own SLAAC, then an address that works, then DHCPv6 for the host's very address."""

    def usable() -> bool:
        found = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "global").stdout)
        info = [i for link in found for i in link.get("addr_info", [])]
        return bool(info) and not any(i.get("tentative") for i in info)

    wait_until(usable, 8, "a global address by SLAAC")
    (default,) = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout)
    assert default["protocol"] == "ra" and default["gateway"].startswith("fe80:")
    guest.run("ping", "-6", "-c1", "-W20", REMOTE6)
    told = dhclient(lab, guest, "-6")
    assert told["new_ip6_address"] == HOST6
    assert told["new_dhcp6_name_servers"] == REMOTE6
    assert told["new_dhcp6_domain_search"].replace(".test.", ".test").split() == SEARCH.split()
    guest.run("ping", "-6", "-c1", "-W20", "-I", HOST6, REMOTE6)


def longer_prefix(lab: Lab) -> None:
    """80 bits: no interface identifier fits behind it."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\naddr add {HOST6}/80 dev eth0 nodad\n-6 route add default via {GATEWAY6}")


@pytest.mark.parametrize("build", [longer_prefix, gateway_off_link], ids=["80 bits", "128 bits"])
@pytest.mark.parametrize("peer", [None, "sid"])
def test_the_guests_kernel_makes_an_address_whatever_the_hosts_prefix_is(build: "Callable[[Lab], None]", peer: str | None) -> None:
    """Of 64 bits of it; DHCPv6 gives the host's very address beside it."""
    other = sid.program("passt", "pasta") if peer else None
    with Lab(build) as lab, lab.guest(config=False, peer=other) as guest:
        guest.sysctl(ipv6__conf__eth0__accept_dad=0)
        guest.setup("link set lo up\nlink set eth0 up")

        def made() -> list[str]:
            links = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "dev", "eth0").stdout)
            found = [a for link in links for a in link["addr_info"] if a["scope"] == "global"]
            return [f"{a['local']}/{a['prefixlen']}" for a in found]

        wait_until(made, 8, "a global address by SLAAC")
        (address,) = made()
        made_of_mac = ip_interface(address)  # RFC 4291, appendix A
        assert made_of_mac.network == ip_network("2001:db8::/64") and made_of_mac.packed[11:13] == b"\xff\xfe"
        guest.run("ping", "-6", "-c1", "-W20", "-I", address.split("/")[0], REMOTE6)
        assert dhclient(lab, guest, "-6")["new_ip6_address"] == HOST6
        guest.run("ping", "-6", "-c1", "-W20", "-I", HOST6, REMOTE6)


def rdisc6(guest: Guest, wait: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
    """Solicit one router advertisement, and wait as long for it; from a link-local address that is usable at once."""
    guest.sysctl(ipv6__conf__eth0__accept_dad=0)
    guest.setup("link set lo up\nlink set eth0 up")
    usable = ("ip", "-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
    wait_until(lambda: "fe80" in guest.run(*usable).stdout, 10, "a link-local address")
    return guest.run("rdisc6", "-1", "-r1", f"-w{1000 * wait:.0f}", "eth0", check=False, timeout=60)


def test_rdisc6_hears_everything(lab: Lab) -> None:
    lab.resolv("".join(f"nameserver {address}\n" for address in NAMESERVERS) + f"search {SEARCH}\n")
    with lab.guest("--dhcp-dns", "--dhcp-search", config=False) as guest:
        said = rdisc6(guest)
    assert said.returncode == 0, said.stderr
    text = said.stdout
    for pattern in (
        r"Prefix +: 2001:db8::/64",
        r"MTU +: +65520",
        r"Source link-layer address: 9A:55:9A:55:9A:55",
        r"Recursive DNS server +: 2001:db8::10",
        *(rf"DNS search list +: .*\b{domain}" for domain in SEARCH.split()),
    ):
        assert re.search(pattern, text), f"no {pattern} in\n{text}"
    lifetime = re.search(r"Router lifetime +: +(\d+)", text)
    assert lifetime and int(lifetime[1]) > 0


@pytest.mark.parametrize(
    "option", [pytest.param(option, marks=pytest.mark.option(option)) for option in ("--no-ra", "--no-ndp")]
)
def test_router_advertisements_can_be_switched_off(lab: Lab, option: str) -> None:
    with lab.guest(option, config=False) as guest:
        assert rdisc6(guest, wait=2).returncode != 0


@pytest.mark.option("--no-dhcp")
def test_dhcp_can_be_switched_off(lab: Lab) -> None:
    with lab.guest("--no-dhcp", config=False) as guest:
        guest.setup("link set lo up\nlink set eth0 up")
        with pytest.raises(AssertionError, match="No DHCPOFFERS"):
            dhclient(lab, guest, "-4", wait=4)


def test_dhcpcd_configures_ipv4(lab: Lab, guest: Guest) -> None:
    (lab.directory / "dhcpcd.conf").write_text(
        "duid\noption domain_name_servers, routers\nnoarp\nnohook resolv.conf, hostname\n"
    )
    done = guest.run(
        *("unshare", "-m", "sh", "-ec"),
        "mount -t tmpfs none /var/lib/dhcpcd; mount -t tmpfs none /run;"
        f"dhcpcd -1 -B -d -t 30 -f {lab.directory}/dhcpcd.conf -4 eth0",
        timeout=60,
        check=False,
    )
    found = guest.run("ip", "-br", "-4", "addr", "show", "dev", "eth0").stdout
    assert f"{HOST4}/24" in found, done.stderr
    guest.run("ping", "-c1", "-W20", REMOTE4)
