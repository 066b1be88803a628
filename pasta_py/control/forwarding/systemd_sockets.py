"""Listening sockets that the caller has opened for us: sd_listen_fds(3), as systemd's socket units and others pass them.

A privileged port then needs no privilege here, and the socket outlives a restart. Each is forwarded to the guest's
port of its name (FileDescriptorName=8080, or anything that ends in -8080), or to the port it is bound to.
"""

import os
import socket

from pasta_py.control.commandline import port_spec
from pasta_py.errors import UsageError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP, Listener

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def take() -> dict[int, str]:
    """The descriptors meant for this process, with their names. Removes the variables, so that children do not see them."""
    found = {name: os.environ.pop(name, "") for name in _VARIABLES}
    count = found["LISTEN_FDS"]
    if found["LISTEN_PID"] != str(os.getpid()) or not count.isdigit():
        return {}
    names = found["LISTEN_FDNAMES"].split(":") if found["LISTEN_FDNAMES"] else []
    names += [""] * (int(count) - len(names))
    return {_FIRST + i: names[i] for i in range(int(count))}


def listeners(inherited: dict[int, str]) -> list[tuple[Listener, list[int]]]:
    """What to forward; the descriptors are the caller's. UsageError for a socket that cannot be forwarded."""
    return [(_listener(fd, name), [fd]) for fd, name in inherited.items()]


def _listener(fd: int, name: str) -> Listener:
    what = f"inherited socket {fd}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}: LISTEN_FDS counts sockets from descriptor 3 on") from None
    with sock:
        os.set_inheritable(fd, False)
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise UsageError(f"{what}: not an Internet socket: use ListenStream=PORT or ListenDatagram=PORT")
        proto = IPPROTO_TCP if sock.type == socket.SOCK_STREAM else IPPROTO_UDP
        if proto == IPPROTO_TCP and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise UsageError(f"{what}: a connection, not a listening socket: use Accept=no")
        port: int = sock.getsockname()[1]
        target = _port_in(name) or port
        if not port:
            raise UsageError(f"{what}: not bound to a port: use ListenStream=PORT or ListenDatagram=PORT")
        sock.setblocking(False)
        return Listener(proto=proto, port=port, target=b"", target_port=target, inherited=True)


def _port_in(name: str) -> int:
    """The port that a name says; 0 if it says none."""
    last = name.rpartition("-")[2]
    return int(last) if last.isascii() and last.isdigit() and 1 <= int(last) <= port_spec.MAX_PORT else 0
