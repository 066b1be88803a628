"""With --sandbox: empty directories over those of the host in which programs offer services at UNIX sockets.

Such a socket is a way out of the guest's network: D-Bus, podman, Docker, ssh-agent, nscd and systemd-resolved see the caller's own
UID at its other end. Abstract sockets belong to the network namespace, so they need nothing here.

Runs in a user namespace that the command does not get. In the command's own one, one further in, the kernel locks the mounts that
were made here (mount_namespaces(7)), so the command's root cannot take them off, nor bind what is below them.
"""

import os

from pasta_py.control.guest import syscalls
from pasta_py.control.planning import resolv_conf
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
_FIXED = {"/tmp": 0o1777, "/run": 0o755, "/var/run": 0o755}
_PRIVATE = 0o700  # of $XDG_RUNTIME_DIR (XDG Base Directory Specification)


def directories() -> "dict[str, int]":
    """What is covered, by real path, with its mode: a directory before those below it."""
    wanted = dict(_FIXED)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        wanted[runtime] = _PRIVATE
    found: dict[str, int] = {}
    for path, mode in sorted(wanted.items(), key=lambda each: len(os.path.realpath(each[0]))):
        real = os.path.realpath(path)
        if os.path.isdir(real):
            found.setdefault(real, mode)
    return found


def cover(kept: "Sequence[str]") -> None:
    """Cover them, but for the paths in `kept`. HostError, OSError: something would stay open, or is not there to be kept."""
    covered = directories()
    if "/" in covered:
        raise HostError("--sandbox: XDG_RUNTIME_DIR is the root directory: set it to a directory of its own, or unset it")
    here, resolv = os.getcwd(), _resolv_conf(covered)
    mounts = [(path, _taken(path)) for path in dict.fromkeys(map(os.path.realpath, kept)) if is_below(path, covered)]
    done: list[str] = []
    for path, mode in covered.items():
        if is_below(path, done):
            os.makedirs(path, mode, exist_ok=True)
            continue
        syscalls.mount("tmpfs", path, "tmpfs", _FLAGS, f"mode={mode:o}")
        done.append(path)
    for path, mount in mounts:
        _place(path, mount)
    if resolv:
        _write(*resolv)
    try:
        os.chdir(here)  # or the present directory would lead to what lies below a covered one
    except OSError:
        raise HostError(
            f"--sandbox covers the present directory, {here}: start in another, or give it with --sandbox-keep {here}"
        ) from None


def is_below(path: str, these: "Sequence[str] | Mapping[str, int]") -> bool:
    """Whether a path is one of these directories, or below one."""
    return any(path == each or path.startswith(f"{each}/") for each in these)


def _taken(path: str) -> int:
    try:
        return syscalls.clone_mount(path, below=True)
    except OSError as error:
        raise HostError(f"--sandbox-keep {path!r}: {reason(error, 'give a path that exists')}") from None


def _place(path: str, mount: int) -> None:
    """Put what was taken back to its place."""
    if os.fstat(mount).st_mode & 0o170000 == 0o040000:
        os.makedirs(path, exist_ok=True)
    elif not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    syscalls.place_mount(mount, path)
    os.close(mount)


def _resolv_conf(covered: "Mapping[str, int]") -> "tuple[str, bytes] | None":
    """Where /etc/resolv.conf leads to, and its text, if that is covered: the command's own one lies over it."""
    path = os.path.realpath(resolv_conf.PATH)
    if not is_below(path, covered):
        return None
    try:
        with open(path, "rb") as file:
            return path, file.read(resolv_conf.MAX_BYTES)
    except OSError:  # a dangling link: the host has none either
        return None


def _write(path: str, text: bytes) -> None:
    if os.path.exists(path):  # kept
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(fd, text)
    os.close(fd)
