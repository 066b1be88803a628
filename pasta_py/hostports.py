"""Binds the host sockets of forwarded ports: for control at the start, for the worker later.

Only b"", any address, stands for both families. An address that is given is of its own family alone; `::` too.
"""

import _socket
import errno
import posix as os  # os takes 0.8 ms to import

from pasta_py.model import IPPROTO_TCP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ANY4 = bytes(10) + b"\xff\xff" + bytes(4)
ANY6 = bytes(16)
#: The kernel or the namespace lacks the family, or any address of it.
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_BACKLOG = 4096
_SPARE_FDS = 1024  # kept for connections
# linux/in.h and linux/in6.h; the socket module lacks some.
_IP_PKTINFO = 8
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78


def taken(by: str = "another program") -> str:
    """What to do about a port that `by` has."""
    return f"{by} listens there: stop it, or choose another port"


def is_ipv4(address: bytes) -> bool:
    """Whether 16 bytes are a v4-mapped address (RFC 4291, 2.5.5.2)."""
    return address[:12] == ANY4[:12]


def room() -> int:
    """The first descriptor number that is kept for connections, by the soft limit: listening sockets stay below it."""
    limit = os.sysconf("SC_OPEN_MAX")
    return max(limit - _SPARE_FDS, limit // 2)


def bind(
    proto: int, address: bytes, ifname: str, port: int, *, ipv4: bool = True, ipv6: bool = True, freebind: bool = False
) -> int:
    """A bound socket, non-blocking and close-on-exec, listening if it is TCP; OSError.

    `address`: 16 bytes, or b"" for any address of the families that are on (`ipv4`, `ipv6`). Both families get one dual-stack
    socket, so that we have a port in both or it is refused; where the kernel lacks IPv6, one of IPv4. `ifname`: interface to bind
    to, "" for none. `freebind`: also an address that the host does not have.
    """
    error = OSError(NO_FAMILY[0], "no family is on")
    for each, both in _choices(address, ipv4, ipv6):
        try:
            return _bind(proto, each, ifname, port, both, freebind)
        except OSError as refused:
            error = refused
            if refused.errno not in NO_FAMILY:
                break
    raise error


def _choices(address: bytes, ipv4: bool, ipv6: bool) -> "Iterator[tuple[bytes, bool]]":
    """The addresses to try in turn, and whether `::` takes IPv4 as well."""
    if address:
        yield address, False
        return
    if ipv6:
        yield ANY6, ipv4
    if ipv4:
        yield ANY4, False


def _bind(proto: int, address: bytes, ifname: str, port: int, both: bool, freebind: bool) -> int:
    tcp, v4 = proto == IPPROTO_TCP, is_ipv4(address)
    kind = (_socket.SOCK_STREAM if tcp else _socket.SOCK_DGRAM) | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    sock = _socket.socket(_socket.AF_INET if v4 else _socket.AF_INET6, kind)
    try:
        if not v4:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(not both))
        if ifname:  # this also gives a link-local address its scope
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, ifname.encode("utf-8", "surrogateescape") + b"\0")
        if freebind:
            sock.setsockopt(_socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if not v4:
                sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if tcp:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        else:
            # Set before bind(): each datagram comes with its address. A v6 socket reports those of IPv4 in IPv4's message.
            sock.setsockopt(_socket.IPPROTO_IP, _IP_PKTINFO, 1)
            if not v4:
                sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
        if v4:
            sock.bind((_socket.inet_ntop(_socket.AF_INET, address[12:]), port))
        else:
            sock.bind((_socket.inet_ntop(_socket.AF_INET6, address), port))
        if tcp:
            sock.listen(_BACKLOG)
        return sock.detach()
    finally:
        sock.close()
