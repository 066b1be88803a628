"""The ipaddress module, imported in a third of the time; and addresses as the worker takes them.

Two thirds of the import are functools, of which ipaddress needs three decorators: it gets a stand-in that has these. Where
functools is loaded already, or ipaddress needs more of it in a later Python, it gets the real one.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def _total_ordering(cls: "Any") -> "Any":
    """The other comparisons, made of `<` and `==`, as functools makes them."""

    def gt(self: "Any", other: object) -> "Any":
        less = type(self).__lt__(self, other)
        return less if less is NotImplemented else not less and self != other

    def le(self: "Any", other: object) -> "Any":
        less = type(self).__lt__(self, other)
        return less if less is NotImplemented else less or self == other

    def ge(self: "Any", other: object) -> "Any":
        less = type(self).__lt__(self, other)
        return less if less is NotImplemented else not less

    cls.__gt__, cls.__le__, cls.__ge__ = gt, le, ge
    return cls


class _CachedProperty:
    def __init__(self, function: "Callable[[Any], object]") -> None:
        self._function = function

    def __get__(self, owner: "Any", _kind: object = None) -> object:
        value = owner.__dict__[self._function.__name__] = self._function(owner)
        return value


def _import() -> None:
    stand_in: ModuleType = type(sys)("functools")
    stand_in.__dict__.update(
        total_ordering=_total_ordering,
        cached_property=_CachedProperty,
        lru_cache=lambda: lambda function: function,  # of properties that we read once for each address
    )
    sys.modules["functools"] = stand_in
    try:
        import ipaddress  # noqa: F401
    except Exception:  # it needs more of functools
        sys.modules.pop("ipaddress", None)
    finally:
        del sys.modules["functools"]


if "functools" not in sys.modules and "ipaddress" not in sys.modules:
    _import()

from ipaddress import (  # noqa: E402
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)


def packed(address: "IPv4Address | IPv6Address | None") -> bytes:
    """16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2); b"" for None."""
    if address is None:
        return b""
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


__all__ = [
    "IPv4Address",
    "IPv4Interface",
    "IPv4Network",
    "IPv6Address",
    "IPv6Interface",
    "IPv6Network",
    "ip_address",
    "ip_interface",
    "ip_network",
    "packed",
]
