"""Makes the UNIX socket of --conf-path, --control or --metrics, for its owner alone. It replaces a socket that no program serves.

The worker is locked in and cannot remove its socket at the end. So a socket that refuses connections is stale.
"""

import os
import socket
import stat

from pasta_py.errors import HostError

_BACKLOG = 16
_MAX_BYTES = 107  # unix(7): sun_path, with its zero


def listen(path: str, option: str = "--conf-path") -> int:
    """A listening, non-blocking descriptor, which the caller owns. HostError with the reason if there is none."""
    if len(os.fsencode(path)) > _MAX_BYTES:
        raise _refused(option, path, f"it is longer than {_MAX_BYTES} bytes: choose a shorter one, perhaps a relative one")
    if "\0" in path or not path:
        raise _refused(option, path, "not a path: choose one that can be written")
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as sock:
        _remove_stale(option, path)
        mask = os.umask(0o177)  # the socket has its mode from the start: others can never connect
        try:
            sock.bind(path)
        except OSError as error:
            raise _refused(option, path, f"{error.strerror}: choose a path that can be written") from None
        finally:
            os.umask(mask)
        sock.listen(_BACKLOG)
        return sock.detach()


def remove(path: str) -> None:
    """Remove the socket of a start that has failed. It is still ours: others replace only a stale one."""
    try:
        os.unlink(path)
    except OSError:
        pass  # already gone, or its directory changed: the next start reports what is wrong


def _remove_stale(option: str, path: str) -> None:
    """Remove a stale socket; HostError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # missing, or not visible: bind(2) will say
    if not stat.S_ISSOCK(mode):
        raise _refused(option, path, "something else than a socket is there: remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except FileNotFoundError:
            return
        except OSError as error:
            if not isinstance(error, BlockingIOError):  # the backlog is full: a program listens
                raise _refused(option, path, f"{error.strerror}: choose another path") from None
            raise _refused(option, path, "another program listens there: stop it, or choose another path") from None
        else:
            raise _refused(option, path, "another program listens there: stop it, or choose another path")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _refused(option, path, f"a stale socket cannot be removed: {error.strerror}: choose another path") from None


def _refused(option: str, path: str, why: str) -> HostError:
    return HostError(f"{option} {path!r}: {why}")
