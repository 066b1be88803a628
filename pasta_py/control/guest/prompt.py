"""A prompt that says where an interactive shell is, behind whatever the user's own files make of it. Nothing is written.

| Shell | What we use | When it runs |
|---|---|---|
| bash | PROMPT_COMMAND in its environment | before the first prompt |
| zsh | ZDOTDIR, which leads to shell/.zshenv | that adds a hook, which runs before the first prompt |
| fish | --init-command | behind config.fish |
| sh (dash, ash, ksh) | ENV, which leads to shell/env.sh | behind .profile |

Each takes itself away when it has run, so that what the shell starts has the user's environment. Where a user's file sets the same
thing anew, or makes its prompt anew each time, that stays as it is. Other shells are started as they are.

Rejected: bash's --rcfile, which a login shell ignores.
"""

_FILES = f"{__file__.rpartition('/')[0]}/shell"
_OF_SH = ("sh", "dash", "ash", "ksh", "mksh")
_BASH_COMMAND = b'eval "$_pasta_py_prompt"'
# In its place stays ":", because a user's file may have added to it with ";" or as another element of an array.
_BASH = (
    b'PS1="(%b) $PS1"; PROMPT_COMMAND=${PROMPT_COMMAND/"eval \\"\\$_pasta_py_prompt\\""/:}; unset _pasta_py_prompt; '
    b'[[ "${PROMPT_COMMAND[*]}" != : ]] || unset PROMPT_COMMAND; [[ ! -v PROMPT_COMMAND ]] || export -n PROMPT_COMMAND'
)
# The status that the user's prompt may show is kept.
_FISH = (
    b"set -e _pasta_py_fish; functions -q fish_prompt; and functions -c fish_prompt _pasta_py_prompt; "
    b"function _pasta_py_status; return $argv[1]; end; "
    b"function fish_prompt; set -l last $status; printf '(%b) '; _pasta_py_status $last; _pasta_py_prompt; end"
)


def name_of(hostname: str) -> str:
    """What the prompt calls the namespace: a name that means nothing else to any shell."""
    return "".join(c for c in hostname if c.isascii() and (c.isalnum() or c in "-.")) or "pasta"


def mark(shell: str, variables: "dict[bytes, bytes]", name: str) -> None:
    """Change the environment of a login shell so that its prompt begins with the name. spawn.argv_of() has the rest for fish."""
    word, files = name.encode(), _FILES.encode("utf-8", "surrogateescape")
    kind = shell.rpartition("/")[2]
    if kind == "bash":
        variables[b"_pasta_py_prompt"] = _BASH % word
        before = variables.get(b"PROMPT_COMMAND", b"")
        variables[b"PROMPT_COMMAND"] = _BASH_COMMAND + (b"; " + before if before else b"")
    elif kind == "zsh":
        variables[b"_pasta_py_name"] = word
        if b"ZDOTDIR" in variables:
            variables[b"_pasta_py_zdotdir"] = variables[b"ZDOTDIR"]
        variables[b"ZDOTDIR"] = files
    elif kind == "fish":
        variables[b"_pasta_py_fish"] = _FISH % word
    elif kind in _OF_SH:
        variables[b"_pasta_py_name"] = word
        variables[b"_pasta_py_env"] = variables.get(b"ENV", b"")
        variables[b"ENV"] = files + b"/env.sh"
