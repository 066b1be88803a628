"""Which addresses mean something else to the guest than to the host: the host's loopback, its own address, its nameserver. Pure.

Invariant: no mapped address is one of the guest's own.
"""

from pasta_py.control.netlink.links_addresses_routes import Ip
from pasta_py.control.planning.guest_family import GuestFamily, is_mappable
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.commandline.options import Options


class Mapping(Record):
    """Addresses of one family that mean something else to the guest than to the host."""

    loopback: Ip | None = None
    guest: Ip | None = None
    dns_forward: Ip | None = None
    dns_host: Ip | None = None


def of_family(version: int, options: "Options", resolv: Resolv, guest: GuestFamily) -> Mapping:
    if not guest.on:
        return Mapping()
    loopback = _pick(options.map_host_loopback or (), version, "--map-host-loopback", guest)
    if loopback is None and options.map_host_loopback != () and options.map_gw and guest.gateway is not None:
        # To a gateway that is its own address (as on an unnumbered link) the guest never sends.
        loopback = None if guest.has(guest.gateway) or not is_mappable(guest.gateway) else guest.gateway
    dns_host = next((a for a in options.dns_host if a.version == version), None) or next(iter(options.dns_host), None)
    if dns_host is None:
        servers = resolv.nameservers
        dns_host = next((a for a in servers if a.version == version), None) or next(iter(servers), None)
    own = _pick(options.map_guest_addr, version, "--map-guest-addr", guest)
    if loopback is not None and loopback == own:
        raise UsageError(
            f"--map-guest-addr {own}: this address is mapped to the host's loopback: give another, or --no-map-gw"
        )
    return Mapping(
        loopback=loopback,
        guest=own,
        dns_forward=_pick(options.dns_forward, version, "--dns-forward", guest),
        dns_host=dns_host,
    )


def _pick(from_user: "Iterable[Ip]", version: int, option: str, guest: GuestFamily) -> Ip | None:
    address = next((a for a in from_user if a.version == version), None)
    if address is None:
        return None
    if not is_mappable(address):
        raise UsageError(f"{option} {address}: this address cannot be mapped: give a unicast address")
    if guest.has(address):
        raise UsageError(
            f"{option} {address}: this is the guest's own address, which it never sends to us: give another"
        )
    return address
