"""Names of podman's containers and pods by the paths of their network namespaces, out of podman's own state (SQLite, since 4.8).

Rejected: asking `podman inspect`, which takes a second on a busy machine, waits for podman's locks and may start processes.
"""

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_STATE = "containers/storage/db.sql"  # below the graph root's usual place, containers-storage.conf(5)
_PATIENCE_S = 1.0  # for a podman that writes
#: Tables of podman's libpod/sqlite_state_internal.go. In a pod the infra container has the namespace.
_QUERY = """
    SELECT ContainerConfig.Name, PodConfig.Name, ContainerState.JSON FROM ContainerState
    JOIN ContainerConfig USING (ID) LEFT JOIN PodConfig ON PodConfig.ID = ContainerConfig.PodID
"""


def served(serves: str) -> str:
    """What an instance serves, as users call it: `container NAME` or `pod NAME` for a namespace that podman has made."""
    return _names().get(serves, serves) if "/netns/" in serves else serves


def _names() -> "dict[str, str]":
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return {}
    for path in _states():
        if path.is_file():
            try:
                return _read(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S))
            except (sqlite3.Error, ValueError):
                continue  # of another version of podman
    return {}


def _states() -> "list[Path]":
    if os.geteuid() == 0:
        return [Path("/var/lib") / _STATE]
    home = os.environ.get("HOME", "")
    data = os.environ.get("XDG_DATA_HOME", "")
    return [Path(each) / _STATE for each in (data, f"{home}/.local/share") if each.startswith("/")]


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
