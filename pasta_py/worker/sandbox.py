"""Locks the worker in, layer by layer. A layer that the kernel refuses costs one warning, or with --sandbox the start.

    descriptors   all closed but the standard streams, /dev/null, and the sockets to control and the helper
    user          a user namespace of its own; if started by real root, first another user: UID 65534, or --runas
    namespaces    mount, PID, IPC, UTS. The network namespace stays: it is the host's side of every flow
    root          an empty read-only directory
    privileges    no capability, no_new_privs, not dumpable, no core dumps
    Landlock      no file can be opened, no abstract UNIX socket connected, no process signalled; where the kernel has it
    limits        no process can be started; no file grows, unless the log or the capture is a file
    system calls  those of csrc/io/seccomp_table.c; any other ends the worker

The order is forced. A PID namespace needs a fork, which takes no threads along; capabilities and Landlock belong to threads. So
`enter` comes at the very start, before the core exists and while control still reads the host's routes. `close` comes when
everything is built, before the first byte from the guest is read.
"""

import errno
import posix as os  # os takes 0.8 ms to import

from pasta_py import defaults, descriptors
from pasta_py.worker import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_INITIAL_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): every ID, as itself
_PARENT_GONE = 1
_TYPE, _REGULAR = 0o170000, 0o100000  # inode(7)


def enter(
    keep_fd: int, runas: "tuple[int, int] | None" = None, *, by_chroot: bool = False
) -> "tuple[int, list[str]]":
    """Lock the process in, but for what close() does. Descriptors up to keep_fd stay open.

    `runas`: UID and GID that root becomes, by default 65534; OSError if it cannot. `by_chroot`: use chroot for the empty root
    where the kernel refuses pivot_root (as on the root of an initramfs).

    Returns the worker's PID as seen from outside, and one line for each layer that is missing. With a PID namespace it returns in a
    child; the parent ends with status 0.
    """
    descriptors.close_from(keep_fd + 1)
    warnings: list[str] = []
    _try(warnings, "the limit of open files stays low", confine.raise_descriptor_limit)
    # In a user namespace root may be unable to change its groups, so there it only changes to a user that was asked for.
    root = os.geteuid() == 0 and (runas not in (None, (0, os.getegid())) or _in_initial_userns())
    uid, gid = (runas or (defaults.RUNAS_ID, defaults.RUNAS_ID)) if root else (os.geteuid(), os.getegid())
    others = confine.MOUNT | confine.PID | confine.IPC | confine.UTS
    if root:
        _become(uid, gid, saved=0)
        confine.own_proc_self()
    refusal = _unshare(confine.USER | others)
    if refusal is None:
        _try(warnings, "the user namespace has no IDs", lambda: _map_ids(uid, gid))
        if root:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        separate = True
    else:
        if root:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
        # Root, real or of a user namespace, needs no new user namespace to unshare the others.
        separate = _unshare(others) is None
        lost = "no user namespace" if separate else "no namespaces: the worker sees the file system and other processes"
        warnings.append(f"sandbox: {lost}: {refusal.strerror} (`pasta-py doctor` says why)")
    pid = os.getpid()
    if separate:
        pid = _fork()
        _try(warnings, "no empty root: the worker can see the file system", lambda: confine.empty_root(by_chroot=by_chroot))
    if refusal is not None and root:
        _become(uid, gid, saved=None)
    _try(warnings, "privileges stay", confine.drop_privileges)
    _landlock(warnings, needed=not separate)
    return pid, warnings


def close(files: "Iterable[int]", *, vhost_user: bool = False, whole: bool = False) -> "list[str]":
    """The last layers: limits and the filter on system calls. `files`: descriptors of the log and the capture. `vhost_user`: the
    memory of a virtual machine will be mapped. `whole`: a kernel without Landlock lacks a layer, also where there is an empty root.

    Returns one line for each layer that is missing.
    """
    warnings: list[str] = []
    if whole:  # once more, which changes nothing where it is there
        _landlock(warnings, needed=True)
    grows = any(os.fstat(fd).st_mode & _TYPE == _REGULAR for fd in files)
    _try(warnings, "no limits", lambda: confine.limit_resources(files=grows))
    who = confine.WORKER | (confine.VHOST_USER if vhost_user else 0)
    _try(warnings, "no filter on system calls", lambda: confine.filter_calls(who))
    return warnings


def _landlock(warnings: "list[str]", *, needed: bool) -> None:
    """Many kernels lack Landlock, so only warn of that where there is no empty root (`needed`)."""
    try:
        confine.landlock()
    except OSError as error:
        if needed or error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
            warnings.append(f"sandbox: no Landlock: {error.strerror}")


def _try(warnings: "list[str]", lost: str, layer: "Callable[[], None]") -> None:
    try:
        layer()
    except OSError as error:
        warnings.append(f"sandbox: {lost}: {error.strerror}")


def _unshare(which: int) -> "OSError | None":
    try:
        confine.unshare(which)
    except OSError as error:
        return error
    return None


def _in_initial_userns() -> bool:
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() == _INITIAL_UID_MAP
    except OSError:
        return False


def _become(uid: int, gid: int, saved: "int | None") -> None:
    """Change user and groups; with saved=0 the change can be undone, None: it cannot."""
    os.setgroups([])
    os.setresgid(gid, gid, gid if saved is None else saved)
    os.setresuid(uid, uid, uid if saved is None else saved)


def _map_ids(uid: int, gid: int) -> None:
    # user_namespaces(7): an ordinary user may map its own IDs only, and its group only after setgroups is denied.
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _fork() -> int:
    """Continue in a child, the first process of the new PID namespace; the parent tells it its PID outside."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.write(writer, str(child).encode())
        os._exit(0)
    os.close(writer)
    number = os.read(reader, 16)
    os.close(reader)
    if not number:
        os._exit(_PARENT_GONE)
    return int(number)
