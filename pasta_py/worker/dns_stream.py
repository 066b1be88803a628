"""A guest's connection for DNS over TCP (RFC 7766): each message has its length in front, in two bytes.

The core keeps the connection to the guest; this is the other end of its socket. A client that does not read its answers, or is idle
for _IDLE_S, loses the connection.
"""

import posix as os  # lean imports: docs/architecture.md

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.worker.dns_upstream import Watches

_IDLE_S = 10
_READ_BYTES = 16 << 10
_UNANSWERED_MAX = 64


class Stream:
    """One connection. `on_query` gets each message, `on_close` the descriptor that is no longer used."""

    def __init__(
        self, fd: int, guest: bytes, watches: "Watches", clock: "Callable[[], float]",
        on_query: "Callable[[Stream, bytes], None]", on_close: "Callable[[int], object]",
    ) -> None:  # fmt: skip
        self.guest = guest
        self._fd, self._watches, self._clock, self._on_query, self._on_close = fd, watches, clock, on_query, on_close
        self._received = b""
        self._unanswered, self._ended = 0, False
        self.deadline = clock() + _IDLE_S
        watches.add(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the guest may still wait for answers
            self._ended = True
            self._watches.remove(self._fd)
            if not self._unanswered:
                self.close()
            return
        self.deadline = self._clock() + _IDLE_S
        self._received += data
        while len(self._received) >= 2 and self._fd >= 0:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) < end:
                return
            query, self._received = self._received[2:end], self._received[end:]
            self._unanswered += 1
            if self._unanswered > _UNANSWERED_MAX:
                self.close()
                return
            self._on_query(self, query)

    def reply(self, answer: bytes) -> None:
        """Send an answer, if the connection is still there."""
        if self._fd < 0:
            return
        self._unanswered -= 1
        data = len(answer).to_bytes(2, "big") + answer
        try:
            if os.write(self._fd, data) < len(data):
                self.close()
                return
        except OSError:
            self.close()
            return
        if self._ended and not self._unanswered:
            self.close()

    def close(self) -> None:
        if self._fd < 0:
            return
        if not self._ended:
            self._watches.remove(self._fd)
        os.close(self._fd)
        fd, self._fd = self._fd, -1
        self.deadline = float("inf")
        self._on_close(fd)
