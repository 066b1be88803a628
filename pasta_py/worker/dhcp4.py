"""A DHCP server (RFC 2131, RFC 2132) that gives out one address, or one per neighbour (Leases); and BOOTP (RFC 1534).

Each client gets the guest's address, with an infinite lease unless the guest follows the host. A client that asks for another
address gets a DHCPNAK, so that it starts over. A client that has chosen another server gets no answer. Relayed messages get none
either: the link has no relay.

A reply is no longer than the client accepts (RFC 2132, 9.10). Options that do not fit are left out, first those that the client
did not ask for; lists are cut at the end. Options over 255 bytes are split (RFC 3396).
"""

from pasta_py.worker import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan
    from pasta_py.worker.forced_renewal import Client, Renewals

_SERVER_PORT, _CLIENT_PORT = 67, 68
_COOKIE = b"\x63\x82\x53\x63"
_FIXED_BYTES = 236  # op to file
_BOOTP_BYTES = 300  # the least that old clients and relays accept (RFC 1542, 2.1)
_REQUEST_HEAD = b"\x01\x01\x06"  # BOOTREQUEST, Ethernet, 6-byte addresses
_REPLY_HEAD = b"\x02\x01\x06\0"
_BROADCAST_FLAG = 0x80

# Message types (RFC 2132, 9.6)
_DISCOVER, _OFFER, _DHCPREQUEST, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_FORCERENEW = 9  # RFC 3203, 4

# Options (RFC 2132, unless another is named)
_PAD, _END = 0, 255
_MASK, _ROUTER, _DNS, _HOSTNAME, _MTU, _BROADCAST = 1, 3, 6, 12, 26, 28
_WANTED, _LEASE, _OVERLOAD, _TYPE, _SERVER, _PARAMETERS, _TEXT, _MAX_BYTES = 50, 51, 52, 53, 54, 55, 56, 57
_CLIENT_ID = 61
_RAPID_COMMIT = 80  # RFC 4039
_FQDN = 81  # RFC 4702
_AUTHENTICATION = 90  # RFC 3118, 2
_SEARCH = 119  # RFC 3397
_ROUTES = 121  # RFC 3442
_RENEWABLE = 145  # the client can be forced to renew, with these algorithms (RFC 6704, 3.1.1)

_SIZES = {_WANTED: 4, _OVERLOAD: 1, _TYPE: 1, _SERVER: 4, _MAX_BYTES: 2}
_HMAC_MD5 = 1  # RFC 6704, 3.1.2
_FOREVER = b"\xff\xff\xff\xff"
_DEFAULT_MAX_BYTES = 576  # of the IP packet; each client accepts that much (RFC 2131, 2)
_MOST_BYTES = 1500
_RESERVED_BYTES = 14  # for lease time, rapid commit and mask; the client's identifier gets what is left

#: Server identifier where the plan has no gateway: the gateway that local mode uses.
_FALLBACK_SERVER = b"\xa9\xfe\x02\x02"


class Leases:
    """Which neighbour (MAC address) has which of the plan's addresses. The first to ask gets the first; no lease ends."""

    def __init__(self, plan: "WorkerPlan") -> None:
        self._plan = plan
        self._places: dict[bytes, int] = {}

    def adopt(self, plan: "WorkerPlan") -> None:
        """Go on with a changed plan, whose first address is the same."""
        self._plan = plan

    def plan_for(self, mac: bytes) -> "WorkerPlan | None":
        """The plan with this neighbour's address as the guest's; None when no address is left."""
        place = self._places.get(mac, len(self._places))
        if place >= self._plan.leases:
            return None
        self._places[mac] = place
        first = int.from_bytes(self._plan.family4.guest, "big")
        address = (first + place).to_bytes(16, "big")
        return self._plan.replace(family4=self._plan.family4.replace(guest=address)) if place else self._plan


def reply(
    plan: "WorkerPlan", frame: bytes, leases: "Leases | None" = None, renewals: "Renewals | None" = None
) -> "bytes | None":
    """The DHCP or BOOTP reply to a client's message; None for a frame that gets no reply.

    `leases`: where the guest's link may have several neighbours. Without it each client gets the guest's address. `renewals`: where
    clients can be made to renew.
    """
    if not plan.family4.on or not plan.dhcp or not plan.family4.guest:
        return None
    datagram = frames.datagram(frames.packet4(plan, frame, frames.UDP), _SERVER_PORT)
    if datagram is None:
        return None
    ours = (frames.BROADCAST4, _subnet(plan)[1], _server(plan))
    if datagram.destination not in ours and not (renewals and datagram.destination in renewals.servers):
        return None
    message = datagram.data
    if len(message) < _FIXED_BYTES + 4 or message[:3] != _REQUEST_HEAD or message[28] & 1:
        return None
    if message[24:28] != frames.NOWHERE4:  # giaddr: relayed
        return None
    options = _parse(message)
    if options is None:
        return None
    own = leases.plan_for(frame[6:12]) if leases else plan
    if own is None:
        return None
    kind = _answer_kind(own, message, options)
    if kind is None:
        return None
    key = _key(own, datagram, options, renewals) if renewals and kind == _ACK else b""
    return _build(own, datagram, options, kind, key)


def _key(plan: "WorkerPlan", datagram: frames.Datagram, options: "dict[int, bytes]", renewals: "Renewals") -> bytes:
    """What the authentication option says to a client that can be made to renew; b"" for others."""
    from pasta_py.worker.forced_renewal import Client

    if _HMAC_MD5 not in options.get(_RENEWABLE, b""):
        return b""
    renewals.servers.add(_server(plan))
    informed = options.get(_TYPE) == bytes((_INFORM,))
    address = datagram.source if informed else frames.ipv4(plan.family4.guest)
    ident, message = options.get(_CLIENT_ID, b""), datagram.data
    client = Client(mac=datagram.mac, address=address, ident=ident, message=message[4:8] + message[28:44])
    return renewals.offer(renewals.clients4, datagram.mac, client)


def force(plan: "WorkerPlan", client: "Client", renewals: "Renewals") -> bytes:
    """The frame that makes this client renew (RFC 3203, 4 and 6)."""
    xid, hardware = client.message[:4], client.message[4:]
    data = _REPLY_HEAD + xid + bytes(20) + hardware + bytes(192) + _COOKIE
    data += bytes((_TYPE, 1, _FORCERENEW, _SERVER, 4)) + _server(plan)
    data += _encode(_CLIENT_ID, client.ident, _DEFAULT_MAX_BYTES)
    signed = renewals.signed(data + bytes((_AUTHENTICATION, renewals.INFORMATION_BYTES)), bytes((_END,)))
    macs, addresses = (plan.our_mac, client.mac), (_server(plan), client.address)
    return frames.udp_frame(macs, addresses, (_SERVER_PORT, _CLIENT_PORT), signed)


def told(plan: "WorkerPlan") -> "tuple[object, ...]":
    """What a client is told of the plan."""
    family = plan.family4
    return plan.dhcp, family.guest, family.prefix, family.gateway, _server(plan), plan.dns, plan.search


def _server(plan: "WorkerPlan") -> bytes:
    """Our server identifier: any address that the guest can reach us at."""
    return frames.ipv4(plan.family4.gateway) or frames.ipv4(plan.family4.dns_forward) or _FALLBACK_SERVER


def _subnet(plan: "WorkerPlan") -> "tuple[bytes, bytes]":
    """(mask, broadcast address) of the guest's prefix."""
    hosts = (1 << (32 - plan.family4.prefix)) - 1
    guest = int.from_bytes(frames.ipv4(plan.family4.guest), "big")
    return (0xFFFFFFFF ^ hosts).to_bytes(4, "big"), (guest | hosts).to_bytes(4, "big")


def _parse(message: bytes) -> "dict[int, bytes] | None":
    """The options of a message, {} for BOOTP; None where they are malformed."""
    cookie = message[_FIXED_BYTES : _FIXED_BYTES + 4]
    if cookie == bytes(4) and len(message) >= _BOOTP_BYTES:
        return {}
    options: dict[int, bytes] = {}
    if cookie != _COOKIE or not _collect(message[_FIXED_BYTES + 4 :], options):
        return None
    overload = options.get(_OVERLOAD, b"\0")[:1]
    areas = ((b"\x01\x03", message[108:236]), (b"\x02\x03", message[44:108]))  # file, then sname (RFC 2131, 4.1)
    if not all(_collect(area, options) for which, area in areas if overload and overload in which):
        return None
    if any(len(options[code]) != size for code, size in _SIZES.items() if code in options):
        return None
    return options


def _collect(area: bytes, options: "dict[int, bytes]") -> bool:
    """Add the options of one area; parts of the same option are joined (RFC 3396, 7). False where one is cut short."""
    position = 0
    while position < len(area) and area[position] != _END:
        if area[position] == _PAD:
            position += 1
            continue
        end = position + 2 + (area[position + 1] if position + 1 < len(area) else len(area))
        if end > len(area):
            return False
        options[area[position]] = options.get(area[position], b"") + area[position + 2 : end]
        position = end
    return True


def _answer_kind(plan: "WorkerPlan", message: bytes, options: "dict[int, bytes]") -> "int | None":
    """The message type of the answer (RFC 2131, 4.3); 0: a BOOTP reply; None: no answer."""
    guest, current = frames.ipv4(plan.family4.guest), message[12:16]
    kind = options.get(_TYPE, b"\0")[0]
    if kind == 0:
        return 0 if current in (frames.NOWHERE4, guest) else None
    if kind == _DISCOVER:
        return _ACK if _RAPID_COMMIT in options else _OFFER
    if kind == _INFORM:
        return None if current[0] >= 224 or current == _server(plan) else _ACK
    if kind != _DHCPREQUEST or options.get(_SERVER, _server(plan)) != _server(plan):
        return None  # DECLINE and RELEASE get no answer
    wanted = options.get(_WANTED, current)
    if wanted == frames.NOWHERE4:
        return None
    return _ACK if wanted == guest else _NAK


def _build(plan: "WorkerPlan", datagram: frames.Datagram, options: "dict[int, bytes]", kind: int, key: bytes) -> bytes:
    """`key`: what the authentication option says; b"": there is none."""
    message, guest = datagram.data, frames.ipv4(plan.family4.guest)
    informed = options.get(_TYPE) == bytes((_INFORM,))
    current = b"" if kind == _NAK else message[12:16]
    if informed and current == frames.NOWHERE4 and datagram.source[0] < 224:
        current = datagram.source  # RFC 2131 requires ciaddr in a DHCPINFORM, but some clients leave it out
    yours = frames.NOWHERE4 if informed or kind == _NAK else guest
    # Where the reply goes (RFC 2131, 4.1)
    renews = datagram.destination not in (frames.BROADCAST4, _subnet(plan)[1]) and datagram.source != frames.NOWHERE4
    if kind == _NAK and renews and datagram.source == message[12:16]:
        # RFC 2131 has it broadcast, but a client that renews may listen at its own address only (dhcpcd).
        mac, destination = datagram.mac, datagram.source
    elif current and current != frames.NOWHERE4:
        mac, destination = datagram.mac, current
    elif informed or kind == _NAK or message[10] & _BROADCAST_FLAG:
        mac, destination = frames.BROADCAST_MAC, frames.BROADCAST4
    else:
        mac, destination = message[28:34], guest
    limit = _DEFAULT_MAX_BYTES
    if _MAX_BYTES in options:
        asked = int.from_bytes(options[_MAX_BYTES], "big")
        limit = max(limit, min(asked, plan.mtu, _MOST_BYTES))
    authentication = bytes((_AUTHENTICATION, len(key))) + key if key else b""
    room = limit - frames.IPV4_BYTES - frames.UDP_BYTES - _FIXED_BYTES - len(_COOKIE) - 1 - len(authentication)
    data = _REPLY_HEAD + message[4:8] + bytes(2) + message[10:12]  # xid, secs, flags
    data += (current or frames.NOWHERE4) + yours + bytes(8)
    data += message[28:44] + bytes(192) + _COOKIE + _options(plan, options, kind, room) + authentication + bytes((_END,))
    data += bytes(max(0, _BOOTP_BYTES - len(data)))
    return frames.udp_frame((plan.our_mac, mac), (_server(plan), destination), (_SERVER_PORT, _CLIENT_PORT), data)


def _options(plan: "WorkerPlan", asked: "dict[int, bytes]", kind: int, room: int) -> bytes:
    """The options of an answer in wire form, at most `room` bytes."""
    out = b""
    if kind:
        out += bytes((_TYPE, 1, kind, _SERVER, 4)) + _server(plan)
    if asked.get(_CLIENT_ID):  # RFC 6842, 3
        out += _encode(_CLIENT_ID, asked[_CLIENT_ID], room - len(out) - _RESERVED_BYTES)
    if kind == _NAK:
        return out + _encode(_TEXT, b"not the address of this guest", room - len(out))
    if kind and asked[_TYPE] != bytes((_INFORM,)):
        out += bytes((_LEASE, 4)) + (plan.lease_s.to_bytes(4, "big") if plan.lease_s else _FOREVER)
    if kind == _ACK and asked[_TYPE] == bytes((_DISCOVER,)):
        out += bytes((_RAPID_COMMIT, 0))
    rank = {code: place for place, code in reversed(list(enumerate(asked.get(_PARAMETERS, b""))))}
    known = _known(plan, asked, rank)
    # The mask precedes the router (RFC 2132, 3.3), also if the client lists it later. The sort is stable.
    for code in sorted(known, key=lambda code: -1 if code == _MASK else rank.get(code, 256)):
        left = room - len(out)
        out += _encode(code, _search(plan, left - 2) if code == _SEARCH else known[code], left)
    return out


def _known(plan: "WorkerPlan", asked: "dict[int, bytes]", wanted: "dict[int, int]") -> "dict[int, bytes]":
    """The options that the plan has values for, in order of importance. The search list is empty yet: its room is not known."""
    mask, broadcast = _subnet(plan)
    guest, gateway = frames.ipv4(plan.family4.guest), frames.ipv4(plan.family4.gateway)
    known = {_MASK: mask}
    if gateway:
        bits = int.from_bytes(mask, "big")
        if (int.from_bytes(guest, "big") ^ int.from_bytes(gateway, "big")) & bits:
            # The gateway is outside the prefix: a route to it on the link, then the default route through it. A client that
            # uses this option ignores the router option (RFC 3442).
            known[_ROUTES] = b"\x20" + gateway + bytes(4) + b"\0" + gateway
        known[_ROUTER] = gateway
    if plan.family4.prefix <= 30:
        known[_BROADCAST] = broadcast
    servers = [server for server in map(frames.ipv4, plan.dns) if server]
    if servers:
        known[_DNS] = b"".join(servers)
    if plan.assign_mtu and plan.mtu >= 68:
        known[_MTU] = plan.mtu.to_bytes(2, "big")
    if plan.hostname and plan.hostname.isascii():
        known[_HOSTNAME] = plan.hostname.encode()[:255]
    fqdn = frames.dns_name(plan.fqdn)
    if fqdn and (_FQDN in asked or _FQDN in wanted):
        known[_FQDN] = _client_fqdn(plan, fqdn, asked.get(_FQDN, b"\x04")[:1])
    if plan.search:
        known[_SEARCH] = b""
    return known


def _client_fqdn(plan: "WorkerPlan", wire: bytes, flags: bytes) -> bytes:
    """The FQDN option of an answer (RFC 4702, 2): we do not update the DNS (N), which overrides (O) a client that asked us to (S).

    `flags`: the client's, one byte; its encoding (E) is ours.
    """
    asked = flags[0] if flags else 0
    encoded = asked & 4
    name = wire if encoded else plan.fqdn.removesuffix(".").encode()
    return bytes((8 | encoded | (asked & 1) << 1, 255, 255)) + name


def _search(plan: "WorkerPlan", room: int) -> bytes:
    """As many domains of the search list as fit in `room` bytes, compressed within the list (RFC 3397, 2; RFC 1035, 4.1.4)."""
    out = b""
    seen: dict[bytes, int] = {}
    for name in plan.search:
        wire = frames.dns_name(name)
        piece, rest = b"", wire
        places: dict[bytes, int] = {}
        while len(rest) > 1 and rest not in seen:
            places[rest] = len(out) + len(piece)
            piece, rest = piece + rest[: 1 + rest[0]], rest[1 + rest[0] :]
        piece += (0xC000 | seen[rest]).to_bytes(2, "big") if rest in seen else rest
        if len(out) + len(piece) > room - 2 * (room // 257):  # less the heads of further parts
            break
        out += piece
        seen.update({rest: place for rest, place in places.items() if place < 0x4000})
    return out


def _encode(code: int, value: bytes, room: int) -> bytes:
    """One option, split where it is longer than 255 bytes; b"" if it is empty, or longer than `room` bytes."""
    if code == _DNS:
        fits = max(0, room - 2 - 2 * (room // 257))
        value = value[: fits - fits % 4]
    parts = [value[start : start + 255] for start in range(0, len(value), 255)]
    wire = b"".join(bytes((code, len(part))) + part for part in parts)
    return wire if len(wire) <= room else b""
