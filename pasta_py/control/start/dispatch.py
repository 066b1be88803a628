"""From the installed commands to the entry points, by name.

`run` comes here with no search path but the standard library's and that of this package. Where something it needs is
elsewhere, `site` is asked after all. As a module (-m) everything is found already.
"""

import gc
import posix as os  # lean imports: docs/architecture.md
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the same functions, wrapped, and known to type checkers
else:
    import _signal

ENTRIES = {
    "pasta": "start.main:pasta",
    "pasta-addresses": "guest.list_addresses:main",
    "pesto": "pesto.main:main",
    "slirp4netns": "slirp4netns.main:slirp4netns",
}
_ENDS_AT_ONCE = frozenset(("-h", "--help", "--version"))


def _find_backend() -> bool:
    """Whether that could be done without `site`."""
    try:
        import _cffi_backend  # noqa: F401 - control and worker both need it
    except ImportError:
        import site

        site.main()
        return False
    return True


def _fork_worker() -> None:
    """Let a child become the worker while nothing is loaded yet but what both need: of control it has not even the options.

    A second interpreter would take 6 ms of a processor (worker_process starts one where there is no fork).
    """
    import _socket

    from pasta_py import worker_protocol  # noqa: F401 - both sides will need this

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

            worker.forked(theirs.fileno(), sys.argv)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    theirs.close()
    if child > 0:
        from pasta_py.control.start import worker_process

        worker_process.early.append((child, ours))


def main(*, bare: bool = False) -> None:
    """Run the entry point that the first argument names, perhaps with its path; `bare`: without `site`."""
    gc.disable()  # little is made and less thrown away: 2 ms of looking for garbage at every start
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while all is loaded ends it without a traceback
    bare = bare and _find_backend()
    del sys.argv[0]  # what is left is what our caller has called, and how
    name = sys.argv[0].rpartition("/")[2]
    if bare and name == "pasta" and all((sys.stdin, sys.stdout, sys.stderr)) and not _ENDS_AT_ONCE.intersection(sys.argv):
        _fork_worker()
    module, _, function = ENTRIES[name].partition(":")
    getattr(__import__(f"pasta_py.control.{module}", fromlist=[function]), function)()


if __name__ == "__main__":
    main()
