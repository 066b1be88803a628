"""How a guest reaches the host's nameservers: at their own addresses, or through an address that we forward. Pure.

The guest cannot reach a nameserver at a loopback address of the host (systemd-resolved's 127.0.0.53), at an address that the
guest has itself, or at one that is mapped to the host's loopback. Such a nameserver gets a forwarding address of either family:
that of --dns-forward, else the address that is mapped to the host's loopback. Under pasta-py, where the guest reaches no
nameserver at its own address, there is an address for this alone: its port 53 leads to the host's nameserver, its other ports
lead nowhere.
"""

from pasta_py.control.ip import IPv4Address, IPv6Address
from pasta_py.control.netlink.links_addresses_routes import Ip
from pasta_py.control.planning.mapping import Mapping
from pasta_py.control.planning.resolv_conf import Resolv, View
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.commandline.options import Options

FORWARDER4 = IPv4Address("169.254.1.1")  # link-local (RFC 3927), and what podman gives to --dns-forward
LOCAL = IPv4Address("127.0.0.1")  # libc's nameserver where resolv.conf names none (resolv.conf(5))


class Guest(Record):
    """What the choice depends on."""

    addresses: tuple[Ip, ...]
    versions: tuple[int, ...]  # of IP that are on
    router6: Ip  # our link-local address
    advertised: bool  # it gets router advertisements
    ifname: str


class Names(Record):
    """The nameservers of a guest."""

    announced: tuple[Ip, ...]  # by DHCP, NDP and DHCPv6, unless an option switches that off
    view: View  # which of the host's nameservers the guest reaches at their own addresses
    forwarders: tuple[Ip, ...] = ()  # announced addresses that are forwarded to the host's nameserver; at most one per family
    only_dns: bool = False  # the forwarders come from no option: only their port 53 is forwarded
    warnings: tuple[str, ...] = ()


def choose(options: "Options", resolv: Resolv, maps: dict[int, Mapping], guest: Guest) -> Names:
    """The guest's nameservers. Where one needs a forwarding address, `maps` is changed."""
    view = _view(resolv.nameservers, maps, guest)
    if options.egress_dns and not options.splice_only:
        return _served(options, maps, guest, view)
    if options.dns is not None:
        return Names(announced=tuple(dict.fromkeys(options.dns)), view=view)
    warnings: tuple[str, ...] = ()
    if options.program == "pasta-py" and not resolv.nameservers and not options.dns_host:
        warnings = ("the host's /etc/resolv.conf names no nameserver, or is missing: give one with --dns",)
    own = options.program == "pasta-py" and not options.splice_only
    if own and not any(map(view.reaches, resolv.nameservers)):
        forwarders = tuple(_forwarders(maps, guest))
        if forwarders:
            only_dns = not options.dns_forward
            return Names(announced=forwarders, view=view, forwarders=forwarders, only_dns=only_dns, warnings=warnings)
    announced, unreached = _reachable(resolv, maps, guest, bool(options.dns_host))
    return Names(announced=tuple(dict.fromkeys(announced)), view=view, warnings=(*warnings, *unreached))


def _served(options: "Options", maps: dict[int, Mapping], guest: Guest, view: View) -> Names:
    """Names where the worker answers all queries of the guest, to any address: the one that is announced is a forwarder."""
    forwarders = tuple(_forwarders(maps, guest))
    others = [address for address in options.dns or () if address not in forwarders]
    if others:
        other = f"[{others[0]}]" if others[0].version == 6 else str(others[0])
        why = "with an egress policy or --egress-dns the guest's queries are answered here"
        by_rule = f"--allow {other}:53 opens it to programs that name it themselves"
        raise UsageError(f"--dns {others[0]}: {why}: leave it out, or say --dns-host {others[0]}; {by_rule}")
    announced = forwarders if options.dns is None else options.dns
    return Names(announced=announced, view=view, forwarders=forwarders, only_dns=not options.dns_forward)


def _view(servers: "Iterable[Ip]", maps: dict[int, Mapping], guest: Guest) -> View:
    # In many networks the gateway is the nameserver too. Where its address means the host's loopback, its port 53 still leads to
    # the nameserver (see _forwarder).
    mapped = [m.loopback for m in maps.values() if m.loopback and (m.dns_forward or m.loopback not in servers)]
    forwarded = [m.dns_forward for m in maps.values() if m.dns_forward]
    taken = tuple(map(str, (*guest.addresses, *mapped, *forwarded)))
    return View(versions=guest.versions, taken=taken, ifname=guest.ifname)


def _forwarders(maps: dict[int, Mapping], guest: Guest) -> "Iterable[Ip]":
    from_user = [m.dns_forward for m in maps.values() if m.dns_forward is not None]
    for version in guest.versions:
        mapping = maps[version]
        forward = mapping.dns_forward
        if not from_user and version == 4 and FORWARDER4 not in guest.addresses:
            forward = FORWARDER4
        elif not from_user and version == 6 and (guest.advertised or maps[4].dns_forward is None):
            forward = guest.router6
        if forward is not None:
            host = mapping.dns_host
            if host is None or host.is_unspecified:
                host = LOCAL
            maps[version] = mapping.replace(dns_forward=forward, dns_host=host)
            yield forward


def _reachable(resolv: Resolv, maps: dict[int, Mapping], guest: Guest, host_given: bool) -> tuple[list[Ip], list[str]]:
    """The host's nameservers as the guest reaches them, and a warning for each that it does not."""
    announced: list[Ip] = []
    warnings: list[str] = []
    for server in resolv.nameservers:
        # The scope is an interface of the host, which the guest does not know.
        plain = IPv6Address(int(server)) if isinstance(server, IPv6Address) else server
        mapping = maps[server.version]
        direct = not plain.is_loopback and not plain.is_unspecified
        if direct and server.version not in guest.versions:
            continue
        if direct and plain not in guest.addresses and plain not in (mapping.loopback, mapping.dns_forward):
            announced.append(plain)
            continue
        via = _forwarder(server, maps, host_given)
        if via is not None:
            announced.append(via)
        else:
            warnings.append(f"nameserver {server} of the host is out of the guest's reach: give --dns-forward or --dns")
    return announced, warnings


def _forwarder(server: Ip, maps: dict[int, Mapping], host_given: bool) -> Ip | None:
    for family in (server.version, 10 - server.version):
        mapping = maps[family]
        if mapping.dns_forward is not None:
            return mapping.dns_forward
        if mapping.loopback is not None:
            dns_host = mapping.dns_host if host_given else server
            maps[family] = mapping.replace(dns_forward=mapping.loopback, dns_host=dns_host)
            return mapping.loopback
    return None
