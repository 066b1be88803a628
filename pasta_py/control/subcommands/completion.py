"""Completion in bash, zsh and fish for all programs: scripts made from the option tables.

A script asks no program of ours while it completes: starting Python would take longer than a user waits for TAB. `pasta-py
--show-completion SHELL` prints one, `--install-completion SHELL` writes it where that shell looks for it.
"""

import os
import sys
from pathlib import Path

from pasta_py.control.commandline import option_table
from pasta_py.control.pesto import main as pesto
from pasta_py.control.slirp4netns import options as slirp4netns
from pasta_py.control.start.notices import refuse, show
from pasta_py.errors import HostError, PastaError, UsageError, reason
from pasta_py.record import Record

PROGRAMS = ("pasta-py", "pasta", "passt", "pesto", "slirp4netns")
SHELLS = ("bash", "zsh", "fish")
#: What a value may be.
ANYTHING, FILE, INTERFACE, NAMESPACE, PORTS = "anything", "file", "interface", "namespace", "ports"
_PORTS = ("none", "all", "auto")
_INTERFACES = ("interface", "outbound-if4", "outbound-if6")


class Choice(Record):
    """An option as a shell sees it."""

    long: str
    short: str
    kind: str  # of its value; "" for an option without one
    text: str

    @property
    def names(self) -> tuple[str, ...]:
        return (f"--{self.long}", *([f"-{self.short}"] if self.short else []))


def _kind(long: str, metavar: str) -> str:
    if not metavar:
        return ""
    if long in _INTERFACES:
        return INTERFACE
    if metavar == "SPEC":
        return PORTS
    if metavar == "PATH|NAME":
        return NAMESPACE
    return FILE if metavar in ("PATH", "FILE") else ANYTHING


def choices(program: str) -> list[Choice]:
    """The options of a program."""
    tables = {"pesto": pesto.TABLE, "slirp4netns": slirp4netns.TABLE}
    if program in tables:
        return [
            Choice(long=long, short=short, kind=_kind(long, value), text=text) for short, long, value, text in tables[program]
        ]
    return [
        Choice(long=option.long, short=option.short, kind=_kind(option.long, option.metavar), text=option.help)
        for option in option_table.TABLE
        if option.mode in ("", "passt" if program == "passt" else "pasta")
    ]


def script(shell: str) -> str:
    """The completion script of a shell, for all programs."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")


# ---- bash ----

_BASH = r"""# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion bash).
_pasta_py() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]##*/}
    local options files interfaces namespaces ports others position=1 command= word
    case $program in
@PROGRAMS@
    *) return ;;
    esac
    # COMP_WORDBREAKS makes three words of --name=value.
    [[ $current == = ]] && current=
    [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD - 2]}
    while ((position < COMP_CWORD)); do
        word=${COMP_WORDS[position]}
        if [[ $word == -- ]]; then
            command=$((position + 1))
            break
        elif [[ $word != -* ]]; then
            command=$position
            break
        elif [[ " $files $interfaces $namespaces $ports $others " == *" $word "* ]]; then
            ((position++))
            [[ ${COMP_WORDS[position]} == = ]] && ((position++))
        fi
        ((position++))
    done
    if [[ -n $command && $program == pasta* ]]; then
        if declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "$command"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "$command"
        elif ((command == COMP_CWORD)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$current")
        else
            compopt -o default
        fi
    elif [[ -z $command && " $files " == *" $previous "* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ -z $command && " $interfaces " == *" $previous "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(cd /sys/class/net && echo *)" -- "$current")
    elif [[ -z $command && " $namespaces " == *" $previous "* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -W "$(cd /run/netns 2>/dev/null && echo *)" -- "$current"; compgen -f -- "$current")
    elif [[ -z $command && " $ports " == *" $previous "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "@PORTS@" -- "$current")
    elif [[ -z $command && " $others " == *" $previous "* ]]; then
        :
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $program == pesto ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ $current == [0-9]* || $program == slirp4netns ]]; then
        mapfile -t COMPREPLY < <(cd /proc && compgen -G "$current*" -X '!+([0-9])')
    else
        mapfile -t COMPREPLY < <(compgen -W "@SUBCOMMANDS@" -- "$current"; compgen -c -- "$current")
    fi
}
complete -F _pasta_py @NAMES@
"""


def _bash() -> str:
    rows = []
    for program in PROGRAMS:
        found = choices(program)
        names = {
            kind: " ".join(name for choice in found if choice.kind == kind for name in choice.names)
            for kind in (FILE, INTERFACE, NAMESPACE, PORTS, ANYTHING)
        }
        rows += [
            f"    {program})",
            f"        options='{' '.join(f'--{choice.long}' for choice in found)}'",
            f"        files='{names[FILE]}'",
            f"        interfaces='{names[INTERFACE]}' namespaces='{names[NAMESPACE]}' ports='{names[PORTS]}'",
            f"        others='{names[ANYTHING]}'",
            "        ;;",
        ]
    text = _BASH.replace("@PROGRAMS@", "\n".join(rows)).replace("@PORTS@", " ".join(_PORTS))
    return text.replace("@SUBCOMMANDS@", " ".join(option_table.SUBCOMMANDS)).replace("@NAMES@", " ".join(PROGRAMS))


# ---- zsh ----

_ZSH_ACTIONS = {ANYTHING: " ", FILE: "_files", INTERFACE: "_pasta_py_interfaces", NAMESPACE: "_pasta_py_namespaces",
                PORTS: f"({' '.join(_PORTS)})"}  # fmt: skip
_ZSH = r"""#compdef @NAMES@
# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion zsh).
_pasta_py_interfaces() { compadd -- /sys/class/net/*(N:t) }
_pasta_py_namespaces() { compadd -- /run/netns/*(N:t); _files }
_pasta_py_command() {
    if (( CURRENT == 1 )); then
        [[ $service == pasta-py ]] && compadd -- @SUBCOMMANDS@
        [[ $PREFIX == [0-9]* ]] && _pids
        _command_names -e
    else
        _normal
    fi
}
_pasta_py() {
    case $service in
@PROGRAMS@
    esac
}
_pasta_py "$@"
"""
_ZSH_ARGUMENTS = {"pesto": "1:socket:_files", "slirp4netns": "1:process:_pids", "": "*::command:_pasta_py_command"}


def _zsh() -> str:
    rows = []
    for program in PROGRAMS:
        rows.append(f"    {program}) _arguments -s -S -A '-*' \\")
        for choice in choices(program):
            text = _first_sentence(choice.text)
            for char in "\\[]:":
                text = text.replace(char, f"\\{char}")
            value = f":{choice.kind}:{_ZSH_ACTIONS[choice.kind]}" if choice.kind else ""
            for name in choice.names:
                mark = ("=" if name.startswith("--") else "+") if choice.kind else ""
                rows.append(f"        {_quoted(f'*{name}{mark}[{text}]{value}')} \\")
        rows.append(f"        {_quoted(_ZSH_ARGUMENTS.get(program, _ZSH_ARGUMENTS['']))} ;;")
    text = _ZSH.replace("@PROGRAMS@", "\n".join(rows)).replace("@NAMES@", " ".join(PROGRAMS))
    return text.replace("@SUBCOMMANDS@", " ".join(option_table.SUBCOMMANDS))


# ---- fish ----

_FISH_VALUES = {ANYTHING: " -x", FILE: " -r -F", INTERFACE: " -x -a '(__pasta_py_interfaces)'",
                NAMESPACE: " -r -F -a '(__pasta_py_namespaces)'", PORTS: f" -x -a '{' '.join(_PORTS)}'", "": ""}  # fmt: skip
_FISH = """# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion fish).
function __pasta_py_interfaces
    path basename /sys/class/net/*
end
function __pasta_py_namespaces
    path basename /run/netns/*
end
function __pasta_py_command # options that take a value
    set -l words (commandline -opc)[2..]
    while set -q words[1]
        switch $words[1]
            case --
                set -e words[1]
                break
            case '-*'
                contains -- $words[1] $argv; and set -e words[1]
                set -e words[1]
            case '*'
                break
        end
    end
    if not set -q words[1]; and string match -q -- '-*' (commandline -ct)
        return
    end
    complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end
"""


def _fish() -> str:
    rows = [_FISH.rstrip()]
    for program in PROGRAMS:
        for choice in choices(program):
            short = f" -s {choice.short}" if choice.short else ""
            text = _first_sentence(choice.text).replace("\\", "\\\\").replace("'", "\\'")
            rows.append(f"complete -c {program} -l {choice.long}{short}{_FISH_VALUES[choice.kind]} -d '{text}'")
        if program in ("pasta", "pasta-py"):
            taking = " ".join(name for choice in choices(program) if choice.kind for name in choice.names)
            rows.append(f"complete -c {program} -x -a '(__pasta_py_command {taking})'")
    for word, (_module, text) in option_table.SUBCOMMANDS.items():
        described = _first_sentence(text).replace("'", "\\'")
        rows.append(f"complete -c pasta-py -n 'test (count (commandline -opc)) -eq 1' -a {word} -d '{described}'")
    return "\n".join(rows) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- the options of pasta-py ----


def paths(shell: str, home: Path) -> list[Path]:
    """Where a shell looks for a user's own scripts."""
    if shell == "bash":
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
        return [data / "bash-completion/completions" / program for program in PROGRAMS]
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return [config / "fish/completions" / f"{program}.fish" for program in PROGRAMS]
    return [home / ".zfunc/_pasta-py"]


def _shell(option: str, words: list[str]) -> str:
    shell = words[0] if words else Path(os.environ.get("SHELL", "")).name
    if len(words) > 1 or shell not in SHELLS:
        raise UsageError(f"{option} {' '.join(words) or shell}: expected one of {', '.join(SHELLS)}")
    return shell


def _install(shell: str) -> str:
    text = script(shell)
    written = paths(shell, Path.home())
    for path in written:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise HostError(f"Couldn't write {str(path)!r}: {reason(error, 'use --show-completion, and choose a place')}") from None
    done = f"{shell} completes the programs from its next start on: {written[0].parent}\n"
    if shell == "zsh":
        done += "Its .zshrc needs, if it is not there: fpath+=~/.zfunc; autoload -Uz compinit; compinit\n"
    return done


def main(argv: list[str]) -> int:
    """`--show-completion [SHELL]` and `--install-completion [SHELL]`; the exit status. Without SHELL: that of $SHELL."""
    option, *words = argv
    try:
        shell = _shell(option, words)
        show(script(shell) if option == "--show-completion" else _install(shell))
        return 0
    except PastaError as error:
        refuse("pasta-py", str(error))
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
