"""What podman's state says of namespaces: tables as podman 5.8 makes them. tests/runtimes/test_podman.py asks a real one."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from pasta_py.control.subcommands import containers

TABLES = """
    CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL);
    CREATE TABLE PodConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, JSON TEXT NOT NULL);
    CREATE TABLE ContainerState(ID TEXT PRIMARY KEY NOT NULL, State INTEGER NOT NULL, ExitCode INTEGER, JSON TEXT NOT NULL);
"""
PATH = "/run/user/1000/netns/netns-{}"


def make(path: Path, rows: list[tuple[str, str, str | None, str | None]]) -> None:
    """A state with these containers: ID, name, pod, path."""
    with sqlite3.connect(path) as made:
        made.executescript(TABLES)
        made.execute("INSERT INTO PodConfig VALUES ('7', 'pair', '{}')")
        for ident, name, pod, netns in rows:
            made.execute("INSERT INTO ContainerConfig VALUES (?, ?, ?, '{}')", (ident, name, pod))
            value = json.dumps({"state": 3, **({"netns": netns} if netns else {})}).encode()
            made.execute("INSERT INTO ContainerState VALUES (?, 1, 0, ?)", (ident, value))
    made.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = tmp_path / "containers/storage/db.sql"
    path.parent.mkdir(parents=True)
    return path


def test_a_namespace_has_the_name_of_its_container_or_pod(state: Path) -> None:
    rows = [("1", "web", None, PATH.format(1)), ("2", "27-infra", "7", PATH.format(2)), ("3", "inside", "7", None)]
    make(state, rows)
    assert [containers.served(PATH.format(number)) for number in (1, 2, 3)] == ["container web", "pod pair", PATH.format(3)]
    assert containers.served("curl http://example.org/netns/1") == "curl http://example.org/netns/1"


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + bytes(84)], ids=str)
def test_without_a_state_that_can_be_read_the_path_stays(state: Path, content: bytes | None) -> None:
    if content is not None:
        state.write_bytes(content)
    assert containers.served(PATH.format(1)) == PATH.format(1)


def test_a_graph_root_at_another_place_is_found_by_the_containers_that_run(tmp_path: Path) -> None:
    """It stands in the words of conmon: `--exit-command-arg --root --exit-command-arg PATH`."""
    root = tmp_path / "else where"
    root.mkdir()
    make(root / "db.sql", [("1", "web", None, PATH.format("elsewhere"))])
    told = [word for each in ("--root", str(root), "--runroot", "/run/x") for word in ("--exit-command-arg", each)]
    conmon = ["/usr/bin/conmon", "-c", "echo up; read line", "-n", "web", "--exit-command", "/usr/bin/podman", *told]
    assert containers.served(PATH.format("elsewhere")) == PATH.format("elsewhere")
    with subprocess.Popen(conmon, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert containers.served(PATH.format("elsewhere")) == "container web"
        process.communicate(b"\n")
