"""Routes with several ways, and gateways of another family: pyroute2's classes of rtnetlink messages.

pyroute2's package initialiser imports the whole library (asyncio, sqlite3, ssl: some 200 ms). So the package is registered
without running it, and only what the messages need is imported. Should a later pyroute2 not bear that, it is imported the
ordinary way: slower, otherwise the same.

Rejected: IPRoute of pyroute2 (needs the initialiser, and an event loop); the ip program (a subprocess, a package).
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from pasta_py.control.messages import RTM_NEWROUTE, Message
from pasta_py.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

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
    except Exception:  # whatever a changed layout raises: the ordinary import decides
        for name in set(sys.modules) - before:
            if name.startswith("pyroute2."):
                del sys.modules[name]
    finally:
        if sys.modules.get("pyroute2") is bare:  # whoever imports it after us gets the whole package
            del sys.modules["pyroute2"]
    return _route()


def _find_by_site() -> "ModuleSpec | None":
    """Where the commands' start found everything else beside our own package, it has not asked `site` yet."""
    import site

    site.main()
    return importlib.util.find_spec("pyroute2")


def _route() -> Any:
    return importlib.import_module("pyroute2.netlink.rtnl.rtmsg").rtmsg


def decode(kind: int, data: bytes, wanted: frozenset[str]) -> Message:
    """A whole message, with the attributes named in `wanted`."""
    message = message_class(kind)(data)
    message.decode()
    return _plain(message, wanted)


def _plain(message: Any, wanted: frozenset[str] = frozenset()) -> Message:
    fields = {key: value for key, value in message.items() if isinstance(value, int)}
    attrs: dict[str, Any] = {}
    for slot in message.get("attrs", ()) or ():
        if wanted and slot[0] not in wanted:
            continue  # looking at the value would decode it
        value = slot[1]
        if isinstance(value, list):
            value = [_plain(item) for item in value if isinstance(item, dict)]
        elif isinstance(value, dict) and type(value) is not dict:
            value = _plain(value)
        attrs.setdefault(slot[0], value)
    return Message(fields=fields, attrs=attrs)


def encode(kind: int, fields: dict[str, int], attrs: "Sequence[tuple[str, Any]]") -> bytes:
    """A whole message; its header is the caller's to fill."""
    message = message_class(kind)()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = [list(attr) for attr in attrs]
    message.encode()
    return bytes(message.data)
