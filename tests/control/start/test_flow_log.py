"""The flow log of a real instance: what is in it, that nothing waits for it, and the recipes of the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pages
import pytest
from instance_helpers import schema
from process_helpers import command_line, environment, pasta, user_prefix

pytestmark = pytest.mark.as_built

#: The gateway of an instance without a network: it stands for the host's loopback.
GATEWAY = "169.254.2.2"
#: A guest that connects where nothing listens, sends a datagram, and writes to a TCP service of the host, which it leaves open.
GUEST = f"""
import os, socket, sys
port = int(sys.argv[1])
try:
    socket.create_connection(("{GATEWAY}", 9))
except OSError:
    pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"12345", ("{GATEWAY}", 99))
kept = socket.create_connection(("{GATEWAY}", port))
kept.sendall(bytes(70_000))
assert kept.recv(3, socket.MSG_WAITALL) == b"got"
print("done", flush=True)
"""
#: The host: a service that reads what comes, and the instance, in one network namespace.
HOST = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    with subprocess.Popen([word.replace("@PORT", str(listener.getsockname()[1])) for word in sys.argv[1:]]) as process:
        listener.settimeout(30)
        accepted, _ = listener.accept()
        left = 70_000
        while left:
            left -= len(accepted.recv(left))
        accepted.sendall(b"got")
        sys.exit(process.wait(30))
"""


def run(runtime: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    guest = [command_line("x")[0], "-c", GUEST, "@PORT"]
    argv = [*user_prefix(), command_line("x")[0], "-c", HOST, *command_line("pasta-py", *options, "--", *guest)]
    env = environment({"XDG_RUNTIME_DIR": str(runtime)})
    return subprocess.run(argv, env=env, capture_output=True, timeout=60, check=False)


def lines(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def shown(event: dict[str, object], *names: str) -> tuple[object, ...]:
    return tuple(event.get(name) for name in names)


@pytest.mark.option("--flow-log")
def test_each_flow_is_opened_and_closed_or_refused_also_what_is_open_at_the_end(runtime: Path) -> None:
    import jsonschema

    path = runtime / "flows.json"
    done = run(runtime, "--flow-log", str(path))
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
    events = [event for event in lines(path.read_bytes()) if event["dest"] == GATEWAY]
    for event in events:
        jsonschema.validate(event, schema())
    tcp = [event for event in events if event["protocol"] == "tcp"]
    assert shown(tcp[0], "event", "dest_port", "reason", "peer") == ("refused", 9, "refused", "127.0.0.1")
    opened, closed = tcp[1:]
    assert shown(opened, "event", "flow") == ("opened", closed["flow"])
    assert shown(closed, "event", "sent_bytes", "received_bytes") == ("closed", 70_000, 3)
    assert closed["reason"] in ("end", "finished", "guest_reset")  # the guest's kernel may close the connection first
    udp = [event for event in events if event["protocol"] == "udp"]
    assert [event["event"] for event in udp] == ["opened", "closed"]
    assert shown(udp[1], "reason", "sent_bytes", "sent_packets", "received_packets") == ("end", 5, 1, 0)
    assert (runtime / "flows.json.1").read_bytes() == b""


def test_a_stream_has_the_log_and_not_what_the_command_says(runtime: Path) -> None:
    done = run(runtime, "--flow-log", "-")
    assert done.returncode == 0 and b"done" in done.stderr
    assert {"opened", "refused", "closed"} == {str(event["event"]) for event in lines(done.stdout)}


@pytest.mark.option("--flow-log-size")
def test_the_log_stays_below_its_size_and_keeps_the_newest(runtime: Path) -> None:
    path = runtime / "flows.json"
    code = (
        f"import socket\nfor port in range(1024, 3024):\n"
        f"    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('{GATEWAY}', port))\n"
        f"socket.socket().connect_ex(('{GATEWAY}', 9))\n"  # when that is refused, all before has passed
    )
    options = ("--flow-log", str(path), "--flow-log-size", "65536")
    done = pasta(*options, "--", command_line("x")[0], "-c", code, name="pasta-py", env={"XDG_RUNTIME_DIR": str(runtime)})
    assert done.returncode == 0, done.stderr
    both = [path, runtime / "flows.json.1"]
    assert all(0 < each.stat().st_size <= 32768 for each in both)
    kept = [event for each in both for event in lines(each.read_bytes())]
    closed = [event["dest_port"] for event in kept if event["event"] == "closed"]
    assert 3023 in closed and 1024 not in closed


def test_a_reader_that_does_not_read_loses_lines_and_delays_nothing(runtime: Path) -> None:
    fifo = runtime / "fifo"
    os.mkfifo(fifo, 0o666)
    os.chmod(fifo, 0o666)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = run(runtime, "--flow-log", str(fifo))
        assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
        assert lines(os.read(reader, 1 << 16))
    finally:
        os.close(reader)


def test_a_log_that_cannot_be_opened_is_refused() -> None:
    done = pasta("--flow-log", "/nowhere/log", "--", "true")
    assert done.returncode == 1
    assert "Couldn't open flow log '/nowhere/log': No such file or directory" in done.stderr


def test_the_recipes_of_the_page_work(runtime: Path) -> None:
    assert run(runtime, "--flow-log", str(runtime / "flows.json")).returncode == 0
    found = re.split(r"^# .*\n", pages.block("docs/control.md", "# Where did it connect"), flags=re.MULTILINE)[1:]
    assert len(found) == 5
    answers = []
    for recipe in found:
        done = subprocess.run(["sh", "-e", "-c", recipe], cwd=runtime, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, ""), recipe
        answers.append(done.stdout)
    assert {"dest": GATEWAY, "connections": 2, "bytes": 3} in json.loads(answers[0])
    assert answers[1].split("\t")[1:] == ["tcp", GATEWAY, "9", "refused", "Connection refused\n"]
    assert f"udp {GATEWAY} 99\n" in answers[2]
    assert answers[3].count('"event"') == len((runtime / "flows.json").read_bytes().splitlines())
    assert int(answers[4]) >= 70_005
