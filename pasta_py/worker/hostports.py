"""Host sockets that are bound while the worker runs: for automatic ports, and for rules of the control socket.

As control binds those of the command line (control/ports.py), with what the sandbox leaves: no --freebind, no privileges.
"""

import _socket

from pasta_py.confwire import is_ipv4
from pasta_py.model import IPPROTO_TCP

_BACKLOG = 4096
_IP_PKTINFO = 8  # linux/in.h


def bind(proto: int, address: bytes, ifname: str, port: int, *, both: bool = False) -> int:
    """A bound, non-blocking socket, listening if it is TCP; OSError. `both`: `::` takes IPv4 as well."""
    tcp, v4 = proto == IPPROTO_TCP, is_ipv4(address)
    kind = (_socket.SOCK_STREAM if tcp else _socket.SOCK_DGRAM) | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    sock = _socket.socket(_socket.AF_INET if v4 else _socket.AF_INET6, kind)
    try:
        if not v4:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(not both))
        if ifname:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, ifname.encode("utf-8", "surrogateescape") + b"\0")
        if tcp:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        else:
            # Before the first datagram can come, see control/ports.py.
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
