"""Shapes that hosts have: interfaces, addresses, routes, resolvers, limits. Each function builds one in a Lab.

SHAPES is the table that test_mirror_shapes.py runs over.
"""

import dataclasses
from collections.abc import Callable

from lab import GATEWAY4, GATEWAY6, HOST4, HOST6, REMOTE4, REMOTE6, Lab, dual, remote_addresses, wire

ALTNAME, LONG_ALTNAME = "enp0s31f6.alt", "enx" + "0123456789" * 12 + "abcd"  # 127 bytes, the most that there can be


def no_ipv6(lab: Lab) -> None:
    """IPv6 is switched off, as with ipv6.disable_ipv6=1."""
    lab.host.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")


def no_default_route(lab: Lab) -> None:
    """An address in each family, and only the routes of its own prefix."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(f"addr add {HOST4}/24 dev eth0\naddr add {HOST6}/64 dev eth0 nodad")


def point_to_point(lab: Lab) -> None:
    """A peer address, and a default route through the interface without a gateway, as VPNs have."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(
        f"""\
addr add {HOST4} peer {GATEWAY4}/32 dev eth0
addr add {HOST6} peer {GATEWAY6}/128 dev eth0 nodad
route add default dev eth0
-6 route add default dev eth0
"""
    )


def only_a_peer_route(lab: Lab) -> None:
    """A peer address and nothing else: no prefix, no default route."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(f"addr add {HOST4} peer {GATEWAY4}/32 dev eth0\naddr add {HOST6} peer {GATEWAY6}/128 dev eth0 nodad")


def gateway_off_link(lab: Lab) -> None:
    """A /32 and a /128 with a gateway that only a host route makes reachable, as clouds have."""
    wire(lab)
    remote_addresses(lab)
    lab.remote.setup(f"route add {HOST4}/32 dev eth0\n-6 route add {HOST6}/128 dev eth0")
    lab.host.setup(
        f"""\
addr add {HOST4}/32 dev eth0
addr add {HOST6}/128 dev eth0 nodad
route add {GATEWAY4} dev eth0
-6 route add {GATEWAY6} dev eth0
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""
    )


def several_defaults(lab: Lab) -> None:
    """Default routes of different metrics, and more specific routes through the same interface."""
    dual(lab)
    lab.host.setup(
        f"""\
route add default via 192.0.2.3 metric 200
route add 198.51.100.0/24 via 192.0.2.4
route add 203.0.113.0/24 via 192.0.2.5 metric 50 src {HOST4}
-6 route add default via 2001:db8::3 metric 2000
-6 route add 2001:db8:4::/48 via 2001:db8::4
addr add 192.0.2.20/24 dev eth0
addr add 198.18.0.7/15 dev eth0
addr add 2001:db8::20/64 dev eth0 nodad
"""
    )


def multipath(lab: Lab) -> None:
    """A default route with two next hops in each family."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(
        f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default nexthop via {GATEWAY4} dev eth0 weight 2 nexthop via 192.0.2.10 dev eth0 weight 1
-6 route add default nexthop via {GATEWAY6} dev eth0 weight 1 nexthop via 2001:db8::10 dev eth0 weight 1
"""
    )


def second_interface(lab: Lab) -> None:
    """Defaults through two interfaces: the guest gets the first one's."""
    dual(lab)
    wire(lab, name="eth1", peer="eth1")
    lab.host.setup("addr add 198.18.0.2/24 dev eth1\nroute add default via 198.18.0.1 metric 500")


def only_loopback(lab: Lab) -> None:
    """No interface but lo: local mode."""


def linked(setup: str, remote: str = "") -> Callable[[Lab], None]:
    """eth0 leads to the remote, which has its addresses and after `remote` what that says; `setup` says the rest. For ip(8)."""

    def build(lab: Lab) -> None:
        wire(lab)
        remote_addresses(lab)
        lab.remote.setup(remote)
        lab.host.setup(setup)

    return build


def more(setup: str, **sysctl: object) -> Callable[[Lab], None]:
    """Both families with default routes, and then this."""

    def build(lab: Lab) -> None:
        dual(lab)
        lab.host.setup(setup)
        if sysctl:
            lab.host.sysctl(**sysctl)

    return build


def bridge(lab: Lab) -> None:
    """The addresses are a bridge's, of which the card is a port, as on hosts of virtual machines."""
    wire(lab)
    remote_addresses(lab)
    lab.host.setup(
        f"""\
link add br0 mtu 65520 up type bridge
link set eth0 master br0
addr add {HOST4}/24 dev br0
addr add {HOST6}/64 dev br0 nodad
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""
    )


def tunnel(lab: Lab) -> None:
    """A VPN: all but the default routes lead into a tunnel without Ethernet addresses, halves of the world each."""
    dual(lab)
    lab.host.setup(
        """\
tuntap add dev tun0 mode tun
link set tun0 up mtu 1420
addr add 10.8.0.2/32 dev tun0
addr add fd00:8::2/128 dev tun0 nodad
route add 0.0.0.0/1 dev tun0
route add 128.0.0.0/1 dev tun0
-6 route add ::/1 dev tun0
-6 route add 8000::/1 dev tun0
"""
    )


def without_resolv_conf(lab: Lab) -> None:
    dual(lab)
    layers = "lowerdir=/etc,upperdir=/run/upper,workdir=/run/work,userxattr"
    script = (
        f"umount /etc/resolv.conf; mkdir /run/upper /run/work; mount -t overlay overlay -o {layers} /etc; rm /etc/resolv.conf"
    )
    lab.host.run("sh", "-ec", script, caps=True)


@dataclasses.dataclass(frozen=True)
class Shape:
    build: Callable[[Lab], None]
    options: tuple[str, ...] = ()  # of the guest
    limit: str = ""  # as for ulimit
    resolv: str = f"nameserver {REMOTE4}\nnameserver {REMOTE6}\nsearch lab.example.test\n"
    advertised: bool = False  # whether the router's advertisement is looked at as well
    mirrored: str = "eth0"  # the interface whose addresses and routes are the guest's; "" for none
    #: What the guest sees otherwise than with the peer, and the row of docs/differences.md that says so.
    differs: dict[str, str] = dataclasses.field(default_factory=dict)


UNNUMBERED4 = f"route add {HOST4}/32 dev eth0\n"
UNNUMBERED = UNNUMBERED4 + f"-6 route add {HOST6}/128 dev eth0\n"
ADDRESSES = f"addr add {HOST4}/24 dev eth0\naddr add {HOST6}/64 dev eth0 nodad\n"
ROUTES = f"route add default via {GATEWAY4}\n-6 route add default via {GATEWAY6}\n"
#: Rows of docs/differences.md.
SOURCE = "preferred source (`src`) of a copied route, label of a copied address"
GATEWAYLESS = "a default route without a gateway"
OFF = "IPv6 switched off on the host (`disable_ipv6`)"
PREFIX = "prefix in router advertisements"
UNNUMBERED_HOST = "an interface without an address of its own"
DEPRECATED = "deprecated addresses of the host"
WAYS = "routes with several ways, nexthop objects"
ALT = "alternative names of the host's interfaces (`ip link property add … altname`)"
FEW = "few descriptors (`ulimit -n`)"
VIA6 = "IPv4 routes through a global IPv6 gateway"
SHAPES = {
    "both families": Shape(dual, advertised=True),
    "IPv4 only": Shape(
        linked(f"addr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}"), advertised=True, differs={"ra": PREFIX}
    ),
    "IPv6 only": Shape(linked(f"addr add {HOST6}/64 dev eth0 nodad\n-6 route add default via {GATEWAY6}"), advertised=True),
    "IPv6 switched off": Shape(no_ipv6, differs={"routes": OFF}),
    "nothing but a loopback": Shape(only_loopback, mirrored=""),
    "no default route": Shape(no_default_route, differs={"dhcp": GATEWAYLESS}),
    "several default routes": Shape(several_defaults, differs={"routes": SOURCE}),
    "default routes through two interfaces": Shape(second_interface),
    "default routes without gateways": Shape(point_to_point, differs={"dhcp": GATEWAYLESS}),
    "a tunnel with better routes": Shape(tunnel),
    "peer addresses alone": Shape(only_a_peer_route, differs={"dhcp": GATEWAYLESS}),
    "host addresses, gateways by host routes": Shape(gateway_off_link),
    "host addresses, gateways on link by flag": Shape(
        linked(
            f"""\
addr add {HOST4}/32 dev eth0
addr add {HOST6}/128 dev eth0 nodad
route add default via {GATEWAY4} dev eth0 onlink
-6 route add default via {GATEWAY6} dev eth0 onlink
""",
            UNNUMBERED,
        ),
        advertised=True,
    ),
    "an IPv4 address borrowed from the loopback": Shape(
        linked(
            f"""\
addr add {HOST4}/32 dev lo
route add {GATEWAY4} dev eth0
route add default via {GATEWAY4} src {HOST4}
addr add {HOST6}/64 dev eth0 nodad
-6 route add default via {GATEWAY6}
""",
            UNNUMBERED4,
        ),
        mirrored="",
        differs={"starts": UNNUMBERED_HOST},
    ),
    "a prefix of 31 and of 127 bits": Shape(
        linked(
            """\
addr add 198.51.100.2/31 dev eth0
addr add 2001:db8:1::2/127 dev eth0 nodad
route add default via 198.51.100.3
-6 route add default via 2001:db8:1::3
""",
            "addr add 198.51.100.3/31 dev eth0\naddr add 2001:db8:1::3/127 dev eth0 nodad\n",
        ),
        advertised=True,
    ),
    "an IPv6 prefix of 48 bits": Shape(
        linked(f"addr add {HOST4}/24 dev eth0\naddr add {HOST6}/48 dev eth0 nodad\n{ROUTES}"),
        advertised=True,
    ),
    "a link-local IPv6 gateway": Shape(
        linked(
            f"{ADDRESSES}route add default via {GATEWAY4}\n-6 route add default via fe80::1 dev eth0",
            "addr add fe80::1/64 dev eth0 nodad",
        ),
        advertised=True,
    ),
    "several addresses": Shape(
        more(
            f"""\
addr add 192.0.2.20/24 brd + dev eth0
addr add 198.18.0.7/15 brd + dev eth0 label eth0:more
addr add 198.51.100.7/24 dev eth0
addr add 2001:db8::20/64 dev eth0 nodad
addr add fd00:1::5/48 dev eth0 nodad noprefixroute
addr add 198.51.100.9/24 dev eth0 metric 700
route add 203.0.113.0/24 via {GATEWAY4} src 192.0.2.20
"""
        ),
        differs={"addresses": SOURCE, "routes": SOURCE},
    ),
    "deprecated addresses": Shape(
        linked(
            f"""\
addr add {HOST4}/24 dev eth0 preferred_lft 0
addr add 2001:db8::7/64 dev eth0 nodad
addr add 192.0.2.20/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad preferred_lft 0
{ROUTES}"""
        ),
        differs={"addresses": DEPRECATED, "dhcp": DEPRECATED, "routes": DEPRECATED},
    ),
    "leased addresses": Shape(
        linked(
            f"""\
addr add {HOST4}/24 dev eth0 valid_lft 3600 preferred_lft 1800 noprefixroute
addr add {HOST6}/128 dev eth0 nodad valid_lft 3600 preferred_lft 1800
route add 192.0.2.0/24 dev eth0 proto dhcp scope link src {HOST4} metric 100
route add default via {GATEWAY4} proto dhcp src {HOST4} metric 100
-6 route add 2001:db8::/64 dev eth0 proto ra metric 100 expires 3600
-6 route add default via {GATEWAY6} proto ra metric 100 expires 1800 mtu 1492 hoplimit 64
"""
        ),
        differs={"routes": SOURCE},
    ),
    "multipath": Shape(multipath),
    "multipath over two interfaces": Shape(
        more(
            f"""\
link add eth1 up type veth peer name far1
link set far1 up
addr add 198.18.0.2/24 dev eth1
route del default
route add default nexthop via {GATEWAY4} dev eth0 nexthop via 198.18.0.1 dev eth1
"""
        ),
        mirrored="",
        differs={"routes": WAYS, "dhcp": WAYS},
    ),
    "metrics": Shape(
        linked(
            f"""\
{ADDRESSES}\
route add default via {GATEWAY4} mtu lock 1400 advmss 1300 features ecn fastopen_no_cookie 1 realm 5 quickack 1
route add 203.0.113.0/24 fastopen_no_cookie 1 initcwnd 20 nexthop via {GATEWAY4} realm 6 nexthop via {REMOTE4}
-6 route add default via {GATEWAY6} mtu 1400 hoplimit 60 fastopen_no_cookie 1 pref high
"""
        )
    ),
    "IPv4 through an IPv6 gateway": Shape(
        linked(
            f"""\
addr add {HOST4}/32 dev eth0
addr add {HOST6}/64 dev eth0 nodad
-4 route add default via inet6 {GATEWAY6} dev eth0
-6 route add default via {GATEWAY6}
""",
            UNNUMBERED4,
        ),
        differs={"dhcp": GATEWAYLESS, "routes": VIA6},
    ),
    "routes that lead nowhere": Shape(
        more(
            """\
route add blackhole 203.0.113.0/24
route add unreachable 198.51.100.0/24
route add prohibit 10.0.0.0/8
-6 route add blackhole fd00:1::/32
-6 route add unreachable fd00:2::/32
-6 route add prohibit fd00:3::/32
"""
        )
    ),
    "nexthop objects": Shape(
        linked(
            f"""\
{ADDRESSES}\
nexthop add id 1 via {GATEWAY4} dev eth0
nexthop add id 2 via {REMOTE4} dev eth0
nexthop add id 3 group 1/2
nexthop add id 6 via {GATEWAY6} dev eth0
route add default nhid 3
-6 route add default nhid 6
"""
        ),
        differs={"dhcp": WAYS},
    ),
    "nexthop objects by name only": Shape(
        more(
            f"""\
nexthop add id 2 via {REMOTE4} dev eth0
route add 203.0.113.0/24 nhid 2
""",
            ipv4__nexthop_compat_mode=0,
        ),
        mirrored="",
        differs={"starts": WAYS},
    ),
    "an alternative name": Shape(
        more(f"link property add dev eth0 altname {ALTNAME}"), ("-i", ALTNAME, "-t", f"%{ALTNAME}/7009")
    ),
    "a long alternative name": Shape(
        more(f"link property add dev eth0 altname {LONG_ALTNAME}"),
        ("-i", LONG_ALTNAME, "-t", f"%{LONG_ALTNAME}/7009"),
        differs={"starts": ALT},
    ),
    "an MTU of 1280": Shape(lambda lab: dual(lab, 1280)),
    "an MTU of 9000": Shape(lambda lab: dual(lab, 9000)),
    "a bridge": Shape(bridge, mirrored="br0"),
    "a nameserver at 127.0.0.53": Shape(
        dual, resolv="nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", advertised=True
    ),
    "a nameserver at ::1": Shape(dual, resolv="nameserver ::1\n", advertised=True),
    "no resolv.conf": Shape(without_resolv_conf, advertised=True),
    "an empty resolv.conf": Shape(dual, resolv="", advertised=True),
    "three nameservers": Shape(
        dual, resolv="nameserver 192.0.2.53\nnameserver 192.0.2.54\nnameserver 2001:db8::53\n", advertised=True
    ),
    "a link-local nameserver": Shape(dual, resolv="nameserver fe80::53%eth0\n", advertised=True),
    "the gateway is the nameserver": Shape(dual, resolv=f"nameserver {GATEWAY4}\nnameserver {GATEWAY6}\n", advertised=True),
    "few descriptors": Shape(dual, limit="-n 100", differs={"starts": FEW}),
    "fewer descriptors than ports": Shape(dual, ("-t", "9000-9999"), limit="-n 512", mirrored=""),
    "fewer descriptors than there are ports": Shape(dual, ("-T", "all,~1300-65535"), limit="-n 1024"),
}
