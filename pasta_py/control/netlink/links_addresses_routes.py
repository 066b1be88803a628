"""Links, addresses and routes as records, read from rtnetlink's messages and written to them.

Reading and writing stand side by side for each kind of object, so that what is read from the host is what is set in the guest. What
is written names no interface: the caller says which one.

Invariant: a record that was read and written to an interface of the same kind reads back equal, but for lifetimes
(permanent in the copy, where no router renews them) and flags that only the kernel may set.
"""

from pasta_py.control.ip import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pasta_py.control.netlink import exchange, messages
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from pasta_py.control.netlink.exchange import Netlink
    from pasta_py.control.netlink.messages import Message

Ip: "TypeAlias" = IPv4Address | IPv6Address
Interface: "TypeAlias" = IPv4Interface | IPv6Interface
Network: "TypeAlias" = IPv4Network | IPv6Network

AF_INET, AF_INET6 = 2, 10

# linux/if_addr.h, linux/rtnetlink.h, linux/if.h
IFA_F_NODAD, IFA_F_HOMEADDRESS, IFA_F_NOPREFIXROUTE = 0x02, 0x10, 0x200
IFA_F_DADFAILED, IFA_F_DEPRECATED = 0x08, 0x20
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
RTPROT_KERNEL, RTPROT_BOOT = 2, 3
RTNH_F_DEAD, RTNH_F_ONLINK, RTNH_F_LINKDOWN = 1, 4, 16
_RTM_F_CLONED = 0x200
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
# Attributes of a route that a copy does without: RTA_CACHEINFO and EXPIRES; NEWDST and TTL_PROPAGATE of MPLS; ENCAP_TYPE and
# ENCAP, since the host's own route still leads what the guest sends into that tunnel.
_NOT_COPIED = frozenset((12, 23, 19, 26, 21, 22))
IN6_ADDR_GEN_MODE_EUI64, IN6_ADDR_GEN_MODE_NONE = 0, 1
_FOREVER = 0xFFFFFFFF
_WEIGHT_MAX = 256  # of a next hop in a route; a nexthop object's may be larger, from Linux 6.12 on
IP6_RT_PRIO_USER = 1024  # the metric that IPv6 gives a route that names none


class Link(Record):
    """A network interface."""

    index: int
    name: str
    mtu: int  # bytes
    flags: int  # IFF_*
    mac: bytes  # 6 bytes; b"" for a link without Ethernet addresses
    alternatives: tuple[str, ...] = ()  # alternative names, each up to 127 bytes (ip link property add … altname)


class Address(Record):
    """One address of an interface."""

    interface: Interface  # the address itself, with its prefix length
    peer: Ip | None = None  # the other end of a point-to-point link: the prefix is the peer's
    broadcast: Ip | None = None
    label: str = ""  # IPv4 alias name, such as eth0:1; "" for none
    scope: int = RT_SCOPE_UNIVERSE
    flags: int = 0  # IFA_F_*
    deprecated: bool = False  # its preferred lifetime is over
    metric: int = 0  # of the route that the kernel makes for it; 0: the kernel's own choice
    proto: int = 0  # IFAPROT_*, who made it
    link: int = 0  # index of the interface it was read from


class NextHop(Record):
    """One next hop of a route."""

    gateway: Ip | None = None  # None: the destination is on the link. May be IPv6 for an IPv4 route (RFC 5549)
    onlink: bool = False  # the gateway is on the link, even if no route says so
    weight: int = 1  # 1 to 256, share among the next hops of a multipath route
    link: int = 0  # index of the interface it was read from
    down: bool = False  # that interface has no carrier
    realm: int = 0  # IPv4 route realms: the source's in the high 16 bits, the destination's in the low ones; 0: none


class Route(Record):
    """One unicast route of the main table."""

    destination: Network
    hops: tuple[NextHop, ...]  # at least one; several: multipath
    source: Ip | None = None  # preferred source address
    origin: Network | None = None  # IPv6: only for packets from here
    metric: int = 0  # lower is better
    tos: int = 0
    scope: int = RT_SCOPE_UNIVERSE
    proto: int = RTPROT_BOOT
    metrics: tuple[tuple[str, int | str], ...] = ()  # RTAX_* names and values: MTU, window, ...
    preference: int = 0  # IPv6 router preference (RFC 4191), as the kernel codes it
    whole: bool = True  # False: it has attributes that are not known here


def links(kernel: "Netlink") -> list[Link]:
    """All interfaces of the namespace, by index."""
    found = []
    for message in kernel.dump(messages.RTM_GETLINK):
        attrs = message.attrs
        hardware = attrs.get("IFLA_ADDRESS", "")
        mac = bytes.fromhex(hardware.replace(":", "")) if hardware.count(":") == 5 else b""
        found.append(
            Link(
                index=message.fields["index"],
                name=attrs.get("IFLA_IFNAME", ""),
                mtu=attrs.get("IFLA_MTU", 0),
                flags=message.fields["flags"],
                mac=mac,
                alternatives=tuple(attrs.get("IFLA_PROP_LIST", ())),
            )
        )
    return sorted(found, key=lambda link: link.index)


def addresses(kernel: "Netlink") -> list[Address]:
    """All addresses of both families, in the kernel's order."""
    found = []
    for message in kernel.dump(messages.RTM_GETADDR):
        if message.fields["family"] not in (AF_INET, AF_INET6):
            continue
        attrs = message.attrs
        near, far = attrs.get("IFA_LOCAL"), attrs.get("IFA_ADDRESS")  # IPv6 gives IFA_LOCAL with a peer only
        if not (near or far):
            continue
        cache = attrs.get("IFA_CACHEINFO")
        flags = attrs.get("IFA_FLAGS", message.fields["flags"])
        found.append(
            Address(
                interface=ip_interface(f"{near or far}/{message.fields['prefixlen']}"),
                peer=ip_address(far) if near and far and far != near else None,
                broadcast=_ip(attrs.get("IFA_BROADCAST")),
                label=attrs.get("IFA_LABEL", ""),
                scope=message.fields["scope"],
                flags=flags,
                deprecated=bool(flags & IFA_F_DEPRECATED) or (cache is not None and cache.fields["ifa_preferred"] == 0),
                metric=attrs.get("IFA_RT_PRIORITY", 0),
                proto=attrs.get("IFA_PROTO", 0),
                link=message.fields["index"],
            )
        )
    return found


def routes(kernel: "Netlink", family: int) -> list[Route]:
    """The unicast routes of the main table, in the kernel's order, without those whose next hops are all dead."""
    found = []
    nexthops: dict[int, list[Message]] | None = None
    for message in kernel.dump(messages.RTM_GETROUTE, family, table=RT_TABLE_MAIN):
        fields, attrs = message.fields, message.attrs
        if fields["family"] != family or attrs.get("RTA_TABLE", fields["table"]) != RT_TABLE_MAIN:
            continue
        if fields["type"] != RTN_UNICAST or fields["flags"] & _RTM_F_CLONED:
            continue
        parts = attrs.get("RTA_MULTIPATH") or [message]
        if "RTA_NH_ID" in attrs and not attrs.keys() & {"RTA_OIF", "RTA_MULTIPATH"}:
            nexthops = _nexthop_objects(kernel) if nexthops is None else nexthops
            parts = nexthops.get(attrs["RTA_NH_ID"], ())
        hops = tuple(_hop(part) for part in parts if not part.fields["flags"] & RTNH_F_DEAD)
        if hops:
            found.append(_route(message, hops))
    return found


def _route(message: "Message", hops: tuple[NextHop, ...]) -> Route:
    fields, attrs = message.fields, message.attrs
    any_address = "0.0.0.0" if fields["family"] == AF_INET else "::"
    metrics = attrs.get("RTA_METRICS", messages.Message(fields={}, attrs={}))
    return Route(
        destination=ip_network(f"{attrs.get('RTA_DST', any_address)}/{fields['dst_len']}", strict=False),
        hops=hops,
        source=_ip(attrs.get("RTA_PREFSRC")),
        origin=ip_network(f"{attrs['RTA_SRC']}/{fields['src_len']}") if "RTA_SRC" in attrs else None,
        metric=attrs.get("RTA_PRIORITY", 0),
        tos=fields["tos"],
        scope=fields["scope"],
        proto=fields["proto"],
        metrics=tuple(sorted(metrics.attrs.items())),
        preference=attrs.get("RTA_PREF", 0),
        whole=not metrics.unknown and _NOT_COPIED.issuperset(message.unknown),
    )


def _nexthop_objects(kernel: "Netlink") -> "dict[int, list[Message]]":
    """The next hops of each nexthop object, by its id, in the form of RTA_MULTIPATH.

    With net.ipv4.nexthop_compat_mode=0, the kernel names only the object of a route, not its next hops.
    """
    single: dict[int, Message] = {}
    groups: dict[int, list[tuple[int, int]]] = {}
    for message in kernel.dump(messages.RTM_GETNEXTHOP):
        attrs = message.attrs
        if "NHA_GROUP" in attrs:
            groups[attrs["NHA_ID"]] = attrs["NHA_GROUP"]
            continue
        fields = {"flags": message.fields["flags"], "oif": attrs.get("NHA_OIF", 0)}
        gateway = {"RTA_GATEWAY": attrs["NHA_GATEWAY"]} if "NHA_GATEWAY" in attrs else {}
        single[attrs["NHA_ID"]] = messages.Message(fields=fields, attrs=gateway)
    found = {each: [message] for each, message in single.items()}
    for each, members in groups.items():
        largest = max([_WEIGHT_MAX, *(weight for _, weight in members)])
        found[each] = [
            single[member].replace(fields={**single[member].fields, "hops": max(weight * _WEIGHT_MAX // largest, 1) - 1})
            for member, weight in members
            if member in single
        ]
    return found


def _ip(text: str | None) -> Ip | None:
    return ip_address(text) if text else None


def _hop(message: "Message") -> NextHop:
    via = message.attrs.get("RTA_VIA", {})
    return NextHop(
        gateway=_ip(message.attrs.get("RTA_GATEWAY") or via.get("addr")),
        onlink=bool(message.fields["flags"] & RTNH_F_ONLINK),
        down=bool(message.fields["flags"] & RTNH_F_LINKDOWN),
        weight=message.fields.get("hops", 0) + 1,
        link=message.fields.get("oif", message.attrs.get("RTA_OIF", 0)),
        realm=message.attrs.get("RTA_FLOW", 0),
    )


def set_link(
    kernel: "Netlink", index: int, *, mac: bytes = b"", mtu: int = 0, queue: int = 0, up: bool = False
) -> None:
    """Change what is given; `queue` in frames. OSError when refused."""
    attrs: list[tuple[str, Any]] = []
    if mac:
        attrs.append(("IFLA_ADDRESS", mac.hex(":")))
    if mtu:
        attrs.append(("IFLA_MTU", mtu))
    if queue:
        attrs.append(("IFLA_TXQLEN", queue))
    fields = {"index": index, "flags": IFF_UP if up else 0, "change": IFF_UP if up else 0}
    kernel.request(messages.RTM_NEWLINK, fields, attrs)


def set_link_local_mode(kernel: "Netlink", index: int, mode: int) -> None:
    """How the kernel makes the link-local IPv6 address of an interface, IN6_ADDR_GEN_MODE_*."""
    spec = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", mode]]}]]}
    kernel.request(messages.RTM_NEWLINK, {"index": index}, [("IFLA_AF_SPEC", spec)])


def add_address(kernel: "Netlink", index: int, address: Address, *, replace: bool = False) -> None:
    """Give an interface an address, usable at once; OSError when refused (EEXIST: it is there). `replace`: or change it."""
    flags = exchange.NLM_F_REPLACE if replace else exchange.NLM_F_EXCL
    kernel.request(messages.RTM_NEWADDR, *_address_message(index, address), exchange.NLM_F_CREATE | flags)


def delete_address(kernel: "Netlink", index: int, address: Address) -> None:
    """Take an address from an interface; OSError when refused (EADDRNOTAVAIL: it is not there)."""
    kernel.request(messages.RTM_DELADDR, *_address_message(index, address))


def _address_message(index: int, address: Address) -> "tuple[dict[str, int], list[tuple[str, Any]]]":
    own = address.interface
    flags = address.flags & (IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_NOPREFIXROUTE)
    attrs: list[tuple[str, Any]] = [
        ("IFA_LOCAL", str(own.ip)),
        ("IFA_ADDRESS", str(address.peer or own.ip)),
        ("IFA_FLAGS", flags),
    ]
    if address.broadcast is not None:
        attrs.append(("IFA_BROADCAST", str(address.broadcast)))
    if address.label:
        attrs.append(("IFA_LABEL", address.label))
    if address.metric:
        attrs.append(("IFA_RT_PRIORITY", address.metric))
    if address.proto:
        attrs.append(("IFA_PROTO", address.proto))
    if address.deprecated:
        attrs.append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOREVER}))
    fields = {
        "family": AF_INET if own.version == 4 else AF_INET6,
        "prefixlen": own.network.prefixlen,
        "flags": flags & 0xFF,
        "scope": address.scope,
        "index": index,
    }
    return fields, attrs


def add_route(kernel: "Netlink", index: int, route: Route) -> None:
    """Add a route through an interface; OSError when refused (EEXIST: it is there)."""
    # Appended, so that several routes to one destination with one metric keep their order.
    kernel.request(messages.RTM_NEWROUTE, *_route_message(index, route), exchange.NLM_F_CREATE | exchange.NLM_F_APPEND)


def delete_route(kernel: "Netlink", index: int, route: Route) -> None:
    """Delete a route of an interface; OSError when refused."""
    kernel.request(messages.RTM_DELROUTE, *_route_message(index, route))


def _route_message(index: int, route: Route) -> "tuple[dict[str, int], list[tuple[str, Any]]]":
    attrs: list[tuple[str, Any]] = [("RTA_TABLE", RT_TABLE_MAIN)]
    if route.destination.prefixlen:
        attrs.append(("RTA_DST", str(route.destination.network_address)))
    if route.origin is not None:
        attrs.append(("RTA_SRC", str(route.origin.network_address)))
    if route.metric:
        attrs.append(("RTA_PRIORITY", route.metric))
    if route.source is not None:
        attrs.append(("RTA_PREFSRC", str(route.source)))
    if route.metrics:
        attrs.append(("RTA_METRICS", {"attrs": [list(metric) for metric in route.metrics]}))
    if route.preference:
        attrs.append(("RTA_PREF", route.preference))
    flags = 0
    if len(route.hops) == 1:
        hop = route.hops[0]
        attrs += _hop_attributes(route, hop)
        attrs.append(("RTA_OIF", index))
        flags = RTNH_F_ONLINK if hop.onlink else 0
    else:
        hops = [
            {
                "oif": index,
                "flags": RTNH_F_ONLINK if hop.onlink else 0,
                "hops": hop.weight - 1,
                "attrs": [list(attr) for attr in _hop_attributes(route, hop)],
            }
            for hop in route.hops
        ]
        attrs.append(("RTA_MULTIPATH", hops))
    fields = {
        "family": AF_INET if route.destination.version == 4 else AF_INET6,
        "dst_len": route.destination.prefixlen,
        "src_len": route.origin.prefixlen if route.origin is not None else 0,
        "tos": route.tos,
        "table": RT_TABLE_MAIN,
        "proto": route.proto,
        "scope": route.scope,
        "type": RTN_UNICAST,
        "flags": flags,
    }
    return fields, attrs


def _hop_attributes(route: Route, hop: NextHop) -> "list[tuple[str, Any]]":
    attrs: list[tuple[str, Any]] = [("RTA_FLOW", hop.realm)] if hop.realm else []
    if hop.gateway is None:
        return attrs
    if hop.gateway.version == route.destination.version:
        return [*attrs, ("RTA_GATEWAY", str(hop.gateway))]
    family = AF_INET6 if hop.gateway.version == 6 else AF_INET
    return [*attrs, ("RTA_VIA", {"family": family, "addr": str(hop.gateway)})]
