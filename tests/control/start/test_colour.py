"""Colour in errors and warnings: where a terminal can have it, and never where a program reads them."""

import os
import pty
import select
from collections.abc import Sequence

import pytest
from process_helpers import WAIT_S, command_line, environment, pasta, user_prefix

RED, YELLOW, END = "\x1b[1;31m", "\x1b[1;33m", "\x1b[m"
WRONG = ("--mut", "1500")


def on_terminal(argv: Sequence[str], **env: str) -> str:
    """What a program shows on a terminal."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], list(argv), environment({"TERM": "xterm", **env}))
    seen = b""
    try:
        while True:
            assert select.select([master], [], [], WAIT_S)[0], seen
            seen += os.read(master, 65536)
    except OSError:  # EIO: its last process has closed the terminal
        return seen.decode()
    finally:
        os.waitpid(pid, 0)
        os.close(master)


@pytest.mark.parametrize(
    ("name", "env", "coloured"),
    [
        ("pasta-py", {}, True),
        ("pasta-py", {"NO_COLOR": "1"}, False),
        ("pasta-py", {"NO_COLOR": ""}, True),
        ("pasta-py", {"TERM": "dumb"}, False),
        ("pasta-py", {"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ("pasta-py", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("pasta", {}, False),
        ("pasta", {"FORCE_COLOR": "1"}, False),
    ],
    ids=str,
)
def test_an_error_is_red_where_the_terminal_and_the_user_allow_it(name: str, env: dict[str, str], coloured: bool) -> None:
    first, *_ = on_terminal(command_line(name, *WRONG), **env).splitlines()
    said = "unrecognized option '--mut': did you mean '--mtu'?"
    assert first == (f"{RED}{name}:{END} {said}" if coloured else f"{name}: {said}")


@pytest.mark.parametrize(("force", "begins"), [("", "pasta-py: "), ("1", f"{RED}pasta-py:{END} ")])
def test_a_pipe_has_colour_only_if_it_is_forced(force: str, begins: str) -> None:
    assert pasta(*WRONG, name="pasta-py", env={"TERM": "xterm", "FORCE_COLOR": force}).stderr.startswith(begins)


def test_warnings_and_commands_that_fail_have_it_too() -> None:
    shown = on_terminal([*user_prefix(), *command_line("pasta-py", "--no-tcp", "-t", "8079", "--", "/nonexistent")])
    assert f"pasta-py: {YELLOW}warning:{END} -t 8079 has no effect beside --no-tcp: leave out one of them\r\n" in shown
    assert f"{RED}pasta-py:{END} Failed to start command or shell: /nonexistent: " in shown
