"""--follow: the host's network changes, and the guest has what a start at that moment would give it."""

from __future__ import annotations

import json
import sys

import pytest
from followed import BOTH, GRACE_S, SOON_S, Monitor, bare, following, picture
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    REMOTE4,
    REMOTE6,
    comm,
    wait_until,
    wire,
)

from pasta_py import defaults

# ---- addresses and routes ----


@pytest.mark.option("--follow")
def test_an_address_comes_and_a_renumbering_takes_the_old_one_away_at_once() -> None:
    with following(grace=600) as f:
        f.change("addr add 192.0.2.77/24 dev eth0\naddr add 2001:db8::77/64 dev eth0 nodad")
        f.is_as_fresh()
        f.says("address 192.0.2.77/24 is new")
        f.change(
            "addr flush dev eth0 scope global\naddr add 192.0.2.99/24 dev eth0\naddr add 2001:db8::99/64 dev eth0 nodad\n"
            f"route add default via {GATEWAY4}\n-6 route replace default via {GATEWAY6}"
        )
        f.is_as_fresh()
        f.says("address 192.0.2.2/24 is gone")


@pytest.mark.option("--no-follow")
def test_without_it_the_guest_stays_as_it_is() -> None:
    with following(extra=("--no-follow",)) as f:
        before = picture(f.guest)
        f.change("addr add 192.0.2.77/24 dev eth0")
        with f.lab.guest(*NO_PORTS) as fresh:
            assert picture(fresh) != before
        assert picture(f.guest) == before
        assert not [pid for pid in f.lab.descendants() if comm(pid).startswith(("pasta-watch", "pasta-apply"))]


def test_ipv6_is_switched_off_and_on_again_on_the_host() -> None:
    with following(grace=0) as f:
        f.lab.host.sysctl(ipv6__conf__all__disable_ipv6=1)
        f.has(HOST4)
        f.lab.host.sysctl(ipv6__conf__all__disable_ipv6=0)
        f.change(f"addr add {HOST6}/64 dev eth0 nodad\n-6 route add default via {GATEWAY6}")
        f.is_as_fresh()
        f.has(HOST4, HOST6)


def test_ipv4_is_followed_where_the_guest_has_switched_ipv6_off() -> None:
    with following() as f:
        f.guest.sysctl(ipv6__conf__all__disable_ipv6=1)
        f.change("addr add 192.0.2.77/24 dev eth0\naddr add 2001:db8::77/64 dev eth0 nodad")
        f.has(HOST4, "192.0.2.77")
        assert comm(f.process("pasta-apply")) == "pasta-apply"


def test_the_hosts_interface_gets_another_name_or_leaves() -> None:
    with following(grace=0) as f:
        both = BOTH.replace("eth0", "lan0").replace(" add", " replace")
        f.change(f"link set eth0 down\nlink set eth0 name lan0\nlink set lan0 up\n{both}")
        f.is_as_fresh()
        f.has(HOST4, HOST6)
        with f.lab.stray() as other:
            f.change(f"link set lan0 netns {f.lab.inner_pid(other.pid)}")
            f.is_as_fresh()


def test_a_start_without_network_gets_each_family_when_it_comes() -> None:
    with following(build=bare) as f:
        f.says("local mode")
        wire(f.lab)
        f.change(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")
        f.is_as_fresh()
        assert HOST6 not in str(picture(f.guest))
        f.change(f"addr add {HOST6}/64 dev eth0 nodad\n-6 route add default via {GATEWAY6}")
        f.is_as_fresh()


def test_the_default_route_changes_its_gateway_and_its_metric_and_a_second_one_comes() -> None:
    with following() as f:
        f.change("route replace default via 192.0.2.9\n-6 route replace default via 2001:db8::9")
        f.is_as_fresh()
        f.says("by way of 192.0.2.9 now")
        f.change(
            "route del default\nroute add default via 192.0.2.8 metric 50\nroute add default via 192.0.2.7 metric 60"
        )
        f.is_as_fresh()
        f.change("-6 route add default via 2001:db8::7 metric 10")
        f.is_as_fresh()


def test_another_interface_takes_over_and_hands_back() -> None:
    """From wireless to cable: the guest goes over with addresses, routes and gateway, in both families."""
    with following() as f:
        wire(f.lab, name="cable", peer="far")
        f.change(
            "addr add 198.51.100.5/24 dev cable\naddr add 2001:db8:5::5/64 dev cable nodad\n"
            "route add default via 198.51.100.1 dev cable metric 5\n-6 route add default via 2001:db8:5::1 dev cable metric 5"
        )
        f.is_as_fresh()
        f.says("outbound interface is cable now, no longer eth0")
        f.change("link del cable")
        f.is_as_fresh()
        f.says("outbound interface is eth0 now")


def test_routes_by_the_thousand_come_and_go() -> None:
    with following(grace=1) as f:
        many = "\n".join(f"route add 10.{i // 250}.{i % 250}.0/24 via {GATEWAY4}" for i in range(1000))
        f.lab.host.run("ip", "-batch", "-", caps=True, input=many)
        f.is_as_fresh()
        f.lab.host.run("ip", "-batch", "-", caps=True, input=many.replace("add", "del"))
        f.is_as_fresh()


@pytest.mark.parametrize("kind", ["bridge", "vlan", "tun", "vxlan", "bond"])
def test_interfaces_of_other_kinds_take_over(kind: str) -> None:
    setup = {
        "bridge": "link add br0 type bridge\nlink set eth0 master br0\nlink set br0 up\naddr flush dev eth0\n",
        "vlan": "link add link eth0 name br0 type vlan id 7\nlink set br0 up\naddr flush dev eth0\n",
        "tun": "link show br0",
        "vxlan": f"link add br0 type vxlan id 7 remote {REMOTE4} dstport 4789 dev eth0\nlink set br0 up",
        "bond": "link add br0 type bond mode active-backup\nlink set br0 up\naddr flush dev eth0\n",
    }[kind]
    with following(grace=1) as f:
        if kind == "tun":  # a tunnel over UDP, as a VPN is one
            tunnel = f.lab.host.popen("socat", "TUN,tun-name=br0,iff-no-pi,up", f"UDP:{REMOTE4}:9999", caps=True)
            wait_until(
                lambda: f.lab.host.run("ip", "link", "show", "br0", check=False).returncode == 0, SOON_S, "the tunnel"
            )
        try:
            f.change(setup)
        except AssertionError as error:
            if kind not in ("bond", "vlan") or "Unknown device type" not in str(error):
                raise
            pytest.skip(f"this kernel has no interfaces of the kind {kind}")
        f.change(
            "addr add 192.0.2.50/24 dev br0\naddr add 2001:db8::50/64 dev br0 nodad\n"
            "route replace default dev br0 metric 3\n-6 route replace default dev br0 metric 3"
        )
        f.is_as_fresh()
        f.says("outbound interface is br0 now")
        if kind == "tun":
            tunnel.kill()
            f.is_as_fresh()
            f.says("outbound interface is eth0 now")


def test_a_deprecated_address_is_deprecated_in_the_guest() -> None:
    with following() as f:
        f.change(f"addr change {HOST6}/64 dev eth0 preferred_lft 0 valid_lft forever")
        f.is_as_fresh()
        f.says(f"address {HOST6}/64 is deprecated")
        f.change(f"addr change {HOST6}/64 dev eth0 preferred_lft forever valid_lft forever")
        f.is_as_fresh()


def test_an_address_with_a_lifetime_stays_in_the_guest_while_the_host_has_it() -> None:
    """As a lease of the host's: the guest's address has no end of its own, so that none comes when the host renews its lease. When
    it ends on the host, the guest has it no longer."""
    with following(grace=0) as f:
        f.change("addr add 192.0.2.77/24 dev eth0 valid_lft 3600 preferred_lft 1800")
        f.has(HOST4, HOST6, "192.0.2.77")
        links = json.loads(f.guest.run("ip", "-j", "addr").stdout)
        ends = {a["local"]: a["valid_life_time"] for link in links for a in link["addr_info"] if link["ifname"] != "lo"}
        assert ends["192.0.2.77"] == ends[HOST4] == 2**32 - 1
        f.change("addr change 192.0.2.77/24 dev eth0 valid_lft 2 preferred_lft 1")
        f.says("address 192.0.2.77/24 is gone")
        f.is_as_fresh()


def test_an_interface_that_the_options_name_may_vanish_and_come_back() -> None:
    with following("-i", "eth0", grace=600) as f:
        before = picture(f.guest)
        f.change("link del eth0")
        f.says("the guest keeps its network as it is")
        assert picture(f.guest) == before
        wire(f.lab)
        f.change(BOTH.replace(HOST4, "192.0.2.88"))
        f.is_as_fresh()


# ---- grace ----


@pytest.mark.option("--follow-grace")
def test_without_a_grace_what_goes_is_gone_at_once() -> None:
    with following(grace=0) as f:
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        monitor = Monitor(f.guest)
        f.change("addr del 192.0.2.77/24 dev eth0\nroute add 203.0.113.0/24 via 192.0.2.1")
        gone, came = monitor.times("Deleted .* inet 192.0.2.77/24", r"\] 203.0.113.0/24")
        assert gone - came < defaults.FOLLOW_GRACE_S


def test_what_goes_stays_for_the_grace_then_the_guest_is_as_after_a_fresh_start() -> None:
    with following(grace=GRACE_S) as f:
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        monitor = Monitor(f.guest)
        begun = monitor.now()
        f.change("addr del 192.0.2.77/24 dev eth0")
        (gone,) = monitor.times("Deleted .* inet 192.0.2.77/24")
        assert gone - begun >= GRACE_S
        f.says("address 192.0.2.77/24 is gone")
        f.is_as_fresh()


def test_a_network_that_comes_back_within_the_grace_changes_nothing() -> None:
    """The link is deleted and made again, under the same name: not one address or route of the guest is touched."""
    with following(grace=600) as f:
        monitor = Monitor(f.guest)
        before = picture(f.guest)
        f.change("link del eth0")
        wire(f.lab)
        f.change(BOTH)
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.is_as_fresh()
        f.change("addr del 192.0.2.77/24 dev eth0")
        touched = [line for line in monitor.end() if "192.0.2.77" not in line]
        assert not touched and before["routes"] <= picture(f.guest)["routes"]


def test_all_gone_is_local_mode_after_the_grace() -> None:
    with following(grace=1) as f:
        f.change("link del eth0")
        f.has("169.254.2.1")
        f.says("local mode")


# ---- connections ----

_CLIENT = """
import hashlib, socket, sys
s = socket.create_connection((sys.argv[1], 7500))
print("connected", flush=True)
digest, got = hashlib.sha256(), 0
try:
    while data := s.recv(1 << 16):
        digest.update(data)
        got += len(data)
    print("end", got, digest.hexdigest(), flush=True)
except OSError as error:
    print("error", type(error).__name__, flush=True)
"""
_SERVER = """
import hashlib, random, socket, sys, time
l = socket.create_server((sys.argv[1], 7500), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
s, _ = l.accept()
digest, data = hashlib.sha256(), random.randbytes(1 << 16)
try:
    while sys.stdin.readable() and (sys.argv[2] == "hold" or True):
        s.sendall(data)
        digest.update(data)
        time.sleep(0.01)
        import select
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    s.close()
    print("sent", digest.hexdigest(), flush=True)
except OSError:
    print("broken", flush=True)
"""


@pytest.mark.parametrize("remote", [REMOTE4, REMOTE6], ids=["v4", "v6"])
def test_a_download_survives_what_it_survives_on_the_host(remote: str) -> None:
    """The host's address is deleted and added again under a transfer, others come: every byte arrives."""
    with following(grace=600) as f:
        server = f.lab.remote.popen(sys.executable, "-c", _SERVER, remote, "until")
        assert server.stdout and server.stdout.readline() == "ready\n"
        client = f.guest.popen(sys.executable, "-c", _CLIENT, remote)
        assert client.stdout and client.stdout.readline() == "connected\n"
        own, gateway = (f"{HOST6}/64", GATEWAY6) if ":" in remote else (f"{HOST4}/24", GATEWAY4)
        for turn in range(5):
            f.change(f"addr add 192.0.2.{100 + turn}/24 dev eth0\naddr add 2001:db8::{100 + turn}/64 dev eth0 nodad")
            f.says(f"address 192.0.2.{100 + turn}/24 is new")
            nodad = " nodad" if ":" in remote else ""
            f.change(f"addr del {own} dev eth0\naddr add {own} dev eth0{nodad}\nroute replace default via {gateway}")
        assert server.stdin
        server.stdin.close()
        sent = server.stdout.readline().split()
        got = client.stdout.readline().split()
        assert sent[0] == "sent" and got[0] == "end" and got[2] == sent[1]


@pytest.mark.parametrize("remote", [REMOTE4, REMOTE6], ids=["v4", "v6"])
def test_a_download_over_a_vanished_address_fails_and_one_of_the_other_family_goes_on(remote: str) -> None:
    with following(grace=1) as f:
        other = REMOTE4 if ":" in remote else REMOTE6
        streams = {}
        for each in (remote, other):
            server = f.lab.remote.popen(sys.executable, "-c", _SERVER, each, "until")
            assert server.stdout and server.stdout.readline() == "ready\n"
            client = f.guest.popen(sys.executable, "-c", _CLIENT, each)
            assert client.stdout and client.stdout.readline() == "connected\n"
            streams[each] = server, client
        f.change(f"addr del {HOST6}/64 dev eth0" if ":" in remote else f"addr del {HOST4}/24 dev eth0")
        assert streams[remote][1].stdout.readline() == "error ConnectionResetError\n"  # type: ignore[union-attr]
        server, client = streams[other]
        server.stdin.close()  # type: ignore[union-attr]
        sent, got = server.stdout.readline().split(), client.stdout.readline().split()  # type: ignore[union-attr]
        assert got[0] == "end" and got[2] == sent[1]


# ---- the guest's own ----


def test_what_the_guest_changed_stays() -> None:
    """Its own address, beside ours and in our network, its route, its MTU; and what it removed of ours does not come back."""
    with following(grace=1) as f:
        name = f.guest.interface()
        f.guest.setup(
            f"addr add 192.0.2.200/24 dev {name}\naddr add 10.9.9.9/24 dev {name}\nroute add 203.0.113.0/24 via {GATEWAY4}\n"
            f"-6 route add 2001:db8:9::/64 via {GATEWAY6}\nlink set {name} mtu 1400\naddr del {HOST6}/64 dev {name}"
        )
        f.change(f"addr del {HOST4}/24 dev eth0\naddr add 192.0.2.77/24 dev eth0\nroute add default via {GATEWAY4}")
        f.has("192.0.2.77", "192.0.2.200", "10.9.9.9")
        wait_until(lambda: "203.0.113.0/24" in str(picture(f.guest)["routes"]), SOON_S, "the guest's route")
        assert "2001:db8:9::/64" in str(picture(f.guest)["routes"])
        assert json.loads(f.guest.run("ip", "-j", "link", "show", name).stdout)[0]["mtu"] == 1400


def test_options_stay_what_they_are() -> None:
    with following("-a", "10.7.7.7/24", "-g", "10.7.7.1", "-4") as f:
        before = picture(f.guest)
        f.change("route replace default via 192.0.2.9")
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.is_as_fresh()
        assert picture(f.guest) == before
