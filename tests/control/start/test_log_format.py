"""Lines of the log as JSON objects and in the journal of a real systemd-journald."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import ROOT, command_line, environment, pasta, user_prefix

sys.path.insert(0, str(ROOT / "tests"))
import sid

pytestmark = pytest.mark.as_built

GATEWAY = "169.254.2.2"  # of an instance without a network: the host's loopback
#: A command that connects where nothing listens.
REFUSED = f"import socket\ntry:\n    socket.create_connection(('{GATEWAY}', 9))\nexcept ConnectionRefusedError:\n    pass"
#: Root of its own user namespace, with a /run of its own: journald, a guest, an instance in the background that serves it.
JOURNAL = """
mount -t tmpfs run /run
mkdir -p /run/systemd/journal /run/log/journal
echo 0123456789abcdef0123456789abcdef >/run/id
mount --bind /run/id /etc/machine-id
"$JOURNALD" & journald=$!
until [ -S /run/systemd/journal/socket ]; do sleep 0.02; done
unshare -n -- sh -c 'echo >/run/up; exec sleep 300' & guest=$!
until [ -e /run/up ]; do sleep 0.02; done
"$@" --netns /proc/$guest/ns/net >/dev/null || exit
nsenter -n -t $guest "$PYTHON" -c "$REFUSED"
for _ in $(seq 200); do
    "$JOURNALCTL" -D /run/log/journal -o json --no-pager SYSLOG_IDENTIFIER=pasta >/run/shown
    grep -q PASTA_FLOW /run/shown && break
    sleep 0.1
done
cat /run/shown
kill $guest $journald
"""


@pytest.mark.option("--log-format")
def test_each_line_of_standard_error_is_an_object(runtime: Path) -> None:
    """What the program says itself, and what its worker says of a flow, by the name of the flow."""
    log = runtime / "flows.json"
    words = ("--log-format", "json", "--debug", "--flow-log", str(log), "--", command_line("x")[0], "-c", REFUSED)
    done = pasta(*words, name="pasta-py", env={"XDG_RUNTIME_DIR": str(runtime)})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) > 3
    for line in lines:
        assert {*line} - {"flow"} == {"time", "level", "program", "pid", "message"}
        assert line["program"] == "pasta-py" and line["level"] in ("warning", "info", "debug")
    (refused,) = [line for line in lines if "connect: Connection refused" in line["message"]]
    (event,) = [event for event in map(json.loads, log.read_text().splitlines()) if event.get("dest_port") == 9]
    assert refused["flow"] == event["flow"] and refused["level"] == "debug" and "flow" not in refused["message"]


def test_an_error_and_a_log_file_are_objects_too(runtime: Path) -> None:
    done = pasta("--log-format", "json", "--netns", "/nowhere", name="pasta")
    (line,) = done.stderr.splitlines()
    assert done.returncode and json.loads(line)["level"] == "error" and "/nowhere" in json.loads(line)["message"]
    done = pasta("--log-format", "json", "--", "/none/program", name="pasta-py")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 127 and json.loads(line)["level"] == "error" and "/none/program" in json.loads(line)["message"]
    path = runtime / "log"
    done = pasta("--log-format", "json", "--log-file", str(path), "--", "true", name="pasta-py")
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["program"] for line in path.read_text().splitlines()} == {"pasta-py"}


@pytest.mark.parametrize("log", ["flow", "decision"])
def test_a_full_disk_of_a_log_of_flows_is_told_once(log: str, runtime: Path) -> None:
    words = (f"--{log}-log", "/dev/full", "--", command_line("x")[0], "-c", f"{REFUSED}\n{REFUSED}")
    done = pasta(*words, name="pasta-py", env={"XDG_RUNTIME_DIR": str(runtime)})
    why = "it takes no more (is the disk full, or its reader slow?)"
    assert done.stderr.splitlines() == [f"pasta-py: warning: lines of the {log} log are lost: {why}"]


def test_the_journal_has_the_level_the_program_and_the_flow() -> None:
    journald, journalctl = (sid.program("systemd-resolved", name) for name in ("systemd-journald", "journalctl"))
    space = ["unshare", "-Urmpf", "--mount-proc", "--kill-child", "--", "sh", "-c", JOURNAL, "sh"]
    words = command_line("pasta", "--config-net", "--debug", "--no-follow", "--userns", "/proc/self/ns/user")
    argv, python = [*user_prefix(), *space, *words], words[0]
    env = environment({"JOURNALD": str(journald), "JOURNALCTL": str(journalctl), "REFUSED": REFUSED, "PYTHON": python})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100, check=False)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert entries, done.stderr
    (refused,) = [entry for entry in entries if "connect: Connection refused" in entry["MESSAGE"]]
    assert (refused["PRIORITY"], refused["SYSLOG_FACILITY"], refused["PASTA_LEVEL"]) == ("7", "3", "debug")
    assert refused["PASTA_FLOW"].startswith("0.0.") and refused["SYSLOG_PID"] == refused["_PID"]
    assert "flow" not in refused["MESSAGE"] and refused["_TRANSPORT"] == "journal"
    assert {entry["PRIORITY"] for entry in entries} >= {"6", "7"}
