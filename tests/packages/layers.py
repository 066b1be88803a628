"""Debian roots to install into: overlays over what root.sh builds. Each test begins with a fresh root and sees what it left.

`SUITE` chooses bookworm, trixie or sid. Needs root.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from machine import Machine, wait_until

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUITE = os.environ.get("SUITE", "trixie")
ROOTS = ROOT / "build" / "packages" / SUITE
AS_USER = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "env", "-C", "/home/user", "HOME=/home/user")
SHELLS = {
    "bash": "bash --rcfile /usr/share/bash-completion/bash_completion -i",
    "zsh": "zsh -f -i",
    "fish": "fish",
}
#: What a shell runs first: zsh loads completion only when it is told to.
PROMPT = {
    "bash": "PS1='ready> '",
    "zsh": "PS1='ready> '; fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit -u -D",
    "fish": "function fish_prompt; echo 'ready> '; end; clear",
}
#: Where tools note what they have done, or keep what they fetched.
NOTES = re.compile(
    r"var/(lib/apt|cache|log)/|var/lib/dpkg/(status|available|info/format)|home/user/\.cache/|debs/|fish/generated_completions/"
    r"|\.pyc$|tmp/"
)
_numbers = itertools.count()


def build() -> None:
    """The roots of SUITE; minutes where nothing is there yet."""
    done = subprocess.run(["sh", HERE / "root.sh", ROOTS], stdout=sys.stderr, check=False)
    assert done.returncode == 0, f"the Debian root could not be built: see above, and {ROOTS}.log"


class Root:
    """A fresh root over `lower`, the uppermost first, and what was put into it."""

    def __init__(self, name: str, *lower: Path) -> None:
        self.top = ROOT / "build" / "packages" / "tried" / f"{SUITE}-{name}"
        self.layers = ":".join(map(str, (self.top, *lower)))
        for path in (self.top, Path(f"{self.top}.work"), Path(f"{self.top}.root")):
            shutil.rmtree(path, ignore_errors=True)
        self.top.mkdir(parents=True)

    def put(self, *files: Path) -> None:
        """Copies, in /debs."""
        (self.top / "debs").mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, self.top / "debs")

    def run(self, script: str, *, user: bool = False, check: bool = True, timeout: float = 1200) -> str:
        """Run a shell script inside, with the machine's network; what it printed."""
        command = ["sh", HERE / "within.sh", self.layers, *(AS_USER if user else ()), "sh", "-ec", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
        assert done.returncode == 0 or not check, f"{script}\n{done.stdout[-6000:]}"
        return done.stdout

    def machine(self) -> Machine:
        """The root as a running machine, with the network of tests/runtimes/enter.sh."""
        return Machine(Path(f"{self.top}.root"), layers=self.layers)

    def traces(self) -> list[str]:
        """Paths with a name of the programs in it that were added to the root, but for notes and caches."""
        found = [str(path.relative_to(self.top)) for path in self.top.rglob("*") if re.search("pasta|passt|pesto|slirp", path.name)]
        gone = {path for path in found if (self.top / path).is_char_device()}  # an overlay's mark of what was removed
        return sorted(path for path in found if path not in gone and not NOTES.search(f"{path}/" if path == "debs" else path))


def complete(machine: Machine, shell: str, line: str, expected: str, path: str = "") -> None:
    """Type `line` and TAB in an interactive shell in a tmux; fails unless `expected` is shown then."""
    tmux = ("tmux", "-L", f"{shell}-{next(_numbers)}", "-f", "/dev/null")  # a server that ends may still have its name
    environment = ("env", "TERM=screen", "SHELL=/bin/sh", *((f"PATH={path}",) if path else ()))
    machine.run(*environment, *tmux, "new-session", "-d", "-x", "160", "-y", "50", SHELLS[shell])
    try:

        def screen() -> str:
            return machine.run(*tmux, "capture-pane", "-p").stdout

        machine.run(*tmux, "send-keys", PROMPT[shell], "Enter")
        wait_until(lambda: re.search(r"^ready>", screen(), re.MULTILINE), 20, f"{shell} is ready")
        machine.run(*tmux, "send-keys", line, "Tab")
        wait_until(lambda: expected in screen(), 20, f"{shell} completes {line!r}")
    finally:
        machine.run(*tmux, "kill-server", check=False)


def fetch(machine: Machine, *command: str) -> None:
    """The main job: a command with a network of its own fetches a page from another machine, which is the gateway."""
    with machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/usr/share/common-licenses", remote=True):
        page = machine.run(*command, "--no-map-gw", "--", "curl", "-sS", "-m", "20", "http://192.0.2.2:8000/Apache-2.0").stdout
    assert page == machine.run("cat", "/usr/share/common-licenses/Apache-2.0").stdout
