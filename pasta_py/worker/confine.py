"""What the worker gives up, and how its process looks from outside: wraps the confine_ functions of csrc/plane_api.h.

Python's os module lacks these system calls, and ctypes is too slow to import. sandbox.py decides the order.
"""

import posix as os  # os takes 0.8 ms to import

from pasta_py import _plane, worker_protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ffi, lib = _plane.ffi, _plane.lib

USER: int = lib.CONFINE_USER
MOUNT: int = lib.CONFINE_MOUNT
PID: int = lib.CONFINE_PID
IPC: int = lib.CONFINE_IPC
UTS: int = lib.CONFINE_UTS
WORKER: int = lib.CONFINE_WORKER
VHOST_USER: int = lib.CONFINE_VHOST_USER
CAP_NET_ADMIN = 1 << 12  # linux/capability.h

_ARG_START = 45  # index of arg_start in /proc/PID/stat after the name, proc(5); arg_end follows


def raise_errno(result: int) -> None:
    """OSError for the -errno that a C function has returned."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))


# ---- layers of the sandbox ----


def unshare(which: int) -> None:
    """Leave the namespaces in `which` (USER and following, or-ed) for new ones."""
    raise_errno(lib.confine_unshare(which))


def empty_root(*, by_chroot: bool = False) -> None:
    """Make an empty, read-only directory the root. The mount namespace must be ours alone.

    `by_chroot`: where the kernel refuses pivot_root, use chroot; the old root stays mounted, out of reach.
    """
    raise_errno(lib.confine_root(by_chroot))


def drop_privileges(kept: int = 0) -> None:
    """No capability in any set but `kept`, no way to gain one, not dumpable, no core dumps. Only before any thread starts."""
    raise_errno(lib.confine_privileges(kept, False))


def landlock(readable: "Sequence[str]" = ()) -> None:
    """Forbid opening files, but for reading below the paths `readable`, and reaching abstract UNIX sockets, where the kernel has
    Landlock. Only before any thread starts."""
    paths = [ffi.new("char[]", worker_protocol.path_bytes(path)) for path in readable]
    raise_errno(lib.confine_landlock([*paths, ffi.NULL]))


def limit_resources(*, files: bool) -> None:
    """Forbid starting processes and threads; with files=False also growing regular files. After every thread has started."""
    raise_errno(lib.confine_limits(files))


def filter_calls(who: int = WORKER) -> None:
    """Allow every thread only the system calls of csrc/io/seccomp_table.c; any other kills the process."""
    raise_errno(lib.confine_calls(who))


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit."""
    raise_errno(lib.confine_descriptors())


def own_proc_self() -> None:
    """Give /proc/self to the present user after a change of user."""
    raise_errno(lib.confine_dumpable())


# ---- the process as others see it ----


def call_process(name: str) -> None:
    """Set the name that ps and pgrep show."""
    raise_errno(lib.confine_name(name.encode()))


def forget_environment(kept: "tuple[str, ...]") -> None:
    """Zero the environment that a fork has from its parent, here and in C. Variables whose names begin with one of `kept` stay."""
    names = [ffi.new("char[]", name.encode()) for name in kept]
    lib.confine_environment([*names, ffi.NULL])
    for name, value in os.environ.items():
        if not name.startswith(tuple(map(str.encode, kept))) and len(value) > 1:  # Python shares values of one byte
            ffi.memmove(ffi.from_buffer(value), bytes(len(value)), len(value))
    os.environ.clear()


def set_command_line(words: "Sequence[str]") -> None:
    """Show these words in /proc/self/cmdline. They are cut to the length of the command line that the process was started with."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # no /proc
        return
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    if not 0 < start < end:  # a kernel that gives no addresses, as gVisor's
        return
    room = ffi.buffer(ffi.cast("char *", start), end - start)
    room[:] = b"".join(worker_protocol.path_bytes(word) + b"\0" for word in words)[: end - start - 1].ljust(end - start, b"\0")
