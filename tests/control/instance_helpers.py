"""Running instances with a control socket, and clients of it, for whichever user runs the tests."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pages
from process_helpers import UID, WAIT_S, command_line, environment, running


@contextlib.contextmanager
def instance(runtime: Path, *options: str, name: str = "pasta-py") -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A running instance, and its socket."""
    env = environment({"XDG_RUNTIME_DIR": str(runtime)})
    argv = ("--config-net", *options, "--", "sh", "-c", "echo up; read line; exit 5")
    with running(*argv, name=name, env=env, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "up\n"
        yield process, runtime / "pasta-py" / f"{process.pid}.sock"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(WAIT_S)


def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    """Send these lines as the user of the instance; what comes back until the instance closes or nothing is left to come."""
    with connected(path) as sock:
        for line in lines:
            sock.sendall(line + b"\n")
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile() as stream:
            return [json.loads(line) for line in stream]


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock, as_user():
        sock.settimeout(WAIT_S)
        sock.connect(str(path))
        yield sock


@contextlib.contextmanager
def as_user() -> Iterator[None]:
    """SO_PEERCRED of what connects meanwhile is that of the instances' user."""
    if os.geteuid() != 0:
        yield
        return
    os.setresgid(UID, UID, 0)
    os.setresuid(UID, UID, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def as_user_words() -> list[str]:
    return ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--"] if os.geteuid() == 0 else []


def subcommand(runtime: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pasta_py.control.start.typer_command import main; main()"
    argv = [*as_user_words(), command_line("x")[0], "-c", code, *words]
    env = environment({"XDG_RUNTIME_DIR": str(runtime), "TERM": "dumb", "COLUMNS": "120"})
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def schema() -> dict[str, object]:
    found: dict[str, object] = json.loads(pages.block("docs/control.md", "{"))
    return found
