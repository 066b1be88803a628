"""Completion in bash, zsh and fish for all programs: scripts made from the option tables.

A script starts none of our programs while it completes: Python alone would take longer than the rest of a TAB. `pasta-py
--show-completion SHELL` prints one, `--install-completion SHELL` writes it where that shell looks for it.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta_py.control.commandline import option_table
from pasta_py.control.commandline.notices import refuse, show
from pasta_py.control.pesto import main as pesto
from pasta_py.control.slirp4netns import options as slirp4netns
from pasta_py.errors import HostError, PastaError, UsageError, last_resort, reason
from pasta_py.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAMS = ("pasta-py", "pasta", "passt", "pesto", "slirp4netns")
SHELLS = ("bash", "zsh", "fish")
#: What a value may be.
ANYTHING, FILE, INTERFACE, NAMESPACE, PORTS, INSTANCE = "anything", "file", "interface", "namespace", "ports", "instance"
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


class Subcommand(Record):
    """A subcommand as a shell sees it."""

    word: str
    options: tuple[Choice, ...]
    takes: str  # kind of its arguments; "" for none


def subcommands() -> list[Subcommand]:
    """The subcommands with their own options."""
    from pasta_py.control.subcommands import command

    found = []
    for word, (module, _text) in option_table.SUBCOMMANDS.items():
        made = command.described(__import__(f"pasta_py.control.subcommands.{module}", fromlist=["main"]).main)
        options, takes = [], ""
        for each in made.params:
            if each.param_type_name == "argument":
                takes = takes or _kind_of_words(each)
                continue
            longs = [name[2:] for name in each.opts if name.startswith("--")]
            shorts = [name[1:] for name in each.opts if not name.startswith("--")]
            kind = "" if each.is_flag else _kind_of_words(each)
            options.append(Choice(long=longs[0], short=(shorts or [""])[0], kind=kind, text=each.help or ""))
        options.append(Choice(long="help", short="h", kind="", text="Show the help and exit."))
        found.append(Subcommand(word=word, options=tuple(options), takes=takes))
    return found


def _kind_of_words(parameter: "Any") -> str:
    """What a value of a subcommand is."""
    name = f"{parameter.name} {parameter.metavar or ''}".lower()
    if "file" in name and parameter.name != "files" or "flowlog" in name:
        return FILE
    return INSTANCE if "instance" in name or "pid" in name else ANYTHING


def script(shell: str) -> str:
    """The completion script of a shell, for all programs."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")


# ---- bash ----

_BASH = r"""# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion bash).
# PIDs of this user that begin with $1, with $2 before and $3 behind each; several have their commands behind them.
_pasta_py_pids() {
    local pid comm
    COMPREPLY=()
    for pid in /proc/"$1"[0-9]* /proc/"$1"; do
        [[ ${pid##*/} == [0-9]* && -O $pid ]] && read -r comm 2>/dev/null <"$pid/comm" || continue
        [[ " ${COMPREPLY[*]}" == *" $2${pid##*/}$3 ("* ]] || COMPREPLY+=("$2${pid##*/}$3 ($comm)")
    done
    ((${#COMPREPLY[@]} != 1)) || COMPREPLY=("${COMPREPLY[0]%% (*}")
}
_pasta_py_instances() {
    local directory=${XDG_RUNTIME_DIR:-/run}/pasta-py
    ((EUID)) || directory=/run/pasta-py
    mapfile -t COMPREPLY < <(compgen -W "$(cd "$directory" 2>/dev/null && for each in [0-9]*.sock; do echo "${each%.sock}"; done)" \
        -- "$1")
}
# $1: the word to complete, $2: the one before it, $3: the subcommand.
_pasta_py_subcommand() {
    local options= files= instances= others= takes=
    case $3 in
@SUBCOMMAND_CASES@
    esac
    if [[ " $files " == *" $2 "* || (" $instances $others " != *" $2 "* && $1 != -* && $takes == file) ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$1")
    elif [[ " $instances " == *" $2 "* || (" $others " != *" $2 "* && $1 != -* && $takes == instance) ]]; then
        _pasta_py_instances "$1"
    elif [[ $1 == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$1")
    fi
}
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
    if [[ $program == pasta-py && $COMP_CWORD -gt 1 && " @SUBCOMMANDS@ " == *" ${COMP_WORDS[1]} "* ]]; then
        _pasta_py_subcommand "$current" "$previous" "${COMP_WORDS[1]}"
        return
    fi
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
        if [[ $current == [0-9]* || $current == /proc/[0-9]* && $current != /proc/*/* ]]; then
            _pasta_py_pids "${current#/proc/}" /proc/ /ns/net
            return
        fi
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -W "$(cd /run/netns 2>/dev/null && echo *)" -- "$current"; compgen -f -- "$current")
    elif [[ -z $command && " $ports " == *" $previous "* ]]; then
        if [[ ${current##*/} == *%* ]]; then # an interface, as in 0.0.0.0%eth0/8080
            compopt -o nospace
            mapfile -t COMPREPLY < <(compgen -W "$(cd /sys/class/net && echo *)" -P "${current%\%*}%" -S / -- "${current##*%}")
        else
            mapfile -t COMPREPLY < <(compgen -W "@PORTS@" -- "$current")
        fi
    elif [[ -z $command && " $others " == *" $previous "* ]]; then
        :
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $program == pesto ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ $current == [0-9]* || $program == slirp4netns ]]; then
        _pasta_py_pids "$current" "" ""
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
    cases = []
    for each in subcommands():
        names = {
            kind: " ".join(name for choice in each.options if choice.kind == kind for name in choice.names)
            for kind in (FILE, INSTANCE, ANYTHING)
        }
        options = " ".join(f"--{choice.long}" for choice in each.options)
        values = f"files='{names[FILE]}' instances='{names[INSTANCE]}' others='{names[ANYTHING]}' takes={each.takes}"
        cases.append(f"    {each.word}) options='{options}' {values} ;;")
    text = text.replace("@SUBCOMMAND_CASES@", "\n".join(cases))
    return text.replace("@SUBCOMMANDS@", " ".join(option_table.SUBCOMMANDS)).replace("@NAMES@", " ".join(PROGRAMS))


# ---- zsh ----

_ZSH_ACTIONS = {ANYTHING: " ", FILE: "_files", INTERFACE: "_pasta_py_interfaces", NAMESPACE: "_pasta_py_namespaces",
                INSTANCE: "_pasta_py_instances", PORTS: "_pasta_py_ports"}  # fmt: skip
_ZSH = r"""#compdef @NAMES@
# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion zsh).
_pasta_py_interfaces() { compadd -- /sys/class/net/*(N:t) }
_pasta_py_ports() {
    if [[ ${PREFIX##*/} == *%* ]]; then # an interface, as in 0.0.0.0%eth0/8080
        compset -P '*%'
        compadd -S / -- /sys/class/net/*(N:t)
    else
        compadd -- @PORTS@
    fi
}
# PIDs of this user, with $1 before and $2 behind each, shown with their commands.
_pasta_py_pids() {
    local -a found shown
    local each comm
    for each in /proc/[0-9]##(NU); do
        read -r comm 2>/dev/null <$each/comm || continue
        found+=($1${each:t}$2) shown+=("$1${each:t}$2 ($comm)")
    done
    compadd -d shown -- $found
}
_pasta_py_namespaces() {
    compadd -- /run/netns/*(N:t)
    if [[ $PREFIX == /proc/[0-9]#(|/*) ]]; then
        _pasta_py_pids /proc/ /ns/net
    else
        _files
    fi
}
_pasta_py_instances() {
    local directory=${XDG_RUNTIME_DIR:-/run}/pasta-py
    (( EUID )) || directory=/run/pasta-py
    compadd -- $directory/[0-9]*.sock(N:t:r)
}
_pasta_py_subcommand() {
    case $words[1] in
@SUBCOMMAND_CASES@
    esac
}
_pasta_py_command() {
    local command=
    if (( CURRENT > 1 )) && [[ $words[1] == -- ]]; then # _arguments keeps it where no option is before it
        command=yes
        shift words
        (( CURRENT-- ))
    fi
    if [[ -z $command && $service == pasta-py && CURRENT -gt 1 && $words[1] == (@SUBCOMMAND_WORDS@) ]] && (( ! $#opt_args )); then
        _pasta_py_subcommand
    elif (( CURRENT == 1 )); then
        [[ -z $command && $service == pasta-py ]] && compadd -- @SUBCOMMANDS@
        [[ -z $command && $PREFIX == [0-9]* ]] && _pasta_py_pids '' ''
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
_ZSH_ARGUMENTS = {"pesto": "1:socket:_files", "slirp4netns": "1:process:{_pasta_py_pids '' ''}", "": "*::command:_pasta_py_command"}


def _zsh() -> str:
    rows = []
    for program in PROGRAMS:
        rows.append(f"    {program}) _arguments -s -S -A '-*' \\")
        rows += _zsh_options(choices(program))
        rows.append(f"        {_quoted(_ZSH_ARGUMENTS.get(program, _ZSH_ARGUMENTS['']))} ;;")
    text = _ZSH.replace("@PROGRAMS@", "\n".join(rows)).replace("@NAMES@", " ".join(PROGRAMS))
    cases = []
    for each in subcommands():
        cases.append(f"    {each.word}) _arguments -s -S \\")
        cases += _zsh_options(each.options)
        cases.append(f"        {_quoted(f'*:{each.takes}:{_ZSH_ACTIONS[each.takes]}')} ;;" if each.takes else "        ;;")
    text = text.replace("@SUBCOMMAND_CASES@", "\n".join(cases))
    text = text.replace("@SUBCOMMAND_WORDS@", "|".join(option_table.SUBCOMMANDS))
    return text.replace("@SUBCOMMANDS@", " ".join(option_table.SUBCOMMANDS)).replace("@PORTS@", " ".join(_PORTS))


def _zsh_options(found: "Iterable[Choice]") -> list[str]:
    """Lines of _arguments."""
    rows = []
    for choice in found:
        text = _first_sentence(choice.text)
        for char in "\\[]:":
            text = text.replace(char, f"\\{char}")
        value = f":{choice.kind}:{_ZSH_ACTIONS[choice.kind]}" if choice.kind else ""
        for name in choice.names:
            mark = ("=" if name.startswith("--") else "+") if choice.kind else ""
            rows.append(f"        {_quoted(f'*{name}{mark}[{text}]{value}')} \\")
    return rows


# ---- fish ----

_FISH_VALUES = {ANYTHING: " -x", FILE: " -r -F", INTERFACE: " -x -a '(__pasta_py_interfaces)'",
                NAMESPACE: " -r -F -a '(__pasta_py_namespaces)'", INSTANCE: " -x -a '(__pasta_py_instances)'",
                PORTS: " -x -a '(__pasta_py_ports)'", "": ""}  # fmt: skip
_FISH = r"""# Completion for pasta-py, pasta, passt, pesto and slirp4netns (pasta-py --show-completion fish).
function __pasta_py_interfaces
    path basename /sys/class/net/*
end
function __pasta_py_ports
    set -l word (commandline -ct)
    if string match -qr '%[^/]*$' -- $word # an interface, as in 0.0.0.0%eth0/8080
        printf '%s/\n' (string replace -r '[^%]*$' '' -- $word)(path basename /sys/class/net/*)
    else
        printf '%s\n' @PORTS@
    end
end
function __pasta_py_namespaces
    path basename /run/netns/*
    if string match -qr '^(/proc/\d*|\d+)' -- (commandline -ct)
        __fish_complete_pids | string replace -r '^(\d+)' '/proc/$1/ns/net'
    end
end
function __pasta_py_instances
    set -l directory /run/pasta-py
    test (id -u) -eq 0; or set directory $XDG_RUNTIME_DIR/pasta-py
    path basename $directory/*.sock | string replace .sock ''
end
function __pasta_py_subcommand # of these words
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] $argv
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
    if not set -q words[1]; and string match -qr '^\d' -- (commandline -ct)
        __fish_complete_pids
    end
    complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end
"""


def _fish() -> str:
    rows = [_FISH.rstrip().replace("@PORTS@", " ".join(_PORTS))]
    no_subcommand = f" -n 'not __pasta_py_subcommand {' '.join(option_table.SUBCOMMANDS)}'"
    for program in PROGRAMS:
        when = no_subcommand if program == "pasta-py" else ""
        rows += [_fish_option(program, choice, when) for choice in choices(program)]
        if program in ("pasta", "pasta-py"):
            taking = " ".join(name for choice in choices(program) if choice.kind for name in choice.names)
            rows.append(f"complete -c {program}{when} -x -a '(__pasta_py_command {taking})'")
    rows.append("complete -c slirp4netns -x -a '(__fish_complete_pids)'")
    for word, (_module, text) in option_table.SUBCOMMANDS.items():
        described = _first_sentence(text).replace("'", "\\'")
        rows.append(f"complete -c pasta-py -n 'test (count (commandline -opc)) -eq 1' -a {word} -d '{described}'")
    for each in subcommands():
        when = f" -n '__pasta_py_subcommand {each.word}'"
        rows += [_fish_option("pasta-py", choice, when) for choice in each.options]
        values = _FISH_VALUES[each.takes].removeprefix(" -x").removeprefix(" -r")
        rows.append(f"complete -c pasta-py{when}{values or ' -f'}")
    return "\n".join(rows) + "\n"


def _fish_option(program: str, choice: Choice, when: str) -> str:
    short = f" -s {choice.short}" if choice.short else ""
    text = _first_sentence(choice.text).replace("\\", "\\\\").replace("'", "\\'")
    return f"complete -c {program}{when} -l {choice.long}{short}{_FISH_VALUES[choice.kind]} -d '{text}'"


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
    if not shell:
        raise UsageError(f"{option}: $SHELL does not say which shell is meant: name one of {', '.join(SHELLS)}")
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
    except OSError as error:  # of standard output
        refuse("pasta-py", f"cannot go on: {last_resort(error)}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
