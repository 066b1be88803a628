"""Makes the control socket, from which `pasta-py ps` and its sisters learn of this instance: docs/control.md.

It is $XDG_RUNTIME_DIR/pasta-py/PID.sock, for root /run/pasta-py/PID.sock, in a directory of the user's alone. PID is the process
that a pidfile names. Where that directory cannot be made, there is no socket, and no harm. In the background nothing is left that
could remove the socket at the end. So each start removes a few that no process serves any more, and `pasta-py ps` all of them.

Rejected: a PID namespace's own idea of who lives: a directory may be shared by several. A socket is removed only if it refuses.
"""

import _socket
import posix as os  # lean imports: docs/architecture.md

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "pasta-py"
ROOT_DIRECTORY = "/run"
_SUFFIX = ".sock"
_BACKLOG = 64
_MAX_BYTES = 107  # unix(7): sun_path, with its zero
_REMOVED_AT_ONCE = 4
_TYPE, _DIRECTORY, _OTHERS = 0o170000, 0o040000, 0o077  # inode(7)


class ControlSocket:
    """A listening, non-blocking socket, and its name in the directory."""

    def __init__(self, directory: str, folder: int, fd: int, name: str) -> None:
        self.fd, self._folder, self._name = fd, folder, name
        self.path = f"{directory}/{name}"

    def rename(self, pid: int) -> None:
        """Give it its name, once the process that it stands for is known. Without that name it is of no use."""
        name = f"{pid}{_SUFFIX}"
        try:
            os.rename(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._name = name
        except OSError:
            self.remove()

    def remove(self) -> None:
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except OSError:
            pass  # another has removed it

    def close(self) -> None:
        """Close our descriptors: the worker has its own."""
        os.close(self.fd)
        os.close(self._folder)


def directories() -> "Iterator[str]":
    """Where sockets of this user may be, the best place first."""
    if os.geteuid() == 0:
        yield f"{ROOT_DIRECTORY}/{NAME}"
    runtime = os.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    if runtime.startswith("/"):
        yield f"{runtime}/{NAME}"


def listen(pid: int = 0) -> ControlSocket | None:
    """Make the socket of this instance; None where that is impossible. `pid`: 0 if it is not known yet, then rename() follows."""
    for directory in directories():
        folder = _open(directory)
        if folder < 0:
            continue
        try:
            _remove_dead(directory, folder)
            name = f"{pid}{_SUFFIX}" if pid else f".{os.getpid()}"
            return ControlSocket(directory, folder, _bind(directory, folder, name), name)
        except OSError:
            os.close(folder)
    return None


def _open(directory: str) -> int:
    """A descriptor of the directory, which is made if it is missing; -1 if others could write there."""
    try:
        os.mkdir(directory, 0o700)
    except OSError:
        pass  # it is there, or open() fails
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    status = os.fstat(folder)
    if status.st_uid == os.geteuid() and status.st_mode & _TYPE == _DIRECTORY and not status.st_mode & _OTHERS:
        return folder
    os.close(folder)
    return -1


def _bind(directory: str, folder: int, name: str) -> int:
    path = f"{directory}/{name}"
    if len(path.encode("utf-8", "surrogateescape")) > _MAX_BYTES:
        raise OSError
    try:
        os.unlink(name, dir_fd=folder)  # of an earlier process with our number
    except OSError:
        pass
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock.detach()


def _remove_dead(directory: str, folder: int) -> None:
    removed = 0
    for name in os.listdir(folder):
        pid = name.removesuffix(_SUFFIX).removeprefix(".")
        if removed == _REMOVED_AT_ONCE:
            return
        if pid.isdigit() and _is_gone(pid):
            removed += remove_if_dead(directory, name)


def _is_gone(pid: str) -> bool:
    try:
        os.stat(f"/proc/{pid}")
    except OSError:
        return True
    return False


def remove_if_dead(directory: str, name: str) -> bool:
    """Remove a socket that no process serves; whether that was so."""
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        probe.connect(f"{directory}/{name}")
    except ConnectionRefusedError:
        try:
            os.unlink(f"{directory}/{name}")
            return True
        except OSError:
            return False
    except OSError:
        return False
    finally:
        probe.close()
    return False
