"""--follow: nameservers, the MTU, guests that configure themselves, and rules about the networks of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import sid
from followed import SOON_S, Followed, following
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    Space,
    comm,
    dual,
    wait_until,
)
from machines import machine, passt
from servers import DNS_NAME, own_etc, resolver, write
from test_autoconf import dhclient

LONG = bool(os.environ.get("PASTA_LONG"))

# ---- nameservers ----

_NAMESERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(512)
    s.sendto(sys.argv[1].encode(), peer)
"""
_ASK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(b"who", ("10.53.53.53", 53))
try:
    print(s.recv(100).decode())
except OSError as error:
    print(error)
"""


def test_names_are_asked_of_the_new_nameserver_at_once() -> None:
    with following("--dns-forward", "10.53.53.53", grace=600) as f:
        for address in (REMOTE4, REMOTE6):
            server = f.lab.remote.popen(sys.executable, "-c", _NAMESERVER, address)
            assert server.stdout and server.stdout.readline() == "ready\n"

        def asked() -> str:
            return f.guest.run(sys.executable, "-c", _ASK).stdout.strip()

        for address in (REMOTE4, REMOTE6, REMOTE4):  # rewritten in place
            f.lab.resolv(f"nameserver {address}\n")
            wait_until(lambda address=address: asked() == address, SOON_S, f"{address} is asked")  # type: ignore[misc]
        f.lab.resolv("# nothing\n")  # no nameserver: the old one stays for the grace
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.says("192.0.2.77/24 is new")
        wait_until(lambda: asked() == REMOTE4, SOON_S, "the old one is asked")
        f.lab.resolv(f"nameserver {REMOTE6}\n")
        wait_until(lambda: asked() == REMOTE6, SOON_S, "the new one is asked")


def test_resolv_conf_is_replaced_linked_elsewhere_gone_and_back() -> None:
    def build(lab: Lab) -> None:
        dual(lab)
        own_etc(lab)
        lab.host.run("mkdir", "/run/one", "/run/two")
        write(lab, "/etc/resolv.conf", f"nameserver {REMOTE4}\n")

    with following("--dns-forward", "10.53.53.53", build=build, grace=600) as f:
        for address in (REMOTE4, REMOTE6):
            server = f.lab.remote.popen(sys.executable, "-c", _NAMESERVER, address)
            assert server.stdout and server.stdout.readline() == "ready\n"

        def asks(address: str) -> None:
            wait_until(
                lambda: f.guest.run(sys.executable, "-c", _ASK).stdout.strip() == address, SOON_S, f"{address} is asked"
            )

        asks(REMOTE4)
        write(f.lab, "/etc/resolv.conf", f"nameserver {REMOTE6}\n")  # by rename
        asks(REMOTE6)
        write(f.lab, "/run/one/resolv.conf", f"nameserver {REMOTE4}\n")
        write(f.lab, "/run/two/resolv.conf", f"nameserver {REMOTE6}\n")
        for folder, address in (("one", REMOTE4), ("two", REMOTE6), ("one", REMOTE4)):
            f.lab.host.run("ln", "-sf", f"../run/{folder}/resolv.conf", "/etc/resolv.conf")
            asks(address)
        write(f.lab, "/run/one/resolv.conf", f"nameserver {REMOTE6}\n")  # where the link leads
        asks(REMOTE6)
        f.lab.host.run("rm", "/run/one/resolv.conf")
        write(f.lab, "/run/one/resolv.conf", f"nameserver {REMOTE4}\n")
        asks(REMOTE4)
        f.lab.host.run("rm", "-r", "/run/one")
        f.lab.host.run("mkdir", "/run/one")
        write(f.lab, "/run/one/resolv.conf", f"nameserver {REMOTE6}\n")
        asks(REMOTE6)


def test_a_resolv_conf_that_is_none_keeps_nothing_from_being_followed() -> None:
    """A FIFO without a writer, a directory, a file without end: the change after it is followed, and the nameserver after that."""

    def build(lab: Lab) -> None:
        dual(lab)
        own_etc(lab)
        write(lab, "/etc/resolv.conf", f"nameserver {REMOTE4}\n")

    with following("--dns-forward", "10.53.53.53", build=build, grace=600) as f:
        for number, made in enumerate(("mkfifo {}", "mkdir {}", "yes 'options x' | head -c 3000000 >{}", "ln -s /dev/zero {}")):
            path = "/etc/resolv.conf"
            f.lab.host.run("sh", "-ec", f"rm -rf {path}; {made.format(path)}")
            f.change(f"addr add 192.0.2.{80 + number}/24 dev eth0")
            f.says(f"address 192.0.2.{80 + number}/24 is new")
        f.lab.host.run("rm", "/etc/resolv.conf")
        write(f.lab, "/etc/resolv.conf", f"nameserver {REMOTE6}\n")
        f.says(REMOTE6)


def test_our_own_nameserver_asks_the_new_one() -> None:
    """With --egress-dns the worker answers, and caches: what the old nameserver said counts for its lifetime at most."""

    def build(lab: Lab) -> None:
        dual(lab)
        lab.resolv(f"nameserver {REMOTE4}\n")

    with following("--egress-dns", "all", "--dns-forward", "10.53.53.53", build=build, grace=600) as f:
        resolver(f.lab.remote, REMOTE4, name_is="198.51.100.1")
        resolver(f.lab.remote, REMOTE6, name_is="198.51.100.2")

        def answers() -> str:
            return f.guest.run("dig", "+short", "+tries=1", "+time=2", "@10.53.53.53", DNS_NAME, "A", check=False).stdout.strip()

        wait_until(lambda: answers() == "198.51.100.1", SOON_S, "the first one's answer")
        f.lab.resolv(f"nameserver {REMOTE6}\n")
        wait_until(lambda: answers() == "198.51.100.2", SOON_S, "the second one's answer")


# ---- the MTU ----


@pytest.mark.parametrize(("follows", "passes"), [("--follow", True), ("--no-follow", False)])
def test_a_smaller_mtu_of_the_host_lets_datagrams_pass_in_fragments(follows: str, passes: bool) -> None:
    """The guest's link has an MTU of 65520, so its kernel sends 4,000 bytes in one piece, and forbids fragments. What fits into the
    host's MTU keeps that; what does not is fragmented there. Without following, the host's MTU is the one of the start."""

    def build(lab: Lab) -> None:
        dual(lab)
        lab.host.setup("link set eth0 mtu 9000")
        lab.remote.setup("link set eth0 mtu 9000")

    with following(build=build, extra=(follows,)) as f:
        large = ("ping", "-c1", "-s", "4000", REMOTE4)
        f.guest.run(*large, "-W20")
        f.lab.remote.setup("link set eth0 mtu 1500")
        f.change("link set eth0 mtu 1500")
        if passes:
            f.says("the MTU of the host's interface is 1500 now")
        assert (f.guest.run(*large, "-W20" if passes else "-W5", check=False).returncode == 0) == passes


# ---- guests that configure themselves ----


def six(guest: Guest) -> dict[str, bool]:
    """Global IPv6 addresses, and whether they are deprecated."""
    found = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "scope", "global").stdout)
    return {a["local"]: a.get("deprecated", False) for link in found for a in link.get("addr_info", []) if "local" in a}


def test_a_guest_with_slaac_gets_the_new_prefix_and_gives_up_the_old_one() -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        guest = stack.enter_context(lab.guest("--follow", *NO_PORTS, config=False))
        guest.sysctl(ipv6__conf__eth0__accept_dad=0)
        guest.setup("link set lo up\nlink set eth0 up")
        wait_until(lambda: any(a.startswith("2001:db8::") for a in six(guest)), SOON_S, "an address by SLAAC")
        lab.host.setup(
            f"addr del {HOST6}/64 dev eth0\naddr add 2001:db8:7::2/64 dev eth0 nodad\n-6 route replace default via 2001:db8:7::1"
        )

        def moved() -> bool:
            found = six(guest)
            old = [deprecated for address, deprecated in found.items() if address.startswith("2001:db8::")]
            return all(old) and any(a.startswith("2001:db8:7:") and not deprecated for a, deprecated in found.items())

        wait_until(moved, SOON_S, "the new prefix is used, and the old one deprecated")


def test_a_guest_with_dhcp_learns_the_new_address_when_it_asks_again() -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        guest = stack.enter_context(lab.guest("--follow", *NO_PORTS, config=False))
        guest.setup("link set lo up\nlink set eth0 up")
        told = dhclient(lab, guest, "-4")
        assert (told["new_ip_address"], told["new_dhcp_lease_time"]) == (HOST4, "120")
        lab.host.setup(
            f"addr del {HOST4}/24 dev eth0\naddr add 192.0.2.99/24 dev eth0\nroute add default via {GATEWAY4}"
        )
        wait_until(lambda: dhclient(lab, guest, "-4")["new_ip_address"] == "192.0.2.99", SOON_S, "the new address")


#: Without its account dhcpcd does not try to separate privileges, which one mapped user cannot.
_DHCPCD = r"""
for path in /run /var/lib/dhcpcd; do mkdir -p $path; mount -t tmpfs tmpfs $path; done
grep -v dhcpcd /etc/passwd >/run/passwd; mount --bind /run/passwd /etc/passwd
printf '#!/bin/sh\nenv | grep "^new_\\|^reason=" >>%s\n' "$1" >/run/script; chmod +x /run/script
exec "$2" -B -q -A -f /dev/null -c /run/script eth0
"""


def test_dhcpcd_renews_at_once() -> None:
    """It says that it can be made to, in both protocols, and checks the signature."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        guest = stack.enter_context(lab.guest("--follow", *NO_PORTS, config=False))
        guest.setup("link set lo up\nlink set eth0 up")
        told = lab.directory / "told"
        told.touch()
        told.chmod(0o666)  # its hook's user is not ours
        client = sid.program("dhcpcd-base", "dhcpcd")
        guest.popen("unshare", "-m", "sh", "-ec", _DHCPCD, "sh", told, client)

        def has(*lines: str) -> None:
            wait_until(lambda: set(lines) <= set(told.read_text().splitlines()), SOON_S, f"dhcpcd has {lines}")

        wait_until(lambda: "BOUND6" in told.read_text() and "reason=BOUND\n" in told.read_text(), 20, "leases")
        has(f"new_ip_address={HOST4}", f"new_dhcp6_ia_na1_ia_addr1={HOST6}")
        lab.host.setup(
            f"addr del {HOST4}/24 dev eth0\naddr add 192.0.2.99/24 dev eth0\nroute add default via {GATEWAY4}\n"
            f"addr del {HOST6}/64 dev eth0\naddr add 2001:db8:7::2/64 dev eth0 nodad\n-6 route replace default via 2001:db8:7::1"
        )
        has("new_ip_address=192.0.2.99", "new_dhcp6_ia_na1_ia_addr1=2001:db8:7::2")


#: The state of networkd is below /run. Its own user is not mapped; without udev, as in a container, /sys cannot be written.
_NETWORKD = r"""
for path in /run /var/lib/systemd; do mkdir -p $path; mount -t tmpfs tmpfs $path; done
mount -t sysfs -o ro sysfs /sys
grep -v systemd-network /etc/passwd >/run/passwd; echo systemd-network:x:0:0::/:/bin/sh >>/run/passwd
mount --bind /run/passwd /etc/passwd
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases
printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\n' >/run/systemd/network/eth0.network
echo $$; exec "$1"
"""
NEW4, NEW6, NEW_DNS6 = "192.0.2.99", "2001:db8:7::2", "2001:db8:7::53"


def test_networkd_learns_by_router_advertisements_at_once_and_by_dhcp_when_it_asks_again() -> None:
    """It asks after a minute, half of the lease; in the short form its link is taken down and up, after which it asks too.

    It does not say that it can be made to renew.
    """
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.resolv(f"nameserver {REMOTE4}\nnameserver {REMOTE6}\n")
        guest = stack.enter_context(lab.guest("--follow", "--dhcp-dns", *NO_PORTS, config=False))
        guest.sysctl(ipv6__conf__eth0__accept_dad=0)
        guest.setup("link set lo up")
        program = sid.program("systemd-resolved", "systemd-networkd")  # Debian has it in systemd, which comes with that
        guest.popen("unshare", "-m", "sh", "-ec", _NETWORKD, "sh", program, stderr=subprocess.DEVNULL)

        def running() -> list[int]:
            return [pid for pid in lab.descendants() if comm(pid) == "systemd-network"]

        def addresses() -> dict[str, bool]:
            """Global ones, and whether they are deprecated."""
            links = json.loads(guest.run("ip", "-j", "addr", "show", "dev", "eth0", "scope", "global").stdout)
            return {a["local"]: a.get("deprecated", False) for link in links for a in link["addr_info"] if "local" in a}

        (link,) = json.loads(guest.run("ip", "-j", "link", "show", "dev", "eth0").stdout)

        def nameservers() -> list[str]:
            """Of each source: DHCP, DHCPv6, router advertisements."""
            state = Path(f"/proc/{running()[0]}/root/run/systemd/netif/links/{link['ifindex']}").read_text()
            return sorted(name for line in state.splitlines() if line.startswith("DNS=") for name in line[4:].split())

        def by_slaac(prefix: str, deprecated: bool) -> bool:
            return any(a.startswith(prefix) and "ff:fe" in a and old == deprecated for a, old in addresses().items())

        wait_until(running, SOON_S, "networkd runs")
        wait_until(lambda: {HOST4, HOST6} <= addresses().keys(), 20, "leases")
        wait_until(lambda: by_slaac("2001:db8::", False), SOON_S, "an address by SLAAC")
        wait_until(lambda: nameservers() == [REMOTE4, REMOTE6, REMOTE6], SOON_S, "nameservers")
        lab.resolv(f"nameserver {GATEWAY4}\nnameserver {NEW_DNS6}\n")
        lab.host.setup(
            f"addr del {HOST4}/24 dev eth0\naddr add {NEW4}/24 dev eth0\nroute add default via {GATEWAY4}\n"
            f"addr del {HOST6}/64 dev eth0\naddr add {NEW6}/64 dev eth0 nodad\n-6 route replace default via 2001:db8:7::1"
        )
        wait_until(lambda: by_slaac("2001:db8:7:", False) and by_slaac("2001:db8::", True), SOON_S, "the new prefix")
        wait_until(lambda: nameservers() == [REMOTE4, NEW_DNS6, REMOTE6], SOON_S, "the advertised nameserver is the new one")
        if not LONG:
            guest.setup("link set eth0 down\nlink set eth0 up")
        wait_until(lambda: {NEW4, NEW6} <= addresses().keys() and HOST4 not in addresses(), 90, "the new leases")
        wait_until(lambda: nameservers() == [GATEWAY4, NEW_DNS6, NEW_DNS6], 90, "only the new nameservers")


def test_a_virtual_machine_learns_the_new_addresses() -> None:
    """Behind passt: by DHCP when it asks again, by a router advertisement at once."""
    with Lab() as lab, passt(lab, "--follow") as made, machine(lab, made.socket, configure=False) as guest:
        wait_until(lambda: any(a.startswith("2001:db8::") for a in six(guest)), SOON_S, "an address by SLAAC")
        told = dhclient(lab, guest, "-4")
        assert (told["new_ip_address"], told["new_dhcp_lease_time"]) == (HOST4, "120")
        lab.host.setup(
            f"addr del {HOST4}/24 dev eth0\naddr add 192.0.2.99/24 dev eth0\nroute add default via {GATEWAY4}\n"
            f"addr del {HOST6}/64 dev eth0\naddr add 2001:db8:7::2/64 dev eth0 nodad\n-6 route replace default via 2001:db8:7::1"
        )
        made.wait_said("the guest is offered 192.0.2.99/24 now")
        assert dhclient(lab, guest, "-4")["new_ip_address"] == "192.0.2.99"
        wait_until(lambda: any(a.startswith("2001:db8:7:") for a in six(guest)), SOON_S, "the new prefix")


def test_leases_of_a_guest_that_is_configured_have_no_end() -> None:
    with following() as f:
        assert dhclient(f.lab, f.guest, "-4")["new_dhcp_lease_time"] == str(0xFFFFFFFF)


# ---- rules ----

_ACCEPT = """
import socket
l = socket.create_server(("203.0.113.10", 7500))
print("ready", flush=True)
while True:
    l.accept()[0].close()
"""
_CONNECT = "import socket; socket.create_connection(('203.0.113.10', 7500), 20); print('connected')"


def _is_accepted(f: Followed, machine: Space) -> None:
    server = machine.popen(sys.executable, "-c", _ACCEPT)
    assert server.stdout and server.stdout.readline() == "ready\n"
    assert f.guest.run(sys.executable, "-c", _CONNECT).stdout == "connected\n"


def test_rules_about_the_hosts_networks_follow_the_host() -> None:
    """A network that the host joins while the guest runs is @lan from then on."""
    with following(extra=("--deny", "@lan")) as f:
        f.lab.remote.setup("addr add 203.0.113.10/24 dev eth0")
        f.change(f"route add 203.0.113.0/24 via {REMOTE4}")
        _is_accepted(f, f.lab.remote)
        f.change("addr add 203.0.113.2/24 dev eth0")
        f.says("address 203.0.113.2/24 is new")
        refused = f.guest.run(sys.executable, "-c", _CONNECT, check=False)
        assert refused.returncode and "connected" not in refused.stdout, refused


def test_a_rule_about_the_host_follows_the_host() -> None:
    """An address of a machine elsewhere becomes one of the host's own, on an interface that leads nowhere."""
    with following(extra=("--deny", "@host")) as f:
        f.lab.remote.setup("addr add 203.0.113.10/32 dev eth0")
        f.change(f"route add 203.0.113.10/32 via {REMOTE4}")
        _is_accepted(f, f.lab.remote)
        f.change("link add other up type veth peer name unused\naddr add 203.0.113.10/32 dev other")
        own = f.lab.host.popen(sys.executable, "-c", _ACCEPT)
        assert own.stdout and own.stdout.readline() == "ready\n"
        wait_until(lambda: f.guest.run(sys.executable, "-c", _CONNECT, check=False).returncode, SOON_S, "it is refused")


# ---- forwarded ports ----

_WHO = """
import socket
l = socket.create_server(("::", 7501), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    s, peer = l.accept()
    s.sendall(peer[0].encode())
    s.close()
"""
_FROM = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7501), 20, (sys.argv[1], 0))
print(s.recv(100).decode().removeprefix("::ffff:"))
"""


@pytest.mark.parametrize(("new", "gateway"), [("192.0.2.77", GATEWAY4), ("2001:db8::77", GATEWAY6)], ids=["v4", "v6"])
def test_a_client_at_a_new_address_of_the_host_is_seen_as_the_others_are(new: str, gateway: str) -> None:
    """The guest gets the address, too, so a client there comes from the gateway's: its answers would stay in the guest."""
    with following("-t", "7501") as f:
        server = f.guest.popen(sys.executable, "-c", _WHO)
        assert server.stdout and server.stdout.readline() == "ready\n"

        def seen(address: str) -> str:
            return f.lab.host.run(sys.executable, "-c", _FROM, address, check=False).stdout.strip()

        assert seen(HOST6 if ":" in new else HOST4) == gateway
        f.change(f"addr add {new}/{'64 dev eth0 nodad' if ':' in new else '24 dev eth0'}")
        f.has(HOST4, HOST6, new)
        f.says(f"address {new}/{64 if ':' in new else 24} is new")  # the worker knows it, too
        assert seen(new) == gateway
