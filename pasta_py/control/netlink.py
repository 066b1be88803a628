"""Routing netlink (rtnetlink, RFC 3549): pyroute2's message classes over one plain socket.

Owns the way pyroute2 is loaded, and the exchange with the kernel; what the messages mean is in `rtnl`.

Loading: pyroute2's package initialiser imports the whole library (asyncio, sqlite3, ssl: some 200 ms), and every
container start would pay for it. So the package is registered without running its initialiser, and only what the
messages need is imported (some 6 ms). Its class of link messages brings the details of every kind of link with it (5 ms
more), of which we want none: ours has the attributes that `rtnl` reads and writes. `logging` and `traceback`, which it
imports for cases of trouble, take another 4 ms: it gets stand-ins that import them on first use. Should a later pyroute2
not bear all that, it is imported the ordinary way: slower, otherwise the same.

Rejected: IPRoute of pyroute2 (needs the initialiser, and an event loop); the ip program (a subprocess, a package).
"""

import errno
import importlib
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, Self

from pasta_py.errors import HostError, reason
from pasta_py.record import Record

# linux/netlink.h
_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")

# linux/rtnetlink.h: NEW, DEL and GET of each kind of object
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

_AF_INET6 = 10
_RECV_BYTES = 256 << 10
_DUMP_TRIES = 8
_MODULES = ("ifaddrmsg", "rtmsg")

_classes: dict[int, Any] = {}


class Message(Record):
    """One decoded message, or a nested attribute with fields of its own."""

    fields: dict[str, int]  # the fixed part, by pyroute2's names
    attrs: dict[str, Any]  # int, str, dict, Message, or a list of Message, by the kernel's names


def message_classes() -> dict[int, Any]:
    """pyroute2's message class for each RTM_NEW number, imported on first use; HostError without pyroute2."""
    if not _classes:
        spec = importlib.util.find_spec("pyroute2")
        if spec is None:
            raise HostError("the Python package pyroute2 is missing: install it, as in `pip install pyroute2`")
        bare = "pyroute2" not in sys.modules
        before = set(sys.modules)
        stand_ins = {name: _late(name) for name in ("logging", "traceback") if bare and name not in sys.modules}
        if bare:
            stand_ins["pyroute2"] = importlib.util.module_from_spec(spec)
        sys.modules.update(stand_ins)
        try:
            _classes.update(_import_messages())
            return _classes
        except Exception:  # whatever a changed layout raises: the ordinary import decides
            if not bare:
                raise
        finally:
            for name, module in stand_ins.items():  # whoever imports one of them after us gets the real one
                if sys.modules.get(name) is module:
                    del sys.modules[name]
        for name in set(sys.modules) - before:
            if name.startswith("pyroute2."):
                del sys.modules[name]
        _classes.update(_import_messages())
    return _classes


class _LateLogger:
    """logging.getLogger(name), once it is used."""

    def __init__(self, *name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module("logging").getLogger(*self._name), attribute)


def _late(name: str) -> ModuleType:
    """A stand-in for a module that imports it when something of it is asked for."""
    stand_in = ModuleType(name)

    def ask(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__dict__["__getattr__"] = ask
    if name == "logging":
        stand_in.__dict__["getLogger"] = _LateLogger
    return stand_in


def _import_messages() -> dict[int, Any]:
    base = importlib.import_module("pyroute2.netlink")
    address, route = (getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{name}"), name) for name in _MODULES)
    return {RTM_NEWLINK: _link_class(base), RTM_NEWADDR: address, RTM_NEWROUTE: route}


def _link_class(base: Any) -> Any:
    """struct ifinfomsg (linux/rtnetlink.h) and the attributes that are read or written; numbers of linux/if_link.h."""

    class AfInet6(base.nla):  # type: ignore[misc] # pyroute2 is imported late, so its types are unknown here
        prefix = "IFLA_"
        nla_map = ((8, "IFLA_INET6_ADDR_GEN_MODE", "uint8"),)

    class AfSpec(base.nla):  # type: ignore[misc]
        prefix = "AF_"
        nla_map = ((_AF_INET6, "AF_INET6", "inet6"),)
        inet6 = AfInet6

    class LinkMessage(base.nlmsg):  # type: ignore[misc]
        prefix = "IFLA_"
        fields = (("family", "B"), ("__align", "x"), ("ifi_type", "H"), ("index", "i"), ("flags", "I"), ("change", "I"))
        nla_map = (
            (1, "IFLA_ADDRESS", "l2addr"),
            (3, "IFLA_IFNAME", "asciiz"),
            (4, "IFLA_MTU", "uint32"),
            (13, "IFLA_TXQLEN", "uint32"),
            (26, "IFLA_AF_SPEC", "af_spec"),
        )
        af_spec = AfSpec

    return LinkMessage


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


class Netlink:
    """A NETLINK_ROUTE socket in the network namespace of the thread that makes it. Blocking; not thread-safe."""

    def __init__(self) -> None:
        message_classes()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(
                f"cannot open a netlink socket: {reason(error, 'allow AF_NETLINK to this process')}"
            ) from None
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            with suppress(OSError):  # before Linux 4.20: answers are longer, errors less clear, dumps not filtered
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def dump(self, kind: int, wanted: frozenset[str], family: int = 0, **fields: int) -> list[Message]:
        """All objects of an RTM_GET kind, with the attributes named in `wanted`.

        `fields` of the request filter, where the kernel knows how. OSError with the kernel's reason. A dump that
        something else changed meanwhile is taken again.
        """
        for _ in range(_DUMP_TRIES):
            found: list[Message] = []
            interrupted = False
            self._send(kind, kind - 2, _NLM_F_DUMP, {"family": family, **fields}, ())
            try:
                for flags, data in self._receive():
                    interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                    message = message_classes()[kind - 2](data)
                    message.decode()
                    found.append(_plain(message, wanted))
            except OSError as error:
                if error.errno == errno.ENOENT:  # a routing table that has never been used
                    return []
                raise
            if not interrupted:
                return found
        raise OSError(errno.EAGAIN, "the kernel's tables change faster than they can be read")

    def request(self, kind: int, fields: dict[str, int], attrs: Sequence[tuple[str, Any]] = (), flags: int = 0) -> None:
        """Ask for one change and wait for the answer; OSError with the kernel's reason when refused."""
        base = kind - (kind & 3)  # RTM_NEW is a multiple of four, RTM_DEL follows it
        self._send(kind, base, _NLM_F_ACK | flags, fields, attrs)
        for _ in self._receive():
            pass

    def _send(self, kind: int, base: int, flags: int, fields: dict[str, int], attrs: Sequence[tuple[str, Any]]) -> None:
        self._sequence += 1
        message = message_classes()[base]()
        for name, value in fields.items():
            message[name] = value
        message["attrs"] = [list(attr) for attr in attrs]
        header = {"type": kind, "flags": _NLM_F_REQUEST | flags, "sequence_number": self._sequence, "pid": 0}
        message["header"] = header
        message.encode()
        self._socket.send(message.data)

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        """Flags and bytes of each message of the answer; returns at its end, OSError if it is an error."""
        while True:
            data = self._socket.recv(_RECV_BYTES)
            position = 0
            while position + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
                if length < _HEADER.size:
                    raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
                message = data[position : position + length]
                position += (length + 3) & ~3
                if sequence != self._sequence:  # rest of a dump that was given up
                    continue
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _check(kind, message)
                    return
                yield flags, message


def _check(kind: int, message: bytes) -> None:
    """Raise the error that an NLMSG_ERROR or NLMSG_DONE carries, with the kernel's own words if there are any."""
    if len(message) < _HEADER.size + 4:
        return
    code = -int.from_bytes(message[16:20], sys.byteorder, signed=True)
    if code <= 0:
        return
    text = os.strerror(code)
    position = 36 if kind == _NLMSG_ERROR else 20  # after an error stands the header of the request
    while position + 4 <= len(message):
        length, number = struct.unpack_from("=HH", message, position)
        if number == _NLMSGERR_ATTR_MSG:
            words = message[position + 4 : position + length].rstrip(b"\0").decode("utf-8", "replace")
            text = f"{text} ({words.rstrip('.')})"
        position += max(4, (length + 3) & ~3)
    raise OSError(code, text)
