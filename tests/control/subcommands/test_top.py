"""pasta-py top: its picture at every width, sorting, filtering, rates; and the program itself on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import termios
import time
from fcntl import ioctl
from io import StringIO
from pathlib import Path

import pytest
from instance_helpers import as_user_words, instance
from process_helpers import WAIT_S, command_line, environment
from rich.console import Console

from pasta_py.control.subcommands import top


def flow(number: int, **changes: object) -> dict[str, object]:
    return {
        "v": 1, "event": "flow", "flow": f"0.0.{number}.0", "protocol": "tcp", "from": "guest", "guest": "10.0.2.15",
        "guest_port": 40000 + number, "dest": f"192.0.2.{number}", "dest_port": 443, "peer": f"192.0.2.{number}", "peer_port": 443,
        "state": "open", "duration_s": 10.0 + number, "sent_bytes": 1000 * number, "received_bytes": 100, "sent_packets": 1,
        "received_packets": 1, "rtt_us": 5000 - number, "rtt_variation_us": 1, "retransmits": 0, "peer_window": 65536,
        "guest_window": 65536, "unacked_bytes": 0, "backlog_bytes": 0, **changes,
    }  # fmt: skip


def drawn(view: top.View, width: int, height: int = 24) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, height=height, color_system=None).print(view.picture(width, height))
    return out.getvalue().splitlines()


def made(*flows: dict[str, object]) -> top.View:
    view = top.View("pasta-py 4711 sleep 60")
    view.update(list(flows), 100.0)
    return view


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_picture_fits_the_terminal(width: int) -> None:
    lines = drawn(made(*(flow(n, name="x" * 300, dest="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff") for n in range(100))), width)
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    assert "80 more below" in " ".join(lines) or width < 80


def test_a_wide_terminal_shows_more() -> None:
    view = made(flow(1))
    heads = {width: drawn(view, width)[3].split() for width in (80, 200)}
    assert heads[80] == ["PROTO", "DESTINATION", "AGE", "SENT", "RECEIVED", "SENT/s", "RECV/s"]
    assert {"GUEST", "STATE", "RTT", "RESENT", "WINDOW", "WAITING"} <= set(heads[200])
    assert "-> 192.0.2.1:443" in drawn(view, 80)[4]


def test_a_ping_has_a_name_and_no_port() -> None:
    ping = {name: value for name, value in flow(1, protocol="ping", name="api.test").items() if not name.endswith("_port")}
    assert [line.split()[:4] for line in drawn(made(ping, flow(2, name="api.test")), 80)[4:6]] == [
        ["ping", "->", "api.test", "11s"], ["tcp", "->", "api.test:443", "12s"],
    ]  # fmt: skip


def test_where_there_is_a_policy_a_wide_terminal_shows_the_rule() -> None:
    view = made(flow(1, rule="allow @lan"), flow(2))
    lines = drawn(view, 200)
    assert "RULE" in lines[3] and "allow @lan" in "".join(lines[4:6])
    assert "RULE" not in drawn(made(flow(2)), 200)[3]


def test_rates_are_bytes_a_second_since_the_last_look() -> None:
    view = made(flow(1), flow(2))
    view.update([flow(1, sent_bytes=5000, received_bytes=100), flow(2), flow(3, duration_s=1.0, sent_bytes=700)], 102.0)
    assert [(f["sent_rate"], f["received_rate"]) for f in view.flows] == [(2000, 0), (0, 0), (700, 100)]
    assert "sent 2.6K/s" in drawn(view, 80)[1]


def test_keys_sort() -> None:
    view = made(flow(2), flow(3), flow(1))
    column = top.COLUMNS[2:3]
    assert view.key("s") and [row[0] for row in view.rows(column)] == [f"-> 192.0.2.{n}:443" for n in (3, 2, 1)]
    assert view.key("t") and [row[0] for row in view.rows(column)] == [f"-> 192.0.2.{n}:443" for n in (1, 2, 3)]
    assert view.key("n") and [row[0] for row in view.rows(column)] == [f"-> 192.0.2.{n}:443" for n in (1, 2, 3)]
    assert "sorted by name" in drawn(view, 80)[1]


def test_a_filter_is_typed_and_taken_back() -> None:
    view = made(flow(1), flow(2, name="example.org"), flow(3, protocol="udp"))
    for key in "/udp q\x7f\x7f\r":
        assert view.key(key)
    assert [row[0] for row in view.rows(top.COLUMNS[:1])] == ["udp"]
    assert "1 shown" in drawn(view, 80)[1] and "filter: udp" in drawn(view, 80)[2]
    for key in "/\x7f\x7f\x7fexample\r":
        view.key(key)
    assert [row[0] for row in view.rows(top.COLUMNS[2:3])] == ["-> example.org:443"]
    for key in "/\x1b":
        view.key(key)
    assert len(view.rows(top.COLUMNS)) == 3
    assert not view.key("q") and not view.key("\x03")


def test_what_a_guest_names_is_shown_without_escapes_and_markup() -> None:
    lines = drawn(made(flow(1, name="[red]\x1b[2Jevil\u202e"), flow(2, state="\x07")), 200)
    assert "[red]?[2Jevil?" in " ".join(lines) and not {*"\x1b\x07\u202e"} & set("".join(lines))


def read_until(terminal: int, wanted: str) -> str:
    seen = ""
    end = time.monotonic() + WAIT_S
    while wanted not in re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", seen):
        assert time.monotonic() < end, repr(seen)
        if select.select([terminal], [], [], 1)[0]:
            try:
                seen += os.read(terminal, 1 << 16).decode("utf-8", "replace")
            except OSError:  # its other end is closed
                assert not wanted, repr(seen)
                return seen
    return seen


@pytest.mark.as_built
@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_it_shows_flows_obeys_keys_and_leaves_all_as_it_was(runtime: Path, columns: int) -> None:
    code = "import sys; from pasta_py.control.start.typer_command import main; main()"
    argv = [*as_user_words(), command_line("x")[0], "-c", code, "top", "--interval", "0.1"]
    env = environment({"XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm-256color"})
    with instance(runtime) as (process, _path):
        go, seen = os.pipe()
        pid, terminal = pty.fork()
        if not pid:
            os.read(go, 1)  # it changes the terminal once it runs
            os.execvpe(argv[0], argv, env)
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        before = termios.tcgetattr(terminal)
        os.write(seen, b"x")
        os.close(seen)
        os.close(go)
        first = read_until(terminal, f"pasta-py {process.pid} sh -c echo up;")
        assert "\x1b[?1049h" in first  # the other screen
        os.write(terminal, b"s")
        read_until(terminal, "sorted by sent")
        os.write(terminal, b"/udp")
        read_until(terminal, "filter: udp_")
        os.write(terminal, b"\rq")
        last = read_until(terminal, "")
        _pid, status = os.waitpid(pid, 0)
        last += read_until(terminal, "")
        assert os.waitstatus_to_exitcode(status) == 0
        assert termios.tcgetattr(terminal)[3] == before[3]
        os.close(terminal)


def test_without_a_terminal_it_says_what_to_use(capfd: pytest.CaptureFixture[str]) -> None:
    assert top.main([]) == 1
    assert "top is for a terminal: use 'pasta-py flows'" in capfd.readouterr().err
