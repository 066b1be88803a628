"""The few system calls that Python 3.11's `os` lacks, through cffi: namespaces, mounts, prctl, inotify, a timer.

Only control uses them. Every function raises OSError with the kernel's errno.
"""

import posix as os  # lean imports: docs/architecture.md
import select

from pasta_py._calls import ffi, lib
from pasta_py.worker_protocol import path_bytes

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 0x4000
MS_SLAVE = 0x80000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

IN_CLOSE_WRITE = 0x08
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_ONLYDIR = 0x01000000
_IN_MASK_ADD = 0x20000000  # what is watched already keeps its other events
_IN_NONBLOCK = 0x800
_IN_CLOEXEC = 0x80000


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno), what)
    return result


def readable(fd: int, wait_s: float) -> bool:
    """Whether fd is readable within that time, a pidfd once its process has ended. poll(2): select(2) stops at descriptor 1023."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(wait_s * 1000))


def unshare(flags: int) -> None:
    """Move into new namespaces of the kinds in `flags` (CLONE_NEW*)."""
    _check(lib.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Join the namespace that `fd` refers to; EINVAL unless it is of that kind."""
    _check(lib.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    what = (path_bytes(source), path_bytes(target), path_bytes(kind))
    _check(lib.mount(*what, flags, path_bytes(data) or ffi.NULL), "mount")


def clone_mount(path: str, *, below: bool = False) -> int:
    """A descriptor of a new mount of what is at `path`, a file or a directory, that has no place yet (open_tree(2)).

    `below`: with what is mounted below it.
    """
    return _check(lib.clone_mount(path_bytes(path), below), path)


def place_mount(mount_fd: int, target: str) -> None:
    """Put a mount of `clone_mount` over `target`; links are followed (move_mount(2))."""
    _check(lib.place_mount(mount_fd, path_bytes(target)), target)


def set_hostname(name: str) -> None:
    data = name.encode()
    _check(lib.sethostname(data, len(data)), "sethostname")


def _prctl(option: int, value: int) -> None:
    _check(lib.prctl(option, value, 0, 0, 0), "prctl")


def set_parent_death_signal(signum: int) -> None:
    """Get this signal when the parent ends. Joining a namespace can clear it: call it after that."""
    _prctl(_PR_SET_PDEATHSIG, signum)


def be_private() -> None:
    """Forbid others to trace us, even with privileges in the user namespace that we are about to join; see ptrace(2), dumpable."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_after(seconds: float) -> None:
    """Have the kernel kill this process then, even if it is stopped (timer_create(2): SIGALRM would wait for SIGCONT)."""
    _check(lib.die_after(int(seconds * 1000)), "timer_create")


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that their end and its reason reach us."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def inotify_watch(directory: str, mask: int) -> tuple[int, int]:
    """A new non-blocking, close-on-exec inotify descriptor watching one directory, and the number of that watch."""
    fd = inotify()
    try:
        return fd, inotify_add(fd, directory, mask)
    except OSError:
        os.close(fd)
        raise


def inotify() -> int:
    """A new non-blocking, close-on-exec inotify descriptor that watches nothing yet."""
    return _check(lib.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC), "inotify_init1")


def inotify_add(fd: int, path: str, mask: int) -> int:
    """Watch this path too, or for these events too; the number of the watch."""
    return _check(lib.inotify_add_watch(fd, path_bytes(path), mask | _IN_MASK_ADD), path)


def keep_directory(fd: int) -> None:
    """Give up every access to files but making, writing, renaming and removing files in this directory (landlock(7))."""
    _check(lib.keep_directory(fd), "landlock")
