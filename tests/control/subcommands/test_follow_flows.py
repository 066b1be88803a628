"""`pasta-py flows --follow` beside a real instance."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance_helpers import as_user_words
from process_helpers import WAIT_S, command_line, environment, running

pytestmark = pytest.mark.as_built

GATEWAY = "169.254.2.2"  # of an instance without a network: the host's loopback
#: Sends a datagram, and connects where nothing listens: once that is refused, the datagram has passed. For each line it
#: connects there again, and sends another one.
GUEST = f"""
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"12345", ("{GATEWAY}", 98))
socket.socket().connect_ex(("{GATEWAY}", 9))
print("up", flush=True)
for line in sys.stdin:
    socket.socket().connect_ex(("{GATEWAY}", 9))
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"12345", ("{GATEWAY}", 99))
"""
COMMAND = "import sys; from pasta_py.control.start.typer_command import main; main()"


@contextlib.contextmanager
def following(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = [*as_user_words(), command_line("x")[0], "-c", COMMAND, "flows", "--follow", *words, str(path)]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_flow_that_is_refused_with_an_error_is_an_event_and_no_end(runtime: Path) -> None:
    path = runtime / "own.sock"
    argv = ("--quiet", "--control", str(path), "--", command_line("x")[0], "-c", GUEST)
    with running(*argv, name="pasta-py", stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "up\n"
        with following(path, "--json") as as_json, following(path) as plain:
            assert as_json.stdout and plain.stdout
            listed = json.loads(as_json.stdout.readline())
            assert (listed["event"], listed["dest_port"]) == ("flow", 98)
            assert f" open    udp {listed['guest']}:{listed['guest_port']} -> {GATEWAY}:98 " in plain.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
            refused, opened = json.loads(as_json.stdout.readline()), json.loads(as_json.stdout.readline())
            assert (refused["event"], refused["dest_port"], refused["reason"]) == ("refused", 9, "refused")
            assert refused["error"] == "Connection refused"
            assert (opened["event"], opened["dest_port"], opened["protocol"]) == ("opened", 99, "udp")
            assert f"-> {GATEWAY}:9 refused: Connection refused\n" in plain.stdout.readline()
            process.communicate(timeout=WAIT_S)
            assert (plain.wait(WAIT_S), as_json.wait(WAIT_S)) == (0, 0)
