"""Names of podman's containers and pods by the paths of their network namespaces, out of podman's own state (SQLite, since 4.8).

The state is below the graph root. Where that is elsewhere (podman --root, storage.conf) it stands in the words of conmon, which
watches each container: podman tells it the command to run at the end.

Rejected: asking `podman inspect`, which takes a second on a busy machine, waits for podman's locks and may start processes.
"""

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_STATE = "db.sql"
_USUAL = "containers/storage"  # the graph root, containers-storage.conf(5)
_PATIENCE_S = 1.0  # for a podman that writes
#: Tables of podman's libpod/sqlite_state_internal.go. In a pod the infra container has the namespace.
_QUERY = """
    SELECT ContainerConfig.Name, PodConfig.Name, ContainerState.JSON FROM ContainerState
    JOIN ContainerConfig USING (ID) LEFT JOIN PodConfig ON PodConfig.ID = ContainerConfig.PodID
"""


def served(serves: str) -> str:
    """What an instance serves, as users call it: `container NAME` or `pod NAME` for a namespace that podman has made."""
    if "/netns/" not in serves:
        return serves
    for places in (_usual_roots, _roots_of_conmons):
        for root in places():
            name = _names(root / _STATE).get(serves)
            if name:
                return name
    return serves


def _names(state: Path) -> "dict[str, str]":
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return {}
    try:
        return _read(sqlite3.connect(f"{state.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S))
    except (sqlite3.Error, ValueError):
        return {}  # there is none, or of another version of podman


def _usual_roots() -> "list[Path]":
    if os.geteuid() == 0:
        return [Path("/var/lib") / _USUAL]
    home = os.environ.get("HOME", "")
    data = os.environ.get("XDG_DATA_HOME", "")
    return [Path(each) / _USUAL for each in (data, f"{home}/.local/share") if each.startswith("/")]


def _roots_of_conmons() -> "list[Path]":
    """The graph roots of this user's containers that run. What calls itself conmon in a container does not count."""
    found: dict[Path, None] = {}
    ours = os.readlink("/proc/self/ns/pid")
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            if os.path.basename(words[0]) != b"conmon" or directory.stat().st_uid != os.geteuid():
                continue
            if os.readlink(directory / "ns/pid") != ours:
                continue
        except OSError:
            continue  # it has ended
        told = [words[at + 1] for at, word in enumerate(words[:-1]) if word == b"--exit-command-arg"]
        for at, word in enumerate(told[:-1]):
            if word == b"--root":
                found[Path(os.fsdecode(told[at + 1]))] = None
    return [*found]


def _read(state: "sqlite3.Connection") -> "dict[str, str]":
    try:
        rows = state.execute(_QUERY).fetchall()
    finally:
        state.close()
    found = {}
    for container, pod, text in rows:
        path = json.loads(text).get("netns")
        if isinstance(path, str) and path:
            found[path] = f"pod {pod}" if pod else f"container {container}"
    return found
