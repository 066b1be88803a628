"""Guests under QEMU that configure themselves by dhcpcd, systemd-networkd and busybox's clients, over a stream and over vhost-user.

dhcpcd and networkd are Debian sid's (tests/sid.txt), with the accounts that they drop their privileges to.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sid
from guest_checks import PORT, Checks
from lab import BIG, GATEWAY4, HOST4, HOST6, REMOTE4, REMOTE6, REMOTES, Lab, wait_until
from machines import passt
from qemu import Vm, qemu, with_libraries
from servers import DNS4, DNS_NAME, dnsmasq
from test_qemu_vhost import MEMORY_MB, NETDEV, chardev

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.timeout(1800)]

SIZE = 200_000_000
LEASE_S = 60
SEARCH = "lab.example.test"
ACCOUNTS = ("root", "_dhcpcd", "systemd-network", "systemd-resolve")
NETWORK = """[Match]
Name=eth0
[Network]
DHCP=yes
[DHCPv4]
UseMTU=yes
UseDomains=yes
"""
#: The kernel of the guest has configured nothing by itself.
BLANK = "ip link set eth0 down; ip addr flush dev eth0; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra; : >/etc/resolv.conf"


def clients() -> dict[str, bytes]:
    """What a guest needs of the clients: programs, hooks, accounts, and curl of this machine."""
    dhcpcd, networkd, resolved = (
        sid.program("dhcpcd-base", "dhcpcd"),
        sid.program("systemd-resolved", "systemd-networkd"),
        sid.program("systemd-resolved", "systemd-resolved"),
    )
    files = with_libraries(dhcpcd, networkd, resolved, Path("/usr/bin/curl"))
    hooks = [sid.ROOT / "usr/libexec/dhcpcd-run-hooks", *(sid.ROOT / "usr/libexec/dhcpcd-hooks").iterdir()]
    for path in (*hooks, sid.ROOT / "etc/dhcpcd.conf"):
        files[str(path.relative_to(sid.ROOT))] = path.read_bytes()
    accounts = [f"{name}:x:{number}:{number}::/var/lib/{name}:/bin/sh" for number, name in enumerate(ACCOUNTS)]
    files["etc/passwd"] = "".join(f"{line}\n" for line in accounts).encode()
    files["etc/group"] = "".join(f"{name}:x:{number}:\n" for number, name in enumerate(ACCOUNTS)).encode()
    files["etc/systemd/network/eth0.network"] = NETWORK.encode()
    files["etc/machine-id"] = b"0123456789abcdef0123456789abcdef\n"  # networkd's DHCP identifiers come of it
    for folder in ("run/systemd", "var/lib/dhcpcd"):
        files[f"{folder}/.keep"] = b""
    files.update({f"bin/{path.name}": f"#!/bin/sh\nexec {path} \"$@\"\n".encode() for path in (dhcpcd, networkd, resolved)})
    return files


@contextlib.contextmanager
def booted(lab: Lab, link: str) -> Iterator[Vm]:
    """A guest whose network is at a passt, with a forwarded port."""
    if link == "stream":
        with passt(lab, "-t", str(PORT)) as made:
            netdev = ("stream", "id=n", "server=off", "addr.type=unix", f"addr.path={made.socket}")
            with qemu(lab, netdev, files=clients()) as vm:
                yield vm
    else:
        with (
            passt(lab, "--vhost-user", "-t", str(PORT)) as made,
            qemu(lab, NETDEV, more=chardev(made), memory=MEMORY_MB, files=clients()) as vm,
        ):
            yield vm


def waits(vm: Vm, command: str, *words: str) -> None:
    """Until a command in the guest says a line with all these words."""

    def said() -> bool:
        lines = vm.run(command, check=False).splitlines()
        return any(all(word in line.split() for word in words) for line in lines)

    try:
        wait_until(said, LEASE_S, f"{words} of {command}")
    except AssertionError:
        print(vm.run("cat /tmp/client; ip addr; ip route; ip -6 route; cat /etc/resolv.conf", check=False))
        raise


def has_everything(vm: Vm) -> None:
    """The host's addresses by DHCP and DHCPv6, another by router advertisement, both routes."""
    usable = "ip addr show dev eth0 scope global | grep -v tentative"
    waits(vm, usable, f"{HOST4}/24")
    waits(vm, usable, f"{HOST6}/128")
    waits(vm, f"{usable} | sed 's/2001:[^/]*//'", "/64")
    waits(vm, "ip route show default", GATEWAY4)
    waits(vm, "ip -6 route show default | sed 's/fe80:[^ ]*/router/'", "router")


def dhcpcd(vm: Vm) -> None:
    """It leaves the MTU of the link as it is, and says so."""
    vm.run(f"{BLANK}; dhcpcd --debug eth0 >/tmp/client 2>&1")
    has_everything(vm)
    waits(vm, "cat /tmp/client", "advertised", "MTU", "65520")
    for server in (REMOTE4, REMOTE6):
        waits(vm, "cat /etc/resolv.conf", "nameserver", server)
    waits(vm, "cat /etc/resolv.conf", "search", SEARCH)


def networkd(vm: Vm) -> None:
    """With resolved, which asks the nameservers that networkd has been told. Without udev: /sys is read-only, as in a container."""
    stub, told = "/run/systemd/resolve/stub-resolv.conf", "cat /run/systemd/resolve/resolv.conf"
    vm.run(
        f"{BLANK}; mount -o remount,ro /sys; ln -sf {stub} /etc/resolv.conf; "
        "(SYSTEMD_LOG_LEVEL=debug systemd-networkd & exec systemd-resolved) >/tmp/client 2>&1 & true"
    )
    has_everything(vm)
    waits(vm, "ip link show dev eth0", "mtu", "65520")
    for server in (REMOTE4, REMOTE6):
        waits(vm, told, "nameserver", server)
    waits(vm, told, "search", SEARCH)


def curl_both_ways(lab: Lab, checks: Checks, vm: Vm, family: int) -> None:
    host = REMOTES[4] if family == 4 else f"[{REMOTES[6]}]"
    vm.run(f"curl -sS -f -o /tmp/vm.bin http://{host}/vm.bin", timeout=200)
    assert vm.run("sha256sum </tmp/vm.bin", timeout=200).split()[0] == checks.digest
    vm.run(f"curl -sS -f -T /tmp/vm.bin http://{host}/up.bin", timeout=200)
    assert lab.remote.run("sha256sum", f"{BIG}/www/up.bin").stdout.split()[0] == checks.digest
    lab.remote.run("rm", f"{BIG}/www/up.bin")


@pytest.fixture(scope="module")
def checks(lab: Lab) -> Checks:
    lab.resolv(f"nameserver {REMOTE4}\nnameserver {REMOTE6}\nsearch {SEARCH}\n")
    dnsmasq(lab)
    return Checks(lab, SIZE)


@pytest.mark.option("--vhost-user")
@pytest.mark.parametrize("link", ["stream", "vhost-user"])
@pytest.mark.parametrize("client", [dhcpcd, networkd])
def test_a_guest_configures_itself(lab: Lab, checks: Checks, client: Callable[[Vm], None], link: str) -> None:
    """And is used, paused, and booted anew as its own user would."""
    with booted(lab, link) as vm:
        client(vm)
        checks.pings(vm)
        assert DNS4 in vm.run(f"nslookup -type=a {DNS_NAME}", check=False)
        vm.qmp("stop")
        vm.qmp("cont")
        checks.forwarded(vm, 6)
        for family in (4, 6):
            curl_both_ways(lab, checks, vm, family)
        vm.start("reboot -f")
        vm.booted()
        checks.addresses(vm)
        checks.pings(vm)
