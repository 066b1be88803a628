"""The next hops of multipath routes, and gateways of another family, by pyroute2's classes of rtnetlink messages.

pyroute2 gets these attributes alone. The others, such as metrics, have the form that `messages` gives them, whether a route has one
next hop or several. (pyroute2 0.9.7 makes dictionaries of metrics that it does not know.)

pyroute2's package initialiser imports the whole library (asyncio, sqlite3, ssl: some 200 ms). So the package is registered
without running it, and only what the messages need is imported. If a later pyroute2 cannot be imported like that, it is imported
the ordinary way, which is slower.

Rejected: IPRoute of pyroute2 (needs the initialiser, and an event loop); the ip program (a subprocess, a package).
"""

import importlib
import importlib.util
import struct
import sys
from typing import TYPE_CHECKING, Any

from pasta_py.control.netlink.messages import RTM_NEWROUTE, Message
from pasta_py.errors import HostError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_ATTRIBUTE = struct.Struct("=HH")
_FAMILY = 16  # rtm_family's place in a message
_HOP_ATTRIBUTES = ("RTA_GATEWAY", "RTA_VIA", "RTA_FLOW")  # what is read of one next hop

_classes: dict[int, Any] = {}


def message_class(kind: int) -> Any:
    """pyroute2's message class for an RTM_NEW number, imported on first use; HostError without pyroute2."""
    if not _classes:
        _classes[RTM_NEWROUTE] = _import_route()
    return _classes[kind]


def _import_route() -> Any:
    spec = importlib.util.find_spec("pyroute2") or _find_by_site()
    if spec is None:
        raise HostError("the Python package pyroute2 is missing: install it, as in `pip install pyroute2`")
    if "pyroute2" in sys.modules:
        return _route()
    before = set(sys.modules)
    bare = sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)
    try:
        return _route()
    except Exception:  # the library's layout has changed: import it the ordinary way
        for name in set(sys.modules) - before:
            if name.startswith("pyroute2."):
                del sys.modules[name]
    finally:
        if sys.modules.get("pyroute2") is bare:  # a later import gets the whole package
            del sys.modules["pyroute2"]
    return _route()


def _find_by_site() -> "ModuleSpec | None":
    """The commands run without `site` (start/dispatch.py), so its directories may not have been searched yet."""
    import site

    site.main()
    return importlib.util.find_spec("pyroute2")


def _route() -> Any:
    return importlib.import_module("pyroute2.netlink.rtnl.rtmsg").rtmsg


def decode(head: bytes, number: int, payload: bytes) -> "list[Message] | dict[str, Any] | None":
    """The attribute of a route with this number; `head` is the message up to its attributes. None: pyroute2 cannot read it."""
    padded = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), number) + payload + bytes(-len(payload) % 4)
    length = struct.pack("=I", len(head) + len(padded))
    message = message_class(RTM_NEWROUTE)(length + head[len(length) :] + padded)
    try:
        message.decode()
        value = message["attrs"][0][1]
        return [_next_hop(item) for item in value] if isinstance(value, list) else value
    except Exception:  # pyroute2 does not know this form
        return None


def _next_hop(item: Any) -> Message:
    fields = {key: value for key, value in item.items() if isinstance(value, int)}
    return Message(fields=fields, attrs={slot[0]: slot[1] for slot in item.get("attrs", ()) if slot[0] in _HOP_ATTRIBUTES})


def encode(head: bytes, name: str, value: Any) -> bytes:
    """The payload of an attribute of a route; `head` is the message up to its attributes."""
    message = message_class(RTM_NEWROUTE)()
    message["family"] = head[_FAMILY]
    message["attrs"] = [[name, value]]
    message.encode()
    length, _number = _ATTRIBUTE.unpack_from(message.data, len(head))
    return bytes(message.data)[len(head) + _ATTRIBUTE.size : len(head) + length]  # without padding
