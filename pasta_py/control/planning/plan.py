"""From options, host and resolv.conf to everything that control then does: pure, no system calls.

Two results: what the worker gets (WorkerPlan), and how the guest's interface is to look (LinkPlan). `guest_family` plans each
family, and `nameservers` chooses the nameservers.

Invariants: every planned address and route is of a family that is on; no mapped address is one of the guest's own.
"""

from pasta_py import defaults
from pasta_py.control.commandline.option_values import MAX_MTU, MIN_MTU
from pasta_py.control.ip import ip_network, packed
from pasta_py.control.netlink import links_addresses_routes as rtnl
from pasta_py.control.netlink.links_addresses_routes import Address, Ip, NextHop, Route
from pasta_py.control.planning import mapping, nameservers, our_addresses
from pasta_py.control.planning.guest_family import GuestFamily, is_copied, plan_family
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.mapping import Mapping
from pasta_py.control.planning.nameservers import Names
from pasta_py.control.planning.resolv_conf import Resolv, View
from pasta_py.errors import HostError, UsageError
from pasta_py.model import FamilyPlan, WorkerPlan
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:

    from pasta_py.control.commandline.options import Options



class LinkPlan(Record):
    """How the interface in the namespace is to look."""

    ifname: str
    mac: bytes  # 6 bytes; b"": keep the one it has
    mtu: int  # bytes; 0: keep the one it has
    configure: bool  # False: only lo and the MAC address, the guest configures the rest itself
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    mirrored: tuple[int, ...]  # families (4, 6) whose routes are to be these and no others
    ipv6: bool  # False: no IPv6 on the interface, not even a link-local address


class Plan(Record):
    """Everything that `build` decides."""

    worker: WorkerPlan  # start/hand_over.py fills in the tap, ports, log and descriptors
    link: LinkPlan
    templates: tuple[str, str]  # host interfaces that addresses and routes are from, IPv4's and IPv6's; "": none
    dns: tuple[Ip, ...]  # nameservers as the guest reaches them, announced or not
    search: tuple[str, ...]  # domains, announced or not
    warnings: tuple[str, ...]  # one line each, for the user: what differs from what the options say
    notices: tuple[str, ...]  # one line each, for the user: what follows from this host, and is no reason to warn
    resolv: View | None = None  # what a command is to read in /etc/resolv.conf; None: the host's


def interfaces(options: "Options") -> tuple[str, str]:
    """Names of the host interfaces to take a snapshot of, IPv4's and IPv6's; "" lets the host decide."""
    return options.interface or options.outbound_if4, options.interface or options.outbound_if6


def build(options: "Options", host: HostSnapshot, resolv: Resolv, *, shares_etc: bool = False) -> Plan:
    """The plan. `shares_etc`: the guest may be able to write the host's own resolv.conf.

    UsageError for options that contradict each other or the host, HostError for a host that has neither family.
    """
    mtu = _mtu(options)
    _check_names(options, host)
    guest4 = plan_family(4, options, host.ipv4, mtu)
    guest6 = plan_family(6, options, host.ipv6, mtu)
    if not guest4.on and not guest6.on:
        why = guest4.notices + guest6.notices + guest4.warnings + guest6.warnings
        raise HostError(f"nothing to offer the guest: {'; '.join(why)}")
    map4, map6, names = _mappings(options, host, resolv, guest4, guest6)
    warnings = guest4.warnings + guest6.warnings + names.warnings + _outbound_warnings(options, host) + _no_effect(options)
    notices = guest4.notices + guest6.notices
    worker = _worker(options, host, resolv, (guest4, guest6), (map4, map6), mtu)
    worker = _with_names(worker, options, resolv, names, shares_etc)
    if options.egress_dns:
        worker = worker.replace(host_names=(host.name,) if host.name else ())
    guest4 = _with_forwarder_route(guest4, names)
    if options.splice_only:  # the guest has only its loopback: what would need the tap is refused
        worker = worker.replace(
            local_only=True,
            family4=worker.family4.replace(guest=b""),
            family6=worker.family6.replace(guest=b""),
            ra=False,
            lo_to_lo=True,
        )
        warnings = notices = ()
    return Plan(
        worker=worker,
        link=_link(options, guest4, guest6),
        templates=(guest4.link_name, guest6.link_name),
        dns=names.announced,
        search=_search(options, resolv),
        warnings=warnings,
        notices=notices,
        resolv=_view(options, names),
    )


# ---- checks ----


def _mtu(options: "Options") -> int:
    mtu = defaults.MTU if options.mtu is None else options.mtu
    if mtu and not MIN_MTU <= mtu <= MAX_MTU:
        raise UsageError(f"MTU {mtu} is out of range: give --mtu {MIN_MTU} to {MAX_MTU}, or 0 to leave it alone")
    return mtu or defaults.TAP_MTU


def _check_names(options: "Options", host: HostSnapshot) -> None:
    for option, name in (("--outbound-if4", options.outbound_if4), ("--outbound-if6", options.outbound_if6)):
        if name and _real(name, host) not in host.interfaces:
            raise UsageError(f"{option}: the host has no interface {name!r}: name one of {', '.join(host.interfaces)}")


def _real(name: str, host: HostSnapshot) -> str:
    """The interface's own name, which is what sockets are bound to: alternative names are longer than they take."""
    return dict(host.alternatives).get(name, name)


def _outbound_warnings(options: "Options", host: HostSnapshot) -> tuple[str, ...]:
    return tuple(
        f"outbound address {address} is not one of the host's: connections fail until it is"
        for address in (options.outbound4, options.outbound6)
        if address is not None and address not in host.addresses and not address.is_loopback and not options.freebind
    )


def _no_effect(options: "Options") -> tuple[str, ...]:
    """Options that another one leaves without effect."""
    found = []
    for flag, specs, off, on in (
        ("-t", options.tcp_ports, "--no-tcp", options.tcp), ("-T", options.tcp_ns, "--no-tcp", options.tcp),
        ("-u", options.udp_ports, "--no-udp", options.udp), ("-U", options.udp_ns, "--no-udp", options.udp),
    ):  # fmt: skip
        if not on and any(spec.chunks for spec in specs):
            found.append(f"{flag} {next(spec for spec in specs if spec.chunks)} has no effect beside {off}: leave out one of them")
    for version, on in ((4, options.ipv4), (6, options.ipv6)):
        given: list[tuple[str, Ip | None]] = [("-a", address.ip) for address in options.address]
        given += [("-g", options.gateway4), ("-g", options.gateway6), *(("-D", server) for server in options.dns or ())]
        for flag, address in given:
            if not on and address is not None and address.version == version:
                found.append(f"{flag} {address} has no effect beside -{10 - version}: leave out one of them")
    return tuple(found)


# ---- mapping and name service ----


def _mappings(
    options: "Options", host: HostSnapshot, resolv: Resolv, guest4: GuestFamily, guest6: GuestFamily
) -> tuple[Mapping, Mapping, Names]:
    """What is mapped in each family, and the nameservers of the guest."""
    maps = {version: mapping.of_family(version, options, resolv, guest) for version, guest in ((4, guest4), (6, guest6))}
    names = nameservers.choose(options, resolv, maps, _seen(options, host, guest4, guest6))
    return maps[4], maps[6], names


def _search(options: "Options", resolv: Resolv) -> tuple[str, ...]:
    return resolv.search if options.search is None else options.search


def _seen(options: "Options", host: HostSnapshot, guest4: GuestFamily, guest6: GuestFamily) -> nameservers.Guest:
    guests = {4: guest4, 6: guest6}
    return nameservers.Guest(
        addresses=tuple(a.interface.ip for guest in guests.values() for a in guest.addresses),
        versions=tuple(version for version, guest in guests.items() if guest.on),
        router6=_our_link_local(options, host, guest6),
        advertised=_advertised(options, guest6),
        ifname=_ifname(options, guest4, guest6),
    )


def _our_link_local(options: "Options", host: HostSnapshot, guest6: GuestFamily) -> Ip:
    return our_addresses.link_local(options, guest6.gateway, host.ipv6.addresses if guest6.link_index else ())


def _advertised(options: "Options", guest6: GuestFamily) -> bool:
    # An interface that we configure needs no advertisement: it would get its routes and addresses twice.
    return options.ra and options.ndp and guest6.on and not options.config_net


def _with_names(
    worker: WorkerPlan, options: "Options", resolv: Resolv, names: Names, shares_etc: bool
) -> WorkerPlan:
    """The plan with what DHCP, NDP and DHCPv6 announce. Forwarders that come from no option get port 53 only."""
    # Off unless asked for, as in pasta: a DHCP client in the namespace would rewrite the host's own resolv.conf.
    machine = options.program == "passt"
    ours = bool(names.forwarders) and (options.program == "pasta-py" or bool(options.egress_dns)) and not shares_etc
    needed = machine or bool(options.dns) or ours
    announce_dns = needed if options.dhcp_dns is None else options.dhcp_dns
    announce_search = (machine or bool(options.search)) if options.dhcp_search is None else options.dhcp_search
    changed: WorkerPlan = worker.replace(
        dns=tuple(map(packed, names.announced)) if announce_dns else (),
        search=_search(options, resolv) if announce_search else (),
        dns_tls=not names.only_dns,
    )
    if options.egress_dns:
        return changed.replace(  # type: ignore[no-any-return]
            serves_dns=True,
            dns_servers=tuple(map(packed, options.dns_host or resolv.nameservers or (nameservers.LOCAL,))),
            all_names=options.egress_dns == "all",
            dns_tls=False,
        )
    return changed


def _with_forwarder_route(guest4: GuestFamily, names: Names) -> GuestFamily:
    """The guest with a route to our forwarder, where no other route leads there."""
    ours = next((address for address in names.forwarders if address.version == 4), None)
    leading = [route.destination for route in guest4.routes] + [our_addresses.prefix_of(address) for address in guest4.addresses]
    if ours is None or not names.only_dns or any(ours in network for network in leading):
        return guest4
    route = Route(destination=ip_network(f"{ours}/32"), hops=(NextHop(),), scope=rtnl.RT_SCOPE_LINK)
    changed: GuestFamily = guest4.replace(routes=(*guest4.routes, route))
    return changed


def _view(options: "Options", names: Names) -> View | None:
    """What a command reads in /etc/resolv.conf; None: the host's file, as always under pasta."""
    asked = options.dns or options.search is not None or names.forwarders
    if not options.egress_dns and (options.program != "pasta-py" or not asked):
        return None
    forwarder = next(iter(names.forwarders), None)
    scope = f"%{names.view.ifname}" if forwarder and forwarder.version == 6 and forwarder.is_link_local else ""
    said = tuple(map(str, options.dns or ()))
    if options.egress_dns and forwarder:
        said = (f"{forwarder}{scope}",)
    changed: View = names.view.replace(
        from_user=said,
        search=options.search,
        forwarder=f"{forwarder}{scope}" if forwarder else "",
    )
    return changed


# ---- results ----


def _guest_addresses(options: "Options", guests: tuple[GuestFamily, GuestFamily]) -> tuple[bytes, ...]:
    """The addresses that the guest has at the start, or gets by DHCP: one of each family. The worker learns others."""
    own: list[Ip] = []
    for guest in guests:
        first = guest.first()
        known = guest.addresses if options.config_net else (first,) if first else ()
        own += [address.interface.ip for address in known]
    return tuple(packed(address) for address in dict.fromkeys(own))


def _ifname(options: "Options", guest4: GuestFamily, guest6: GuestFamily) -> str:
    return options.ns_ifname or guest4.link_name or guest6.link_name or defaults.IFNAME


def _host_address(family: Family, guest: GuestFamily, host: HostSnapshot) -> Ip | None:
    """The address of the host that --map-guest-addr stands for: the one that the guest shares, else the host's own first."""
    shared = guest.first()
    if shared is not None and shared.interface.ip in host.addresses:
        return shared.interface.ip
    own = GuestFamily(on=True, addresses=tuple(filter(is_copied, family.addresses)), routes=family.routes).first()
    return own.interface.ip if own else None


def _link(options: "Options", guest4: GuestFamily, guest6: GuestFamily) -> LinkPlan:
    guests = (guest4, guest6) if options.config_net else ()
    return LinkPlan(
        ifname=_ifname(options, guest4, guest6),
        mac=options.ns_mac_addr,
        mtu=defaults.MTU if options.mtu is None else options.mtu,
        configure=options.config_net,
        addresses=tuple(address for guest in guests for address in guest.addresses),
        routes=tuple(route for guest in guests for route in guest.routes),
        mirrored=tuple(version for version, guest in ((4, guest4), (6, guest6)) if guest.mirrored and guest.on),
        ipv6=guest6.on,
    )


def _family_plan(version: int, options: "Options", host: HostSnapshot, guest: GuestFamily, mapping: Mapping) -> FamilyPlan:
    family, outbound, outbound_if = (
        (host.ipv4, options.outbound4, options.outbound_if4)
        if version == 4
        else (host.ipv6, options.outbound6, options.outbound_if6)
    )
    first = guest.first()
    return FamilyPlan(
        on=guest.on,
        guest=packed(first.interface.ip if first else None),
        prefix=first.interface.network.prefixlen if first else 0,
        gateway=packed(guest.gateway),
        map_host_loopback=packed(mapping.loopback),
        map_guest_addr=packed(mapping.guest),
        host=packed(_host_address(family, guest, host)),
        dns_forward=packed(mapping.dns_forward),
        dns_host=packed(mapping.dns_host),
        outbound=packed(outbound),
        outbound_if=_real(outbound_if, host),
        ifindex=guest.link_index,
    )


def _worker(
    options: "Options",
    host: HostSnapshot,
    resolv: Resolv,
    guests: tuple[GuestFamily, GuestFamily],
    maps: tuple[Mapping, Mapping],
    mtu: int,
) -> WorkerPlan:
    (guest4, guest6), (map4, map6) = guests, maps
    addresses = guest4.addresses + guest6.addresses
    own = [address.interface.ip for address in addresses]
    our_link_local = _our_link_local(options, host, guest6)
    mapped = (address for m in maps for address in (m.loopback, m.guest, m.dns_forward))
    held = [a for a in dict.fromkeys((guest4.gateway, guest6.gateway, our_link_local, *mapped)) if a is not None and a not in own]
    virtual = our_addresses.virtual(held, host, resolv)
    barred = [a for a in held + our_addresses.broadcasts(addresses) if a not in virtual and a not in own]
    return WorkerPlan(
        guest_mac=options.ns_mac_addr or b"\0" * 6,
        our_mac=options.mac_addr,
        mtu=mtu,
        link_mtu=min((g.link_mtu for g in guests if g.on and g.link_mtu), default=defaults.MTU),
        vnet_hdr=False,
        uso=False,
        tcp=options.tcp,
        udp=options.udp,
        icmp=options.icmp,
        multicast=options.multicast,
        broadcast=options.broadcast,
        dhcp=options.dhcp and guest4.on,
        dhcpv6=options.dhcpv6 and guest6.on,
        ndp=options.ndp and guest6.on,
        ra=_advertised(options, guest6),
        family4=_family_plan(4, options, host, guest4, map4),
        family6=_family_plan(6, options, host, guest6, map6),
        our_link_local=packed(our_link_local),
        guest_addrs=_guest_addresses(options, guests),
        virtual_addrs=tuple(map(packed, virtual)),
        barred_sources=tuple(map(packed, dict.fromkeys(barred))),
        dns=(),
        search=(),
        hostname=options.hostname,
        fqdn=options.fqdn,
        listeners=(),
        guest_ports=(),
        auto_rules=(),
        splice=options.splice,
        lo_to_lo=options.host_lo_to_ns_lo,
        assign_mtu=options.mtu != 0,
        rate_out=options.rate_out,
        rate_in=options.rate_in,
        lease_s=defaults.LEASE_S if options.follow and not options.config_net else 0,
        program=options.program,
        log_level=options.log_level,
        log_syslog=False,
        log_size=0,
        netns_name="",
        pcapng=options.pcap.endswith(".pcapng"),
        stats_s=options.stats or 0,
        lossy=options.fd is not None,
        local_only=False,
        descriptors=(),
    )
