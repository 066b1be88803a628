"""Whether the guest can open one of our files: the socket that changes its rules must be out of its reach.

The guest's mount namespace may show a directory elsewhere, or under another mount. So each mount of the guest that shows the file's
file system is looked at, by /proc/PID/mountinfo (proc_pid_mountinfo(5)); what is found there counts only if it is that very file.
"""

import os

from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def seen_by(pid: int, path: str) -> str:
    """The path by which a process sees the file at `path`; "": by none that is known. HostError: it cannot be looked at."""
    ours = os.stat(path)
    real = os.path.realpath(path)
    root = f"/proc/{pid}/root"
    try:
        candidates = [real, *_elsewhere(real, _mounts("self"), _mounts(str(pid)))]
        for candidate in candidates:
            try:
                found = os.stat(root + candidate)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                return candidate
    except OSError as error:
        raise HostError(f"--control {path!r}: what process {pid} sees cannot be looked at: {reason(error)}") from None
    return ""


def _mounts(pid: str) -> "list[tuple[str, str, str]]":
    """Of each mount: the file system's device, what of it is mounted, and where."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = [line.split(" ") for line in file]
    return [(each[2], _plain(each[3]), _plain(each[4])) for each in fields]


def _plain(field: str) -> str:
    """Without the escapes of blanks and backslashes."""
    for escape in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(escape, chr(int(escape[1:], 8)))
    return field


def _elsewhere(real: str, ours: "list[tuple[str, str, str]]", theirs: "list[tuple[str, str, str]]") -> "Iterable[str]":
    """Paths under which their mounts may show the file."""
    for device, root, place in ours:
        if not _is_below(real, place):
            continue
        inside = root.rstrip("/") + real[len(place.rstrip("/")) :]  # in the file system
        for other, their_root, their_place in theirs:
            if other == device and _is_below(inside, their_root):
                yield their_place.rstrip("/") + inside[len(their_root.rstrip("/")) :]


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
