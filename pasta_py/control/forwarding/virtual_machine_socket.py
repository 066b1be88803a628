"""Makes the socket that a virtual machine connects to (--socket of passt), or takes the one of --fd.

The worker is locked in and cannot remove its socket at the end. So a socket that refuses connections is stale, and is replaced.
Anything else at the path is refused.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py import defaults
from pasta_py.errors import HostError, UsageError

_MAX_BYTES = 107  # unix(7): sun_path, with its zero
_NUMBERS = range(1, 100)
_BACKLOG = 8
_TYPE, _SOCKET = 0o170000, 0o140000  # inode(7)
KINDS = (_socket.SOCK_STREAM, _socket.SOCK_SEQPACKET, _socket.SOCK_DGRAM)


class Listening:
    """A listening socket: its descriptor, which the caller owns, and its path."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd, self.path = fd, path


def listen(path: str) -> Listening:
    """A listening socket at the path, or, without one, at the first default path that is free. HostError if there is none."""
    if path:
        if len(path.encode("utf-8", "surrogateescape")) > _MAX_BYTES or "\0" in path:
            raise UsageError(f"Invalid socket path: {path}: give one of at most {_MAX_BYTES} bytes, perhaps a relative one")
        return Listening(_listen(path), path)
    for number in _NUMBERS:
        path = defaults.MACHINE_SOCKET.format(number)
        try:
            return Listening(_listen(path), path)
        except HostError:
            if number == _NUMBERS[-1]:
                raise
    raise AssertionError


def remove(path: str) -> None:
    """Remove the socket of a start that has failed."""
    try:
        os.unlink(path)
    except OSError:
        pass


def adopt(number: int, *, stream: bool = False) -> tuple[int, bool]:
    """A duplicate of --fd, and whether frames may get lost in it, as they may in a socket of packets. `stream`: it is none."""
    sock = None
    try:
        import fcntl

        fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        sock = _socket.socket(fileno=fd)
        if sock.type not in (KINDS[:1] if stream else KINDS):
            raise OSError(errno.ESOCKTNOSUPPORT, os.strerror(errno.ESOCKTNOSUPPORT))
        return sock.detach(), sock.type != _socket.SOCK_STREAM
    except OSError as error:
        raise UsageError(f"--fd {number}: {error.strerror}: give a connected UNIX socket") from None


def _listen(path: str) -> int:
    # Bind first: the path is looked at only if something has it.
    for last in (False, True):
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            sock.bind(path)
            sock.listen(_BACKLOG)
            return sock.detach()
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or last:
                raise HostError(f"Failed to bind UNIX domain socket: {error.strerror}: {path!r}: choose another --socket") from None
        _remove_stale(path)
    raise AssertionError


def _remove_stale(path: str) -> None:
    """Remove a socket that nothing serves. HostError for one that is in use, and for anything that is no socket."""
    try:
        if os.lstat(path).st_mode & _TYPE != _SOCKET:
            raise HostError(f"Socket path {path} is taken by something that is no socket: remove it, or choose another --socket")
    except FileNotFoundError:
        return
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        remove(path)
        return
    except FileNotFoundError:
        return
    except PermissionError:
        raise HostError(f"Socket path {path} belongs to another user: choose another --socket") from None
    except OSError:
        pass  # the backlog is full: a program listens; or it is a socket of another type
    finally:
        probe.close()
    raise HostError(f"Socket path {path} already in use: choose another --socket")
