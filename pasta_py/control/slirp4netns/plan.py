"""From slirp4netns's options to a plan, by planning/plan.py: the network that slirp4netns's guests know. Pure.

    IPv4    the network of --cidr     +2 gateway, and the host's loopback    +3 DNS    +15 by DHCP    +100 with --configure
    IPv6    fd00::/64                 ::2 the host's loopback    ::3 DNS    fe80::2 gateway    with --configure by MAC address

A difference from slirp4netns (docs/slirp4netns.md lists them): --configure sets IPv6 addresses and routes itself, without an
advertisement, so that they are usable when the program is ready.
"""

from pasta_py import defaults
from pasta_py.control.commandline import options
from pasta_py.control.commandline.notices import WARNING
from pasta_py.control.ip import IPv4Network, IPv6Address, ip_interface, packed
from pasta_py.control.netlink.links_addresses_routes import Ip
from pasta_py.control.planning import our_addresses, plan
from pasta_py.control.planning.host import HostSnapshot
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.control.slirp4netns.options import PROGRAM, SlirpOptions

GATEWAY, DNS, DHCP, DHCP_LAST, GUEST = 2, 3, 15, 30, 100  # within the network
PREFIX6 = IPv6Address("fd00::")
PREFIX6_BITS = 64
GATEWAY6 = IPv6Address("fe80::2")
_OUR_MAC_HEAD = b"\x52\x55"  # before the gateway's IPv4 address, as libslirp makes its own


def address(network: IPv4Network, place: int) -> Ip:
    return network.network_address + place


def address6(place: int) -> IPv6Address:
    return PREFIX6 + place


def guest6(mac: bytes) -> IPv6Address:
    """The address that the guest makes from the prefix by itself (RFC 4291, appendix A)."""
    return PREFIX6 + (int(our_addresses.link_local_of(mac)) & (1 << 64) - 1)


def as_pasta(asked: SlirpOptions, mac: bytes) -> options.Options:
    """The options of pasta that make the same network; `mac` is the tap's, b"" for one that is not configured."""
    gateway, dns = address(asked.network, GATEWAY), address(asked.network, DNS)
    own = ip_interface(f"{address(asked.network, GUEST)}/{asked.network.prefixlen}")
    addresses, servers = [own], [dns]
    loopback = [gateway]
    if asked.ipv6:
        addresses.append(ip_interface(f"{guest6(mac) if mac else address6(GUEST)}/{PREFIX6_BITS}"))
        servers.append(address6(DNS))
        loopback.append(address6(GATEWAY))
    served = tuple(servers) if asked.dns else ()
    return options.Options(
        program=PROGRAM,
        foreground=True,
        log_level=WARNING,
        config_net=asked.configure,
        ns_ifname=asked.tapname or defaults.IFNAME,
        ns_mac_addr=mac,
        mac_addr=_OUR_MAC_HEAD + gateway.packed,
        mtu=asked.mtu,
        address=tuple(addresses),
        gateway4=gateway,  # type: ignore[arg-type] # of a network of IPv4
        gateway6=GATEWAY6,
        outbound4=asked.outbound4,
        outbound6=asked.outbound6,
        outbound_if4=asked.outbound_if4,
        outbound_if6=asked.outbound_if6,
        ipv6=asked.ipv6,
        dns=served,
        dhcp_dns=True,
        dhcp_search=True,
        dhcpv6=False,
        map_host_loopback=tuple(loopback) if asked.host_loopback else (),
        map_gw=False,
        multicast=False,
        dns_forward=served,
        splice=False,
    )


def build(asked: SlirpOptions, pasta: options.Options, host: HostSnapshot, resolv: Resolv) -> plan.Plan:
    """The plan; UsageError and HostError as plan.build, with `pasta` from as_pasta()."""
    made = plan.build(pasta, host, resolv)
    # Virtual even if a machine of the host's network has one of these addresses: the guest means ours.
    virtual = [address(asked.network, GATEWAY), address(asked.network, DNS)]
    if made.worker.family6.on:
        virtual += [address6(GATEWAY), address6(DNS), GATEWAY6]
    # DHCP's first address. With --configure the guest has another one and needs no DHCP.
    family4 = made.worker.family4.replace(guest=packed(address(asked.network, DHCP)), prefix=asked.network.prefixlen)
    worker = made.worker.replace(
        family4=family4,
        leases=DHCP_LAST - DHCP + 1,
        virtual_addrs=tuple(map(packed, virtual)),
    )
    changed: plan.Plan = made.replace(worker=worker)
    return changed
