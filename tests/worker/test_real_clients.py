"""Real DHCP, DHCPv6 and neighbour discovery clients against the slow path, without the core.

Each test is a guest of its own: new user, network, mount and PID namespaces, a tap, and client_driver.py answering
its frames. Runs as an ordinary user; where the tests are root, as uid 65534. All of it ends with the PID namespace.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sample_plan import addr

_ROOT = Path(__file__).parents[2]
_NOBODY = 65534

#: A dhclient script: keeps what it was told and sets IPv6 addresses.
_DHCLIENT_SCRIPT = r"""
cat > /tmp/script <<'END'
#!/bin/sh
env | grep '^new_\|^reason=' >> /tmp/told
[ -z "$new_ip_address" ] || ip addr add "$new_ip_address/$new_subnet_mask" dev "$interface"
[ -z "$new_ip6_address" ] || ip -6 addr add "$new_ip6_address/$new_ip6_prefixlen" dev "$interface" nodad
exit 0
END
chmod +x /tmp/script
dhclient="timeout 60 dhclient -1 -cf /dev/null -sf /tmp/script -lf /tmp/lease -pf /tmp/pid"
"""
_LINK_LOCAL_READY = "until ip -6 addr show dev tap0 scope link -tentative | grep -q fe80; do sleep 0.05; done\n"


def _python() -> str:
    """An interpreter that the unprivileged user can start: ours may live in root's home."""
    for path in (Path(sys.executable).resolve(), Path("/usr/bin/python3").resolve()):
        if all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents)):
            return str(path)
    raise AssertionError("no Python interpreter that other users can execute")


def guest(command: str, **plan: object) -> str:
    """Output of a shell command in a fresh guest with tap0 up; plan: changes to sample_plan."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": f"{_ROOT}:{Path(__file__).parent}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    inside = [
        _python(),
        str(Path(__file__).parents[1] / "programs" / "client_driver.py"),
        repr(plan),
        "ip link set tap0 up\n" + command,
    ]
    unshare = ["unshare", "-Urnmpf", "--mount-proc", "--kill-child", *inside]
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    done = subprocess.run(
        unshare, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False, **user
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_dhclient_4_is_told_everything() -> None:
    out = guest(_DHCLIENT_SCRIPT + "$dhclient -4 tap0\ncat /tmp/told; ip -4 addr show tap0")
    for line in (
        "reason=BOUND",
        "new_ip_address=192.0.2.15",
        "new_subnet_mask=255.255.255.0",
        "new_broadcast_address=192.0.2.255",
        "new_routers=192.0.2.1",
        "new_domain_name_servers=192.0.2.53",
        "new_domain_search=example.org. lab.example.org.",
        "new_host_name=guest",
        "new_interface_mtu=65520",
        "new_dhcp_server_identifier=192.0.2.1",
    ):
        assert line in out.splitlines()
    assert "inet 192.0.2.15/24" in out


def test_dhclient_4_renews_a_lease_from_elsewhere_by_starting_over() -> None:
    lease = (
        'lease { interface "tap0"; fixed-address 10.9.9.9; option subnet-mask 255.0.0.0; '
        "option dhcp-server-identifier 10.0.0.1; renew 4 2094/12/09 08:01:44; rebind 4 2095/12/09 08:01:44; "
        "expire 4 2096/12/09 08:01:44; }"
    )
    out = guest(_DHCLIENT_SCRIPT + f"echo '{lease}' > /tmp/lease\n$dhclient -4 -v tap0 2>&1; cat /tmp/told")
    assert "DHCPNAK" in out
    assert "new_ip_address=192.0.2.15" in out


def test_dhclient_6_gets_the_guests_address_and_nameserver() -> None:
    out = guest(_LINK_LOCAL_READY + _DHCLIENT_SCRIPT + "$dhclient -6 tap0\ncat /tmp/told; ip -6 addr show tap0")
    for line in (
        "reason=BOUND6",
        "new_ip6_address=2001:db8:1::15",
        "new_dhcp6_name_servers=2001:db8::53",
        "new_dhcp6_domain_search=example.org. lab.example.org.",
    ):
        assert line in out.splitlines()
    assert "inet6 2001:db8:1::15/128" in out


def test_dhclient_6_releases_and_comes_back() -> None:
    out = guest(
        _LINK_LOCAL_READY + _DHCLIENT_SCRIPT + "$dhclient -6 tap0\ntimeout 30 dhclient -6 -r -v -cf /dev/null "
        "-sf /tmp/script -lf /tmp/lease -pf /tmp/pid tap0 2>&1\n: > /tmp/told\n$dhclient -6 tap0\ncat /tmp/told"
    )
    assert "XMT: Release on tap0" in out
    assert "new_ip6_address=2001:db8:1::15" in out.split("XMT: Release", 1)[1]


def test_dhclient_6_stateless_asks_for_information_only() -> None:
    out = guest(_LINK_LOCAL_READY + _DHCLIENT_SCRIPT + "$dhclient -6 -S tap0\ncat /tmp/told")
    assert "new_dhcp6_name_servers=2001:db8::53" in out
    assert "new_ip6_address" not in out


#: Without its account dhcpcd does not try to separate privileges, which one mapped user cannot.
_DHCPCD = r"""
grep -v dhcpcd /etc/passwd > /tmp/passwd; mount --bind /tmp/passwd /etc/passwd
printf '#!/bin/sh\nenv | grep "^new_\|^nd1_\|^reason=" >> /tmp/told\n' > /tmp/script; chmod +x /tmp/script
: > /tmp/told
dhcpcd -B -q -f /dev/null -c /tmp/script -o classless_static_routes,interface_mtu,domain_search OPTIONS tap0 \
    > /tmp/log 2>&1 &
for word in WAITFOR; do
    n=0
    until grep -q "^reason=$word\$" /tmp/told; do
        sleep 0.1; n=$((n+1)); [ $n -lt 900 ] || { cat /tmp/log; exit 3; }
    done
done
cat /tmp/told; ip addr show tap0; ip route; ip -6 route
"""


def _dhcpcd(options: str, reasons: str) -> str:
    return _DHCPCD.replace("OPTIONS", options).replace("WAITFOR", reasons)


def test_dhcpcd_configures_both_families_and_its_probes_meet_no_conflict() -> None:
    out = guest(_dhcpcd("", "BOUND BOUND6"))  # with ARP probes and duplicate address detection
    for line in ("new_ip_address=192.0.2.15", "nd1_flags=MO", "nd1_rdnss1_servers=2001:db8::53"):
        assert line in out.splitlines()
    for text in (
        "inet 192.0.2.15/24",
        "inet6 2001:db8:1::15/128",
        "inet6 2001:db8:1::ff:fe00:2/64",
        "default via 192.0.2.1 dev tap0",
        "default via fe80::1 dev tap0",
    ):
        assert text in out
    assert "dadfailed" not in out


def test_dhcpcd_reaches_a_gateway_outside_its_prefix() -> None:
    plan = {"prefix4": 32, "gateway4": addr("198.51.100.1")}
    out = guest(_dhcpcd("-4 -A", "BOUND"), **plan)
    assert "inet 192.0.2.15/32" in out
    assert "198.51.100.1 dev tap0" in out
    assert "default via 198.51.100.1 dev tap0" in out


def test_dhcpcd_finds_a_link_local_address_free_where_dhcp_is_off() -> None:
    out = guest(_dhcpcd("-4 -y 1", "IPV4LL"), dhcp=False)
    assert "inet 169.254." in out


def test_rdisc6_sees_the_router_and_what_it_announces() -> None:
    out = guest(_LINK_LOCAL_READY + "rdisc6 -1 -w 20000 tap0")
    for text in (
        "Hop limit                 :           64",
        "Stateful address conf.    :          Yes",
        "Router lifetime           :        65535",
        "Source link-layer address: 9A:55:9A:55:9A:55",
        "MTU                      :        65520 bytes (valid)",
        "Prefix                   : 2001:db8:1::/64",
        "Recursive DNS server     : 2001:db8::53",
        "DNS search list          : example.org lab.example.org",
        "from fe80::1",
    ):
        assert text in out


def test_rdisc6_gets_no_answer_with_router_advertisements_off() -> None:
    out = guest(_LINK_LOCAL_READY + "rdisc6 -1 -r 1 -w 500 tap0 2>&1 || echo silence", ra=False)
    assert "silence" in out


def test_the_kernel_configures_itself_by_slaac() -> None:
    wait = "until ip -6 addr show dev tap0 scope global -tentative | grep -q inet6; do sleep 0.05; done\n"
    out = guest(
        "ip link set tap0 mtu 65521\n"
        + wait
        + "ip -6 addr show tap0; ip -6 route; cat /proc/sys/net/ipv6/conf/tap0/mtu"
    )
    assert "inet6 2001:db8:1::ff:fe00:2/64" in out
    assert "default via fe80::1 dev tap0 proto ra" in out
    assert "2001:db8:1::/64 dev tap0" in out
    assert out.splitlines()[-1] == "65520"
    assert "dadfailed" not in out


@pytest.mark.parametrize(
    ("address", "free"), [("192.0.2.15", True), ("192.0.2.1", False), ("192.0.2.77", True), ("169.254.7.7", True)]
)
def test_a_probe_finds_only_our_own_addresses_taken(address: str, free: bool) -> None:
    out = guest(
        f"n=$(ip -s -j link show tap0); python3 - {address} {0.5 if free else 20} <<'END'\n"
        "import socket, sys\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806)); s.bind(('tap0', 0x806))\n"
        "mac = bytes.fromhex('020000000002')\n"
        "s.send(b'\\xff'*6 + mac + bytes.fromhex('080600010800060400 01'.replace(' ', '')) + mac + bytes(10)\n"
        "       + socket.inet_aton(sys.argv[1])); s.settimeout(float(sys.argv[2]))\n"
        "try: print('taken by', s.recv(100)[22:28].hex())\n"
        "except TimeoutError: print('free')\n"
        "END"
    )
    assert out.strip() == ("free" if free else "taken by 9a559a559a55")


def test_the_kernel_resolves_any_neighbour_of_both_families() -> None:
    out = guest(
        "ip addr add 192.0.2.15/24 dev tap0; ip addr add 2001:db8:1::15/64 dev tap0 nodad\n"
        "for a in 192.0.2.200 2001:db8:1::abcd; do until ip neigh show $a | grep lladdr; do\n"
        '    python3 -c "import socket, sys\n'
        "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "socket.socket(family, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9))\" $a\n"
        "    sleep 0.05; done; done"
    )
    assert out.count("lladdr 9a:55:9a:55:9a:55") == 2
