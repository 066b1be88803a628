# Read by a zsh that pasta-py starts on a terminal, in place of the user's .zshenv. It gives ZDOTDIR back, reads that file, and has
# the prompt changed once, before the first one, behind all other files.
if (( ${+_pasta_py_zdotdir} )); then
    ZDOTDIR=$_pasta_py_zdotdir
    unset _pasta_py_zdotdir
else
    unset ZDOTDIR
fi
_pasta_py_prompt() {
    emulate -L zsh
    PS1="($_pasta_py_name) $PS1"
    precmd_functions=(${precmd_functions:#_pasta_py_prompt})
    unset _pasta_py_name
    unfunction _pasta_py_prompt
}
typeset -ga precmd_functions
precmd_functions+=(_pasta_py_prompt)
[[ ! -r ${ZDOTDIR:-$HOME}/.zshenv ]] || source ${ZDOTDIR:-$HOME}/.zshenv
