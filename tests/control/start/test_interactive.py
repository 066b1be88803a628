"""`pasta-py` on a terminal without a command: two lines say where the shell is, and its prompt shows it, in real shells."""

import os
import pty
import re
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sid
from process_helpers import UID, WAIT_S, command_line, environment, user_prefix

NAME = "box"
MARK = f"({NAME}) "
_FISH = 'function fish_prompt; echo -n "$status mine> "; end; set -g seen yes; set -g from_env ""\n'
#: Of the user: a prompt, and what else such files set. Where the shell looks for it: its name below the home directory.
PROFILES = {
    "bash": (".bash_profile", "PS1='mine> '; PROMPT_COMMAND=\"$PROMPT_COMMAND; true\"; PROMPT_COMMAND+=('seen=yes')\n"),
    "zsh": (".zshrc", "PS1='mine> '; precmd() { seen=yes }\n"),
    "fish": (".config/fish/config.fish", _FISH),
    "dash": (".profile", "PS1='mine> '; seen=yes\n"),
    "sh": (".profile", "PS1='mine> '; seen=yes\n"),
    "ash": (".profile", "PS1='mine> '; seen=yes\n"),
}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, master: int) -> None:
        self.master, self.seen = master, ""

    def until(self, text: str) -> str:
        """What comes up to a text, without escapes."""
        while text not in self.seen:
            assert select.select([self.master], [], [], WAIT_S)[0], self.seen
            try:
                piece = os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it has ended: {self.seen}") from None
            self.seen = re.sub(r"\x1b(\[[0-9;?>=]*[A-Za-z]|[=>]|\][^\a\x1b]*(\a|\x1b\\))", "", self.seen + piece).replace("\r", "")
            if "\x1b[c" in piece:  # fish asks what kind of terminal this is, and waits
                self.type("\x1b[?62c")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def shell(path: str, home: Path, *options: str, name: str = "pasta-py", **env: str) -> Iterator[Terminal]:
    pid, master = pty.fork()
    if pid == 0:
        variables = environment({"SHELL": path, "HOME": str(home), "TERM": "dumb", "USER": "user", **env})
        argv = [*user_prefix(), *command_line(name, "--hostname", NAME, *options)]
        os.execvpe(argv[0], argv, variables)
    try:
        yield Terminal(master)
    finally:
        os.close(master)  # a hangup, which ends them all
        os.waitpid(pid, 0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    for each in tmp_path.parents:
        if str(each).startswith("/tmp/"):
            each.chmod(0o755)
    made = tmp_path / "home"
    made.mkdir()
    return made


def path_of(kind: str, where: Path) -> str:
    """The shell; `ash` is busybox under that name."""
    found = sid.program("busybox", "busybox") if kind == "ash" else Path(shutil.which(kind) or kind)
    if kind == "ash":
        (where / "ash").symlink_to(found)
        return str(where / "ash")
    return str(found)


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("own", [True, False], ids=["with the user's files", "without"])
def test_a_shell_says_where_it_is_and_keeps_its_users_settings(kind: str, own: bool, home: Path) -> None:
    file, text = PROFILES[kind]
    if own:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(text)
        (home / "env").write_text("from_env=read\n")
        (home / "dot").mkdir()
        (home / "dot" / ".zshrc").write_text(text)
    if os.geteuid() == 0:
        for each in (home, *home.rglob("*")):
            os.chown(each, UID, UID)
    variables = {"ENV": "$HOME/env", "ZDOTDIR": f"{home}/dot"} if own else {}
    with shell(path_of(kind, home.parent), home, **variables) as terminal:
        greeting = terminal.until("show what it does\n")
        assert f"this shell is on {NAME}, with a network of its own: " in greeting and '"exit" or Ctrl-D leaves it' in greeting
        before = terminal.until(MARK)
        assert "error" not in before and "not found" not in before
        if own:
            terminal.until("mine> ")
        terminal.type("sh -c 'echo [$ENV] [$ZDOTDIR] [$PROMPT_COMMAND]; env | grep -c _pasta_py; echo =\"$(hostname)=\"'\n")
        shown = terminal.until(f"={NAME}=\n")
        wanted = f"[$HOME/env] [{home}/dot] []" if own else "[] [] []"
        assert f"{wanted}\n0\n" in shown
        if own:
            terminal.until("mine> ")
            terminal.type("echo ,$seen,$from_env,\n")
            terminal.until(f",yes,{'read' if kind in ('dash', 'sh', 'ash') else ''},\n")
        terminal.until(MARK)
        terminal.type("exit 7\n")


@pytest.mark.parametrize(
    ("name", "options"), [("pasta", ()), ("pasta-py", ("-q",)), ("pasta-py", ("--", "sh", "-l"))], ids=["pasta", "quiet", "command"]
)
def test_a_shell_is_left_alone(name: str, options: tuple[str, ...], home: Path) -> None:
    """Under `pasta`, with -q, and where it was asked for by name."""
    with shell("/bin/sh", home, *options, name=name, PS1="plain> ", ENV="") as terminal:
        terminal.type("echo '<'$ENV'>'; env | grep -c _pasta_py; PS1='no''w> '\n")
        shown = terminal.until("now> ")
        assert "<>\n0\n" in shown and MARK not in shown and "this shell is on" not in shown
        terminal.type("exit\n")
