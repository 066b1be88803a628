"""A command's own resolv.conf: a file on a tmpfs, mounted over the host's in the command's mount namespace.

/etc/resolv.conf is often a link, so the mount lies over the file that it leads to. When the host replaces that file, the
kernel drops the mount in every other namespace. So inotify watches each directory that the path goes through, and the file. Every
event, whatever it is, has the same answer: follow the links again, make the text again, look for the mount again.

A missing file is never made, since its directory is the host's: it is waited for. What is no regular file, such
as a link to /dev/null, is left alone.

Invariant: nothing of the host is written to. The text goes to the tmpfs through a descriptor that was opened there.

Rejected: a mount over the directory, which would hide the host's other files; a bind mount of a file on the host's disk,
which would need a place there.
"""

import _socket
import errno
import fcntl
import os
import stat

from pasta_py import worker_protocol
from pasta_py.control.guest import path_watch, syscalls
from pasta_py.control.planning import resolv_conf
from pasta_py.control.planning.resolv_conf import View
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
else:
    import _signal

_OPTIONS = f"mode=755,size={2 * resolv_conf.MAX_BYTES}"


class OwnResolv:
    """For a process in the command's mount namespace that may mount there, and calls `changed` whenever it gets SIGIO."""

    def __init__(self, view: View, path: str = resolv_conf.PATH) -> None:
        self._view, self._path = view, path
        self._events = -1
        self._host = self._file = -1  # the host's file, where it can be read; ours
        self._text = ""

    def start(self) -> None:
        """Make it, once, and block SIGIO. HostError if there is none, or if it vanishes when the host replaces its own."""
        refused = ""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGIO,))
        try:
            self._events = syscalls.inotify()
            fcntl.fcntl(self._events, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(self._events, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)  # SIGIO for each event
        except OSError as error:
            full = error.errno == errno.EMFILE
            why = f"{error.strerror}: raise the sysctl fs.inotify.max_user_instances" if full else reason(error)
            refused = f"the command's {self._path} is lost when the host replaces its own: {why}"
        try:
            self.refresh()
        except OSError as error:
            raise HostError(f"the command reads the host's {self._path}: {reason(error)}") from None
        if self._file < 0 and (self._view.from_user or self._view.search is not None):
            raise HostError(f"--dns and --search do not reach the command: {self._path} is no file on the host: make it one")
        if refused:
            raise HostError(refused)

    def changed(self) -> None:
        """After SIGIO: read the events, and bring the file up to date."""
        path_watch.drain(self._events)
        try:
            self.refresh()
        except OSError:  # it is changing, and another event follows; or the command keeps the host's
            pass

    def refresh(self) -> None:
        """Mount ours over the host's file, with the text that follows from the host's now."""
        path, _names = path_watch.follow(self._events, self._path)
        try:
            found = os.stat(path) if path else None
        except FileNotFoundError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            return
        if self._file >= 0 and os.path.samestat(found, os.fstat(self._file)):
            text = self._view.text(_read(self._host))
            if text != self._text:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, _bytes(text), 0)
        else:
            self._open_host(path)
            text = self._view.text(_read(self._host))
            self._cover(path, text)
        self._text = text

    def _open_host(self, path: str) -> None:
        if self._host >= 0:
            os.close(self._host)
        self._host = -1
        try:
            self._host = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if self._events >= 0:  # the directory's watch misses changes of a file that is a mount itself
                syscalls.inotify_add(self._events, path, syscalls.IN_CLOSE_WRITE)
        except OSError:  # unreadable: its text counts as ""
            pass

    def _cover(self, path: str, text: str) -> None:
        mount, file = _make(path, text)
        try:
            syscalls.place_mount(mount, path)
        except OSError:
            os.close(file)
            raise
        finally:
            os.close(mount)
        if self._file >= 0:
            os.close(self._file)
        self._file = file


def _read(fd: int) -> str:
    return os.pread(fd, resolv_conf.MAX_BYTES, 0).decode("utf-8", "surrogateescape") if fd >= 0 else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _make(path: str, text: str) -> tuple[int, int]:
    """A mount that has no place yet, and a descriptor of its file, which is on a tmpfs that the command never sees.

    A child makes it in a mount namespace of its own: the command's namespace has no place for a tmpfs.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _in_child(theirs, path, text)
    theirs.close()
    try:
        data, ancillary, _flags, _address = ours.recvmsg(8, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
    finally:
        ours.close()
        os.waitpid(child, 0)
    fds = [fd for _level, _kind, payload in ancillary for fd in worker_protocol.descriptors(payload)]
    if len(fds) != 2:
        number = int.from_bytes(data, "big") or errno.EIO
        raise OSError(number, os.strerror(number))
    return fds[0], fds[1]


def _in_child(sock: "_socket.socket", path: str, text: str) -> None:
    """Never returns."""
    try:
        directory, _, name = path.rpartition("/")
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_SLAVE | syscalls.MS_REC)  # or the tmpfs may appear in the command's namespace
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("tmpfs", directory or "/", "tmpfs", flags, _OPTIONS)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.fchmod(file, 0o644)  # whatever the umask
        os.write(file, _bytes(text))
        sock.sendmsg([bytes(8)], [worker_protocol.rights((syscalls.clone_mount(path), file))])
    except OSError as error:
        sock.send((error.errno or 0).to_bytes(8, "big"))
    finally:
        os._exit(0)

