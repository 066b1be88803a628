"""Makes the socket of --metrics: unix:PATH, for its owner alone, or ADDRESS:PORT."""

import _socket

from pasta_py.control.forwarding import pesto_socket
from pasta_py.control.ip import ip_address
from pasta_py.errors import HostError, UsageError, reason

_BACKLOG = 16
_UNIX = "unix:"
_FORM = "expected unix:PATH, or ADDRESS:PORT, as in 127.0.0.1:9090 or [::1]:9090"


def path_of(value: str) -> str:
    """The path of a UNIX socket; "" for one of TCP."""
    return value[len(_UNIX) :] if value.startswith(_UNIX) else ""


def listen(value: str) -> int:
    """A listening, non-blocking descriptor, which the caller owns."""
    if value.startswith(_UNIX):
        return pesto_socket.listen(path_of(value), "--metrics")
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address(bare)
        good = colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536
        if not good or (address.version == 6) != (bare != host):
            raise ValueError
    except ValueError:
        raise UsageError(f"invalid value {value!r} for --metrics: {_FORM}") from None
    family = _socket.AF_INET if address.version == 4 else _socket.AF_INET6
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind((bare, int(port)))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise HostError(f"Couldn't listen at --metrics {value!r}: {reason(error, 'choose another address or port')}") from None
    return sock.detach()
