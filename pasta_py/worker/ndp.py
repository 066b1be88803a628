"""Neighbour discovery (RFC 4861): neighbour and router solicitations in, advertisements out.

We are the guest's next hop to every address, so we answer for every address but the guest's own, as with ARP. Duplicate address
detection (RFC 4862, 5.4: solicitations from the unspecified address) gets an answer only for our own addresses; otherwise the guest
could not take any. Where the link may have other neighbours (plan.leases > 1), we answer for our own addresses only.

A router advertisement carries all that the plan has for it, in the 1280 bytes that each IPv6 link carries. Nameservers and domains
that do not fit are left out, from the end.
"""

from pasta_py import defaults
from pasta_py.worker import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.model import WorkerPlan

_ROUTER_SOLICITATION = 133
_ROUTER_ADVERTISEMENT = 134
_NEIGHBOUR_SOLICITATION = 135
_NEIGHBOUR_ADVERTISEMENT = 136

# Options: RFC 4861, 4.6; RFC 8106, 5
_SOURCE_MAC = 1
_TARGET_MAC = 2
_PREFIX = 3
_MTU = 5
_RDNSS = 25
_DNSSL = 31

_FOREVER = b"\xff\xff\xff\xff"  # the infinite lifetime of prefixes and nameservers
_HOP_LIMIT = 64  # for what the guest sends (RFC 4861, 4.2)
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_ROOM_BYTES = frames.IPV6_SAFE_BYTES - frames.IPV6_BYTES - 16  # for the options of a router advertisement
_AUTONOMOUS_PREFIX_BITS = 64  # hosts ignore a prefix of another length: no interface identifier fits (RFC 4862, 5.5.3 d)


def reply(plan: "WorkerPlan", frame: bytes) -> "bytes | None":
    """The advertisement that answers a neighbour or router solicitation; None for a frame that gets no answer."""
    if not plan.family6.on or not plan.ndp or not plan.our_link_local:
        return None
    packet = frames.packet6(plan, frame, frames.ICMPV6)
    message = frames.icmp6(packet)
    if packet is None or packet.hop_limit != 255 or message[1:2] != b"\0":
        return None
    if message[0] == _NEIGHBOUR_SOLICITATION:
        return _neighbour(plan, packet, message)
    if message[0] == _ROUTER_SOLICITATION and plan.ra:
        return _router(plan, packet, message)
    return None


def advertisement(plan: "WorkerPlan") -> bytes:
    """An unsolicited router advertisement to all nodes (RFC 4861, 6.2.4); b"" where they are off."""
    if not plan.family6.on or not plan.ndp or not plan.ra or not plan.our_link_local:
        return b""
    return _router_advertisement(plan, frames.multicast_mac(frames.ALL_NODES6), frames.ALL_NODES6)


def withdrawals(before: "WorkerPlan", now: "WorkerPlan") -> "list[bytes]":
    """What tells the guest that what `before` advertised is no longer so: prefix, router, nameservers, domains that `now` lacks.

    Lifetimes of 0 (RFC 4861, 6.2.5 and 6.2.8; RFC 8106, 5.1 and 5.2). A guest keeps an address of the prefix for two hours more,
    but uses it for no new connection (RFC 4862, 5.5.3 e).
    """
    if not advertisement(before):
        return []
    never = bytes(4)
    gone = before.our_link_local != now.our_link_local or not advertisement(now)
    options = _prefix_information(before, never) if _prefix_information(before) != _prefix_information(now) else b""
    servers = tuple(server for server in before.dns if gone or server not in now.dns)
    search = tuple(name for name in before.search if gone or name not in now.search)
    options += _naming(servers, search, _ROOM_BYTES - len(options), never)
    if not options and not gone:
        return []
    body = _head(before, 0) if gone else _head(now, defaults.ROUTER_LIFETIME_S)
    body += options
    mac, destination = frames.multicast_mac(frames.ALL_NODES6), frames.ALL_NODES6
    return [frames.icmp6_frame((before.our_mac, mac), (before.our_link_local, destination), _ROUTER_ADVERTISEMENT, body)]


def solicitation(plan: "WorkerPlan", mac: bytes, target: bytes) -> bytes:
    """A neighbour solicitation from us to that very address (RFC 4861, 7.2.2 and 7.3.3), in a frame to `mac`."""
    addresses = plan.our_link_local, target
    return frames.icmp6_frame((plan.our_mac, mac), addresses, _NEIGHBOUR_SOLICITATION, bytes(4) + target)


def _options(data: bytes) -> "dict[int, bytes] | None":
    """The first option of each type without its 2-byte head; None where the options are malformed."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        size = data[position + 1] * 8 if position + 1 < len(data) else 0
        if not 0 < size <= len(data) - position:
            return None
        found.setdefault(data[position], data[position + 2 : position + size])
        position += size
    return found


def _neighbour(plan: "WorkerPlan", packet: frames.Packet, message: bytes) -> "bytes | None":
    target, options = message[8:24], _options(message[24:])
    # RFC 4861, 7.1.1
    if len(message) < 24 or target[0] == 0xFF or options is None:
        return None
    if target in (frames.NOWHERE6, frames.NOWHERE6[1:] + b"\x01", plan.family6.guest, packet.source):
        return None
    probe = packet.source == frames.NOWHERE6
    if plan.leases > 1 and target not in frames.ours(plan):
        return None
    if probe:
        solicited_node = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]
        if packet.destination != solicited_node or _SOURCE_MAC in options or target not in frames.ours(plan):
            return None
    # R is set: without it the guest would remove us from its default routers (RFC 4861, 7.2.5).
    flags = _ROUTER | _OVERRIDE | (0 if probe else _SOLICITED)
    body = bytes((flags, 0, 0, 0)) + target + bytes((_TARGET_MAC, 1)) + plan.our_mac
    destination = frames.ALL_NODES6 if probe else packet.source
    mac = frames.multicast_mac(destination) if probe else packet.mac
    return frames.icmp6_frame((plan.our_mac, mac), (target, destination), _NEIGHBOUR_ADVERTISEMENT, body)


def _router(plan: "WorkerPlan", packet: frames.Packet, message: bytes) -> "bytes | None":
    options = _options(message[8:])
    # RFC 4861, 6.1.1
    if len(message) < 8 or options is None:
        return None
    if packet.source != frames.NOWHERE6:
        return _router_advertisement(plan, packet.mac, packet.source)
    return None if _SOURCE_MAC in options else advertisement(plan)


def _router_advertisement(plan: "WorkerPlan", mac: bytes, destination: bytes) -> bytes:
    options = bytes((_SOURCE_MAC, 1)) + plan.our_mac
    if plan.assign_mtu and plan.mtu >= frames.IPV6_SAFE_BYTES:  # hosts ignore less: no IPv6 link has it
        options += bytes((_MTU, 1, 0, 0)) + plan.mtu.to_bytes(4, "big")
    options += _prefix_information(plan)
    options += _naming(plan.dns, plan.search, _ROOM_BYTES - len(options))
    body = _head(plan, defaults.ROUTER_LIFETIME_S) + options
    return frames.icmp6_frame((plan.our_mac, mac), (plan.our_link_local, destination), _ROUTER_ADVERTISEMENT, body)


def _head(plan: "WorkerPlan", router_lifetime_s: int) -> bytes:
    """A router advertisement from its hop limit to its options (RFC 4861, 4.2)."""
    managed = _MANAGED if plan.family6.guest else 0
    flags = (managed | _OTHER) if plan.dhcpv6 else 0
    # Reachable time and retransmission timer are 0: unspecified.
    return bytes((_HOP_LIMIT, flags)) + router_lifetime_s.to_bytes(2, "big") + bytes(8)


def _naming(dns: "Iterable[bytes]", search: "tuple[str, ...]", room: int, lifetime: bytes = _FOREVER) -> bytes:
    """The options with nameservers and search domains (RFC 8106, 5.1 and 5.2), in `room` bytes at most."""
    options = b""
    # The room is less than the 255 units of 8 bytes that an option's length field can count.
    servers = [server for server in map(frames.ipv6, dns) if server][: (room - 8) // 16]
    if servers:
        units = 1 + 2 * len(servers)
        options += bytes((_RDNSS, units, 0, 0)) + lifetime + b"".join(servers)
        room -= units * 8
    names = frames.dns_names(search, (room - 8) & ~7) if room > 8 else b""
    if names:
        names += bytes(-len(names) % 8)
        options += bytes((_DNSSL, 1 + len(names) // 8, 0, 0)) + lifetime + names
    return options


def _prefix_information(plan: "WorkerPlan", lifetime: bytes = _FOREVER) -> bytes:
    """The prefix information option (RFC 4861, 4.6.2); b"" without an address.

    The prefix has 64 bits, also where the host's has more, so that the guest can make an address from it. That address need not be
    unique outside: the outside sees the host's address, and on the link we answer for every other address.
    """
    if not plan.family6.guest:
        return b""
    prefix = plan.family6.guest[: _AUTONOMOUS_PREFIX_BITS // 8] + bytes(8)
    head = bytes((_PREFIX, 4, _AUTONOMOUS_PREFIX_BITS, _ON_LINK | _AUTONOMOUS))
    return head + lifetime + lifetime + bytes(4) + prefix
