"""A fixed number of files that are written in turn: the flow log and the decision log. Also a stream in the place of the files.

The worker can open no file, so all are opened at the start. The file that has been full for the longest time is emptied and written
next. Together they keep the newest lines.

Invariants: nothing here waits, raises or writes part of a line. A line for which there is no room (full disk, full pipe) is
counted, and the count is written before the next line that finds room.
"""

import posix as os  # os takes 0.8 ms to import

from pasta_py.worker import event_readers, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TYPE, _REGULAR = 0o170000, 0o100000  # inode(7)


class Rotating:
    """Files of at most `limit` bytes each, or one stream."""

    def __init__(self, fds: "list[int]", limit: int, on_loss: "Callable[[], None]") -> None:
        """`on_loss`: called once, when a line finds no room."""
        self._fds, self._limit, self._on_loss = fds, limit, on_loss
        self._turn = self._size = 0  # the file that is written, and how much of it is
        self._stream = os.fstat(fds[0]).st_mode & _TYPE != _REGULAR
        self.lost, self._told = 0, False

    def write(self, lines: bytes) -> None:
        """Write whole lines, each with its newline."""
        if self._stream:
            for line in lines.splitlines(keepends=True):
                self._put_one(line)
            return
        while lines:
            end = len(lines) if len(lines) <= self._limit else lines.rfind(b"\n", 0, self._limit) + 1 or len(lines)
            self._put_one(lines[:end])
            lines = lines[end:]

    def _put_one(self, lines: bytes) -> None:
        if self.lost and self._put(event_readers.lost_line(self.lost)):
            self.lost = 0
        if self.lost or not self._put(lines):
            self.lost += lines.count(b"\n")
            if not self._told:
                self._told = True
                self._on_loss()

    def _put(self, lines: bytes) -> bool:
        try:
            if self._stream:
                plane.log_line(self._fds[0], lines)
                return True
            if self._size and self._size + len(lines) > self._limit:
                turn = (self._turn + 1) % len(self._fds)
                os.ftruncate(self._fds[turn], 0)
                self._turn, self._size = turn, 0
            fd = self._fds[self._turn]
            if os.pwrite(fd, lines, self._size) < len(lines):
                os.ftruncate(fd, self._size)  # the disk is full: leave no part of a line
                return False
            self._size += len(lines)
        except OSError:
            return False
        return True
