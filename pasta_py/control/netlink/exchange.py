"""Routing netlink (rtnetlink, RFC 3549): the exchange with the kernel over one plain socket.

`links_addresses_routes` knows what the messages mean, `messages` what they look like.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md
import struct
import sys

from pasta_py.control.netlink import messages
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Self

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

_RECV_BYTES = 256 << 10
_DUMP_TRIES = 8


class Netlink:
    """A NETLINK_ROUTE socket in the network namespace of the thread that makes it. Blocking; not thread-safe."""

    def __init__(self) -> None:
        try:
            self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(
                f"cannot open a netlink socket: {reason(error, 'allow AF_NETLINK to this process')}"
            ) from None
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass  # before Linux 4.20: answers are longer, errors less clear, dumps not filtered
        self._sequence = 0

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_reason: object) -> None:
        self._socket.close()

    def dump(self, kind: int, family: int = 0, **fields: int) -> list[messages.Message]:
        """All objects of an RTM_GET kind.

        `fields` of the request filter, where the kernel supports that. OSError with the kernel's reason. A dump is repeated
        when the tables change meanwhile.
        """
        for _ in range(_DUMP_TRIES):
            found: list[messages.Message] = []
            interrupted = False
            self._send(kind, kind - 2, _NLM_F_DUMP, {"family": family, **fields}, ())
            try:
                for flags, data in self._receive():
                    interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                    if data:
                        found.append(messages.decode(kind - 2, data))
            except OSError as error:
                if error.errno == errno.ENOENT:  # a routing table that has never been used
                    return []
                raise
            if not interrupted:
                return found
        raise OSError(errno.EBUSY, "the kernel's tables change faster than they can be read")

    def request(
        self, kind: int, fields: dict[str, int], attrs: "Sequence[tuple[str, Any]]" = (), flags: int = 0
    ) -> None:
        """Ask for one change and wait for the answer; OSError with the kernel's reason when refused."""
        base = kind - (kind & 3)  # RTM_NEW is a multiple of four, RTM_DEL follows it
        self._send(kind, base, _NLM_F_ACK | flags, fields, attrs)
        for _ in self._receive():
            pass

    def _send(self, kind: int, base: int, flags: int, fields: dict[str, int], attrs: "Sequence[tuple[str, Any]]") -> None:
        self._sequence += 1
        body = messages.encode(base, fields, attrs)
        header = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self) -> "Iterator[tuple[int, bytes]]":
        """Flags and bytes of each message of the answer; the last one is b"". OSError if the answer is an error."""
        while True:
            data, (sender, _groups) = self._socket.recvfrom(_RECV_BYTES)
            if sender:  # not the kernel: the guest's root may write to netlink sockets in its namespace
                continue
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
                    yield flags, b""
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
    position = 36 if kind == _NLMSG_ERROR else 20  # an error repeats the header of the request
    while position + 4 <= len(message):
        length, number = struct.unpack_from("=HH", message, position)
        if number == _NLMSGERR_ATTR_MSG:
            words = message[position + 4 : position + length].rstrip(b"\0").decode("utf-8", "replace")
            text = f"{text} ({words.rstrip('.')})"
        position += max(4, (length + 3) & ~3)
    raise OSError(code, text)
