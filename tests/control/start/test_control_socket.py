"""The control socket of a real instance: who finds it, who may ask, and what hostile clients can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from instance_helpers import as_user, as_user_words, ask, connected, instance, schema, subcommand
from process_helpers import (
    ROOT,
    UID,
    WAIT_S,
    command_line,
    environment,
    eventually,
    guest,
    pasta,
    worker_of,
)

from pasta_py import defaults
from pasta_py.control.subcommands import instances, show
from pasta_py.control.subcommands.instances import Instance
from pasta_py.errors import ControlError

pytestmark = pytest.mark.as_built


def test_an_instance_has_a_socket_of_its_users_alone_as_long_as_it_runs(runtime: Path) -> None:
    with instance(runtime) as (process, path):
        status = path.parent.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, UID if os.geteuid() == 0 else os.geteuid())
        (answer,) = ask(path, b'{"v":1,"command":"status","id":"x"}')
        assert answer["id"] == "x" and answer["program"] == "pasta-py" and answer["pid"] == worker_of(process.pid)
        assert str(answer["serves"]).startswith("sh -c echo up;")
    assert process.returncode == 5
    assert list(path.parent.iterdir()) == []


@pytest.mark.option("--no-control")
def test_without_a_socket_an_instance_runs_as_well(runtime: Path) -> None:
    with instance(runtime, "--no-control") as (process, _path):
        assert list(runtime.iterdir()) == []
    assert process.returncode == 5


def test_where_no_socket_can_be_made_the_start_goes_on(runtime: Path) -> None:
    (runtime / "pasta-py").mkdir(mode=0o755)  # others could look into it
    with instance(runtime) as (process, _path):
        assert list((runtime / "pasta-py").iterdir()) == []
    assert process.returncode == 5
    for where in ("", "/nowhere", "relative", f"{runtime}/{'x' * 120}"):
        done = pasta("--debug", "--", "true", name="pasta-py", env={"XDG_RUNTIME_DIR": where})
        assert done.returncode == 0, done.stderr
        assert "no control socket" in done.stderr


@pytest.mark.option("--control")
def test_a_second_socket_is_where_it_is_wanted(runtime: Path) -> None:
    with instance(runtime, "--control", f"{runtime}/own") as (_process, _path):
        (answer,) = ask(runtime / "own", b'{"command":"status"}')
        assert answer["program"] == "pasta-py"
        assert stat.S_IMODE((runtime / "own").stat().st_mode) == 0o600
    done = pasta("--control", "/nowhere/own", "--", "true")
    assert done.returncode == 1 and "--control '/nowhere/own': No such file or directory" in done.stderr


def test_in_the_background_it_has_the_name_of_the_pidfile_and_the_next_start_removes_it(runtime: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    pidfile = runtime / "pid"
    with guest() as target:
        argv = [*as_user_words(), *command_line("pasta", "-P", str(pidfile), str(target))]
        subprocess.run(argv, env=environment(env), check=True, timeout=60)
        pid = int(pidfile.read_text())
        path = runtime / "pasta-py" / f"{pid}.sock"
        (answer,) = ask(path, b'{"command":"status"}')
        assert answer["pid"] == pid and answer["serves"] == f"process {target}"
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the instance has ended with its guest")
    assert path.exists()
    with instance(runtime) as (_process, other):
        assert other.exists() and not path.exists()


def test_ps_shows_what_runs_and_removes_what_does_not(runtime: Path) -> None:
    assert subcommand(runtime, "ps").stderr == "No instance is running.\n"
    with instance(runtime) as (process, path):
        dead = path.parent / "4194304.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dead))
        os.chown(dead, path.stat().st_uid, path.stat().st_gid)
        done = subcommand(runtime, "ps")
        assert done.returncode == 0, done.stderr
        head, row = done.stdout.splitlines()
        assert head.split() == ["PID", "SINCE", "FLOWS", "SENT", "RECEIVED", "MEMORY", "PROGRAM", "SERVES"]
        assert row.split()[0] == str(process.pid) and row.endswith("sh -c echo up; read line; exit 5")
        assert not dead.exists()
        found = json.loads(subcommand(runtime, "ps", "--json").stdout)
        assert found["pid"] == process.pid and found["worker_pid"] == worker_of(process.pid)
        assert 1 << 20 < found["memory_bytes"] < 1 << 26


def test_show_says_what_the_start_said(runtime: Path) -> None:
    with instance(runtime, "--debug", "-t", "none", "-T", "none", "-u", "none", "-U", "none") as (process, _path):
        done = subcommand(runtime, "show")
        assert done.returncode == 0, done.stderr
        process.terminate()
        assert process.stderr is not None
        said = [line.removeprefix("pasta-py: ") for line in process.stderr.read().splitlines()]
        shown = done.stdout.splitlines()
        assert len(shown) > 5 and set(shown) <= set(said)


def test_an_instance_is_named_by_pid_word_path_or_not_at_all(runtime: Path) -> None:
    assert "no instance is running" in subcommand(runtime, "stats").stderr
    with instance(runtime) as (process, path):
        for word in ("", str(process.pid), "read line", str(path)):
            done = subcommand(runtime, "stats", *([word] if word else []), "--json")
            assert "tap_rx_frames" in json.loads(done.stdout), done.stderr
        assert "no running instance is called 'nothing'" in subcommand(runtime, "stats", "nothing").stderr
        assert "is no socket" in subcommand(runtime, "stats", "/etc/passwd").stderr
        with instance(runtime) as (second, _path):
            done = subcommand(runtime, "flows")
            pids = ", ".join(map(str, sorted((process.pid, second.pid))))
            assert done.returncode == 1
            assert f"2 instances are running: name one by its PID: {pids}" in done.stderr


# ---- hostile clients ----


def test_requests_that_are_none_are_refused_and_the_next_one_is_answered(runtime: Path) -> None:
    with instance(runtime) as (_process, path):
        lines = [b"garbage", b"{}", b'{"command":7}', b'{"command":"no such"}', b'{"v":2,"command":"status"}', b"\xff\0", b"[]"]
        answers = ask(path, *lines, b'{"command":"stats"}')
        assert ["error" in answer for answer in answers] == [True] * len(lines) + [False]
        assert "choose one of capture, flows, port, show, stats, status" in str(answers[3]["error"])


def test_a_line_without_end_costs_its_client_the_connection_and_no_memory(runtime: Path) -> None:
    with instance(runtime) as (process, path):
        ask(path, b'{"command":"status"}')
        before = resident_kib(worker_of(process.pid))
        with connected(path) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1 << 14):
                sock.sendall(b"x" * (1 << 16))  # 1 GiB, if it were taken
            pytest.fail("all was taken")
        assert ask(path, b'{"command":"status"}')
        assert resident_kib(worker_of(process.pid)) < before + 1024


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.unsanitized  # memory
def test_a_thousand_clients_wait_and_all_are_answered(runtime: Path) -> None:
    with instance(runtime) as (process, path), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(path)) for _ in range(16)]
        ask_all(idle)
        before = resident_kib(worker_of(process.pid))
        waiting = []
        for _ in range(1000):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with as_user(), contextlib.suppress(BlockingIOError):  # the backlog is full
                sock.connect(str(path))
                waiting.append(sock)
        assert len(waiting) >= 64
        for sock in idle:
            sock.close()
        for sock in waiting:
            sock.settimeout(WAIT_S)
            ask_all([sock])
            sock.close()
        assert resident_kib(worker_of(process.pid)) < before + 1024


def ask_all(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.sendall(b'{"command":"status"}\n')
    for sock in socks:
        assert json.loads(sock.makefile().readline())["v"] == 1


@pytest.mark.unsanitized  # memory
def test_a_client_that_asks_and_does_not_read_is_let_go(runtime: Path) -> None:
    with instance(runtime) as (process, path):
        ask(path, b'{"command":"status"}')
        before = resident_kib(worker_of(process.pid))
        with connected(path) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                sock.sendall(b'{"command":"show"}\n' * 1000)
        assert ask(path, b'{"command":"status"}')
        assert resident_kib(worker_of(process.pid)) < before + 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_let_go(runtime: Path) -> None:
    with instance(runtime) as (process, path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(b'{"command":"status"}\n')
                assert sock.recv(100) == b""
        process.terminate()
        assert process.stderr is not None
        assert "control socket: a client of user 65534 is let go" in process.stderr.read()


# ---- what the pages say ----


def test_answers_are_valid_by_the_schema_of_the_page(runtime: Path) -> None:
    import jsonschema

    with instance(runtime) as (_process, path):
        names = [b"status", b"stats", b"show", b"flows", b"nothing"]
        answers = ask(path, *(b'{"command":"%s"}' % name for name in names))
    assert len(answers) == 5 + 1
    for answer in answers:
        jsonschema.validate(answer, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"v": 1, "event": "opened"}, schema())


def test_a_client_that_ends_its_side_while_a_list_is_under_way_gets_all_and_is_let_go(runtime: Path) -> None:
    """At once, and not when it would have been idle for too long."""
    with instance(runtime) as (_process, path):
        began = time.monotonic()
        for _ in range(20):
            answers = ask(path, *[b'{"command":"flows"}'] * 20, b'{"command":"nothing"}')
            assert [answer.get("more") for answer in answers].count(False) == 20 and "unknown command" in str(answers[-1]["error"])
        assert time.monotonic() - began < defaults.CONTROL_IDLE_S


def test_rules_are_shown_and_explained_and_not_changed_where_no_option_has_named_the_socket(runtime: Path) -> None:
    import jsonschema

    questions = [
        {"command": "egress"}, {"command": "egress-explain", "name": "a.test", "port": 443},
        {"command": "egress-explain", "address": "203.0.113.7", "port": 22, "protocol": "udp"}, {"command": "egress-denials"},
    ]  # fmt: skip
    change = {"command": "egress-add", "rules": ["\tallow *\t"], "code": "010700000000ffff"}
    with instance(runtime, "--allow", "a.test:443", "--deny", "203.0.113.0/24") as (_process, path):
        refused, egress, named, address, follows = ask(path, *(json.dumps(each).encode() for each in (change, *questions)))
    assert "egress-add works on a socket that --control PATH has named" in str(refused["error"])
    for answer in (refused, egress, named, address, follows):
        jsonschema.validate(answer, schema())
    assert (egress["number"], egress["count"], egress["default"], egress["dns"]) == (1, 2, "none", "rules")
    assert named["connect"] == named["query"] == {  # type: ignore[comparison-overlap]
        "verdict": "allowed", "reason": "rule", "rule": "allow a.test:443", "where": "--allow",
    }  # fmt: skip
    assert address["connect"] == {  # type: ignore[comparison-overlap]
        "verdict": "denied", "reason": "rule", "rule": "deny 203.0.113.0/24", "where": "--deny",
    }  # fmt: skip
    assert follows["following"] is True
    with instance(runtime) as (_process, path):
        (answer,) = ask(path, b'{"command":"egress"}')
    assert "no egress policy" in str(answer["error"])


def test_the_page_has_every_reason_and_state_of_the_core() -> None:
    header = (ROOT / "csrc" / "core" / "event.h").read_text()
    page = (ROOT / "docs" / "control.md").read_text()
    names = set(re.findall(r"^\tX\((\w+)\)", header, re.MULTILINE)) - {"none"}
    assert len(names) > 15
    flow = schema()["$defs"]["flow"]["properties"]  # type: ignore[index]
    assert names == {*flow["reason"]["enum"], *flow["state"]["enum"]}
    assert all(f"`{name}`" in page for name in names)


# ---- what comes from a guest ----


def test_no_escape_of_a_guest_reaches_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pasta_py.control.subcommands import flows, ps

    evil = "\x1b]0;owned\x07\x1b[2J\u202e\n"
    answer = {"v": 1, "pid": 1, "program": evil, "version": evil, "serves": evil, "since": time.time(), "flows": 0}
    answer |= {"sent_bytes": 0, "received_bytes": 0}
    flow = {"v": 1, "event": "closed", "time": evil, "protocol": evil, "from": "guest", "guest": evil, "dest": evil, "state": evil}
    flow |= {"sent_bytes": 0, "received_bytes": 0, "duration_s": 0, "reason": evil, "error": evil, "name": evil}
    monkeypatch.setattr(Instance, "ask", lambda *_a, **_k: dict(answer))
    monkeypatch.setattr(instances, "running", lambda: [Instance("/x", 1)])
    listed = json.dumps({"flows": [flow], "more": False}).encode()
    raw = b'{"v":1,"event":"closed","name":"owned' + evil.strip().encode() + b'"}'
    monkeypatch.setattr(Instance, "batches", lambda *_a, **_k: iter([[listed]]))
    assert ps.ps(as_json=False) == 0 and flows.flows("", as_json=False) == 0 and flows.flows("", follow=True, as_json=False) == 0
    assert ps.ps(as_json=True) == 0 and flows.flows("", as_json=True) == 0
    monkeypatch.setattr(Instance, "batches", lambda *_a, **_k: iter([[raw]]))
    assert flows.flows("", follow=True, as_json=True) == 0
    shown = capsys.readouterr().out
    assert "owned" in shown and not {*"\x1b\x07\u202e"} & set(shown)
    with pytest.raises(ControlError):
        show.lines({"version": "0", "plan": ""})


def test_a_flow_is_a_row_and_an_event_a_line() -> None:
    from pasta_py.control.subcommands import flows

    flow = {
        "v": 1, "event": "flow", "time": "2026-11-29T14:43:40.123Z", "protocol": "tcp", "from": "guest", "guest": "fd00::2",
        "guest_port": 40000, "dest": "2001:db8::1", "dest_port": 443, "peer": "2001:db8::1", "peer_port": 443, "state": "open",
        "duration_s": 1.5, "sent_bytes": 1536, "received_bytes": 10, "rtt_us": 1234, "retransmits": 2, "name": "example.org",
    }  # fmt: skip
    assert flows.row(flow) == [
        "tcp", "[fd00::2]:40000", "->", "[2001:db8::1]:443", "", "open", "1.5s", "1.5K", "10", "1.2ms", "2", "example.org"
    ]  # fmt: skip
    event = {**flow, "event": "closed", "reason": "error", "error": "No such device"}
    told = "14:43:40.123 closed  tcp [fd00::2]:40000 -> [2001:db8::1]:443 (example.org) 1.5K sent, 10 received in 1.5s"
    assert flows.line(event) == f"{told} error: No such device"
    assert "3 events are lost" in flows.line({"v": 1, "event": "lost", "count": 3})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_slirp4netns_has_one_as_well_until_a_signal_ends_it(runtime: Path, number: signal.Signals) -> None:
    with guest() as target:
        env = environment({"XDG_RUNTIME_DIR": str(runtime)})
        ready, theirs = os.pipe()
        code = "import sys; from pasta_py.control.slirp4netns.main import run; sys.exit(run(sys.argv[1:]))"
        words = ("--configure", "--ready-fd", str(theirs), str(target), "tap0")
        # These tests may have been started with nohup, and it keeps a signal that its caller ignores ignored.
        argv = ["env", "--default-signal", *as_user_words(), command_line("x")[0], "-c", code, *words]
        process = subprocess.Popen(argv, env=env, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        os.close(theirs)
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read(1) == b"1", process.communicate()
        found = json.loads(subcommand(runtime, "ps", "--json").stdout)
        assert (found["program"], found["pid"], found["serves"]) == ("slirp4netns", process.pid, f"process {target}")
        assert subcommand(runtime, "flows").returncode == 0
        assert json.loads(subcommand(runtime, "stats", "--json").stdout)["tcp_flows"] == 0
        assert len(list((runtime / "pasta-py").iterdir())) == 1
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == -number
        assert list((runtime / "pasta-py").iterdir()) == []
