"""Point 7: the guest's addresses and routes are the host's, for every shape of host."""

import json
import signal
from collections.abc import Iterator

import pytest
from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, NO_PORTS, REMOTE4, REMOTE6, Guest, Lab, Space, dual
from shapes import MIRRORED, no_ipv6, only_loopback

#: Keys of `ip -j addr` that say where an address is, not what it is.
OWN = ("ifindex", "link_index", "link_netnsid", "valid_life_time", "preferred_life_time", "nodad", "noprefixroute")


def addresses(space: Space, family: int) -> list[dict[str, object]]:
    """The addresses of eth0 but link-local ones, without what cannot agree."""
    links = json.loads(space.run("ip", "-j", f"-{family}", "addr", "show", "dev", "eth0").stdout or "[]")
    found = [info for link in links for info in link.get("addr_info", []) if info["scope"] != "link"]
    return sorted(({k: v for k, v in info.items() if k not in OWN} for info in found), key=str)


def routes(space: Space, family: int) -> list[dict[str, object]]:
    """The routes through eth0, but those of link-local addresses."""
    found = json.loads(space.run("ip", "-j", f"-{family}", "route", check=False).stdout or "[]")
    through = [r for r in found if r.get("dev") == "eth0" or any(h.get("dev") == "eth0" for h in r.get("nexthops", []))]
    return sorted((r for r in through if not str(r["dst"]).startswith("fe80")), key=str)


@pytest.fixture(scope="module", params=MIRRORED)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Guest]]:
    with Lab(MIRRORED[request.param]) as lab, lab.guest() as guest:
        yield lab, guest


def test_the_guests_addresses_are_the_hosts(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family in (4, 6):
        assert addresses(guest, family) == addresses(lab.host, family)


def test_the_guests_routes_are_the_hosts(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family in (4, 6):
        assert routes(guest, family) == routes(lab.host, family)


def test_what_the_host_reaches_the_guest_reaches(pair: tuple[Lab, Guest]) -> None:
    lab, guest = pair
    for family, address in ((4, REMOTE4), (6, REMOTE6)):
        reached = lab.host.run("ping", f"-{family}", "-c1", "-W10", address, check=False).returncode == 0
        inside = guest.run("ping", f"-{family}", "-c1", "-W20" if reached else "-W1", address, check=False).returncode == 0
        assert inside == reached, f"{address}: reached from the host: {reached}, from the guest: {inside}"


def test_no_address_is_tentative(pair: tuple[Lab, Guest]) -> None:
    _, guest = pair
    flags = json.loads(guest.run("ip", "-j", "addr", "show", "dev", "eth0").stdout)[0]["addr_info"]
    assert not [info for info in flags if info.get("tentative")]


def output(lab: Lab) -> tuple[str, str]:
    """Interfaces in the guest, and what the program printed."""
    with lab.guest() as guest:
        links = guest.run("ip", "-br", "addr").stdout
    assert guest.process.stderr is not None
    return links, guest.process.stderr.read()


def test_a_missing_family_is_one_clear_line() -> None:
    with Lab(no_ipv6) as lab:
        _, said = output(lab)
    about = [line for line in said.splitlines() if "IPv6" in line]
    assert len(about) == 1, said
    assert not [line for line in said.splitlines() if "IPv4" in line], said


def test_local_mode_without_any_interface() -> None:
    with Lab(only_loopback) as lab:
        links, said = output(lab)
        assert len([line for line in said.splitlines() if "IPv4" in line]) == 1, said
        assert len([line for line in said.splitlines() if "IPv6" in line]) == 1, said
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
        MIRRORED["second_interface"](lab)
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
