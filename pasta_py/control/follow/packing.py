"""Records, addresses and tuples of these out of plain values: what the processes that follow the host keep and hand on.

This makes nothing but the classes named here, with the fields that they have. What one process says to another is encoded as
worker_protocol does it.
"""

import marshal

from pasta_py import worker_protocol
from pasta_py.control import ip
from pasta_py.control.commandline.options import Options
from pasta_py.control.follow import Counted, State, plain
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
_ADDRESSES: "dict[str, Callable[[str], Any]]" = {"a": ip.ip_address, "i": ip.ip_interface, "n": ip.ip_network}


def pack(value: "Any") -> bytes:
    """The bytes of a value; TypeError for a type that has no encoding."""
    return worker_protocol.encode(plain(value))


def unpack(data: bytes) -> "Any":
    """The value that `data` encodes; WireError for anything else."""
    return _checked(worker_protocol.decode(data))


def read_state(data: bytes) -> "tuple[State, bytes | None, int]":
    """What follow.written() has made bytes of; WireError for anything else."""
    try:
        values, ours, index = marshal.loads(data)
    except (EOFError, TypeError, ValueError) as error:
        raise WireError(f"not a state: {error}") from None
    return _checked(values), ours, index


def _checked(values: "Any") -> "Any":
    try:
        return _rich(values)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise WireError(f"not a value: {error}") from None


def _egress_record(name: str) -> "type[Record]":
    """A record of the egress policy, which is loaded only where there is one."""
    from pasta_py.control.commandline.egress_rule import Rule, Rules
    from pasta_py.control.planning.egress import Said

    return {"Rule": Rule, "Rules": Rules, "Said": Said}[name]


def _rich(value: "Any") -> "Any":
    if not isinstance(value, tuple):
        return value
    tag = value[0]
    if tag == "t":
        return tuple(map(_rich, value[1:]))
    if tag == "r":
        cls = _RECORDS.get(value[1]) or _egress_record(value[1])
        return cls(**dict(zip(cls._fields, map(_rich, value[2:]), strict=True)))
    return _ADDRESSES[tag](value[1])
