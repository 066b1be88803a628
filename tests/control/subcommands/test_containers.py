"""What podman's state says of namespaces: tables as podman 5.8 makes them. tests/runtimes/test_podman.py asks a real one."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from pasta_py.control.subcommands import containers

TABLES = """
    CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL);
    CREATE TABLE PodConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, JSON TEXT NOT NULL);
    CREATE TABLE ContainerState(ID TEXT PRIMARY KEY NOT NULL, State INTEGER NOT NULL, ExitCode INTEGER, JSON TEXT NOT NULL);
"""
PATH = "/run/user/1000/netns/netns-{}"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = tmp_path / "containers/storage/db.sql"
    path.parent.mkdir(parents=True)
    return path


def test_a_namespace_has_the_name_of_its_container_or_pod(state: Path) -> None:
    rows = [("1", "web", None, PATH.format(1)), ("2", "27-infra", "7", PATH.format(2)), ("3", "inside", "7", None)]
    with sqlite3.connect(state) as made:
        made.executescript(TABLES)
        made.execute("INSERT INTO PodConfig VALUES ('7', 'pair', '{}')")
        for ident, name, pod, netns in rows:
            made.execute("INSERT INTO ContainerConfig VALUES (?, ?, ?, '{}')", (ident, name, pod))
            value = json.dumps({"state": 3, **({"netns": netns} if netns else {})}).encode()
            made.execute("INSERT INTO ContainerState VALUES (?, 1, 0, ?)", (ident, value))
    made.close()
    assert [containers.served(PATH.format(number)) for number in (1, 2, 3)] == ["container web", "pod pair", PATH.format(3)]
    assert containers.served("curl http://example.org/netns/1") == "curl http://example.org/netns/1"


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + bytes(84)], ids=str)
def test_without_a_state_that_can_be_read_the_path_stays(state: Path, content: bytes | None) -> None:
    if content is not None:
        state.write_bytes(content)
    assert containers.served(PATH.format(1)) == PATH.format(1)
