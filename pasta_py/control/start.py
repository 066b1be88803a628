"""From the installed commands (pasta_py/bin) to the entry points, by name.

Run by path under `python -IS`, with no search path but the standard library's; then the directory that this package is in
is added. Where something it needs is elsewhere, `site` is asked after all. As a module (-m) everything is found already.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the same functions, wrapped, and known to type checkers
else:
    import _signal

ENTRIES = {
    "pasta": "entry:pasta",
    "pasta-addresses": "addresses:main",
    "pesto": "pesto:main",
    "slirp4netns": "slirp:slirp4netns",
}
_ENDS_AT_ONCE = frozenset(("-h", "--help", "--version"))


def _find_packages() -> bool:
    """Whether that could be done without `site`."""
    import os

    # The shell took the first pythonX.Y there is; ours is the one of this interpreter, if it has the package too.
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    library, _, kind = packages.rpartition("/")
    own = f"{os.path.dirname(library)}/python{sys.version_info[0]}.{sys.version_info[1]}/{kind}"
    if os.path.exists(f"{own}/pasta_py"):
        packages = own
    sys.path.append(packages)
    names = os.listdir(packages)
    if "pyroute2" not in names or not any(name.startswith("_cffi_backend.") for name in names):
        import site

        site.main()
        return False
    return True


def _fork_worker() -> None:
    """Let a child become the worker while nothing is loaded yet but what both need: of control it has not even the options.

    A second interpreter would take 6 ms of a processor (worker_process starts one where there is no fork).
    """
    import _socket
    import os

    import _cffi_backend  # noqa: F401 - both sides will need this and the next

    from pasta_py import wire  # noqa: F401

    try:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    except OSError:  # worker_process will say why
        return
    try:
        child = os.fork()
    except OSError:
        child = -1
    if child == 0:
        try:
            from pasta_py.worker import __main__ as worker

            package = os.path.realpath(worker.__file__)
            worker.forked(theirs.fileno(), package.rpartition("/pasta_py/")[0])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    theirs.close()
    if child > 0:
        from pasta_py.control import worker_process

        worker_process.early.append((child, ours))


def main() -> None:
    """Run the entry point that the first argument names."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while all is loaded ends it without a traceback
    bare = not __package__ and _find_packages()
    name = sys.argv.pop(1)
    if bare and name == "pasta" and all((sys.stdin, sys.stdout, sys.stderr)) and not _ENDS_AT_ONCE.intersection(sys.argv):
        _fork_worker()
    module, _, function = ENTRIES[name].partition(":")
    getattr(__import__(f"pasta_py.control.{module}", fromlist=[function]), function)()


if __name__ == "__main__":
    main()
