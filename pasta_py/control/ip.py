"""The ipaddress module, imported in a third of the time: functools, of which it asks for three decorators, takes the rest.

Where functools is there already, or ipaddress asks it for anything else one day, it is the real one.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def _total_ordering(cls: "Any") -> "Any":
    """The rest of the comparisons out of `<` and `==`, as functools makes them."""

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
        lru_cache=lambda: lambda function: function,  # properties of an address, of which we ask once
    )
    sys.modules["functools"] = stand_in
    try:
        import ipaddress  # noqa: F401
    except Exception:  # whatever it raises where it asks for more than there is
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
]
