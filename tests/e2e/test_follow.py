"""--follow: the host's network changes, and the guest has what a start at that moment would give it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest
import sid
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    PROGRAMS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    Space,
    comm,
    dual,
    program,
    wait_until,
    wire,
)
from machines import machine, passt
from servers import DNS_NAME, own_etc, resolver, write
from test_autoconf import dhclient

SOON_S = 1
GRACE_S = 2
BOTH = f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""


def bare(lab: Lab) -> None:
    """Only lo."""


def picture(space: Space) -> dict[str, set[object]]:
    """Addresses and routes as `ip` shows them, without the interface's name and the kernel's own link-local ones."""
    links = json.loads(space.run("ip", "-j", "addr").stdout)
    addresses: set[object] = set()
    for link in links:
        for each in link["addr_info"] if link["ifname"] != "lo" else ():
            if not each["local"].startswith("fe80:"):
                addresses.add((each["local"], each["prefixlen"], each["scope"], each.get("deprecated", False)))
    routes: set[object] = set()
    for family in ("-4", "-6"):
        for route in json.loads(space.run("ip", family, "-j", "route").stdout):
            if not route["dst"].startswith("fe80:"):
                kept = {name: value for name, value in route.items() if name not in ("dev", "nexthops")}
                hops = [{n: v for n, v in hop.items() if n != "dev"} for hop in route.get("nexthops", ())]
                routes.add(json.dumps([kept, hops], sort_keys=True))
    return {"addresses": addresses, "routes": routes}


class Followed:
    """A lab, and a guest that follows its host."""

    def __init__(self, lab: Lab, guest: Guest, log: Path, options: tuple[object, ...]) -> None:
        self.lab, self.guest, self.log, self._options = lab, guest, log, options

    def change(self, commands: str) -> None:
        self.lab.host.setup(commands)

    def is_as_fresh(self) -> None:
        """Wait until the guest has what a fresh start gives.

        It may keep a route that the host has kept, too, but that the kernel would not take now: its gateway is out of reach.
        """
        with self.lab.guest(*NO_PORTS, *self._options) as fresh:
            wanted = picture(fresh)
        found: list[dict[str, set[object]]] = []

        def same() -> bool:
            found[:] = [picture(self.guest)]
            if found[0] == wanted:
                return True
            kept = wanted["routes"] | picture(self.lab.host)["routes"]
            return found[0]["addresses"] == wanted["addresses"] and wanted["routes"] <= found[0]["routes"] <= kept

        try:
            wait_until(same, SOON_S, "the guest is as after a fresh start")
        except AssertionError:
            raise AssertionError(f"wanted {wanted}\nfound  {found[0]}\n{self.said()}") from None

    def has(self, *addresses: str) -> None:
        """Wait until the guest has these addresses and no others."""
        wait_until(lambda: {a[0] for a in picture(self.guest)["addresses"]} == set(addresses), SOON_S, f"{addresses}")  # type: ignore[index]

    def said(self) -> str:
        return self.log.read_text()

    def says(self, text: str) -> None:
        wait_until(lambda: text in self.said(), SOON_S, f"the log says {text!r}")

    def process(self, name: str) -> int:
        """The PID of pasta-watch or pasta-apply."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = [
                pid for pid in self.lab.descendants() if comm(pid) == name
            ]
            return len(found) == 1

        wait_until(seen, SOON_S, f"{name} runs")
        return found[0]


@contextmanager
def following(
    *options: object, build: object = None, grace: int = GRACE_S, extra: tuple[object, ...] = ()
) -> Iterator[Followed]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(build))  # type: ignore[arg-type]
        log = lab.directory / "log"
        guest = stack.enter_context(
            lab.guest("--follow", "--follow-grace", grace, "-l", log, "-d", *NO_PORTS, *options, *extra)
        )
        yield Followed(lab, guest, log, options)


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
        assert "address 192.0.2.2/24 is gone" in f.said()


@pytest.mark.option("--no-follow")
def test_without_it_the_guest_stays_as_it_is() -> None:
    with following(extra=("--no-follow",)) as f:
        before = picture(f.guest)
        f.change("addr add 192.0.2.77/24 dev eth0")
        with f.lab.guest(*NO_PORTS) as fresh:
            assert picture(fresh) != before
        assert picture(f.guest) == before
        assert not [pid for pid in f.lab.descendants() if comm(pid).startswith(("pasta-watch", "pasta-apply"))]


def test_a_start_without_network_gets_each_family_when_it_comes() -> None:
    with following(build=bare) as f:
        assert "local mode" in f.said()
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


# ---- a random walk ----

_LINKS = ("eth0", "eth1", "eth2")
LONG = bool(os.environ.get("PASTA_LONG"))
WALK_STEPS, LOOK_EVERY = 1000 if LONG else 60, 20


def step(random: Random, f: Followed) -> str:
    """One change of the host, of any kind; what it was."""
    link, last = random.choice(_LINKS), random.randrange(20, 26)
    net = _LINKS.index(link)
    four, fives = f"192.0.{2 + net}.{last}/24", f"2001:db8:{net or ''}::{last}/64".replace(":::", "::")
    commands = (
        f"addr add {four} dev {link}",
        f"addr del {four} dev {link}",
        f"addr add {fives} dev {link} nodad",
        f"addr del {fives} dev {link}",
        f"addr change {fives} dev {link} preferred_lft {random.choice(('0', 'forever'))} valid_lft forever",
        f"route replace default via 192.0.{2 + net}.1 dev {link} metric {random.choice((1, 5, 9))}",
        f"route del default metric {random.choice((1, 5, 9))}",
        f"-6 route replace default via fe80::{last} dev {link} metric {random.choice((1, 5, 9))}",
        f"-6 route del default metric {random.choice((1, 5, 9))}",
        f"route replace 203.0.113.{16 * random.randrange(16)}/28 dev {link}",
        f"route flush proto boot dev {link}",
        f"link set {link} mtu {random.choice((1280, 1500, 9000))}",
        f"link set {link} down",
        f"link set {link} up",
        f"link set {link} up",
        f"addr flush dev {link} scope global",
    )
    command = random.choice(commands)
    f.lab.host.run("ip", *command.split(), caps=True, check=False)  # many are refused, as on any host
    return command


@pytest.mark.parametrize("seed", range(2))
def test_after_any_walk_the_guest_is_as_after_a_fresh_start(seed: int) -> None:
    random = Random(seed)
    with following(grace=1) as f:
        for name in _LINKS[1:]:
            wire(f.lab, name=name, peer=name)
        for _ in range(WALK_STEPS // LOOK_EVERY):
            done = [step(random, f) for _ in range(LOOK_EVERY)]
            try:
                f.is_as_fresh()
            except AssertionError as error:
                raise AssertionError(f"{done}\n{error}") from None


# ---- grace ----


@pytest.mark.option("--follow-grace")
def test_without_a_grace_what_goes_is_gone_at_once() -> None:
    with following(grace=0) as f:
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        f.change("addr del 192.0.2.77/24 dev eth0\nroute add 203.0.113.0/24 via 192.0.2.1")
        wait_until(lambda: "203.0.113.0/24" in str(picture(f.guest)["routes"]), SOON_S, "the route, which came later")
        assert "192.0.2.77" not in str(picture(f.guest)["addresses"])


def test_what_goes_stays_for_the_grace_then_the_guest_is_as_after_a_fresh_start() -> None:
    with following(grace=GRACE_S) as f:
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        f.change("addr del 192.0.2.77/24 dev eth0")
        f.change("route add 203.0.113.0/24 via 192.0.2.1")  # seen after the loss, so the loss was seen too
        wait_until(lambda: "203.0.113.0/24" in str(picture(f.guest)["routes"]), SOON_S, "the route")
        assert "192.0.2.77" in str(picture(f.guest)["addresses"])
        f.says("address 192.0.2.77/24 is gone")
        f.is_as_fresh()


def test_a_network_that_comes_back_within_the_grace_changes_nothing() -> None:
    """The link is deleted and made again, under the same name: not one address or route of the guest is touched."""
    with following(grace=600) as f:
        monitor = f.guest.popen("ip", "-o", "monitor", "address", "route")
        before = picture(f.guest)
        f.change("link del eth0")
        wire(f.lab)
        f.change(BOTH)
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.is_as_fresh()
        f.change("addr del 192.0.2.77/24 dev eth0")
        monitor.terminate()
        touched = [line for line in monitor.communicate()[0].splitlines() if "192.0.2.77" not in line]
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
        assert asked() == REMOTE4
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
        large = ("ping", "-c1", "-W5", "-s", "4000", REMOTE4)
        f.guest.run(*large)
        f.lab.remote.setup("link set eth0 mtu 1500")
        f.change("link set eth0 mtu 1500")
        if passes:
            f.says("the MTU of the host's interface is 1500 now")
        assert (f.guest.run(*large, check=False).returncode == 0) == passes


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


def test_rules_about_the_hosts_networks_follow_the_host() -> None:
    """A network that the host joins while the guest runs is @lan from then on."""
    with following(extra=("--deny", "@lan")) as f:
        f.lab.remote.setup("addr add 203.0.113.10/24 dev eth0")
        f.change(f"route add 203.0.113.0/24 via {REMOTE4}")
        server = f.lab.remote.popen(sys.executable, "-c", _ACCEPT)
        assert server.stdout and server.stdout.readline() == "ready\n"
        assert f.guest.run(sys.executable, "-c", _CONNECT).stdout == "connected\n"
        f.change("addr add 203.0.113.2/24 dev eth0")
        f.says("address 203.0.113.2/24 is new")
        refused = f.guest.run(sys.executable, "-c", _CONNECT, check=False)
        assert refused.returncode and "connected" not in refused.stdout, refused


# ---- the processes ----


def test_where_the_right_would_count_on_the_host_addresses_are_not_followed() -> None:
    """Root of the namespace that the host's network belongs to, and a guest without a user namespace. Nameservers are followed."""
    with Lab(mapped_root=True) as lab:
        log = lab.directory / "log"
        lab.host.run("ip", "netns", "add", "box", caps=True)
        options = (
            "--config-net",
            "--follow",
            "--dns-forward",
            "10.53.53.53",
            "-l",
            log,
            "-f",
            *NO_PORTS,
            "--netns",
            "box",
        )
        lab.host.popen(program(), *options, caps=True)
        wait_until(lambda: log.exists() and "would count on the host too" in log.read_text(), SOON_S, "a line says so")
        assert not [pid for pid in lab.descendants() if comm(pid) == "pasta-apply"]
        lab.host.setup("addr add 192.0.2.77/24 dev eth0")
        lab.resolv(f"nameserver {REMOTE4}\n")
        wait_until(
            lambda: "another nameserver" in log.read_text() or "nameservers:" in log.read_text(), SOON_S, "nameservers"
        )
        assert "192.0.2.77" not in lab.host.run("ip", "netns", "exec", "box", "ip", "addr", caps=True).stdout


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_what_the_two_processes_may_do() -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.is_as_fresh()
        for pid, capabilities in ((watch, 0), (apply, 1 << 12)):
            found = status(pid)
            for kind in ("CapEff", "CapPrm", "CapAmb", "CapInh"):  # the programs that the applier starts have its capability
                assert int(found[kind], 16) == capabilities, (pid, kind)
            assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
        host, guest = os.readlink(f"/proc/{f.lab.pid}/ns/net"), os.readlink(f"/proc/{f.guest.pid}/ns/net")
        assert os.readlink(f"/proc/{watch}/ns/net") == host and os.readlink(f"/proc/{apply}/ns/net") == guest
        kinds = {
            pid: sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
            for pid in (watch, apply)
        }
        assert kinds[watch] == ["/dev/null"] * 3 + ["/memfd", "anon_inode", "socket", "socket", "socket"], kinds
        assert kinds[apply] == ["/dev/null"] * 3 + ["socket"], kinds


WAITING_KIB = 600


def test_waiting_takes_little_memory() -> None:
    """The anonymous pages of both, those included that they share with the process that they are forks of."""
    with following() as f:
        pages = [status(f.process(name))["RssAnon"].split()[0] for name in ("pasta-watch", "pasta-apply")]
        assert sum(map(int, pages)) <= WAITING_KIB


def test_a_change_needs_no_call_that_the_filter_refuses() -> None:
    """Of the processes that wait, and of the programs that they start. A call that is refused fails with ENOSYS."""
    with following(grace=0) as f:
        trace = f.lab.directory / "trace"
        pids = [f.process(name) for name in ("pasta-watch", "pasta-apply")]
        strace = subprocess.Popen(
            ["strace", "-f", "-o", str(trace), *(f"-p{pid}" for pid in pids)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert strace.stderr
            for _ in pids:
                assert "attached" in strace.stderr.readline()
            f.change("addr add 192.0.2.77/24 dev eth0")
            f.has(HOST4, HOST6, "192.0.2.77")
            f.change("addr del 192.0.2.77/24 dev eth0")
            f.has(HOST4, HOST6)
        finally:
            strace.terminate()
            strace.communicate()
        lines = trace.read_text().splitlines()
        assert len([line for line in lines if "execve(" in line]) >= 4  # two programs for each change
        assert not [line for line in lines if "ENOSYS" in line]


_ROOTLESS = 'unshare -n sleep 1000 & while [ "$(readlink /proc/$!/exe)" != "$(readlink -f "$(which sleep)")" ]; do :; done; "$@" $!'


def test_in_the_background_as_rootless_podman_calls_it() -> None:
    """The program is root of a user namespace, as is the guest; the host's network belongs to the one above."""
    with Lab() as lab:
        log = lab.directory / "log"
        options = ("--config-net", "--follow", "--follow-grace", 1, "-l", log, *NO_PORTS, "--netns-only")
        rootless = lab.host.popen("unshare", "-Ur", "sh", "-c", _ROOTLESS + "; wait", "sh", program(), *options)
        wait_until(lambda: lab.translators(), SOON_S, "the program serves")
        (guest,) = [pid for pid in lab.descendants() if comm(pid) == "sleep"]  # has the namespaces of the guest

        def known(address: str) -> bool:
            return address in Path(f"/proc/{guest}/net/fib_trie").read_text()

        lab.host.setup("addr add 192.0.2.77/24 dev eth0")
        wait_until(lambda: known("192.0.2.77"), SOON_S, "the guest has the new address")
        lab.host.setup("addr del 192.0.2.77/24 dev eth0")
        wait_until(lambda: not known("192.0.2.77"), SOON_S, "and then no longer")
        rootless.kill()


@pytest.mark.parametrize("name", ["pasta-watch", "pasta-apply"])
def test_one_of_them_is_killed_and_traffic_goes_on(name: str) -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        os.kill({"pasta-watch": watch, "pasta-apply": apply}[name], signal.SIGKILL)
        f.says("no longer followed")
        wait_until(lambda: not {comm(watch), comm(apply)} & {"pasta-watch", "pasta-apply"}, SOON_S, "both have ended")
        assert f.guest.run("ping", "-c1", "-W20", REMOTE4, check=False).returncode == 0


def test_they_end_with_the_worker() -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        os.kill(f.lab.translator().pid, signal.SIGKILL)
        wait_until(lambda: not {comm(watch), comm(apply)} & {"pasta-watch", "pasta-apply"}, SOON_S, "both have ended")


PAIRS_A_SECOND = 500
PAIRS_S = 20 if LONG else 3
MOST_CPU = 0.02


@pytest.mark.quiet
def test_hundreds_of_other_interfaces_cost_almost_nothing_and_hide_no_change() -> None:
    """Beside it, pairs of interfaces are made and deleted, 500 a second where the kernel makes that many. An address that comes in
    the midst of them is there as soon as ever."""
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        ticks = os.sysconf("SC_CLK_TCK")

        def used_s() -> float:
            """Processor time of both, with their children."""
            fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15] for pid in (watch, apply)]
            return sum(int(field) for each in fields for field in each) / ticks

        before = used_s()
        pairs = f.lab.host.popen(sys.executable, PROGRAMS / "veths.py", PAIRS_A_SECOND, PAIRS_S, caps=True)
        made, said = pairs.communicate(timeout=280)
        used = used_s() - before
        assert pairs.returncode == 0, said
        found = json.loads(made)
        print(f"{found['pairs'] / found['seconds']:.0f} pairs a second, {used / found['seconds']:.4f} of a processor")
        assert used <= MOST_CPU * found["seconds"] + 1 / ticks
        pairs = f.lab.host.popen(sys.executable, PROGRAMS / "veths.py", PAIRS_A_SECOND, PAIRS_S, caps=True)
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        assert pairs.poll() is None, "the address was there before the last pair"
        assert pairs.communicate(timeout=280)[0]
        f.is_as_fresh()


ROUNDS, ROUND_S, CHANGE_EVERY_S, MOST_LOST = 9, 2, 0.05, 0.05


@contextmanager
def changing(lab: Lab) -> Iterator[None]:
    """Addresses and routes of the host come and go, twenty a second, by one process."""
    ip = lab.host.popen("ip", "-batch", "-", caps=True)
    over = threading.Event()

    def change() -> None:
        assert ip.stdin
        for turn in itertools.cycle(range(40)):
            if over.wait(CHANGE_EVERY_S):
                return
            word, last = ("add", "del")[turn % 2], 100 + turn // 2
            kinds = (f"addr {word} 192.0.2.{last}/24 dev eth0", f"route {word} 203.0.113.{last}/32 via {GATEWAY4}")
            ip.stdin.write(kinds[turn // 2 % 2] + "\n")
            ip.stdin.flush()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ip.communicate(timeout=60)


@pytest.mark.quiet
@pytest.mark.skipif(not LONG, reason="compares throughput for half a minute: part of `make test-follow`")
def test_throughput_stays_while_the_host_changes() -> None:
    """A guest that follows beside one that does not, in turn, under the same changes. Medians."""
    with following(grace=1) as f, f.lab.guest(*NO_PORTS, "--no-follow") as other, changing(f.lab):
        f.lab.remote.serve("iperf3", "-s", port=5201, proto="tcp")
        sent: dict[int, list[float]] = {f.guest.pid: [], other.pid: []}
        for _ in range(ROUNDS):
            for guest in (f.guest, other):
                done = json.loads(guest.run("iperf3", "-J", "-c", REMOTE4, "-t", ROUND_S).stdout)
                sent[guest.pid].append(done["end"]["sum_received"]["bits_per_second"])
        ours, theirs = (statistics.median(sent[guest.pid]) for guest in (f.guest, other))
        print(f"{ours / 1e9:.2f} and {theirs / 1e9:.2f} Gb/s")
        assert ours >= (1 - MOST_LOST) * theirs
        f.says("the host's network has changed")
