"""Messages of rtnetlink (RFC 3549) to records and back: common attributes here, rare ones by pyroute2.

Every start reads the host's links, addresses and routes, and importing pyroute2's message classes costs it 12 ms: as much as all
the rest of control. So the tables here decode and encode numbers, names, addresses and simple nests of these, with a line for each
attribute that `links_addresses_routes` reads or writes. The two attributes of a route with several next hops, or with a gateway of
another family (RFC 5549), are left to pyroute2, which is imported when the first one comes (`pyroute2_messages`).

Invariants: what is decoded or encoded here is what pyroute2 makes of the same bytes or values
(tests/control/netlink/test_messages.py). Decoding never fails: an attribute that has another form than expected is `unknown`,
as one that a newer kernel may have.
"""

import _socket
import struct

from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeAlias

    Table: TypeAlias = "dict[int, tuple[str, object]]"  # by number: name, and kind of value: one of those below, or a Table

# linux/rtnetlink.h: NEW, DEL and GET of each kind of object
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_GETNEXTHOP = 104, 106

_HEADER_BYTES = 16  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_AF_INET, _AF_INET6 = 2, 10

_U8, _U32 = (struct.Struct(code) for code in "BI")
_TEXT, _MAC, _IP, _LIFETIMES, _GROUP, _NAMES, _RARE = "text", "mac", "ip", "lifetimes", "group", "names", "rare"
_CACHEINFO = struct.Struct("IIII")
_CACHEINFO_FIELDS = ("ifa_preferred", "ifa_valid", "cstamp", "tstamp")  # struct ifa_cacheinfo

_MEMBER = struct.Struct("=IBBxx")  # struct nexthop_grp: id, weight less one, its high byte

# linux/if_link.h
_IFLA_ALT_IFNAME = 53
_LINK: "Table" = {
    1: ("IFLA_ADDRESS", _MAC),
    3: ("IFLA_IFNAME", _TEXT),
    4: ("IFLA_MTU", _U32),
    13: ("IFLA_TXQLEN", _U32),
    52: ("IFLA_PROP_LIST", _NAMES),
    26: ("IFLA_AF_SPEC", {_AF_INET6: ("AF_INET6", {8: ("IFLA_INET6_ADDR_GEN_MODE", _U8)})}),
}
# linux/if_addr.h
_ADDRESS: "Table" = {
    1: ("IFA_ADDRESS", _IP),
    2: ("IFA_LOCAL", _IP),
    3: ("IFA_LABEL", _TEXT),
    4: ("IFA_BROADCAST", _IP),
    6: ("IFA_CACHEINFO", _LIFETIMES),
    8: ("IFA_FLAGS", _U32),
    9: ("IFA_RT_PRIORITY", _U32),
    11: ("IFA_PROTO", _U8),
}
# linux/rtnetlink.h
_METRICS: "Table" = {
    1: ("RTAX_LOCK", _U32),
    2: ("RTAX_MTU", _U32),
    3: ("RTAX_WINDOW", _U32),
    4: ("RTAX_RTT", _U32),
    5: ("RTAX_RTTVAR", _U32),
    6: ("RTAX_SSTHRESH", _U32),
    7: ("RTAX_CWND", _U32),
    8: ("RTAX_ADVMSS", _U32),
    9: ("RTAX_REORDERING", _U32),
    10: ("RTAX_HOPLIMIT", _U32),
    11: ("RTAX_INITCWND", _U32),
    12: ("RTAX_FEATURES", _U32),
    13: ("RTAX_RTO_MIN", _U32),
    14: ("RTAX_INITRWND", _U32),
    15: ("RTAX_QUICKACK", _U32),
    16: ("RTAX_CC_ALGO", _TEXT),
    17: ("RTAX_FASTOPEN_NO_COOKIE", _U32),
}
_ROUTE: "Table" = {
    1: ("RTA_DST", _IP),
    2: ("RTA_SRC", _IP),
    4: ("RTA_OIF", _U32),
    5: ("RTA_GATEWAY", _IP),
    6: ("RTA_PRIORITY", _U32),
    7: ("RTA_PREFSRC", _IP),
    8: ("RTA_METRICS", _METRICS),
    9: ("RTA_MULTIPATH", _RARE),
    11: ("RTA_FLOW", _U32),
    15: ("RTA_TABLE", _U32),
    18: ("RTA_VIA", _RARE),
    20: ("RTA_PREF", _U8),
    30: ("RTA_NH_ID", _U32),
}
# linux/nexthop.h
_NEXTHOP: "Table" = {
    1: ("NHA_ID", _U32),
    2: ("NHA_GROUP", _GROUP),
    5: ("NHA_OIF", _U32),
    6: ("NHA_GATEWAY", _IP),
}


class Message(Record):
    """One decoded message, or a nested attribute with fields of its own."""

    fields: "dict[str, int]"  # the fixed part, by pyroute2's names
    attrs: "dict[str, Any]"  # int, str, dict, Message, or a list of Message, of str or of pairs, by the kernel's names
    unknown: "tuple[int, ...]" = ()  # numbers of the attributes that are not in the table, or not of its form


class Layout(Record):
    """One kind of object: the fixed part of its messages, and the attributes that we know."""

    fixed: struct.Struct
    names: "tuple[str, ...]"
    attrs: "Table"


LAYOUTS = {
    RTM_NEWLINK: Layout(
        fixed=struct.Struct("=BxHiII"), names=("family", "ifi_type", "index", "flags", "change"), attrs=_LINK
    ),
    RTM_NEWADDR: Layout(
        fixed=struct.Struct("=BBBBI"), names=("family", "prefixlen", "flags", "scope", "index"), attrs=_ADDRESS
    ),
    RTM_NEWROUTE: Layout(
        fixed=struct.Struct("=8BI"),
        names=("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"),
        attrs=_ROUTE,
    ),
    RTM_NEWNEXTHOP: Layout(
        fixed=struct.Struct("=BBBxI"), names=("family", "scope", "proto", "flags"), attrs=_NEXTHOP
    ),
}


def decode(kind: int, data: bytes) -> Message:
    """A whole message of an RTM_NEW kind, header and all, with the attributes of its layout."""
    layout = LAYOUTS[kind]
    body = _HEADER_BYTES + layout.fixed.size
    fields = dict(zip(layout.names, layout.fixed.unpack_from(data, _HEADER_BYTES)))
    return _decoded(layout.attrs, data[body:], data[:body], fields)


def _attributes(data: bytes) -> "Iterator[tuple[int, bytes]]":
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield number & _TYPE_MASK, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def _decoded(table: "Table", data: bytes, head: bytes = b"", fields: "dict[str, int] | None" = None) -> Message:
    """What the attributes in `data` say; `head` is what stands before them in their message."""
    found: dict[str, Any] = {}
    unknown = []
    for number, payload in _attributes(data):
        name, kind = table.get(number, ("", None))
        value = _value(number, kind, payload, head)
        if value is None:
            unknown.append(number)
        else:
            found.setdefault(name, value)
    return Message(fields=fields or {}, attrs=found, unknown=tuple(unknown))


def _value(number: int, kind: object, payload: bytes, head: bytes) -> "Any":
    """The value of one attribute; None: the payload is not of that kind."""
    if isinstance(kind, dict):
        return _decoded(kind, payload)
    if isinstance(kind, struct.Struct):
        return kind.unpack_from(payload)[0] if len(payload) >= kind.size else None
    if kind is _TEXT:
        return payload.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if kind is _MAC:
        return payload.hex(":")
    if kind is _IP:
        if len(payload) not in (4, 16):  # MCTP and Phonet addresses come in the same dump
            return None
        return _socket.inet_ntop(_AF_INET if len(payload) == 4 else _AF_INET6, payload)
    if kind is _LIFETIMES:
        if len(payload) < _CACHEINFO.size:
            return None
        return Message(fields=dict(zip(_CACHEINFO_FIELDS, _CACHEINFO.unpack_from(payload))), attrs={})
    if kind is _GROUP:  # pairs: a member's id, and its weight
        whole = payload[: len(payload) - len(payload) % _MEMBER.size]
        return [(member, low + (high << 8) + 1) for member, low, high in _MEMBER.iter_unpack(whole)]
    if kind is _NAMES:  # alternative names of an interface
        return [_value(each, _TEXT, name, b"") for each, name in _attributes(payload) if each == _IFLA_ALT_IFNAME]
    if kind is _RARE:
        from pasta_py.control.netlink import pyroute2_messages

        return pyroute2_messages.decode(head, number, payload)
    return None


def encode(kind: int, fields: "dict[str, int]", attrs: "Sequence[tuple[str, Any]]") -> bytes:
    """What follows the header in a message of an RTM_NEW kind; missing fields are zero."""
    layout = LAYOUTS[kind]
    fixed = layout.fixed.pack(*(fields.get(name, 0) for name in layout.names))
    return fixed + _encoded(layout.attrs, attrs, bytes(_HEADER_BYTES) + fixed)


def _encoded(table: "Table", attrs: "Sequence[tuple[str, Any]]", head: bytes = b"") -> bytes:
    known = {name: (number, kind) for number, (name, kind) in table.items()}
    parts = []
    for name, value in attrs:
        number, kind = known[name]
        payload = _payload(name, kind, value, head)
        parts += [_ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), number), payload, bytes(-len(payload) % 4)]
    return b"".join(parts)


def _payload(name: str, kind: object, value: "Any", head: bytes) -> bytes:
    if isinstance(kind, dict):
        return _encoded(kind, value["attrs"])
    if isinstance(kind, struct.Struct):
        return kind.pack(value)
    if kind is _TEXT:
        return bytes(value.encode("utf-8", "surrogateescape")) + b"\0"
    if kind is _MAC:
        return bytes.fromhex(value.replace(":", ""))
    if kind is _IP:
        return _socket.inet_pton(_AF_INET6 if ":" in value else _AF_INET, value)
    if kind is _LIFETIMES:
        return _CACHEINFO.pack(*(value.get(each, 0) for each in _CACHEINFO_FIELDS))
    assert kind is _RARE
    from pasta_py.control.netlink import pyroute2_messages

    return pyroute2_messages.encode(head, name, value)
