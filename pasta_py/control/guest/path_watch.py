"""Watches a path whose file may be replaced, rewritten or gone, and whose links may be pointed elsewhere, by inotify(7).

Each directory that the path goes through is watched, so that nothing has to be looked at in between.
"""

import errno
import posix as os  # lean imports: docs/architecture.md

from pasta_py.control.guest import syscalls

CHANGES = (
    syscalls.IN_CREATE
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_DELETE
    | syscalls.IN_DELETE_SELF
    | syscalls.IN_MOVE_SELF
    | syscalls.IN_ONLYDIR
)
_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))
_EVENTS_BYTES = 64 << 10


def drain(events: int) -> None:
    """Read all events that wait at the inotify descriptor `events`, which does not block: what they say is looked at afresh."""
    try:
        while os.read(events, _EVENTS_BYTES):
            pass
    except OSError:  # no more of them
        pass


def follow(events: int, path: str, changes: int = CHANGES) -> tuple[str, list[str]]:
    """Follow the links from `path`, and watch every directory on the way with the inotify descriptor `events`; -1: watch nothing.

    Returns the path that is no link, "" if there is none, and the names in the watched directories that matter.
    """
    names: list[str] = []
    for _ in range(_MOST_LINKS):
        directory, _, name = path.rpartition("/")
        names += _watch(events, directory or "/", changes)
        names.append(name)
        try:
            link = os.readlink(path)
        except OSError as error:
            return path if error.errno == errno.EINVAL else "", names
        path = link if link.startswith("/") else f"{directory}/{link}"
    return "", names


def _watch(events: int, directory: str, changes: int) -> list[str]:
    """Watch the directory, or if it is missing the nearest one above, where it could be made: then returns its name there."""
    missing: list[str] = []
    while events >= 0:
        try:
            syscalls.inotify_add(events, directory, changes)
            break
        except OSError as error:
            if error.errno != errno.ENOENT or directory == "/":
                break  # it may not be read
        directory, _, name = directory.rpartition("/")
        directory = directory or "/"
        missing.append(name)
    return missing
