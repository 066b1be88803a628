"""From the installed commands to the entry points, by name.

`script` comes here with the search path of the standard library and of this package only. If something else is needed from
elsewhere, `site` runs after all. As a module (-m), everything is on the path already.
"""

import gc
import posix as os  # lean imports: docs/architecture.md
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
else:
    import _signal

ENTRIES = {
    "passt": "start.main:passt",
    "pasta": "start.main:pasta",
    "pasta-api": "start.api_entry:main",
    "pasta-addresses": "guest.list_addresses:main",
    "pasta-enter": "guest.enter:main",
    "pesto": "pesto.main:main",
    "slirp4netns": "slirp4netns.main:slirp4netns",
}
_ENDS_AT_ONCE = frozenset(("-h", "--help", "--print-capabilities", "--version"))


def _find_backend() -> bool:
    """Find cffi's backend; whether that worked without `site`."""
    try:
        import _cffi_backend  # noqa: F401 - control and worker both need it
    except ImportError:
        import site

        site.main()
        return False
    return True


def _fork_worker(called: "list[str]") -> None:
    """Fork the worker before control loads anything: it needs none of that, not even the options.

    `called`: the command line that ps(1) shows for it. A second interpreter would take 6 ms of CPU time. Where the fork fails,
    worker_process starts one.
    """
    import _socket

    from pasta_py import worker_protocol  # noqa: F401 - both processes need it

    try:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    except OSError:  # worker_process will fail too, and say why
        return
    try:
        child = os.fork()
    except OSError:
        child = -1
    if child == 0:
        try:
            from pasta_py.worker import __main__ as worker

            worker.forked(theirs.fileno(), called)
        except (ImportError, MemoryError) as error:
            _cannot_load(called[0].rpartition("/")[2], "the worker process cannot load", error)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    theirs.close()
    if child > 0:
        from pasta_py.control.start import worker_process

        worker_process.early.append((child, ours))


def _cannot_load(name: str, what: str, error: ImportError | MemoryError) -> None:
    """One line, with as little as is loaded by now."""
    why = error if isinstance(error, ImportError) else "out of memory: free some, or raise the limit (ulimit -v)"
    sys.stderr.write(f"{name}: {what}: {why}\n")


def main(*, bare: bool = False) -> None:
    """Run the entry point that the first argument names, perhaps with its path; `bare`: without `site`."""
    gc.disable()  # a start makes little garbage, and looking for it takes 2 ms
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C while modules load: end without a traceback
    bare = bare and _find_backend()
    del sys.argv[0]  # what remains is the command line of our caller
    name = sys.argv[0].rpartition("/")[2]
    starts = name in ("passt", "pasta", "pasta-api", "slirp4netns") and not _ENDS_AT_ONCE.intersection(sys.argv)
    if bare and starts and all((sys.stdin, sys.stdout, sys.stderr)):
        _fork_worker(sys.argv[3:] if name == "pasta-api" else sys.argv)
    module, _, function = ENTRIES[name].partition(":")
    try:
        getattr(__import__(f"pasta_py.control.{module}", fromlist=[function]), function)()
    except (ImportError, MemoryError) as error:  # many modules are imported inside functions
        _cannot_load(name, "cannot load", error)
        os._exit(1)


if __name__ == "__main__":
    main()
