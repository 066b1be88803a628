"""A DHCPv6 server (RFC 8415) that gives out one address.

It keeps no state but for clients that can be made to renew (forced_renewal). The first IA_NA of a message gets the guest's
address, with infinite lifetimes. Other associations get the status code that the RFC has for them. Messages that a server must
discard (section 16) get no answer.

A reply fits in the 1280 bytes that each IPv6 link carries. What does not fit is left out, from the end.
"""

from pasta_py.worker import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan
    from pasta_py.worker.forced_renewal import Client, Renewals

    Options = list[tuple[int, bytes]]

_SERVER_PORT, _CLIENT_PORT = 547, 546
_ALL_SERVERS = b"\xff\x02" + bytes(10) + b"\0\x01\0\x02"  # All_DHCP_Relay_Agents_and_Servers (7.1)

# Message types (7.3)
_SOLICIT, _ADVERTISE, _REQUEST, _CONFIRM, _RENEW, _REBIND, _REPLY, _RELEASE, _DECLINE = 1, 2, 3, 4, 5, 6, 7, 8, 9
_RECONFIGURE, _INFORMATION = 10, 11

# Options (21; nameservers and search list: RFC 3646; FQDN: RFC 4704)
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_TA, _IA_ADDRESS, _WANTED, _PREFERENCE = 1, 2, 3, 4, 5, 6, 7
_AUTHENTICATION, _STATUS, _RAPID_COMMIT, _RECONFIGURE_MESSAGE, _RECONFIGURE_ACCEPT = 11, 13, 14, 19, 20
_DNS, _SEARCH, _IA_PD, _FQDN = 23, 24, 25, 39

# Status codes (21.13)
_SUCCESS, _NO_ADDRESSES, _NOT_ON_LINK, _USE_MULTICAST, _NO_PREFIX = 0, 2, 4, 5, 6

#: Message type: (wants a client identifier, wants our server identifier, may be unicast) (16, 18.4)
_RULES = {
    _SOLICIT: (True, False, False),
    _REQUEST: (True, True, True),
    _CONFIRM: (True, False, False),
    _RENEW: (True, True, True),
    _REBIND: (True, False, False),
    _RELEASE: (True, True, True),
    _DECLINE: (True, True, True),
    _INFORMATION: (False, False, False),
}

_FOREVER = b"\xff\xff\xff\xff"
_DUID_BYTES = 130  # at most (11.1)
_IA_HEAD = {_IA_NA: 12, _IA_TA: 4, _IA_PD: 12}  # bytes before an association's own options
_ADDRESS_BYTES = 24  # at least
_MOST_BYTES = frames.IPV6_SAFE_BYTES - frames.IPV6_BYTES - frames.UDP_BYTES


def reply(plan: "WorkerPlan", frame: bytes, renewals: "Renewals | None" = None) -> "bytes | None":
    """The Advertise or Reply to a client's message; None for a frame that gets no reply. `renewals`: where clients can be made to
    renew."""
    if not plan.family6.on or not plan.dhcpv6 or not plan.our_link_local:
        return None
    datagram = frames.datagram(frames.packet6(plan, frame, frames.UDP), _SERVER_PORT)
    if datagram is None or len(datagram.data) < 4:
        return None
    options = _parse(datagram.data[4:])
    if options is None or not _valid(plan, datagram, options):
        return None
    body = _body(plan, datagram, options, _key(datagram, options, renewals) if renewals else b"")
    if body is None:
        return None
    macs, addresses = (plan.our_mac, datagram.mac), (plan.our_link_local, datagram.source)
    return frames.udp_frame(macs, addresses, (_SERVER_PORT, _CLIENT_PORT), body)


def _key(datagram: frames.Datagram, options: "Options", renewals: "Renewals") -> bytes:
    """The options that a client gets that can be made to renew; b"" for others."""
    from pasta_py.worker.forced_renewal import Client

    ident, kind = _first(options, _CLIENT_ID), datagram.data[0]
    if ident is None or _first(options, _RECONFIGURE_ACCEPT) is None or kind in (_CONFIRM, _RELEASE, _DECLINE):
        return b""
    if kind == _SOLICIT and _first(options, _RAPID_COMMIT) is None:
        return b""  # only a Reply has a key (20.4.1)
    offered = renewals.offer(renewals.clients6, ident, Client(mac=datagram.mac, address=datagram.source, ident=ident))
    return _option(_RECONFIGURE_ACCEPT, b"") + _option(_AUTHENTICATION, offered) if offered else b""


def force(plan: "WorkerPlan", client: "Client", renewals: "Renewals") -> bytes:
    """The frame that makes this client renew (18.3.11)."""
    data = bytes((_RECONFIGURE, 0, 0, 0)) + _option(_CLIENT_ID, client.ident) + _option(_SERVER_ID, _server_id(plan))
    data += _option(_RECONFIGURE_MESSAGE, bytes((_RENEW,)))
    data += _AUTHENTICATION.to_bytes(2, "big") + renewals.INFORMATION_BYTES.to_bytes(2, "big")
    macs, addresses = (plan.our_mac, client.mac), (plan.our_link_local, client.address)
    return frames.udp_frame(macs, addresses, (_SERVER_PORT, _CLIENT_PORT), renewals.signed(data))


def told(plan: "WorkerPlan") -> "tuple[object, ...]":
    """What a client is told of the plan."""
    return plan.dhcpv6, plan.family6.guest, plan.dns, plan.search


def _server_id(plan: "WorkerPlan") -> bytes:
    return b"\0\x03\0\x01" + plan.our_mac  # DUID-LL (11.4)


def _parse(data: bytes) -> "Options | None":
    """(code, value) of each option, None where they do not add up."""
    options: Options = []
    position = 0
    while position < len(data):
        code, size = int.from_bytes(data[position : position + 2], "big"), data[position + 2 : position + 4]
        end = position + 4 + int.from_bytes(size, "big")
        if len(size) != 2 or end > len(data):
            return None
        options.append((code, data[position + 4 : end]))
        position = end
    return options


def _first(options: "Options", code: int) -> "bytes | None":
    return next((value for found, value in options if found == code), None)


def _valid(plan: "WorkerPlan", datagram: frames.Datagram, options: "Options") -> bool:
    """Whether section 16 lets a server take the message."""
    kind = datagram.data[0]
    if kind not in _RULES:
        return False
    wants_client, wants_server, may_be_unicast = _RULES[kind]
    to_all = datagram.destination == _ALL_SERVERS
    if not to_all and not (may_be_unicast and datagram.destination == plan.our_link_local):
        return False
    link_local = datagram.source[0] == 0xFE and datagram.source[1] & 0xC0 == 0x80
    if datagram.source in (frames.NOWHERE6, plan.our_link_local) or (to_all and not link_local):
        return False
    client, server = _first(options, _CLIENT_ID), _first(options, _SERVER_ID)
    if wants_client if client is None else not 2 < len(client) <= _DUID_BYTES:
        return False
    if kind == _INFORMATION:
        return server in (None, _server_id(plan)) and not any(code in _IA_HEAD for code, _ in options)
    return server == (_server_id(plan) if wants_server else None)


def _body(plan: "WorkerPlan", datagram: frames.Datagram, options: "Options", key: bytes) -> "bytes | None":
    """`key`: options for a client that can be made to renew."""
    kind = datagram.data[0]
    rapid = _first(options, _RAPID_COMMIT) is not None
    answer = _ADVERTISE if kind == _SOLICIT and not rapid else _REPLY
    out = bytes((answer,)) + datagram.data[1:4] + _option(_SERVER_ID, _server_id(plan))
    client = _first(options, _CLIENT_ID)
    if client is not None:
        out += _option(_CLIENT_ID, client)
    if datagram.destination != _ALL_SERVERS:  # we never send Server Unicast (18.4)
        return out + _status(_USE_MULTICAST, b"send to ff02::1:2")
    if kind in (_RELEASE, _DECLINE):
        return out + _status(_SUCCESS, b"")  # 18.3.7, 18.3.8
    if kind == _CONFIRM:
        claimed = [address for code, value in options for address in _addresses(code, value)]
        if not claimed:
            return None  # 18.3.3
        right = all(address == plan.family6.guest for address in claimed)
        return out + (_status(_SUCCESS, b"") if right else _status(_NOT_ON_LINK, b"not the address of this guest"))
    if kind == _SOLICIT:
        # Preference 255: the client need not wait for other servers (18.2.1).
        out += _option(_RAPID_COMMIT, b"") if rapid else _option(_PREFERENCE, b"\xff")
    out += key
    for piece in _associations(plan, kind, options):
        out += piece if len(out) + len(piece) <= _MOST_BYTES else b""
    return out + _settings(plan, options, _MOST_BYTES - len(out))


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def _status(status: int, text: bytes) -> bytes:
    return _option(_STATUS, status.to_bytes(2, "big") + text)


def _addresses(code: int, value: bytes) -> "list[bytes]":
    """The addresses that an IA_NA or IA_TA names; none for another option, or a malformed one."""
    if code not in (_IA_NA, _IA_TA):
        return []
    inner = _parse(value[_IA_HEAD[code] :]) or []
    return [data[:16] for found, data in inner if found == _IA_ADDRESS and len(data) >= _ADDRESS_BYTES]


def _associations(plan: "WorkerPlan", kind: int, options: "Options") -> "list[bytes]":
    """An answer for each association in the message."""
    whole = [(code, value) for code, value in options if code in _IA_HEAD and len(value) >= _IA_HEAD[code]]
    holders = [value for code, value in whole if code == _IA_NA]
    # An association that names the guest's address keeps it, also if it is not the first.
    holder = next((value for value in holders if plan.family6.guest in _addresses(_IA_NA, value)), (holders or [b""])[0])
    answers = []
    for code, value in whole:
        ident = value[:4]
        if code == _IA_NA and value is holder and plan.family6.guest:
            answers.append(_option(code, ident + _lease(plan, kind, _addresses(code, value))))
        elif code == _IA_PD:
            answers.append(_option(code, ident + bytes(8) + _status(_NO_PREFIX, b"no prefixes here")))
        else:
            timers = bytes(8) if code == _IA_NA else b""
            answers.append(_option(code, ident + timers + _status(_NO_ADDRESSES, b"no more addresses")))
    return answers


def _times(lease_s: int) -> "tuple[int, int, int]":
    return lease_s // 2, lease_s * 4 // 5, lease_s


def _lease(plan: "WorkerPlan", kind: int, named: "list[bytes]") -> bytes:
    """What follows the IAID in the IA_NA that gets the guest's address: T1, T2, options (21.4). `named`: what the client named."""
    others = [address for address in dict.fromkeys(named) if address != plan.family6.guest]
    if kind == _REQUEST and others:  # 18.3.2
        return bytes(8) + _status(_NOT_ON_LINK, b"not the address of this guest")
    # T1 and T2 are 0.5 and 0.8 times the preferred lifetime (21.4).
    t1, t2, end = (_FOREVER,) * 3 if not plan.lease_s else (s.to_bytes(4, "big") for s in _times(plan.lease_s))
    lease = t1 + t2 + _option(_IA_ADDRESS, plan.family6.guest + end * 2)
    if kind in (_RENEW, _REBIND):  # lifetimes of 0 for addresses that the client must give up (18.3.4, 18.3.5)
        lease += b"".join(_option(_IA_ADDRESS, address + bytes(8)) for address in others[:8])
    return lease


def _settings(plan: "WorkerPlan", options: "Options", room: int) -> bytes:
    """Nameservers, the guest's name and search list: those that the client asked for and that fit in `room` bytes.

    A client without an Option Request gets all; the name only goes to a client that asks for it or sends its own.
    """
    asked = _first(options, _WANTED)
    wanted = None if asked is None else {int.from_bytes(asked[i : i + 2], "big") for i in range(0, len(asked), 2)}
    client_fqdn = _first(options, _FQDN)
    out = b""
    servers = b"".join(server for server in map(frames.ipv6, plan.dns) if server)
    servers = servers[: max(0, room // 2 - 4) // 16 * 16]  # half of the room is for the other options
    if servers and (wanted is None or _DNS in wanted):
        out += _option(_DNS, servers)
    fqdn = frames.dns_name(plan.fqdn)
    if fqdn and (client_fqdn is not None or (wanted is not None and _FQDN in wanted)):
        # We do not update the DNS (N), which overrides (O) a client that asked us to (S): RFC 4704, 4.1.
        flags = 4 | (client_fqdn[0] & 1) << 1 if client_fqdn else 4
        name = _option(_FQDN, bytes((flags,)) + fqdn)
        out += name if len(out) + len(name) <= room else b""
    names = frames.dns_names(plan.search, room - len(out) - 4)
    if names and (wanted is None or _SEARCH in wanted):
        out += _option(_SEARCH, names)
    return out
