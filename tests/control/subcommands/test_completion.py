"""Completion as users have it: a real bash, zsh and fish complete command lines with the scripts that pasta-py prints."""

import contextlib
import os
import pty
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from instance_helpers import as_user_words
from process_helpers import environment

from pasta_py.control.subcommands import completion

ROOT = Path(__file__).resolve().parents[3]

#: What is typed, and what is among the answers; a shell may add others.
LINES = [
    ("pasta-py --mt", ["--mtu"]),
    ("pasta-py --no-dhcp", ["--no-dhcp", "--no-dhcp-dns", "--no-dhcpv6"]),
    ("pasta-py -t ", ["none", "all", "auto"]),
    ("pasta-py -m 1500 --tcp-ns a", ["all", "auto"]),
    ("pasta-py -t %l", ["%lo/"]),
    ("pasta-py -t 0.0.0.0%l", ["0.0.0.0%lo/"]),
    ("pasta-py --interface l", ["lo"]),
    ("pasta -i l", ["lo"]),
    ("pasta-py --pcap /etc/resol", ["/etc/resolv.conf"]),
    ("pasta-py doct", ["doctor"]),
    ("pasta --map-gu", ["--map-guest-addr"]),
    ("passt --one", ["--one-off"]),
    ("pesto --cle", ["--clear"]),
    ("pesto /etc/resol", ["/etc/resolv.conf"]),
    ("slirp4netns --outbound-", ["--outbound-addr", "--outbound-addr6"]),
    ("pasta-py -m 1500 -- setpri", ["setpriv"]),
    ("pasta-py -4 setpri", ["setpriv"]),
    ("pasta-py -- setpri", ["setpriv"]),
    ("pasta-py flows --fol", ["--follow"]),
    ("pasta-py capture --sna", ["--snaplen"]),
    ("pasta-py capture --write /etc/resol", ["/etc/resolv.conf"]),
    ("pasta-py report /etc/resol", ["/etc/resolv.conf"]),
]
_BASH_COMPLETION = "source /usr/share/bash-completion/bash_completion 2>/dev/null; "
_BASH = _BASH_COMPLETION + """source "$1"
COMP_LINE=$2 COMP_POINT=${#2}; read -ra COMP_WORDS <<<"$2"; [[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }
_pasta_py "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\\n' "${COMPREPLY[@]}"
"""


def asking(shell: str, script: Path, line: str) -> list[str]:
    """The command by which bash or fish prints what it would complete the line with."""
    if shell == "bash":
        return ["bash", "-c", _BASH, "bash", str(script), line]
    return ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]


def lines_of(command: list[str], env: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def answers(shell: str, script: Path, line: str) -> list[str]:
    return [word.partition("\t")[0] for word in lines_of(asking(shell, script, line))]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for shell in completion.SHELLS:
        found[shell] = tmp_path_factory.mktemp(shell) / ("_pasta-py" if shell == "zsh" else "script")
        found[shell].write_text(completion.script(shell))
    return found


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes(shell: str, scripts: dict[str, Path]) -> None:
    for line, expected in LINES:
        assert set(expected) <= set(answers(shell, scripts[shell], line)), line


def test_zsh_completes(scripts: dict[str, Path]) -> None:
    """zsh completes on a terminal only."""
    for line, expected in LINES:
        shown = _zsh(scripts["zsh"], line)
        assert all(word in shown for word in expected), (line, shown)


def _zsh(
    script: Path, line: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None, *, first: str = "", then: str = ""
) -> str:
    """What an interactive zsh shows after TAB, without the escapes of the terminal. `first`, `then`: to be run before and after
    it loads its completion.
    """
    load = f"fpath=({script.parent} $fpath); autoload -Uz compinit; compinit -u -D; "
    start = f"PS1='here''> '; {load}{then}LISTMAX=1000; print ready\n"
    pid, master = pty.fork()
    if pid == 0:
        os.chdir("/")
        argv = [*prefix, "zsh", "-f", "-i"]
        os.execvpe(argv[0], argv, {**environment(env), "TERM": "dumb", "COLUMNS": "200", "LINES": "500"})
    try:
        os.write(master, (first + start).encode())
        _read(master, b"here> ")
        os.write(master, line.encode() + b"\t\t\x15print do''ne\n")  # Ctrl-U takes the line back
        return _read(master, b"\ndone\r\n")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)


_TIMED = """\
zmodload zsh/datetime
timed() { local -F began=$EPOCHREALTIME; zle complete-word; print -r -- "took" $(( (EPOCHREALTIME - began) * 1000 )) "ms" }
zle -N timed; bindkey '^I' timed; LISTMAX=1000
"""


def _zsh_tab_ms(script: Path, line: str) -> float:
    """Of a TAB in a zsh that is ready. The first one does not count: it loads zsh's own functions, too."""
    shown = _zsh(script, f"{line}\t\x15" * 3 + line, first=_TIMED)  # Ctrl-U takes the line back
    return statistics.median(map(float, re.findall(r"took ([0-9.]+) ms", shown)[1:4]))


def _read(master: int, until: bytes) -> str:
    """Output of a terminal until a text comes."""
    seen = b""
    while until not in seen:
        assert select.select([master], [], [], 60)[0], seen
        seen += os.read(master, 65536)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


#: How each shell is told what a program takes.
_OWN = {
    "bash": "complete -W word-of-its-own ls; ",
    "zsh": "_own() { compadd word-of-its-own }; compdef _own ls; ",
    "fish": "complete -c ls -f -a word-of-its-own; ",
}


@pytest.mark.parametrize("line", ["pasta-py -- ls word", "pasta-py -t 80 ls word", "pasta ls word"])
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_command_has_its_own_completion(shell: str, line: str, scripts: dict[str, Path]) -> None:
    if shell == "zsh":
        assert "word-of-its-own" in _zsh(scripts["zsh"], line, then=_OWN["zsh"])
        return
    argv = asking(shell, scripts[shell], line)
    at = argv.index("-c") + 1
    argv[at] = _OWN[shell] + argv[at] if shell == "fish" else argv[at].replace(_BASH_COMPLETION, _BASH_COMPLETION + _OWN["bash"])
    assert lines_of(argv) == ["word-of-its-own"]


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Two processes of ours whose PIDs differ in the last digits, by a name of their own."""
    found = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            code = "printf named-by-us >/proc/$$/comm; echo; read -r"
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(["bash", "-c", code], stdin=pipe, stdout=pipe))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            found.append(process.pid)
        yield found


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_pids_come_with_their_commands(shell: str, scripts: dict[str, Path], sleepers: list[int]) -> None:
    """Of those whose namespaces can be joined: as the word, and as /proc/PID/ns/net behind --netns."""
    first, second = map(str, sleepers)
    part = os.path.commonprefix([first, second])
    for line, before, behind in (
        (f"pasta {part}", "", ""),
        (f"slirp4netns {part}", "", ""),
        (f"pasta-py --netns /proc/{part}", "/proc/", "/ns/net"),
    ):
        if shell == "zsh":
            shown = _zsh(scripts["zsh"], line)
            assert f"{before}{first}{behind}" in shown and f"{before}{second}{behind}" in shown and "named-by-us" in shown, line
            continue
        found = lines_of(asking(shell, scripts[shell], line))
        for pid in (first, second):
            (shown,) = (word for word in found if re.split("[ \t]", word)[0] == f"{before}{pid}{behind}")
            assert "named-by-us" in shown, line


def test_the_only_pid_is_completed_without_its_command_in_bash(scripts: dict[str, Path], sleepers: list[int]) -> None:
    pid = str(max(sleepers))
    assert answers("bash", scripts["bash"], f"pasta {pid}") == [pid]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_instances_are_named(shell: str, scripts: dict[str, Path], runtime: Path) -> None:
    (runtime / "pasta-py").mkdir()
    (runtime / "pasta-py" / "4711.sock").touch()
    script = runtime / scripts[shell].name
    script.write_text(scripts[shell].read_text())
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    if shell == "zsh":
        assert "4711" in _zsh(script, "pasta-py flows ", as_user_words(), env)
    else:
        assert "4711" in lines_of([*as_user_words(), *asking(shell, script, "pasta-py flows ")], env)


@pytest.mark.quiet
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_tab_is_faster_than_a_program_that_is_asked(shell: str, scripts: dict[str, Path]) -> None:
    """Beyond the bare start of the shell, and with the script read anew: what a program of typer needs before it can answer."""
    line = "pasta-py --no-dhcp"
    asked = median_ms([sys.executable, "-c", "import typer"])
    if shell == "zsh":  # in one that runs: its start counts less than nothing
        taken = _zsh_tab_ms(scripts["zsh"], line)
    else:
        full = [word.replace(_BASH_COMPLETION, "") for word in asking(shell, scripts[shell], line)]
        bare = ["bash", "-c", ":"] if shell == "bash" else ["fish", "--no-config", "-c", "true"]
        taken = median_ms(full) - median_ms(bare)
    print(f"{shell}: a TAB takes {taken:.1f} ms, `import typer` {asked:.1f} ms")
    assert taken < asked


def median_ms(command: list[str]) -> float:
    took = []
    for _ in range(7):
        begin = time.monotonic()
        lines_of(command)
        took.append((time.monotonic() - begin) * 1000)
    return statistics.median(took)


def test_a_line_with_an_equals_sign_in_bash(scripts: dict[str, Path]) -> None:
    """bash makes three words of --interface=l."""
    code = _BASH.replace('read -ra COMP_WORDS <<<"$2"', "COMP_WORDS=(pasta-py --interface = l)")
    done = subprocess.run(["bash", "-c", code, "bash", str(scripts["bash"]), "x"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lo"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_install_writes_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    env = {**environment({"HOME": str(tmp_path)}), "SHELL": f"/usr/bin/{shell}"}
    code = "import sys; from pasta_py.control.start import typer_command; sys.argv[0] = 'pasta-py'; typer_command.main()"
    for words in (["--install-completion", shell], ["--install-completion"]):
        done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and shell in done.stdout, done.stderr
    for path in completion.paths(shell, tmp_path):
        assert path.read_text() == completion.script(shell)
    line = [sys.executable, "-c", code, "--show-completion", shell]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == completion.script(shell)


def test_the_scripts_that_packages_install_are_these() -> None:
    for shell, name in (("bash", "pasta-py"), ("zsh", "_pasta-py"), ("fish", "pasta-py.fish")):
        path = ROOT / "contrib/completions" / shell / name
        assert path.read_text() == completion.script(shell), f"{name}: make it anew with `make man`"


@pytest.mark.parametrize("words", [["tcsh"], ["bash", "zsh"]], ids=str)
def test_a_shell_that_we_do_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["--show-completion", *words]) == 1
    assert capsys.readouterr().err == f"pasta-py: --show-completion {' '.join(words)}: expected one of bash, zsh, fish\n"
