"""Makes a guest's clients of DHCP and DHCPv6 renew at once when what they were given has changed.

A client that can do that says so in its request: by DHCP with the algorithms that it has (RFC 6704, 3.1.1), by DHCPv6 with
Reconfigure Accept (RFC 8415, 21.20). The answer to it has a key, and later the client believes a FORCERENEW (RFC 3203) or
Reconfigure (RFC 8415, 18.3.11) that is signed with it. Both protocols sign in the same manner: HMAC-MD5 (RFC 2104, RFC 1321) of
the message, in which the place of the signature is zero. Other clients learn the change when they ask again.

All clients of a link have the same key: they see each other's frames.
"""

import posix as os  # os takes 0.8 ms to import
import time

from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import md5  # the same function, known to type checkers

    _CAN_SIGN = True
else:
    try:
        from _md5 import md5  # hashlib would load OpenSSL

        _CAN_SIGN = True
    except ImportError:  # an interpreter without it: no client gets a key
        _CAN_SIGN = False

_MOST_CLIENTS = 64  # of each protocol; the oldest is forgotten
_KEY_BYTES = _DIGEST_BYTES = 16
_BLOCK_BYTES = 64  # of MD5 (RFC 2104, 2)
# RFC 6704, 3.1.3; RFC 8415, 20.4.1: protocol "reconfigure key", algorithm HMAC-MD5, a counter against replay
_HEAD = b"\3\1\0"
_KEY, _SIGNATURE = b"\1", b"\2"


class Client(Record):
    """Who is told."""

    mac: bytes
    address: bytes
    ident: bytes  # its client identifier; b"": it gave none
    message: bytes = b""  # DHCP: xid and chaddr of what it sent last


class Renewals:
    """The key, and the clients that have it."""

    INFORMATION_BYTES = len(_HEAD) + 8 + 1 + _KEY_BYTES  # what an authentication option says

    def __init__(self) -> None:
        self._key = os.urandom(_KEY_BYTES)
        self.clients4: dict[bytes, Client] = {}  # by MAC address
        self.clients6: dict[bytes, Client] = {}  # by DUID
        self.servers: set[bytes] = set()  # addresses that clients know us by

    def offer(self, clients: "dict[bytes, Client]", name: bytes, client: Client) -> bytes:
        """Note the client; what its authentication option says, b"" if there is no forced renewal."""
        if not _CAN_SIGN:
            return b""
        clients.pop(name, None)
        clients[name] = client
        if len(clients) > _MOST_CLIENTS:
            del clients[next(iter(clients))]
        return _HEAD + _count() + _KEY + self._key

    def signed(self, before: bytes, after: bytes = b"") -> bytes:
        """A message out of its bytes before and after what its authentication option says."""
        before += _HEAD + _count() + _SIGNATURE
        return before + _hmac(self._key, before + bytes(_DIGEST_BYTES) + after) + after


def _count() -> bytes:
    """Greater each time (RFC 3118, 2)."""
    return time.monotonic_ns().to_bytes(8, "big")


def _hmac(key: bytes, data: bytes) -> bytes:
    """RFC 2104, 2; the key is no longer than a block."""

    def padded(byte: int) -> bytes:
        return bytes(each ^ byte for each in key.ljust(_BLOCK_BYTES, b"\0"))

    return md5(padded(0x5C) + md5(padded(0x36) + data).digest()).digest()
