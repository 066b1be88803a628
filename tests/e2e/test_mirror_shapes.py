"""What a guest is given for every shape of host: what the host has, and what sid's pasta gives it.

shapes.json has what sid's pasta gave, for where it cannot be fetched; PASTA_RECORD_SHAPES=1 writes it anew.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sid
from lab import (
    GATEWAY4,
    GATEWAY6,
    HERE,
    HOST4,
    HOST6,
    NO_PORTS,
    PATIENCE_S,
    PROGRAMS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    Space,
    dual,
)
from shapes import SHAPES, Shape, no_ipv6, only_loopback, second_interface

RECORDED = HERE / "shapes.json"
DIFFERENCES = HERE.parents[1] / "docs" / "differences.md"
PORTS = ("-t", "7001,7003:7004", "-u", "7002", "-T", "7005", "-U", "7006")
OUR_PORTS = range(7001, 7010)
LOOPBACKS = ("*%lo", "0.0.0.0%lo", "[::1]", "[::]%lo")
TOLD_S = 0.5  # for what does not come; PATIENCE_S for what does, as is recorded
#: Keys of `ip -j addr` that say where an address is, or where from, not what it is.
OWN = ("ifindex", "link_index", "link_netnsid", "valid_life_time", "preferred_life_time", "nodad", "noprefixroute", "dynamic")
Facts = dict[str, object]


def addresses(space: Space, family: int, link: str = "eth0") -> list[Facts]:
    """The addresses of an interface but link-local ones, without what cannot agree."""
    links = json.loads(space.run("ip", "-j", f"-{family}", "addr", "show", "dev", link, check=False).stdout or "[]")
    return own_addresses(links[0].get("addr_info", []) if links else [])


def own_addresses(infos: list[Facts]) -> list[Facts]:
    found = [{k: v for k, v in info.items() if k not in OWN} for info in infos if not str(info["local"]).startswith("fe80")]
    return sorted(found, key=str)


def routes(space: Space, family: int, link: str = "eth0") -> list[Facts]:
    """The routes through an interface, but those of link-local addresses."""
    return own_routes(json.loads(space.run("ip", "-j", f"-{family}", "route", check=False).stdout or "[]"), link)


def own_routes(found: list[Facts], link: str) -> list[Facts]:
    through = [r for r in found if r.get("dev") == link or any(h.get("dev") == link for h in ways(r))]
    plain = [{k: v for k, v in r.items() if k not in ("expires", "nhid")} for r in through]
    twice = [{k: v for k, v in r.items() if k != "prefsrc"} for r in plain if "prefsrc" in r]
    return sorted((r for r in plain if not str(r["dst"]).startswith("fe80") and r not in twice), key=str)


def ways(route: Facts) -> list[Facts]:
    hops = route.get("nexthops", [])
    assert isinstance(hops, list)
    return hops


# ---- each shape ----


class Seen:
    """One shape, with a guest of ours in it, and what is seen there."""

    def __init__(self, shape: Shape, lab: Lab, guest: Guest | None, ours: Facts, peers: Facts) -> None:
        self.shape, self.lab, self.guest, self.ours, self.peers = shape, lab, guest, ours, peers


def told_s(name: str, fact: str, peer: Path | None) -> float:
    """How long to wait for what the guest asks for."""
    table = recorded().get(name, {})
    known = {**table.get("pasta", {}), **({} if peer else table.get("ours, where it differs", {}))}
    return PATIENCE_S if known.get(fact) else TOLD_S


def facts(lab: Lab, guest: Guest, dhcp_s: float) -> Facts:
    """What the guest sees of its network, and what listens on both sides."""
    asked = ["ip -j -d addr", "ip -j -4 route", "ip -j -6 route", "ss -tulnH"]
    asked.append(f"{sys.executable} {PROGRAMS / 'told.py'} $(ip -br link | grep -v ^lo | cut -d' ' -f1) {dhcp_s} dhcp")
    said = guest.run("sh", "-c", "; echo; ".join(asked)).stdout.split("\n\n")
    links = [link for link in json.loads(said[0]) if link["ifname"] != "lo"]
    found: Facts = {"interfaces": [link["ifname"] for link in links]}
    name = links[0]["ifname"]
    infos = links[0]["addr_info"]
    found["MTU"] = links[0]["mtu"]
    found["addresses"] = own_addresses(infos)
    found["routes"] = [route for text in said[1:3] for route in own_routes(json.loads(text), name)]
    found["listens in the guest"] = listening(said[3])
    found["listens on the host"] = listening(lab.host.run("ss", "-tulnH").stdout)
    return {**found, **json.loads(said[4])}


def listening(text: str) -> list[str]:
    """Protocols, addresses and ports, by ss, of our ports."""
    found = {(line.split()[0], *line.split()[4].rsplit(":", 1)) for line in text.splitlines()}
    ours = [each for each in found if int(each[2]) in OUR_PORTS]
    # One socket for both families, or one for each.
    return sorted({f"{proto} {'lo' if address in LOOPBACKS else address}:{port}" for proto, address, port in ours})


def advertisement(lab: Lab, name: str, shape: Shape, peer: Path | None) -> Facts:
    """What a guest that configures itself is told by its router."""
    options = ("--dhcp-dns", "--dhcp-search", *NO_PORTS)
    with lab.guest(*options, *shape.options, config=False, limit=shape.limit, peer=peer) as guest:
        link = guest.interface()
        guest.sysctl(ipv6__conf__all__accept_dad=0)
        guest.sysctl(**{f"ipv6__conf__{link}__accept_dad": 0})
        guest.setup(f"link set {link} up")
        told = guest.script("told.py", link, told_s(name, "ra", peer), "ra")["ra"]
    if isinstance(told, dict):
        del told["router"]  # of the host's own interface, whose address is another each time
    return {"ra": told}


def everything(
    lab: Lab, name: str, shape: Shape, peer: Path | None, stack: contextlib.ExitStack
) -> tuple[Facts, Guest | None]:
    """Facts, and the guest, which stays; or that it does not start."""
    found: Facts = {}
    try:
        if shape.advertised:
            found = advertisement(lab, name, shape, peer)
        options = ("--dhcp-dns", "--dhcp-search", *PORTS, *shape.options)
        guest = stack.enter_context(lab.guest(*options, limit=shape.limit, peer=peer))
    except AssertionError as error:
        if "did not start" not in str(error):
            raise
        return {"starts": False}, None
    return {**found, **facts(lab, guest, told_s(name, "dhcp", peer))}, guest


def recorded() -> dict[str, dict[str, Facts]]:
    return dict(json.loads(RECORDED.read_text())) if RECORDED.exists() else {}


def record(name: str, kind: str, found: Facts) -> None:
    table = recorded()
    table.setdefault(name, {})[kind] = found
    plain = json.dumps(table, indent=1, sort_keys=True)
    # What is deeper than a fact on one line.
    RECORDED.write_text(re.sub(r"\n {4,}|\n {3}(?=[]}])", " ", plain) + "\n")


@pytest.fixture(scope="module")
def peer() -> Path | None:
    try:
        return sid.program("passt", "pasta")
    except (subprocess.CalledProcessError, StopIteration):
        return None


@pytest.fixture(scope="module", params=SHAPES)
def seen(request: pytest.FixtureRequest, peer: Path | None) -> Iterator[Seen]:
    name, shape = request.param, SHAPES[request.param]
    with Lab(shape.build) as lab, contextlib.ExitStack() as stack:
        lab.resolv(shape.resolv)
        if peer:
            with contextlib.ExitStack() as alone:  # one after the other: their ports are the same
                peers, _guest = everything(lab, name, shape, peer, alone)
        else:
            peers = recorded()[name]["pasta"]
        ours, guest = everything(lab, name, shape, None, stack)
        if "starts" in ours or "starts" in peers:  # nothing else to compare
            ours, peers = ({"starts": facts.get("starts", True)} for facts in (ours, peers))
        if os.environ.get("PASTA_RECORD_SHAPES"):
            record(name, "pasta", peers)
            record(name, "ours, where it differs", {fact: ours.get(fact) for fact in shape.differs})
        yield Seen(shape, lab, guest, ours, peers)


def test_the_guest_is_as_with_the_peer(seen: Seen, request: pytest.FixtureRequest) -> None:
    """But for the differences on purpose, which are as recorded, and each of which has its row."""
    other = {fact for fact in seen.ours.keys() | seen.peers.keys() if seen.ours.get(fact) != seen.peers.get(fact)}
    on_purpose = seen.shape.differs
    assert {f: (seen.ours.get(f), seen.peers.get(f)) for f in other - on_purpose.keys()} == {}, "ours, the peer's"
    assert not on_purpose.keys() - other, "no difference any more: take it out of the table"
    table = recorded()[request.node.callspec.params["seen"]]
    assert {fact: seen.ours.get(fact) for fact in on_purpose} == table["ours, where it differs"]
    rows = DIFFERENCES.read_text()
    assert not [row for row in on_purpose.values() if f"| {row} |" not in rows]


def test_the_guests_addresses_and_routes_are_the_hosts(seen: Seen) -> None:
    link = seen.shape.mirrored
    for family in (4, 6):
        if link and seen.guest and addresses(seen.lab.host, family, link):
            assert addresses(seen.guest, family, link) == addresses(seen.lab.host, family, link)
            assert routes(seen.guest, family, link) == routes(seen.lab.host, family, link)


def test_what_the_host_reaches_the_guest_reaches(seen: Seen) -> None:
    if not seen.guest:
        return
    for family, address in ((4, REMOTE4), (6, REMOTE6)):
        reached = seen.lab.host.run("ping", f"-{family}", "-c1", "-W10", address, check=False).returncode == 0
        wait = "-W20" if reached else "-W0.2"
        inside = seen.guest.run("ping", f"-{family}", "-c1", wait, address, check=False).returncode == 0
        assert inside == reached, f"{address}: reached from the host: {reached}, from the guest: {inside}"


def test_no_address_is_tentative(seen: Seen) -> None:
    if seen.guest:
        links = json.loads(seen.guest.run("ip", "-j", "addr").stdout)
        assert not [info for link in links for info in link["addr_info"] if info.get("tentative")]


@pytest.mark.parametrize("whose", ["ours", "the peer's"])
def test_a_temporary_address_is_copied_like_the_others(peer: Path | None, whose: str) -> None:
    """The host's kernel makes one of its own (RFC 8981); that it is temporary, no other can say of it."""

    def build(lab: Lab) -> None:
        lab.host.sysctl(ipv6__conf__default__use_tempaddr=2)
        dual(lab)
        lab.host.setup("addr add 2001:db8::7/64 dev eth0 mngtmpaddr nodad")

    with Lab(build) as lab, lab.guest(*NO_PORTS, peer=peer if whose != "ours" else None) as guest:
        there, here = ({str(info["local"]) for info in addresses(space, 6)} for space in (lab.host, guest))
    assert len(there) == 3 and here == there


# ---- what is said ----


def output(lab: Lab) -> tuple[str, str]:
    """Interfaces in the guest, and what the program printed."""
    with lab.guest("--debug") as guest:
        links = guest.run("ip", "-br", "addr").stdout
    assert guest.process.stderr is not None
    return links, guest.process.stderr.read()


def test_a_missing_family_is_one_clear_line() -> None:
    with Lab(no_ipv6) as lab:
        _, said = output(lab)
    assert [line for line in said.splitlines() if "IPv6 is off" in line] == ["pasta: IPv6 is off: the host has none"], said
    assert "local mode" not in said


def test_local_mode_without_any_interface() -> None:
    with Lab(only_loopback) as lab:
        links, said = output(lab)
        assert [line.split()[1] for line in said.splitlines() if "local mode" in line] == ["IPv4:", "IPv6:"], said
        assert "tap0" in links and "169.254.2.1/" in links
        server = lab.host.start("answer.py", "name", "127.0.0.1", 7301, "host")
        with lab.guest() as guest:
            found = json.loads(guest.run("ip", "-j", "-4", "route", "show", "default").stdout)
            assert [route["gateway"] for route in found] == ["169.254.2.2"]
            six = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout)
            assert [route["gateway"] for route in six] == ["fe80::1"]
            assert str(guest.script("probe.py", "ask", "169.254.2.2", 7301)["answer"]).startswith("host ")
        server.result()


def test_a_guest_reaches_what_the_host_reaches_through_a_segment_routing_tunnel() -> None:
    """The host's route encapsulates (SRv6, RFC 8986) what the guest sends; the guest's copy must not do it as well."""
    behind = "2001:db8:9::7"

    def build(lab: Lab) -> None:
        dual(lab)
        lab.host.setup(f"-6 route add 2001:db8:9::/48 encap seg6 mode encap segs {REMOTE6} dev eth0")
        lab.remote.sysctl(ipv6__conf__all__seg6_enabled=1, ipv6__conf__eth0__seg6_enabled=1)
        lab.remote.setup(f"addr add {behind}/128 dev lo")

    with Lab(build) as lab, lab.guest() as guest:
        lab.host.run("ping", "-c1", "-W20", behind)
        guest.run("ping", "-c1", "-W20", behind)


#: What ip(8) can say of a route, beside its destination. A kernel may lack some of the tunnels, and refuse them.
ROUTES4 = f"""
via {GATEWAY4} fastopen_no_cookie 1
via {GATEWAY4} realm 5
via {GATEWAY4} realms 5/6
via inet6 {GATEWAY6} dev eth0 fastopen_no_cookie 1 realm 7
fastopen_no_cookie 1 nexthop via {GATEWAY4} nexthop via {REMOTE4}
nexthop via {GATEWAY4} realm 4 nexthop via {REMOTE4} realm 5
nexthop via {GATEWAY4} dev eth0 weight 256 onlink nexthop via inet6 {REMOTE6} dev eth0
mtu 1300 congctl reno quickack 1 fastopen_no_cookie 1 nexthop via {GATEWAY4} nexthop via {REMOTE4}
via {GATEWAY4} mtu lock 1300 window 1000 rtt 50ms rttvar 20ms ssthresh 5 cwnd 10 advmss 1000 initcwnd 9 initrwnd 7 quickack 1
via {GATEWAY4} reordering 5 hoplimit 44 features ecn rto_min 300ms congctl cubic
via {GATEWAY4} tos 0x10
via {GATEWAY4} ttl-propagate enabled
via 198.18.0.1 dev eth0 onlink
dev eth0 scope host
dev eth0 scope 100
dev eth0 proto 250 metric 4294967295
dev eth0 src {HOST4}
encap ip id 1 dst 192.0.2.9 dev eth0
encap mpls 100 via {GATEWAY4}
encap seg6 mode encap segs {REMOTE6} dev eth0
nexthop via {GATEWAY4} nexthop encap ip id 3 dst 192.0.2.9 dev eth0
nhid 11
nhid 11 fastopen_no_cookie 1
nhid 12
nhid 13
nhid 14
""".strip().splitlines()
ROUTES6 = f"""
via {GATEWAY6} fastopen_no_cookie 1
fastopen_no_cookie 1 nexthop via {GATEWAY6} nexthop via {REMOTE6}
via {GATEWAY6} pref low expires 600
from {HOST6}/128 nexthop via {GATEWAY6} nexthop via {REMOTE6}
via {GATEWAY6} mtu lock 1300 hoplimit 44 features ecn rto_min 300ms congctl cubic
via 2001:db8:dead::1 dev eth0 onlink
encap seg6 mode inline segs {REMOTE6} dev eth0
encap seg6local action End dev eth0
encap ip6 id 1 dst {REMOTE6} dev eth0
dev eth0 proto ra
nhid 21
nhid 22
""".strip().splitlines()
NEXTHOPS = f"""
id 1 via {GATEWAY4} dev eth0
id 2 via {REMOTE4} dev eth0
id 3 via {GATEWAY6} dev eth0
id 4 via fe80::5 dev eth0
id 5 via 198.18.0.1 dev eth1
id 11 group 1/2
id 12 group 1,10/2,20 type resilient buckets 16
id 13 group 3
id 14 group 1/5
id 21 group 3/4
id 22 via {GATEWAY6} dev eth0
""".strip().splitlines()
#: Of `ip -j route`: what a copy cannot have, or cannot show.
NOT_IN_THE_COPY = ("encap", "nhid", "nh_info", "expires", "ttl_propagate", "link_scope")


KINDS = {f"203.0.{n}.0/24": each for n, each in enumerate(ROUTES4)}
KINDS |= {f"2001:db8:{n + 16:x}::/48": each for n, each in enumerate(ROUTES6)}
NOWHERE = ("blackhole", "unreachable", "prohibit", "throw")
LEFT_OUT = [f"{kind} {to}" for kind in NOWHERE for to in ("198.51.100.0/24", "fd00:1::/32")]


@pytest.mark.parametrize("spelled_out", [1, 0], ids=["", "nexthop objects by name only"])
def test_no_kind_of_route_ends_a_start_and_each_is_copied(spelled_out: int) -> None:
    refused: list[str] = []

    def build(lab: Lab) -> None:
        second_interface(lab)
        lab.host.setup("\n".join(f"nexthop add {each}" for each in NEXTHOPS))
        lines = [f"ip -{6 if ':' in to else 4} route add {to} {how} || echo {to}" for to, how in KINDS.items()]
        lines += [f"ip route append {each} metric {n + 1}" for n, each in enumerate(LEFT_OUT)]
        refused.extend(lab.host.run("sh", "-c", "\n".join(lines), caps=True).stdout.split())

    def table(space: Space) -> dict[str, dict[str, object]]:
        return {str(route["dst"]): _copied(route) for family in (4, 6) for route in routes(space, family)}

    with Lab(build) as lab:
        tunnels = {to for to, how in KINDS.items() if "encap" in how}
        assert tunnels.issuperset(refused), "a kernel may lack a kind of tunnel, and nothing else"
        expected = table(lab.host)
        lab.host.sysctl(ipv4__nexthop_compat_mode=spelled_out)
        with lab.guest(*NO_PORTS) as guest:
            found = table(guest)
            guest.process.send_signal(signal.SIGTERM)
            assert guest.process.stderr is not None and guest.process.stderr.read() == ""
    assert set(KINDS) - set(refused) <= set(found)
    # ip(8) mixes the attributes of a tunnel into the route's own.
    plain = KINDS.keys() - tunnels
    assert {to: found[to] for to in plain} == {to: expected[to] for to in plain}
    assert not [to for to in tunnels & found.keys() if {"encap", "mode", "action", "segs"} & found[to].keys()]


def _copied(route: dict[str, object]) -> dict[str, object]:
    plain = {key: value for key, value in route.items() if key not in NOT_IN_THE_COPY}
    ways = [{k: v for k, v in way.items() if k not in NOT_IN_THE_COPY} for way in route.get("nexthops", ())]  # type: ignore[attr-defined]
    ways = [way for way in ways if way["dev"] == "eth0"]
    if len(ways) == 1:  # of one way nothing but its gateway and interface is left
        (way,) = ways
        return {**{k: v for k, v in plain.items() if k != "nexthops"}, **{k: way[k] for k in ("gateway", "dev")}}
    return {**plain, "nexthops": ways} if ways else plain
