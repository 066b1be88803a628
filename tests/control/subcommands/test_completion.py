"""Completion as users have it: a real bash, zsh and fish complete command lines with the scripts that pasta-py prints."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import environment

from pasta_py.control.subcommands import completion

ROOT = Path(__file__).resolve().parents[3]

#: What is typed, and what is among the answers; a shell may add others.
LINES = [
    ("pasta-py --mt", ["--mtu"]),
    ("pasta-py --no-dhcp", ["--no-dhcp", "--no-dhcp-dns", "--no-dhcpv6"]),
    ("pasta-py -t ", ["none", "all", "auto"]),
    ("pasta-py -m 1500 --tcp-ns a", ["all", "auto"]),
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
]
_BASH = """
source /usr/share/bash-completion/bash_completion 2>/dev/null; source "$1"
COMP_LINE=$2 COMP_POINT=${#2}; read -ra COMP_WORDS <<<"$2"; [[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }
_pasta_py "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\\n' "${COMPREPLY[@]}"
"""


def answers(shell: str, script: Path, line: str) -> list[str]:
    if shell == "bash":
        command = ["bash", "-c", _BASH, "bash", str(script), line]
    else:
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert not done.stderr, done.stderr
    return [word.partition("\t")[0] for word in done.stdout.splitlines()]


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


def _zsh(script: Path, line: str) -> str:
    """What an interactive zsh shows after TAB, without the escapes of the terminal."""
    start = f"PS1='here''> '; fpath=({script.parent} $fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=1000; print ready\n"
    pid, master = pty.fork()
    if pid == 0:
        os.chdir("/")
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment(), "TERM": "dumb", "COLUMNS": "200", "LINES": "500"})
    try:
        os.write(master, start.encode())
        _read(master, b"here> ")
        os.write(master, line.encode() + b"\t\t\x15print do''ne\n")  # Ctrl-U takes the line back
        return _read(master, b"\ndone\r\n")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)


def _read(master: int, until: bytes) -> str:
    """Output of a terminal until a text comes."""
    seen = b""
    while until not in seen:
        assert select.select([master], [], [], 60)[0], seen
        seen += os.read(master, 65536)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


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
