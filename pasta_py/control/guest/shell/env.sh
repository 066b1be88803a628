# Read by a sh that pasta-py starts on a terminal, in place of the user's $ENV. It gives ENV back, reads that file, and changes the
# prompt. The user's ENV may have variables in it (POSIX, XCU 2.5.3).
if [ -n "${_pasta_py_env:-}" ]; then
    ENV=$_pasta_py_env
    eval "_pasta_py_env=\"$ENV\""
    [ ! -r "$_pasta_py_env" ] || . "$_pasta_py_env"
else
    unset ENV
fi
PS1="($_pasta_py_name) $PS1"
unset _pasta_py_env _pasta_py_name
