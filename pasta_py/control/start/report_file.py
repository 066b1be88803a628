"""`--report FILE`: at the end, a page of what the guest talked to. The flow log that it is made of is kept in memory meanwhile."""

import posix as os  # lean imports: docs/architecture.md

from pasta_py import defaults, model
from pasta_py.control.commandline.notices import WARNING, tell
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasta_py.control.commandline.options import Options

_READ_BYTES = 1 << 20
_TYPE, _REGULAR = 0o170000, 0o100000  # inode(7)


class Report:
    """The page's file, opened early so that one which cannot be written fails early, and the log."""

    def __init__(self, options: "Options") -> None:
        path = options.report
        try:
            self._page = os.dup(1) if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError(f"Couldn't open report {path!r}: {reason(error, 'choose a path that can be written')}") from None
        self._logs = [os.memfd_create("flow-log", os.MFD_CLOEXEC) for _file in range(defaults.FLOW_LOG_FILES)]
        self._options = options

    def descriptors(self) -> list[tuple[str, int]]:
        return [(model.FD_FLOW_LOG, fd) for fd in self._logs]

    def write(self) -> None:
        """Make the page; the worker has ended. What fails is told, and changes no exit status."""
        import shlex

        from pasta_py.control.report import flows, page

        title = shlex.join(self._options.command) or "the guest"
        data = page.render(flows.read(self._lines()), title).encode("utf-8", "replace")
        try:
            if os.fstat(self._page).st_mode & _TYPE == _REGULAR and self._options.report != "-":
                os.ftruncate(self._page, 0)
            while data:
                data = data[os.write(self._page, data) :]
        except OSError as error:
            tell(self._options, WARNING, f"Couldn't write report {self._options.report!r}: {reason(error, 'choose another path')}")

    def close(self) -> None:
        for fd in (self._page, *self._logs):
            os.close(fd)

    def _lines(self) -> "Iterator[bytes]":
        for fd in self._logs:
            at, rest = 0, b""
            while data := os.pread(fd, _READ_BYTES, at):
                at += len(data)
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
            yield rest
