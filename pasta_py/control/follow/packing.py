"""Records, addresses and tuples of these as bytes, and back: what the processes that follow the host keep and hand on.

The bytes are those of worker_protocol, with two kinds of values more: an address, network or interface, and a record by its class's
name. Decoding makes nothing but the classes named here, with the fields that they have.
"""

from pasta_py import worker_protocol
from pasta_py.control import ip
from pasta_py.control.commandline.options import Options
from pasta_py.control.follow.state import Counted, State
from pasta_py.control.netlink.links_addresses_routes import Address, Link, NextHop, Route
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.plan import LinkPlan
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import WireError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CLASSES = (State, Counted, Options, Address, Link, NextHop, Route, Family, HostSnapshot, LinkPlan, Resolv)
_RECORDS = {each.__name__: each for each in _CLASSES}
_ADDRESSES: "dict[str, tuple[Callable[[str], Any], tuple[type, ...]]]" = {
    "a": (ip.ip_address, (ip.IPv4Address, ip.IPv6Address)),
    "i": (ip.ip_interface, (ip.IPv4Interface, ip.IPv6Interface)),
    "n": (ip.ip_network, (ip.IPv4Network, ip.IPv6Network)),
}
_CLASS_TAGS = {cls: tag for tag, (_make, classes) in _ADDRESSES.items() for cls in classes}


def pack(value: "Any") -> bytes:
    """The bytes of a value; TypeError for a type that has no encoding."""
    return worker_protocol.encode(_plain(value))


def unpack(data: bytes) -> "Any":
    """The value that `data` encodes; WireError for anything else."""
    try:
        return _rich(worker_protocol.decode(data))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise WireError(f"not a value: {error}") from None


def _egress_record(name: str) -> "type[Record]":
    """A record of the egress policy, which is loaded only where there is one."""
    from pasta_py.control.commandline.egress_rule import Rule, Rules
    from pasta_py.control.planning.egress import Said

    return {"Rule": Rule, "Rules": Rules, "Said": Said}[name]


def _plain(value: "Any") -> "Any":
    if isinstance(value, tuple):
        return ("t", *map(_plain, value))
    if isinstance(value, Record):
        return ("r", type(value).__name__, *map(_plain, value.__dict__.values()))
    tag = _CLASS_TAGS.get(type(value))
    return (tag, str(value)) if tag else value


def _rich(value: "Any") -> "Any":
    if not isinstance(value, tuple):
        return value
    tag = value[0]
    if tag == "t":
        return tuple(map(_rich, value[1:]))
    if tag == "r":
        cls = _RECORDS.get(value[1]) or _egress_record(value[1])
        return cls(**dict(zip(cls._fields, map(_rich, value[2:]), strict=True)))
    return _ADDRESSES[tag][0](value[1])
